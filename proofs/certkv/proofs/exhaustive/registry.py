"""All exhaustive facts."""

from __future__ import annotations

from certkv.proofs.exhaustive import affine, conversions, norms, packing, products
from certkv.proofs.exhaustive.model import Exhaustive

FACTS: tuple[Exhaustive, ...] = (*conversions.FACTS, *products.FACTS, *norms.FACTS, *packing.FACTS, *affine.FACTS)
