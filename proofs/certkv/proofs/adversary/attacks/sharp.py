"""Attacks on the root of ``sharp``: any kappa, blocks of their own error, values, a stray output, alternatives."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import ROOT, Attack, Attained, Box
from certkv.proofs.adversary.balls import (
    balls,
    largest_ub,
    lower,
    minus,
    norm,
    normalised,
    precisely,
    softmax,
    total,
    upper,
    weighted,
)
from certkv.reference.bounds import sharp
from certkv.reference.numbers.types import FloatArray

TOKENS, BLOCKS, CHANNELS = 4, 2, 2
SIZE = TOKENS // BLOCKS
START = 1e3
"""Above every error here, which is at most the distance of two values."""

TWO_SIDED = (3.0, 1.0, -3.0, -1.0, 3.0, 1.0, -3.0, -1.0)


def _attack(
    variant: str,
    symbols: str,
    log_delta: tuple[float, float],
    log_kappa: tuple[float, float] = (0.0, 0.0),
    *,
    other: float = 0.0,
    alternatives: bool = False,
) -> Attack:
    """Attack with ``log10 Delta`` and ``ln kappa`` in ranges, residuals and a stray output of up to ``other``."""
    box = Box().add("scores", TOKENS, -6.0, 6.0).add("log_delta", BLOCKS, *log_delta).add("off", TOKENS, -1.0, 1.0)
    box.add("values", TOKENS * CHANNELS, -4.0, 4.0).add("log_kappa", 1, *log_kappa)
    box.add("residuals", TOKENS * CHANNELS, -other, other).add("stray", CHANNELS, -other, other)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = 10.0 ** part["log_delta"]
        executed = softmax(balls(part["scores"]))
        off = zip(balls(np.repeat(delta, SIZE)), balls(part["off"]), strict=True)
        w = [(-d * f).exp() for d, f in off]
        weight = [a * x for a, x in zip(executed, w, strict=True)]
        values = [balls(v) for v in part["values"].reshape(TOKENS, CHANNELS)]
        residuals = [balls(e) for e in part["residuals"].reshape(TOKENS, CHANNELS)]
        attended = minus(weighted(executed, values), weighted(executed, residuals))
        output = balls([float(x.mid()) + s for x, s in zip(attended, part["stray"], strict=True)])
        centred = [minus(v, output) for v in values]
        blocks = [slice(b * SIZE, (b + 1) * SIZE) for b in range(BLOCKS)]
        mass = [total(executed[b]) for b in blocks]
        moved = [a * (x - 1) for a, x in zip(executed, w, strict=True)]
        alternative = {
            "cap_ub": np.array([[upper(norm(weighted(moved[b], centred[b]))) for b in blocks]]),
            "credit_lb": np.array([[lower(total(weight[b])) for b in blocks]]),
        }
        value_error = norm(weighted(executed, residuals))
        bound = sharp.sharp(
            mass_ub=np.array([[upper(m) for m in mass]]),
            mass_lb=np.array([[lower(m) for m in mass]]),
            delta_ub=delta[None],
            radius_ub=np.array([[largest_ub(norm(v) for v in centred[b]) for b in blocks]]),
            value_and_accumulation_ub=np.array([upper(value_error + norm(minus(output, attended)))]),
            start_ub=np.array([START]),
            kappa=float(np.exp(part["log_kappa"][0])),
            **(alternative if alternatives else {}),
        )
        return Attained(lower(norm(weighted(normalised(weight), centred))), float(bound[0]))

    def starts() -> Sequence[FloatArray]:
        points = []
        for log in np.linspace(*log_delta, 5):
            kappa = -np.log(np.cosh(10.0**log))
            for push in (0.0, 1.0):
                along = push * np.array([3.0, 1.0])
                points.append(
                    box.point(
                        scores=0.0,
                        log_delta=log,
                        off=[-1.0, 1.0, -1.0, 1.0],
                        values=TWO_SIDED,
                        log_kappa=np.clip(kappa, *log_kappa),
                        residuals=np.tile(along / 4.0 * other, TOKENS),
                        stray=-along / 4.0 * other,
                    )
                )
        return points

    return Attack(f"sharp.{variant}", "sharp", symbols, box.low, box.high, evaluate, starts, reproduces=ROOT)


def _uniform() -> Attack:
    box = Box().add("scores", TOKENS, -6.0, 6.0).add("log_delta", 1, -5.0, 0.5).add("off", TOKENS, -1.0, 1.0)
    box.add("values", TOKENS, -4.0, 4.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        delta = float(10.0 ** part["log_delta"][0])
        executed = softmax(balls(part["scores"]))
        weight = [a * (-arb(delta) * f).exp() for a, f in zip(executed, balls(part["off"]), strict=True)]
        values = [[v] for v in balls(part["values"])]
        attended = weighted(executed, values)
        output = [arb(float(attended[0].mid()))]
        centred = [minus(v, output) for v in values]
        bound = sharp.uniform(delta, largest_ub(norm(v) for v in centred), upper(norm(minus(output, attended))))
        return Attained(lower(norm(weighted(normalised(weight), centred))), float(bound))

    def starts() -> Sequence[FloatArray]:
        two_sided, off = [3.0, -3.0, 3.0, -3.0], [-1.0, 1.0, -1.0, 1.0]
        return [box.point(scores=0.0, log_delta=d, off=off, values=two_sided) for d in (-5.0, -1.0, 0.0, 0.5)]

    return Attack("sharp.uniform", "sharp", "R tanh(Delta), Delta <= 3.2", box.low, box.high, evaluate, starts, 2500)


def attacks() -> list[Attack]:
    """All of this file."""
    none = (-15.0, -15.0)
    return [
        _uniform(),
        _attack("one", "root for kappa = 1, keys only, Delta <= 0.1", (-5.0, -1.0)),
        _attack("kappa", "root for any kappa, keys only, Delta <= 2", (-5.0, float(np.log10(2.0))), (-2.0, 1.0)),
        _attack("values", "root for any kappa, values and a stray output only", none, (-2.0, 1.0), other=0.5),
        _attack("mixed", "root for any kappa, keys, values and output together", (-5.0, 0.0), (-2.0, 1.0), other=0.5),
        _attack("alternative", "root with exact alternatives, all together", (-2.0, 0.0), other=0.5, alternatives=True),
    ]
