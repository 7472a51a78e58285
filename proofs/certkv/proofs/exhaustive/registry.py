"""All exhaustive facts."""

from __future__ import annotations

from certkv.proofs.exhaustive import (
    affine,
    conversions,
    log_codes,
    norms,
    operator_norm,
    oscar_element,
    packing,
    planes,
    products,
    rotation,
)
from certkv.proofs.exhaustive.model import Exhaustive

FACTS: tuple[Exhaustive, ...] = (
    *conversions.FACTS,
    *products.FACTS,
    *norms.FACTS,
    *packing.FACTS,
    *affine.FACTS,
    *operator_norm.FACTS,
    *log_codes.FACTS,
    *rotation.FACTS,
    *oscar_element.FACTS,
    *planes.FACTS,
)
