"""Attacks on block_bound as a pure function: weights, log-weight errors, values and outputs of our choice."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from certkv.proofs.adversary.attack import Attack, Attained, Box
from certkv.proofs.adversary.balls import (
    balls,
    largest_ub,
    lower,
    minus,
    norm,
    precisely,
    softmax,
    total,
    upper,
    weighted,
)
from certkv.reference.bounds import block_bound
from certkv.reference.numbers.types import FloatArray

FAR = 60.0
TOKENS, BLOCKS, CHANNELS = 4, 2, 2
NO_DELTA = -15.0
"""``log10 Delta`` that stands for keys as good as exact."""


def _attack(
    variant: str, symbols: str, deltas: tuple[float, float], residual: float, stray: float, reach: float = FAR
) -> Attack:
    """Attack with ``log10 Delta`` in a range, residuals up to ``residual`` and an output off by up to ``stray``.

    ``reach`` limits the scores; where it is small, no mass is so small that the output's own rounding shows.
    """
    box = Box().add("scores", TOKENS, -reach, reach).add("log_delta", BLOCKS, *deltas).add("off", TOKENS, -1.0, 1.0)
    box.add("values", TOKENS * CHANNELS, -4.0, 4.0).add("residuals", TOKENS * CHANNELS, -residual, residual)
    box.add("stray", CHANNELS, -stray, stray)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        per_block = np.repeat(10.0 ** part["log_delta"], TOKENS // BLOCKS)
        scores = balls(part["scores"])
        executed = softmax(scores)
        errors = [d * f for d, f in zip(balls(per_block), balls(part["off"]), strict=True)]
        exact = softmax([s - e for s, e in zip(scores, errors, strict=True)])
        values = [balls(v) for v in part["values"].reshape(TOKENS, CHANNELS)]
        residuals = [balls(e) for e in part["residuals"].reshape(TOKENS, CHANNELS)]
        attended = minus(weighted(executed, values), weighted(executed, residuals))
        output = balls([float(x.mid()) + s for x, s in zip(attended, part["stray"], strict=True)])
        size = TOKENS // BLOCKS
        blocks = [slice(b * size, (b + 1) * size) for b in range(BLOCKS)]
        mass = [total(executed[b]) for b in blocks]
        bound = block_bound.block_bound(
            mass_ub=np.array([[upper(m) for m in mass]]),
            mass_lb=np.array([[lower(m) for m in mass]]),
            key_delta_ub=per_block[::size][None],
            rounding_delta_ub=np.full((1, BLOCKS), 2.0**-100),
            radius_ub=np.array([[largest_ub(norm(minus(v, output)) for v in values[b]) for b in blocks]]),
            value_error_ub=np.array([[largest_ub(norm(e) for e in residuals[b]) for b in blocks]]),
            accumulation_ub=np.array([upper(norm(minus(output, attended)))]),
        )
        return Attained(lower(norm(minus(weighted(exact, values), output))), float(bound.bound[0]))

    def starts() -> Sequence[FloatArray]:
        two_sided = np.array([3.0, 1.0, -3.0, -1.0, 3.0, 1.0, -3.0, -1.0])
        points = []
        for log_delta in np.linspace(deltas[0], deltas[1], 5):
            for push in (0.0, 0.5, 1.0):
                along = push * np.array([3.0, 1.0])
                points.append(
                    box.point(
                        scores=0.0,
                        log_delta=log_delta,
                        off=[-1.0, 1.0, -1.0, 1.0],
                        values=two_sided,
                        residuals=np.tile(along / 4.0 * residual, TOKENS),
                        stray=-along / 4.0 * stray,
                    )
                )
            # a light block raised against a heavy one that is lowered and lies where the output is
            points.append(
                box.point(
                    scores=[0.0, 0.0, -min(reach, 12.0), -min(reach, 12.0)],
                    log_delta=log_delta,
                    off=[1.0, 1.0, -1.0, -1.0],
                    values=[0.0, 0.0, 0.0, 0.0, 3.0, 1.0, 3.0, 1.0],
                    residuals=0.0,
                    stray=0.0,
                )
            )
        return points

    return Attack(f"block_bound.{variant}", "block_bound", symbols, box.low, box.high, evaluate, starts, 3000)


def attacks() -> list[Attack]:
    """All of this file."""
    small = (-5.0, -1.0)
    none = (NO_DELTA, NO_DELTA)
    return [
        _attack("key", "keys only, Delta <= 0.1", small, 0.0, 0.0),
        _attack("value", "values only", none, 0.5, 0.0),
        _attack("accumulation", "a stray output only", none, 0.0, 0.5),
        _attack("mixed", "keys, values and output together", small, 0.5, 0.5),
        *(
            _attack(f"delta_{name}", f"keys only, Delta = {name.replace('_', '.')}", (g, g), 0.0, 0.0, reach=6.0)
            for name, g in (("0_1", -1.0), ("0_3", float(np.log10(0.3))), ("1", 0.0))
        ),
    ]
