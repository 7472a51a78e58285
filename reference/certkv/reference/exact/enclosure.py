"""Exact attention as enclosures: every output channel is a ball (python-flint ``arb``) that contains the real number.

Ball arithmetic is rigorous for every operation used here (products of matrices, ``exp``, division, square root), so
nothing below needs an error analysis: a result may be wide, never wrong. The precision is raised until it is tight.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from flint import arb, arb_mat, ctx

from certkv.reference.errors import ShapeError
from certkv.reference.exact.convert import finite_float64
from certkv.reference.numbers.types import AnyArray, FloatArray

PRECISION = 128
"""Bits to start from: 16-bit originals of ordinary size give radii near 1e-36 relative to the values."""

PRECISION_LIMIT = 4096
"""Bits at which raising stops. Dots of bfloat16 q and k are exact from about 600 bits on, whatever their exponents."""


@contextmanager
def working_precision(bits: int) -> Iterator[None]:
    """Set the precision of python-flint's context inside a ``with`` block and put the old one back."""
    before = ctx.prec
    ctx.prec = bits
    try:
        yield
    finally:
        ctx.prec = before


class Enclosure:
    """Exact attention over fixed originals, enclosed. Keys and values are converted once, for any number of queries.

    Parameters
    ----------
    k, v : array [N, d_k] and [N, d]
        Originals of any floating type that converts to float64 exactly (float16, bfloat16, float32, float64).
    precision : int
        Bits of the first attempt.

    Raises
    ------
    ShapeError
        No token, or k and v of different length.
    NonFiniteError
        A NaN or an infinity in k or v: no enclosure could tell anything about it.
    """

    def __init__(self, k: AnyArray, v: AnyArray, precision: int = PRECISION) -> None:
        if k.ndim != 2 or v.ndim != 2 or k.shape[0] != v.shape[0] or k.shape[0] == 0:
            raise ShapeError(f"k {k.shape} and v {v.shape} must be [N, d] with the same N >= 1")
        self.tokens = k.shape[0]
        self.key_dim = k.shape[1]
        self.value_dim = v.shape[1]
        self.precision = precision
        # float64 holds the originals exactly and arb takes a float exactly, at any precision.
        self._keys = arb_mat(self.tokens, self.key_dim, finite_float64("k", k).ravel().tolist())
        values = finite_float64("v", v)
        self._values_t = arb_mat(self.value_dim, self.tokens, values.T.ravel().tolist())
        # an average of equal numbers is that number: known exactly, where a quotient of balls would not be
        self._constant = {int(c): arb(float(values[0, c])) for c in np.flatnonzero((values == values[0]).all(axis=0))}

    def attention(self, q: AnyArray, scale: float, radius: float | None = None) -> list[arb]:
        """Enclose ``softmax(scale * q k^T) v`` for one query.

        Parameters
        ----------
        q : array [d_k]
            The query, as it is (not scaled).
        scale : float
            The softmax scale: this very float64 number.
        radius : float, optional
            Largest radius wanted, in the units of v. The precision is doubled up to ``PRECISION_LIMIT`` to reach it
            and the last result is returned in any case. Without it, one attempt at ``self.precision``.

        Returns
        -------
        list of arb, length d
            Enclosures of the channels of the exact output; not finite where the precision was hopeless.
        """
        if q.shape != (self.key_dim,):
            raise ShapeError(f"q {q.shape} must be [{self.key_dim}], as the keys are")
        query = arb_mat(self.key_dim, 1, finite_float64("q", q).tolist())
        bits = self.precision
        while True:
            with working_precision(bits):
                output = self._attempt(query, scale)
                if radius is None or bits >= PRECISION_LIMIT or all(x.rad() <= radius for x in output):
                    return output
            bits = min(2 * bits, PRECISION_LIMIT)

    def _attempt(self, query: arb_mat, scale: float) -> list[arb]:
        """Evaluate the definition once, at the context's precision."""
        scores = (self._keys * query * arb(scale)).entries()
        # Softmax does not change when one exact number is subtracted from every score. The largest midpoint keeps the
        # denominator at 1 or more when scores are known well, however large they are.
        top = max(s.mid() for s in scores)
        weights = [(s - top).exp() for s in scores]
        denominator = sum(weights, arb(0))
        numerator = self._values_t * arb_mat(self.tokens, 1, weights)
        return [self._constant.get(c, x / denominator) for c, x in enumerate(numerator.entries())]


def attention_enclosure(
    q: AnyArray, k: AnyArray, v: AnyArray, scale: float, precision: int = PRECISION, radius: float | None = None
) -> list[arb]:
    """Enclose the exact attention of one query; `Enclosure` is faster for several queries on the same k and v.

    Parameters
    ----------
    q, k, v : array [d_k], [N, d_k], [N, d]
    scale, precision, radius
        As in `Enclosure`.

    Returns
    -------
    list of arb, length d
    """
    return Enclosure(k, v, precision).attention(q, scale, radius)


def distance(output: FloatArray, enclosure: list[arb], precision: int = PRECISION_LIMIT) -> arb:
    """Enclose the L2 distance between an output and the exact one.

    Parameters
    ----------
    output : float array [d]
        Finite numbers.
    enclosure : list of arb, length d
        From `Enclosure.attention`.
    precision : int
        Bits of this evaluation alone; it loses nothing at the default.

    Returns
    -------
    arb
    """
    if output.shape != (len(enclosure),):
        raise ShapeError(f"output {output.shape} must be [{len(enclosure)}], as the enclosure is")
    with working_precision(precision):
        apart = [arb(x) - e for x, e in zip(finite_float64("output", output).tolist(), enclosure, strict=True)]
        # A product, because python-flint's power of a ball around 0 is NaN.
        return sum((x * x for x in apart), arb(0)).nonnegative_part().sqrt()


def float_lb(x: arb) -> float:
    """Return a float64 that is no larger than any number in ``x`` (NaN: not a number)."""
    value = float(x.lower())
    while math.isfinite(value) and not arb(value) <= x:
        value = math.nextafter(value, -math.inf)
    # An overflow of the conversion reads +inf, which is below no finite number.
    return sys.float_info.max if value == math.inf and x.is_finite() else value


def float_ub(x: arb) -> float:
    """Return a float64 that is no smaller than any number in ``x`` (NaN: not a number)."""
    return -float_lb(-x)
