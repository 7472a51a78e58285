"""The mergeable state of an online softmax: running maximum, denominator, unnormalised output.

A state stands for a set of tokens through ``l e^m = sum e^{s_t}`` and ``o e^m = sum e^{s_t} v_t``. Both are sums
over tokens, so states of disjoint sets add: with M = max(m_1, m_2), ``l = e^{m_1 - M} l_1 + e^{m_2 - M} l_2`` and
likewise o. In real arithmetic that is associative and commutative with the empty state as identity; in float64 it
is commutative, the identity is exact, and associativity holds up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from certkv.reference.errors import ShapeError
from certkv.reference.numbers.types import FloatArray


@dataclass(frozen=True, eq=False)
class SoftmaxState:
    """States of any number of independent heads.

    Attributes
    ----------
    m : float64 [...]
        Largest score; ``-inf`` for no token.
    l : float64 [...]
        ``sum exp(s_t - m)``; 0 for no token.
    o : float64 [..., d]
        ``sum exp(s_t - m) v_t``, in the units of V.

    All three may be float32 instead: merging then computes in float32, as a kernel does.
    """

    m: FloatArray
    l: FloatArray  # noqa: E741 - the name of the mathematics
    o: FloatArray

    @classmethod
    def empty(cls, shape: tuple[int, ...], dim: int, dtype: DTypeLike = np.float64) -> Self:
        """Return states of no token: leading axes ``shape``, head size ``dim``."""
        return cls(np.full(shape, -np.inf, dtype), np.zeros(shape, dtype), np.zeros((*shape, dim), dtype))

    @classmethod
    def from_scores(cls, s: FloatArray, v: FloatArray) -> Self:
        """State of tokens with given scores and values.

        Parameters
        ----------
        s : float64 [..., N]
            Scores; ``-inf`` masks a token. A NaN or ``+inf`` makes the state NaN.
        v : float64 [..., N, d]
            Values; leading axes may be missing or 1 where heads share them. Masked tokens need finite values.

        Returns
        -------
        SoftmaxState

        Raises
        ------
        ShapeError
        """
        if s.ndim < 1 or v.ndim < 2 or s.shape[-1] != v.shape[-2]:
            raise ShapeError(f"scores {s.shape} and values {v.shape} must be [..., N] and [..., N, d], same N")
        m = np.max(s, axis=-1, initial=-np.inf)
        with np.errstate(invalid="ignore"):
            weights = np.exp(s - _finite_shift(m)[..., None])
            o = np.matmul(weights[..., None, :], v)[..., 0, :]
        return cls(m, weights.sum(axis=-1), o)

    def merge(self, other: SoftmaxState) -> SoftmaxState:
        """State of the union of two disjoint sets of tokens; leading axes broadcast."""
        mine, theirs = self.factors(other)
        return SoftmaxState(
            np.maximum(self.m, other.m),
            mine * self.l + theirs * other.l,
            mine[..., None] * self.o + theirs[..., None] * other.o,
        )

    def factors(self, other: SoftmaxState) -> tuple[FloatArray, FloatArray]:
        """Return what a merge multiplies the contents of the two states with: ``e^{m_1 - m}``, ``e^{m_2 - m}``, [...].

        Whatever else is to stay in proportion to l and o must be multiplied with these very numbers.
        """
        shift = _finite_shift(np.maximum(self.m, other.m))
        with np.errstate(invalid="ignore", under="ignore"):
            return np.asarray(np.exp(self.m - shift)), np.asarray(np.exp(other.m - shift))

    @property
    def output(self) -> FloatArray:
        """``o / l``, [..., d]; NaN for the empty state, which has no output."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(self.o / self.l[..., None])

    @property
    def lse(self) -> FloatArray:
        """Natural logarithm of ``sum exp(s_t)``, [...]; ``-inf`` for the empty state."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.m + np.log(self.l))


def _finite_shift(m: FloatArray) -> FloatArray:
    """Replace the maximum of no token by 0, so that ``exp(-inf - shift)`` is 0 and not NaN."""
    return np.asarray(np.where(m == -np.inf, 0.0, m))
