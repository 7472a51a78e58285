"""The exact side of the pure attacks, in ball arithmetic (python-flint ``arb``): what is computed here is a proof."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import wraps

from flint import arb

from certkv.proofs.adversary.attack import Attained
from certkv.reference.exact.enclosure import float_lb, float_ub, working_precision
from certkv.reference.numbers.types import FloatArray

PRECISION = 256
"""Bits: scores within +-100 and masses down to e^-100 leave more than 100 bits."""

Vector = Sequence[arb]


def precisely(evaluate: Callable[[FloatArray], Attained]) -> Callable[[FloatArray], Attained]:
    """Run an evaluation at `PRECISION`."""

    @wraps(evaluate)
    def inside(genes: FloatArray) -> Attained:
        with working_precision(PRECISION):
            return evaluate(genes)

    return inside


def balls(x: Iterable[float]) -> list[arb]:
    """Exact balls of floats."""
    return [arb(float(one)) for one in x]


def total(x: Iterable[arb]) -> arb:
    """Sum."""
    return sum(x, arb(0))


def normalised(weights: Vector) -> list[arb]:
    """Weights over their sum."""
    whole = total(weights)
    return [w / whole for w in weights]


def softmax(scores: Vector) -> list[arb]:
    """Softmax of exact scores."""
    return normalised([s.exp() for s in scores])


def total_variation(a: Vector, b: Vector) -> arb:
    """``1/2 sum |a_t - b_t|``."""
    return total(abs(x - y) for x, y in zip(a, b, strict=True)) / 2


def norm(x: Iterable[arb]) -> arb:
    """L2 norm; products, because python-flint's power of a ball around 0 is NaN."""
    return total(c * c for c in x).nonnegative_part().sqrt()


def weighted(weights: Vector, tokens: Sequence[Vector]) -> list[arb]:
    """``sum_t w_t v_t``."""
    return [total(w * v[c] for w, v in zip(weights, tokens, strict=True)) for c in range(len(tokens[0]))]


def minus(x: Vector, y: Vector) -> list[arb]:
    """Difference of vectors."""
    return [a - b for a, b in zip(x, y, strict=True)]


def largest_ub(x: Iterable[arb]) -> float:
    """Float upper bound of the largest."""
    return max(float_ub(one) for one in x)


lower, upper = float_lb, float_ub
