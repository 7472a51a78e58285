"""Theorem ``certificate_state``: the spectral certificate as a mergeable state.

What a block contributes to the certificate is positively homogeneous of degree 1 in its weights: its key terms
``alpha_b + gamma g_b``, its value term ``U_b`` and its share ``D_b`` of the denominator are minima, sums and norms of
them (theorem ``spectral``). So all may be taken from unnormalised weights ``p_t = e^{s'_t - m}``, and with A, G, U, D
the sums over blocks, ``x e^m`` is additive for every x of l, o, A, G, U, D. States of disjoint sets of *blocks* merge
like softmax states, in any order and grouping, and at the end, with c = o/l, gamma = ||c - mu||, mu the anchor,

    ||O - c||  <=  ( A + gamma G + U + l eps_acc ) / D.

The rescale factors of a merge are computed once and multiply all six. Whatever their error, the merged state is then
that of the *effective* weights, ``p_t`` times the product of the factors on its way: an error of a factor is a
log-weight error (theorem ``kernel_arithmetic``), and here only products and sums of non-negative numbers round.

A block that is split between two states stands as two blocks: still a bound, larger or smaller than that of the whole.

Source: ours. Derivation: docs/derivations/certificate_state.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import DTypeLike

from certkv.reference.bounds import outward_fp32
from certkv.reference.bounds.arithmetic import LOST_TO_UNDERFLOW
from certkv.reference.errors import DTypeError, InputError, ShapeError
from certkv.reference.numbers import FLOAT32, norm_ub, outward, round_up
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.softmax_state import SoftmaxState

LOST = {np.dtype(np.float64): LOST_TO_UNDERFLOW, np.dtype(np.float32): float(outward_fp32.LOST)}
"""More than 2**25 products can lose to underflow, flushed to zero or not: 2**25 times the smallest normal number."""

FINISHING = 8
"""Roundings on a path through `CertificateState.finish`: ``+ LOST``, a product, four sums, the quotient; one spare."""


@dataclass(frozen=True, eq=False)
class CertificateState:
    """States of any number of independent heads; all arrays float64, or all float32.

    Attributes
    ----------
    softmax : SoftmaxState
        (m, l, o) of the weights as they were used.
    A, G : float [...]
        Sums of ``alpha_b`` (units of V) and ``g_b``, from above.
    U : float [...]
        Sum of the value terms, from above. Units of V.
    D : float [...]
        Sum of ``D_b <= sum_{t in b} p_t w_t``, from below.
    """

    softmax: SoftmaxState
    A: AnyArray
    G: AnyArray
    U: AnyArray
    D: AnyArray

    @classmethod
    def empty(cls, shape: tuple[int, ...], dim: int, dtype: DTypeLike = np.float64) -> Self:
        """Return states of no block: leading axes ``shape``, head size ``dim``."""
        nothing = np.zeros(shape, dtype)
        return cls(SoftmaxState.empty(shape, dim, dtype), nothing, nothing, nothing, nothing)

    @classmethod
    def from_block(
        cls,
        softmax: SoftmaxState,
        *,
        key_ub: AnyArray,
        anchor_ub: AnyArray,
        value_ub: AnyArray,
        weight_lb: AnyArray,
    ) -> Self:
        """State of one whole block.

        Parameters
        ----------
        softmax : SoftmaxState
            Of the block's tokens, float64 or float32.
        key_ub, anchor_ub, value_ub, weight_lb : float [...]
            ``alpha_b``, ``g_b``, ``U_b``, ``D_b`` of the weights *in that state*, relative to its m. Its dtype.

        Returns
        -------
        CertificateState

        Raises
        ------
        DTypeError
            Types differ, or are neither float64 nor float32.
        ShapeError
            Leading axes differ.
        """
        terms = (key_ub, anchor_ub, value_ub, weight_lb)
        types = {x.dtype for x in (softmax.m, softmax.l, softmax.o, *terms)}
        if len(types) > 1 or not types <= LOST.keys():
            raise DTypeError(f"a state is float64 or float32 throughout, not {sorted(str(t) for t in types)}")
        shapes = {x.shape for x in (softmax.m, softmax.l, softmax.o[..., 0], *terms)}
        if len(shapes) > 1:
            raise ShapeError(f"all parts of a state have the same leading axes, not {sorted(shapes)}")
        return cls(softmax, *terms)

    def merge(self, other: CertificateState) -> CertificateState:
        """State of the union of two disjoint sets of blocks; leading axes broadcast."""
        factors = self.softmax.factors(other.softmax)
        smallest = np.finfo(self.A.dtype).smallest_normal
        # A factor that underflowed is below twice the smallest normal number: upper bounds keep that much, D nothing.
        mine_ub, theirs_ub = (np.maximum(f, 2 * smallest) for f in factors)
        mine_lb, theirs_lb = (np.where(f < smallest, f.dtype.type(0), f) for f in factors)
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            return CertificateState(
                self.softmax.merge(other.softmax),
                mine_ub * self.A + theirs_ub * other.A,
                mine_ub * self.G + theirs_ub * other.G,
                mine_ub * self.U + theirs_ub * other.U,
                mine_lb * self.D + theirs_lb * other.D,
            )

    def finish(self, anchor: FloatArray, accumulation_ub: FloatArray, roundings: int) -> AnyArray:
        """Upper bound of ``||O - c||`` for the output ``c = softmax.output``, evaluated in the dtype of the state.

        Parameters
        ----------
        anchor : float [..., d]
            mu, the vector that the annotations in A were measured from. Units of V.
        accumulation_ub : float64 [...]
            ``eps_acc >= ||c - sum a'_t V_hat_t||``, a' the effective weights over their sum. Units of V.
        roundings : int
            Most roundings on a path from the terms of a block to A, G, U, D and l: two for each merge, and those of the
            terms where they are not rounded outward themselves.

        Returns
        -------
        float [...]
            ``+inf`` for the empty state, and where anything is NaN or infinite. Not cut by ``hull``.

        Raises
        ------
        InputError
            More roundings than the factor of float32 covers.
        """
        kind = self.A.dtype
        lost = kind.type(LOST[kind])
        if kind == np.float32 and roundings + FINISHING + 1 > outward_fp32.MOST_ROUNDINGS:
            raise InputError(
                f"{roundings} roundings on a path are more than 1 + 2**-12 covers: use float64, or fewer merges"
            )
        with np.errstate(divide="ignore", over="ignore", invalid="ignore", under="ignore"):
            offset = self.softmax.output.astype(np.float64) - anchor
            gamma = _up(norm_ub(offset) * outward(1), kind)
            weighted = (self.softmax.l + lost) * _up(accumulation_ub, kind)
            denominator = np.where(np.isfinite(self.D), self.D, kind.type(0))
            if kind == np.float32:
                return outward_fp32.finish(self.A, self.G, self.U, weighted, denominator, gamma)
            # what underflow took from a sum was scaled by factors of at most 1 afterwards
            numerator = self.A + gamma * (self.G + lost) + self.U + weighted + 2 * lost
            # below lost, what underflow added to D may be more than one rounding
            known = np.where(denominator < lost, 0.0, denominator)
            # a quotient below the normal range lost less than the smallest normal number
            smallest = np.finfo(np.float64).smallest_normal
            bound = (numerator / known + smallest) * outward(roundings + FINISHING)
            return np.asarray(np.where(np.isnan(bound), np.inf, bound))


def _up(x: FloatArray, kind: np.dtype[np.floating]) -> AnyArray:
    """Convert float64 upper bounds to the type of a state, rounding up."""
    wide = np.asarray(x, np.float64)
    return wide if kind == np.float64 else np.asarray(round_up(wide, FLOAT32))
