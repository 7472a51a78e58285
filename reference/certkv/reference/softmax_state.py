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
    """

    m: FloatArray
    l: FloatArray  # noqa: E741 - the name of the mathematics
    o: FloatArray

    @classmethod
    def empty(cls, shape: tuple[int, ...], dim: int) -> Self:
        """Return states of no token: leading axes ``shape``, head size ``dim``."""
        return cls(np.full(shape, -np.inf), np.zeros(shape), np.zeros((*shape, dim)))

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
        m = np.maximum(self.m, other.m)
        shift = _finite_shift(m)
        with np.errstate(invalid="ignore"):
            mine, theirs = np.exp(self.m - shift), np.exp(other.m - shift)
        return SoftmaxState(
            m,
            mine * self.l + theirs * other.l,
            mine[..., None] * self.o + theirs[..., None] * other.o,
        )

    @property
    def output(self) -> FloatArray:
        """``o / l``, [..., d]; NaN for the empty state, which has no output."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.o / self.l[..., None])

    @property
    def lse(self) -> FloatArray:
        """Natural logarithm of ``sum exp(s_t)``, [...]; ``-inf`` for the empty state."""
        with np.errstate(divide="ignore"):
            return np.asarray(self.m + np.log(self.l))


def _finite_shift(m: FloatArray) -> FloatArray:
    """Replace the maximum of no token by 0, so that ``exp(-inf - shift)`` is 0 and not NaN."""
    return np.asarray(np.where(m == -np.inf, 0.0, m))
