"""All checks and mutants, and what it means to kill one."""

from __future__ import annotations

from dataclasses import dataclass

from certkv.proofs.mutants import (
    annotation,
    bounds,
    choices,
    corrections,
    corrections_carried,
    costs,
    encoding,
    heads,
    kernel,
    key_errors,
    merging,
    metadata_bounds,
    monitors,
    oscar,
    oscar_cache,
    outward,
    per_token,
    planes,
    promotion,
    rounding,
    sharp,
    spectral,
    storage,
    value_errors,
)
from certkv.proofs.mutants.model import Check, CheckFailed, Mutant

__all__ = ["CHECKS", "MUTANTS", "Check", "CheckFailed", "Mutant", "Outcome", "kill"]

THEMES = (
    value_errors,
    key_errors,
    annotation,
    per_token,
    rounding,
    kernel,
    outward,
    bounds,
    spectral,
    sharp,
    choices,
    costs,
    merging,
    corrections,
    corrections_carried,
    monitors,
    promotion,
    planes,
    storage,
    heads,
    encoding,
    oscar,
    oscar_cache,
    metadata_bounds,
)

CHECKS: dict[str, Check] = {check.id: check for theme in THEMES for check in theme.CHECKS}
MUTANTS: tuple[Mutant, ...] = tuple(mutant for theme in THEMES for mutant in theme.MUTANTS)


@dataclass(frozen=True)
class Outcome:
    """What became of a mutant.

    Attributes
    ----------
    mutant : Mutant
    killed : bool
    reason : str
        What the check saw; empty for a survivor.
    """

    mutant: Mutant
    killed: bool
    reason: str


def kill(mutant: Mutant) -> Outcome:
    """Run a mutant's check with the defect planted.

    Only `CheckFailed` counts as a kill: a defect that makes the code stumble has not been judged, so any other error
    passes through.
    """
    try:
        with mutant.plant():
            CHECKS[mutant.check].run()
    except CheckFailed as seen:
        return Outcome(mutant, True, str(seen))
    return Outcome(mutant, False, "")
