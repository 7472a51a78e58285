"""Verify your own format: a class with ``encode`` and ``decode`` through annotations, properties, steps and mutants.

``verify_format(YourClass)`` returns a `Report`; ``python -m certkv.proofs.userformat module:YourClass`` prints it.
`Adapted` turns such a class into a format for :class:`certkv.reference.Cache`.
"""

from certkv.proofs.userformat.adapter import Adapted, Quantizer, registered
from certkv.proofs.userformat.report import Report, Row, table
from certkv.proofs.userformat.verify import verify_format

__all__ = ["Adapted", "Quantizer", "Report", "Row", "registered", "table", "verify_format"]
