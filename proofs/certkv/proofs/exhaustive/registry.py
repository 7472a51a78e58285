"""All exhaustive facts."""

from __future__ import annotations

from certkv.proofs.exhaustive import affine, conversions, log_codes, norms, operator_norm, packing, products
from certkv.proofs.exhaustive.model import Exhaustive

FACTS: tuple[Exhaustive, ...] = (
    *conversions.FACTS,
    *products.FACTS,
    *norms.FACTS,
    *packing.FACTS,
    *affine.FACTS,
    *operator_norm.FACTS,
    *log_codes.FACTS,
)
