"""What an attack is: a theorem's own inputs as a box of numbers, and the exact error over the bound at each point."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from certkv.reference.numbers.types import FloatArray

PURE = 1e-12
"""Relative difference of a ratio between machines where the bound is a formula: a few ulp of its exponentials."""

ROOT = 1e-11
"""Where the bound is the root of a function: the search for it ends within 2e-12 of it."""

STORED = 2.0**-22
"""Where annotations are part of the bound: far more than float64 work, far less than a step of bfloat16. One that were
rounded up to another number would show; only a norm within a few ulp below a number of bfloat16 could be, elsewhere."""

MACHINE = 1.0
"""Where the error is the machine's own rounding: the order of a BLAS's sums decides it. Only "never above 1" is kept.
"""


@dataclass(frozen=True)
class Attained:
    """What one input reaches.

    Attributes
    ----------
    error_lb : float
        Proved lower limit of the true error (or of whatever the theorem bounds).
    bound : float
        What the code under attack returned for it. NaN counts as infinite.
    """

    error_lb: float
    bound: float

    @property
    def violated(self) -> bool:
        """Whether the error provably exceeds the bound."""
        return self.error_lb > self.bound

    @property
    def ratio(self) -> float:
        """``error_lb / bound``; 0 where the bound says nothing or is 0 for an error of 0."""
        if math.isnan(self.bound) or math.isinf(self.bound) or self.error_lb == 0.0:
            return 0.0
        return self.error_lb / self.bound if self.bound > 0.0 else math.inf


NOTHING = Attained(0.0, math.inf)
"""Of an input that is outside the hypotheses, or that the attack does not count."""

Evaluate = Callable[[FloatArray], Attained]


def no_starts() -> Sequence[FloatArray]:
    """Return no construction: a blind search."""
    return ()


@dataclass(frozen=True, eq=False)
class Attack:
    """One bound under attack.

    Attributes
    ----------
    id : str
        ``theorem.variant``.
    theorem : str
        Its id in the registry; ``"formats"``, ``"annotations"`` or ``"step"`` for what is built from the theorems.
    bound : str
        What is attacked, in symbols.
    low, high : float64 [genes]
        The box of inputs. Every point of it satisfies the hypotheses, or evaluates to `NOTHING`.
    evaluate : callable
        From a point to what it reaches; no randomness.
    starts : callable
        Points known to be good, from the theory; may be none.
    evaluations : int
        Of a full search.
    reproduces : float
        By how much (relative) the ratio of a stored point may differ on another machine.
    unsound : bool
        A control: a published form that is known to be wrong. The search must exceed it.
    """

    id: str
    theorem: str
    bound: str
    low: FloatArray
    high: FloatArray
    evaluate: Evaluate
    starts: Callable[[], Sequence[FloatArray]] = no_starts
    evaluations: int = 1500
    reproduces: float = PURE
    unsound: bool = False

    @property
    def genes(self) -> int:
        """Dimension of the box."""
        return len(self.low)


@dataclass
class Box:
    """Collects named stretches of genes and cuts a point into them.

    Examples
    --------
    >>> box = Box().add("scores", 3, -1.0, 1.0).add("log_delta", 1, -6.0, 0.0)
    >>> box.cut(np.zeros(4))["scores"].shape
    (3,)
    """

    names: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    lows: list[float] = field(default_factory=list)
    highs: list[float] = field(default_factory=list)

    def add(self, name: str, size: int, low: float, high: float) -> Box:
        """Append a stretch."""
        self.names.append(name)
        self.sizes.append(size)
        self.lows.append(low)
        self.highs.append(high)
        return self

    @property
    def low(self) -> FloatArray:
        """Lower corner."""
        return np.repeat(self.lows, self.sizes)

    @property
    def high(self) -> FloatArray:
        """Upper corner."""
        return np.repeat(self.highs, self.sizes)

    def cut(self, genes: FloatArray) -> dict[str, FloatArray]:
        """Return the stretches by name."""
        parts = np.split(genes, np.cumsum(self.sizes)[:-1])
        return dict(zip(self.names, parts, strict=True))

    def point(self, **parts: float | Sequence[float] | FloatArray) -> FloatArray:
        """Return the point whose stretches are given; a number fills its stretch."""
        missing = set(self.names) ^ set(parts)
        if missing:
            raise ValueError(f"stretches {sorted(missing)} do not fit the box of {self.names}")
        filled = [np.broadcast_to(np.ravel(parts[n]), size) for n, size in zip(self.names, self.sizes, strict=True)]
        return np.concatenate([np.asarray(part, np.float64) for part in filled])
