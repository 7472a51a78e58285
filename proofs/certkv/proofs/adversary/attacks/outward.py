"""Attacks on ``outward_fp32``: the exact value over what binary32 returned as its bound."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import MACHINE, PURE, Attack, Attained, Box
from certkv.proofs.adversary.balls import balls, lower, precisely, total, upper
from certkv.reference.bounds import outward_fp32
from certkv.reference.numbers.types import Float32Array, FloatArray

F32 = np.float32
BLOCK = 16
TERMS = 900
"""Nearly as many roundings as the factor is proved for."""


def _summed(x: Float32Array) -> Float32Array:
    """Sum in binary32, one after the other, [1]."""
    return np.add.accumulate(x, dtype=F32)[-1:]


def _attack(
    variant: str,
    symbols: str,
    box: Box,
    evaluate: Callable[[FloatArray], Attained],
    starts: Callable[[], Sequence[FloatArray]],
    reproduces: float = PURE,
) -> Attack:
    return Attack(
        f"outward_fp32.{variant}",
        "outward_fp32",
        symbols,
        box.low,
        box.high,
        precisely(evaluate),
        starts,
        800,
        reproduces=reproduces,
    )


def _function(variant: str, symbols: str, largest: float, exact: Callable[[arb], arb], below: bool = False) -> Attack:
    """Take one function of one argument; a lower bound is violated where it is above the truth."""
    box = Box().add("log_x", 1, -9.0, float(np.log10(largest)))
    name = f"{variant}_lb" if below else f"{variant}_ub"

    def evaluate(genes: FloatArray) -> Attained:
        x = np.asarray(10.0**genes, dtype=F32)
        # looked up at call time, so that a planted function is the one that is attacked
        value, (truth,) = float(getattr(outward_fp32, name)(x)[0]), map(exact, balls(x))
        return Attained(value, upper(truth)) if below else Attained(lower(truth), value)

    def starts() -> Sequence[FloatArray]:
        return [box.point(log_x=x) for x in (-6.0, -1.0001, 0.0)]

    # exp and expm1 are the library's
    return _attack(variant, symbols, box, evaluate, starts, reproduces=MACHINE)


def _perp() -> Attack:
    """Take the root of what is left of a sum of squares without its largest term."""
    box = Box().add("beta", BLOCK, 0.0, 1.0).add("log2_top", 1, 0.0, 14.0).add("log2_unit", 1, -70.0, 40.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        beta = np.asarray(part["beta"] * np.exp2(part["log2_unit"]), dtype=F32)
        beta[0] *= F32(np.exp2(part["log2_top"][0]))
        with np.errstate(under="ignore"):
            q2 = _summed(beta * beta)
        value = float(outward_fp32.beta_perp_ub(q2, beta.max(), len(beta))[0])
        squares = [b * b for b in balls(np.delete(beta, beta.argmax()))]
        return Attained(lower(total(squares).sqrt()), value)

    def starts() -> Sequence[FloatArray]:
        return [box.point(beta=b, log2_top=t, log2_unit=0.0) for b in (0.7, 1.0) for t in (0.0, 4.0)]

    return _attack("perp", "root of norm(beta)^2 - beta_1^2", box, evaluate, starts)


def _finish() -> Attack:
    """Sum one term and many near half a unit in its last place: the numerator rounds down, the denominator up."""
    box = Box().add("below", 1, -26.0, -22.0).add("above", 1, -26.0, -22.0).add("first", 2, 0.5, 2.0)
    box.add("terms", 3, 0.0, 1.0).add("log2_gamma", 1, -30.0, 4.0)

    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        light = np.exp2(np.concatenate([part["below"], part["above"]])).astype(F32)
        first = part["first"].astype(F32)
        A, D = (np.concatenate([[x], np.full(TERMS, y)]).astype(F32) for x, y in zip(first, light, strict=True))
        G, U, eps, gamma = np.concatenate([part["terms"], np.exp2(part["log2_gamma"])]).astype(F32)
        value = outward_fp32.finish(_summed(A), G[None], U[None], eps[None], _summed(D), gamma[None])
        ends = [arb(float(x[0])) + TERMS * arb(float(x[1])) for x in (A, D)]
        fixed = arb(float(gamma)) * arb(float(G)) + arb(float(U)) + arb(float(eps))
        return Attained(lower((ends[0] + fixed) / ends[1]), float(value[0]))

    def starts() -> Sequence[FloatArray]:
        # half a unit in the last place of 1 is 2^-24, up from it and down
        rest = {"first": 1.0, "terms": 0.0, "log2_gamma": -30.0}
        return [box.point(below=-24.0 - e, above=-24.0 + e, **rest) for e in (1e-2, 1e-4, 1e-6)]

    symbols = f"A + gamma G + U + eps over D, {TERMS} roundings up and down"
    return _attack("finish", symbols, box, evaluate, starts)


def attacks() -> list[Attack]:
    """All of this file."""
    return [
        _function("psi", "psi(x)", 60.0, lambda x: (x.expm1() - x) / (x * x)),
        _function("expm1", "e^x - 1", 80.0, lambda x: x.expm1()),
        _function("exp_minus", "e^-x, from below", 79.0, lambda x: (-x).exp(), below=True),
        _perp(),
        _finish(),
    ]
