"""Attacks on the rounding of the float64 step: nothing is quantized, every error is the machine's.

What is attacked are worst cases over *every* order of summation; the machine has one, so these ratios differ between
machines, and only "never above 1" carries over.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certkv.proofs.adversary.attack import MACHINE, Attack, Attained, Box
from certkv.proofs.adversary.steps import reached
from certkv.proofs.mutants.scene import Scene
from certkv.reference import Budget, Naive, Policy
from certkv.reference.numbers.types import AnyArray, FloatArray

WIDE = 256
NARROW = 8
HEADS = 2
"""Two equal queries: with one, the BLAS takes another routine, whose partial sums round less."""


def _scene(q: AnyArray, k: FloatArray, v: FloatArray, scale: float) -> Scene:
    """Dense formats; float16 originals [tokens, d]."""
    k16, v16 = k.astype(np.float16)[:, None], v.astype(np.float16)[:, None]
    return Scene(np.tile(q, (HEADS, 1)), k16, v16, len(k), "dense", "dense", scale)


def _two_tokens(first: FloatArray, second: FloatArray, size: float, scale: float) -> Scene:
    """Scores of about ``size``, from one large product and many of about half a unit in its last place.

    Keys are parallel to the query up to their last digits, so ``||q|| ||k||`` is the sum of the products' magnitudes.
    The small products of ``first`` are to be rounded up and those of ``second`` down; the values are +1 and -1.
    """
    d = 1 + len(first)
    q, k = np.full(d, size * 2.0**-41, np.float32), np.full((2, d), 2.0**15)
    q[0] = size * 2.0**-15
    k[0, 1:], k[1, 1:] = 2.0**-12 * first, 2.0**-12 * second
    v = np.zeros((2, d))
    v[:, 0] = 1.0, -1.0
    return _scene(q, k, v, scale)


def _scores(variant: str, policy: Policy, symbols: str) -> Attack:
    box = Box().add("log2_size", 1, 20.0, 36.0).add("above", 1, -11.0, 0.0).add("below", 1, -11.0, 0.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        size = 2.0 ** float(np.round(part["log2_size"][0]))
        above, below = 2.0 ** part["above"][0], 2.0 ** part["below"][0]
        scene = _two_tokens(np.full(WIDE - 1, 1.0 + above), np.full(WIDE - 1, 1.0 - below), size, 1.0)
        return reached(scene, policy)

    def starts() -> Sequence[FloatArray]:
        return [box.point(log2_size=size, above=-10.0, below=-11.0) for size in (22.0, 25.0, 30.0)]

    return Attack(
        f"arithmetic.{variant}", "arithmetic", symbols, box.low, box.high, evaluate, starts, 120, reproduces=MACHINE
    )


def _free_scores() -> Attack:
    """Leave every small product free: the search has to find the pattern by itself."""
    box = Box().add("first", NARROW - 1, -2.0, 2.0).add("second", NARROW - 1, -2.0, 2.0).add("log_scale", 1, -0.3, 0.3)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        scene = _two_tokens(part["first"], part["second"], 2.0**25, float(10.0 ** part["log_scale"][0]))
        return reached(scene, Budget(0.0))

    return Attack(
        "arithmetic.scores_free",
        "arithmetic",
        f"gamma_{{d+1}} |scale| ||q|| ||k||, d = {NARROW}, rung 3, no construction",
        box.low,
        box.high,
        evaluate,
        evaluations=1200,
        reproduces=MACHINE,
    )


def _accumulation(variant: str, policy: Policy, symbols: str) -> Attack:
    """One token of weight 1 and many of about 2^-53: denominators round up, numerators do not move, or move up."""
    box = Box().add("log_tokens", 1, 0.5, 2.4).add("shift", 1, -37.5, -35.5).add("value", 1, -1.0, 0.999)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        tokens = round(10.0 ** float(part["log_tokens"][0]))
        k, v = np.zeros((tokens, 2)), np.zeros((tokens, 2))
        k[1:, 0] = 1.0
        v[0, 0], v[1:, 0] = 1.0, part["value"][0]
        q = np.array([part["shift"][0], 0.0], np.float32)
        return reached(_scene(q, k, v, 1.0), policy)

    def starts() -> Sequence[FloatArray]:
        # -53 ln 2 = -36.7368: weights just above half a unit in the last place of 1, values that take them below
        return [
            box.point(log_tokens=n, shift=-36.7367, value=x) for n in (0.8, 1.2, 2.1, 2.4) for x in (0.998, -1.0, 0.0)
        ]

    return Attack(
        f"arithmetic.{variant}", "arithmetic", symbols, box.low, box.high, evaluate, starts, 400, reproduces=MACHINE
    )


def _exponential() -> Attack:
    """Two tokens with exact scores, so that all error is exp's, the difference's and the quotient's."""
    box = Box().add("shift", 1, -30.0, 0.0).add("value", 1, -1.0, 0.999)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        k, v = np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [float(part["value"][0]), 0.0]])
        return reached(_scene(np.array([part["shift"][0], 0.0], np.float32), k, v, 1.0), Budget(0.0))

    return Attack(
        "arithmetic.exponential",
        "arithmetic",
        "exp within 4 ulp (an assumption), rung 3",
        box.low,
        box.high,
        evaluate,
        evaluations=500,
        reproduces=MACHINE,
    )


def attacks() -> list[Attack]:
    """All of this file."""
    return [
        _scores("scores_rung_3", Budget(0.0), f"gamma_{{d+1}} |scale| ||q|| ||k||, d = {WIDE}, rung 3"),
        _scores("scores_naive", Naive(), f"gamma_{{d+2}} |scale| ||q|| ||k||, d = {WIDE}, coded pass"),
        _free_scores(),
        _accumulation("sums_rung_3", Budget(0.0), "gamma_K sum w (||v|| + ||c||), rung 3"),
        _accumulation("sums_naive", Naive(), "gamma_{2N+6} M / L, coded pass"),
        _exponential(),
    ]
