"""Attacks on the theorems about values: value_blocks, hull."""

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
from certkv.reference.bounds import hull, value_blocks
from certkv.reference.numbers.types import FloatArray

FAR = 60.0


def _value_blocks(variant: str) -> Attack:
    """Two blocks of two tokens with residuals in the plane."""
    box = Box().add("scores", 4, -FAR, FAR).add("residuals", 8, -4.0, 4.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        weights = softmax(balls(part["scores"]))
        residuals = [balls(e) for e in part["residuals"].reshape(4, 2)]
        eta = np.array([largest_ub(norm(e) for e in block) for block in (residuals[:2], residuals[2:])])
        rho = np.array([upper(total(block)) for block in (weights[:2], weights[2:])])
        bound = value_blocks.blockwise(rho, eta) if variant == "blockwise" else value_blocks.uniform(eta)
        return Attained(lower(norm(weighted(weights, residuals))), float(bound))

    def starts() -> Sequence[FloatArray]:
        same = np.tile([3.0, -1.0], 4)
        return [
            box.point(scores=0.0, residuals=same),
            box.point(scores=[0.0, -FAR, 1.0, -FAR], residuals=same * [1, 1, 0, 0, 0.5, 0.5, 0, 0]),
        ]

    symbols = "sum_b rho_b eta_b" if variant == "blockwise" else "max_b eta_b"
    return Attack(f"value_blocks.{variant}", "value_blocks", symbols, box.low, box.high, evaluate, starts)


def _hull(variant: str) -> Attack:
    """Three values, any output, radii about the origin or about an anchor."""
    box = Box().add("scores", 3, -FAR, FAR).add("values", 6, -4.0, 4.0).add("output", 2, -4.0, 4.0)
    box.add("anchor", 2, -4.0, 4.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        values = [balls(v) for v in part["values"].reshape(3, 2)]
        output, anchor = balls(part["output"]), balls(part["anchor"])
        exact = weighted(softmax(balls(part["scores"])), values)
        if variant == "plain":
            norms = np.array([upper(norm(v)) for v in values])
            radius = hull.plain_radius(norms, np.asarray(upper(norm(output))))
        else:
            norms = np.array([upper(norm(minus(v, anchor))) for v in values])
            radius = hull.anchored_radius(norms, np.asarray(upper(norm(minus(output, anchor)))))
        return Attained(lower(norm(minus(exact, output))), float(hull.hull(radius)))

    def starts() -> Sequence[FloatArray]:
        far, anchor = np.array([3.0, 1.0]), np.zeros(2) if variant == "plain" else np.array([1.0, 1.0])
        values = np.concatenate([far, anchor, anchor])
        return [box.point(scores=[FAR, 0.0, 0.0], values=values, output=2.0 * anchor - far, anchor=anchor)]

    symbols = "max_b nu_b + ||c||" if variant == "plain" else "max_b ||V - mu|| + ||c - mu||"
    return Attack(f"hull.{variant}", "hull", symbols, box.low, box.high, evaluate, starts)


def attacks() -> list[Attack]:
    """All of this file."""
    return [_value_blocks("blockwise"), _value_blocks("uniform"), _hull("plain"), _hull("anchored")]
