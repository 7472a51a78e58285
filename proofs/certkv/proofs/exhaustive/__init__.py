"""Facts about functions of one 16-bit number or one byte, checked for every input there is."""

from certkv.proofs.exhaustive.model import Exhaustive
from certkv.proofs.exhaustive.registry import FACTS

__all__ = ["FACTS", "Exhaustive"]
