"""Policies: what decides which blocks are read as originals, and when a head is computed anew."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from certkv.reference.cache.checks import real_number, whole_number
from certkv.reference.errors import SettingError
from certkv.reference.ladder import MAX_ROUNDS

RelativeTo = Literal["values", "output", "absolute"]
RELATIVE_TO: tuple[RelativeTo, ...] = ("values", "output", "absolute")


@dataclass(frozen=True)
class FormatDefaults:
    """The formats and block size a policy uses unless told otherwise."""

    keys: str
    values: str
    block: int


OURS = FormatDefaults(keys="int8", values="int4-g32", block=64)
PAPER = FormatDefaults(keys="int8-paper", values="int4-g16", block=16)


def _normalise(policy: object, reals: tuple[str, ...], wholes: tuple[str, ...]) -> None:
    """Turn NumPy scalars into Python numbers, which neither wrap around nor are computed with in 16 bits."""
    for name in reals:
        object.__setattr__(policy, name, real_number(name, getattr(policy, name)))
    for name in wholes:
        object.__setattr__(policy, name, whole_number(name, getattr(policy, name)))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise SettingError(message)


@dataclass(frozen=True)
class Naive:
    """Never promotes, never falls back: what an engine without a ladder does. The certificate is still returned."""

    name: ClassVar[str] = "naive"
    formats: ClassVar[FormatDefaults] = OURS


@dataclass(frozen=True)
class PaperPolicy:
    """The thresholds of arXiv 2605.20868, Table 2.

    Attributes
    ----------
    coverage : float
        ``tau_cov``: the estimated mass that the exactly scored blocks must reach.
    k_min, k_max : int
        Limits of the number of exactly scored blocks.
    tail_threshold, expansion : float
        Rung 1: where the selection leaves more tail mass than ``tail_threshold``, it grows by the factor ``expansion``.
    value_tolerance : float
        ``v_tol`` of rung 2: a block whose ``rho_b * eta_b`` exceeds it is read with its original values. Units of V.
    value_budget : float or None
        The stricter value policy (Section 4.2): promote in descending ``rho_b * eta_b`` until the rest sums to at
        most this. Replaces ``value_tolerance`` where given. Units of V.
    rank : int
        ``r`` of the ranking and boundary checks.
    guard : float
        ``eps_guard`` of the score-consistency check, in units of the score.
    exploration : float
        Share of the tail blocks that is scored exactly as a guard against corrupted storage. Off by default.
    seed : int
        Seed of the exploration draw, which is a hash of (seed, step, head, block), so that runs repeat.
    """

    name: ClassVar[str] = "paper"
    formats: ClassVar[FormatDefaults] = PAPER
    coverage: float = 0.995
    k_min: int = 2
    k_max: int = 128
    tail_threshold: float = 0.02
    expansion: float = 2.0
    value_tolerance: float = 0.05
    value_budget: float | None = None
    rank: int = 1
    guard: float = 1e-6
    exploration: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        budgets = () if self.value_budget is None else ("value_budget",)
        reals = ("coverage", "tail_threshold", "expansion", "value_tolerance", "guard", "exploration", *budgets)
        _normalise(self, reals, ("k_min", "k_max", "rank", "seed"))
        _require(0 <= self.coverage <= 1, f"coverage is {self.coverage}; give a share between 0 and 1")
        _require(1 <= self.k_min <= self.k_max, f"k_min={self.k_min}, k_max={self.k_max}; need 1 <= k_min <= k_max")
        _require(self.expansion >= 1, f"expansion is {self.expansion}; give a factor of at least 1")
        _require(self.rank >= 1, f"rank is {self.rank}; give at least 1")
        _require(self.guard >= 0, f"guard is {self.guard}; give a score difference of at least 0")
        _require(self.value_tolerance >= 0, f"value_tolerance is {self.value_tolerance}; give at least 0")
        _require(self.value_budget is None or self.value_budget >= 0, f"value_budget is {self.value_budget}; give >= 0")
        _require(self.tail_threshold >= 0, f"tail_threshold is {self.tail_threshold}; give at least 0")
        _require(0 <= self.exploration <= 1, f"exploration is {self.exploration}; give a share between 0 and 1")


@dataclass(frozen=True)
class Budget:
    """A tolerance that is enforced: ``bound <= tolerance``, or the head comes from the originals.

    Where formats have several levels, refinement planes are read before originals if they suffice and cost less.

    Attributes
    ----------
    tolerance : float
        ``t``, at least 0; 0 sends every head to rung 3.
    relative_to : {"values", "output", "absolute"}
        What ``t`` is a share of. ``"absolute"``: the limit is ``t``, in the units of V. ``"output"``: ``t/(1+t) *
        ||output||``, which implies ``error <= t * ||exact||``. ``"values"``: ``t`` times the mass-weighted mean value
        norm.
    rounds : int
        Rounds of promotion before the head is computed from the originals; at most 255, for which `ladder` is proved.
        With more than 0, every refinement plane of the key format adds one: coarse keys are looked at level by level.
        No more than 255 in all.
    """

    name: ClassVar[str] = "budget"
    formats: ClassVar[FormatDefaults] = OURS
    tolerance: float = 0.05
    relative_to: RelativeTo = "values"
    rounds: int = 3

    def __post_init__(self) -> None:
        _normalise(self, ("tolerance",), ("rounds",))
        good = math.isfinite(self.tolerance) and self.tolerance >= 0
        _require(good, f"tolerance is {self.tolerance}; give a finite number of at least 0")
        _require(
            self.relative_to in RELATIVE_TO,
            f"relative_to is {self.relative_to!r}; give one of {', '.join(RELATIVE_TO)}",
        )
        _require(
            0 <= self.rounds <= MAX_ROUNDS,
            f"rounds is {self.rounds}; give 0 to {MAX_ROUNDS}: the proof that every step ends counts rounds in 8 bits",
        )


Policy = Naive | PaperPolicy | Budget
