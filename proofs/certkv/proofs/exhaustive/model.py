"""What an exhaustive fact is, and how it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from certkv.proofs.mutants.model import CheckFailed

__all__ = ["CheckFailed", "Exhaustive", "require_all", "require_equal"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Exhaustive:
    """A fact with finitely many cases, all of which are tried.

    Attributes
    ----------
    id : str
        ``theorem.name``.
    theorem : str
        Stem of the theorem that the fact serves.
    statement : str
        One line: words and formula, and over what.
    run : callable
        Returns where the fact holds for every case; raises `CheckFailed` with the first case where it does not.
    broken : callable
        The same check of a variant with a planted mistake: it must raise `CheckFailed`.
    quick : bool
        Whether it belongs to the quick run.
    """

    id: str
    theorem: str
    statement: str
    run: Callable[[], None]
    broken: Callable[[], None]
    quick: bool = True


def require_all(holds: Array, what: str, **cases: Array) -> None:
    """Raise `CheckFailed` at the first case that does not hold.

    Parameters
    ----------
    holds : ndarray of bool
    what : str
        What should hold.
    **cases : ndarray
        The inputs and results to show, by name; they broadcast to the shape of `holds`.

    Raises
    ------
    ValueError
        If there is no case: a check of nothing shows nothing, and no planted mistake either.
    """
    if not np.size(holds):
        raise ValueError(f"{what}: no case to check")
    if np.all(holds):
        return
    index = np.unravel_index(int(np.argmin(holds)), holds.shape)
    # bfloat16 has no text of its own in every NumPy, float64 has
    shown = {name: np.broadcast_to(array, holds.shape)[index] for name, array in cases.items()}
    values = ", ".join(
        f"{name} = {int(x) if np.issubdtype(x.dtype, np.integer) else float(x)!r}" for name, x in shown.items()
    )
    raise CheckFailed(f"{what}: {values}; {int(np.sum(~holds))} of {holds.size} cases fail")


def require_equal(got: Array, wanted: Array, what: str, **cases: Array) -> None:
    """Raise `CheckFailed` unless two arrays are equal, signs of zero included; NaN equals NaN."""
    same = (got == wanted) | ((got != got) & (wanted != wanted))
    if np.issubdtype(np.asarray(wanted).dtype, np.floating) and np.issubdtype(np.asarray(got).dtype, np.floating):
        same &= (np.signbit(got) == np.signbit(wanted)) | (got != got)
    require_all(np.asarray(same), what, **cases, got=np.asarray(got), wanted=np.asarray(wanted))
