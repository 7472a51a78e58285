"""Every theorem as data, with the evidence for it."""

from certkv.proofs.registry.theorem import KINDS, Kind, Theorem
from certkv.proofs.registry.theorems import THEOREMS

__all__ = ["KINDS", "THEOREMS", "Kind", "Theorem"]
