"""One piece of evidence, and what became of it when it was checked again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from certkv.proofs.registry.theorem import Kind


@dataclass(frozen=True)
class Finding:
    """The outcome of one task.

    Attributes
    ----------
    ok : bool
        Only a plain success counts; unknown, timeout and every error are failures.
    by : str
        Who says so: solvers, "arb", "all 65,536 halves" and the like.
    detail : str
        What went wrong, or a figure worth showing.
    seconds : float
        Wall time.
    """

    ok: bool
    by: str
    detail: str
    seconds: float


@dataclass(frozen=True, eq=False)
class Task:
    """A piece of evidence that can be checked.

    Attributes
    ----------
    id : str
        Unique, also across kinds.
    theorem : str
        Id of the theorem it serves.
    kind : Kind
    statement : str
    quick : bool
        Whether ``verify --quick`` runs it.
    run : callable
        Returns ``(ok, by, detail)``.
    """

    id: str
    theorem: str
    kind: Kind
    statement: str
    quick: bool
    run: Callable[[], tuple[bool, str, str]]
