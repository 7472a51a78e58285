"""Attacks on ``kernel_arithmetic``: kernels in software, as badly rounded as their models allow, on exact inputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import log

import numpy as np

from certkv.proofs.adversary.attack import MACHINE, Attack, Attained, Box
from certkv.proofs.emulation.certificate import judge
from certkv.proofs.emulation.kernel import emulate
from certkv.proofs.emulation.units import Worst
from certkv.reference.bounds.kernel_model import (
    H200_BF16_P,
    H200_FP16_P,
    H200_HILO_P,
    IEEE_FP32,
    Constant,
    KernelModel,
)
from certkv.reference.numbers.types import FloatArray

BIT = log(2.0)
"""The scale at which a score is a number of bits."""

FINE = 2.0**-11
"""Query of the second channel: a float16 key there is the rest of what the first one left."""

PRODUCTS = 15
"""Of a tensor core's step beside the largest one."""

GROUP = 8
"""Tokens of each kind in the attack on scores."""

COARSE = Constant("coarse-exp2", 2.0**-12, "assumption", "chosen here, so that no other rounding is seen beside it")


def _half(x: FloatArray) -> FloatArray:
    """Round to float16: the operands of a kernel."""
    return np.asarray(x.astype(np.float16).astype(np.float64))


def _of_scores(bits: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return a query and keys in float16 whose dot products are the given scores, to 22 digits of the binary system."""
    coarse = _half(bits)
    return np.array([1.0, FINE]), np.stack([coarse, _half((bits - coarse) / FINE)], axis=1)


def reached(
    q: FloatArray, k: FloatArray, v: FloatArray, scale: float, model: KernelModel, worst: Worst | None = None
) -> Attained:
    """Run the kernel and judge what it returned."""
    done = emulate(q, k, v, scale, model, worst)
    found = judge(q, k, v, scale, model, done)
    return Attained(found.error_lb, found.bound)


def _attack(
    variant: str,
    symbols: str,
    box: Box,
    evaluate: Callable[[FloatArray], Attained],
    starts: Callable[[], Sequence[FloatArray]],
    evaluations: int,
) -> Attack:
    return Attack(
        f"kernel_arithmetic.{variant}",
        "kernel_arithmetic",
        symbols,
        box.low,
        box.high,
        evaluate,
        starts,
        evaluations,
        reproduces=MACHINE,
    )


def _weights(variant: str, symbols: str, model: KernelModel) -> Attack:
    """Two groups of weights about the middle of two numbers above 1/2: one is rounded down, the other up."""
    box = Box().add("log_tokens", 1, 0.0, 2.8).add("place", 2, 0.0, 2.0).add("values", 3, -1.0, 1.0)
    model, unit = replace(model, splits=1, tile=32), model.weights.type.unit_roundoff

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        tokens = round(10.0 ** float(part["log_tokens"][0]))
        count = [1, tokens, tokens]
        # the first token has the maximum; no other weight is exact
        q, k = _of_scores(np.repeat([0.0, *(np.log2(1.0 + unit * part["place"]) - 1.0)], count))
        return reached(q, k, np.repeat(_half(part["values"]), count)[:, None], BIT, model)

    def starts() -> Sequence[FloatArray]:
        return [box.point(log_tokens=n, place=[0.99, 1.01], values=[0.0, 1.0, -1.0]) for n in (1.0, 2.0, 2.8)]

    return _attack(variant, symbols, box, evaluate, starts, 200)


def _scores() -> Attack:
    """Products that a tensor core cuts off, towards zero from both sides; in units of the last digit that it keeps."""
    box = Box().add("products", 2 * PRODUCTS, -4.0, 4.0).add("log2_scale", 1, 6.0, 16.0)
    model = replace(H200_HILO_P, splits=1, tile=2 * GROUP)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        q = np.concatenate([[1.0], np.full(PRODUCTS, 2.0**-12)])
        small = _half(2.0**-13 * part["products"].reshape(2, PRODUCTS))
        k = np.repeat(np.concatenate([np.ones((2, 1)), small], axis=1), GROUP, axis=0)
        v = np.repeat([1.0, -1.0], GROUP)[:, None]
        return reached(q, k, v, float(np.exp2(part["log2_scale"][0])), model)

    def starts() -> Sequence[FloatArray]:
        lost = 1.0 - 2.0**-10
        lowered = [4.0 * lost, *np.full(PRODUCTS - 1, lost)]
        both = np.concatenate([lowered, np.full(PRODUCTS, -lost)])
        return [box.point(products=both, log2_scale=x) for x in (8.0, 10.0, 12.0, 14.0)]

    symbols = "error of q.k in a tensor core, d = 16, P in two parts of float16"
    return _attack("scores", symbols, box, evaluate, starts, 300)


def _sums() -> Attack:
    """One token of weight 1 and many of about 2^-24, in one tile: the denominator rounds up, the numerator does not."""
    box = Box().add("log_tokens", 1, 0.5, 2.4).add("shift", 1, -24.5, -22.5).add("value", 1, -1.0, 1.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        tokens = round(10.0 ** float(part["log_tokens"][0]))
        q, k = _of_scores(np.repeat([0.0, part["shift"][0]], [1, tokens - 1]))
        v = np.repeat([1.0, float(_half(part["value"])[0])], [1, tokens - 1])[:, None]
        return reached(q, k, v, BIT, replace(IEEE_FP32, tile=tokens))

    def starts() -> Sequence[FloatArray]:
        return [box.point(log_tokens=n, shift=-23.99999, value=x) for n in (1.2, 1.8, 2.4) for x in (0.998, 0.9, -1.0)]

    return _attack("sums", "E_o mean norm(v) + E_l norm(c), IEEE binary32", box, evaluate, starts, 200)


def _updates() -> Attack:
    """Let the maximum rise from tile to tile, with an exp2 that errs upward: the first weights are too large.

    The first tile and the last have all the values and most of the mass; one token of each tile between them raises
    the maximum.
    """
    tile = 32
    box = Box().add("tiles", 1, 3.0, 20.0).add("log2_rise", 1, -10.0, 2.0).add("values", 3, -1.0, 1.0)
    model = replace(IEEE_FP32, tile=tile, exp2=COARSE)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        tiles = round(float(part["tiles"][0]))
        bits = np.arange(tiles)[:, None] * float(np.exp2(np.round(part["log2_rise"][0]))) + np.zeros(tile)
        bits[1:-1, 1:] = -60.0
        v = np.repeat(_half(part["values"]), [tile, (tiles - 2) * tile, tile])[:, None]
        q, k = _of_scores(bits.ravel())
        return reached(q, k, v, BIT, model, Worst("zero", "plus"))

    def starts() -> Sequence[FloatArray]:
        return [box.point(tiles=n, log2_rise=-8.0, values=[1.0, 0.0, -1.0]) for n in (3.0, 6.0, 10.0)]

    return _attack("updates", "n + merges + 1 times e, a rising maximum, e = 2^-12", box, evaluate, starts, 150)


def attacks() -> list[Attack]:
    """All of this file."""
    return [
        _weights("weights_bf16", "u_P, weights in bfloat16", H200_BF16_P),
        _weights("weights_fp16", "u_P, weights in float16", H200_FP16_P),
        _scores(),
        _sums(),
        _updates(),
    ]
