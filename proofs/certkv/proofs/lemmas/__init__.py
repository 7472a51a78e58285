"""The lemmas, one module per theorem stem; each exports ``LEMMAS``."""

from __future__ import annotations

import importlib
import pkgutil

from certkv.proofs.smt.lemma import Lemma


def all_lemmas() -> tuple[Lemma, ...]:
    """Every lemma of every module here, by module and in the order of its file.

    Raises
    ------
    ValueError
        If two lemmas share an id: one would hide the other in every table.
    """
    found: list[Lemma] = []
    for module in sorted(info.name for info in pkgutil.iter_modules(__path__)):
        found += importlib.import_module(f"{__name__}.{module}").LEMMAS
    ids = [lemma.id for lemma in found]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"lemmas defined twice: {', '.join(twice)}")
    return tuple(found)
