"""Attacks on score_error: blocks that a format really encodes, annotations that are really measured."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from certkv.proofs.adversary.attack import NOTHING, PURE, STORED, Attack, Attained, Box
from certkv.proofs.adversary.balls import lower, precisely
from certkv.proofs.adversary.blocks import ball, differences, meaning, rational, to_type
from certkv.reference.annotations import annotate_keys
from certkv.reference.bounds import score_error
from certkv.reference.formats import key_format, step_per_channel
from certkv.reference.numbers.types import AnyArray, FloatArray

TOKENS, CHANNELS = 4, 4
STEP = 2.0**-6
"""Of a grid from 0 to 255 steps, which every 8-bit format stores as it is."""


def half_steps(sign: FloatArray) -> FloatArray:
    """Two tokens that span 0 to 255 steps and two whose residuals are half a step, of the given signs; [4, d]."""
    keys = np.empty((TOKENS, CHANNELS))
    keys[0], keys[1] = 0.0, 255 * STEP
    keys[2:] = np.where(sign > 0, 126.5, 127.5) * STEP  # ties go to even codes
    return keys


def more_than_half() -> FloatArray:
    """Keys on one channel with a residual above half a step: the worst of many random ones."""
    drawn = (3.0 + np.random.default_rng(0).standard_normal((20_000, TOKENS, 1))).clip(-4.0, 4.0).astype(np.float16)
    fmt = key_format("int8-paper")
    encoded = fmt.encode(drawn)
    residual = np.abs(drawn.astype(np.float64) - fmt.decode(encoded))[..., 0].max(axis=-1)
    worst = np.argmax(residual / np.maximum(step_per_channel(encoded)[..., 0], 1e-9))
    keys = np.zeros((TOKENS, CHANNELS))
    keys[:, 0] = drawn[worst, :, 0]
    return keys


def one_direction() -> FloatArray:
    """Keys that vary on one channel only: the residual is parallel to a query on that channel."""
    keys = half_steps(np.ones(CHANNELS))
    keys[:, 1:] = 0.0
    return keys


def _attack(form: str, keys: str, symbols: str, unsound: bool = False) -> Attack:
    box = Box().add("keys", TOKENS * CHANNELS, -4.0, 4.0).add("query", CHANNELS, -4.0, 4.0).add("log_scale", 1, -3, 1)
    fmt = key_format(keys)

    def bound(scale: float, q: FloatArray, original: AnyArray) -> float:
        encoded = fmt.encode(original)
        step = step_per_channel(encoded)[None]
        if form == "published":
            return float(score_error.paper_l1(scale, q, step)[0, 0])
        notes = annotate_keys(original, encoded, fmt)
        if form == "l1":
            z = notes.relative_max_ub.astype(np.float64)[None]
            return float(score_error.measured_l1(scale, q, step, z)[0, 0])
        norm = notes.relative_norm_ub.astype(np.float64)[None]
        return float(score_error.measured_l2(scale, q, step, norm)[0, 0])

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        scale = float(10.0 ** part["log_scale"][0])
        q = part["query"].astype(np.float32).astype(np.float64)
        original = to_type(part["keys"].reshape(TOKENS, CHANNELS), "float16")
        residual = differences(rational(original), meaning(fmt.encode(original)))
        if not np.abs(q).max() > 0.0:
            return NOTHING
        query = [Fraction(x) for x in q.tolist()]
        errors = [abs(sum((x * e for x, e in zip(query, row, strict=True)), Fraction(0))) for row in residual]
        return Attained(lower(ball(Fraction(scale) * max(errors))), bound(scale, q[None], original))

    def starts() -> Sequence[FloatArray]:
        signs = np.array([1.0, -1.0, 1.0, -1.0])
        towards = np.array([1.0, 0.0, 0.0, 0.0])
        return [
            box.point(keys=half_steps(signs), query=signs, log_scale=0.0),
            box.point(keys=one_direction(), query=towards, log_scale=-0.5),
            *([box.point(keys=more_than_half(), query=towards, log_scale=0.0)] if unsound else []),
        ]

    return Attack(
        f"score_error.{form}_{keys.replace('-', '_')}",
        "score_error",
        symbols,
        box.low,
        box.high,
        evaluate,
        starts,
        evaluations=1200,
        reproduces=PURE if unsound else STORED,
        unsound=unsound,
    )


def attacks() -> list[Attack]:
    """All of this file."""
    found = []
    for keys in ("int8", "int8-paper"):
        found.append(_attack("l1", keys, f"|scale| z sum_c |q_c| s_c, {keys}"))
        found.append(_attack("l2", keys, f"|scale| ||s q|| max_t ||e_t/s||, {keys}"))
    found.append(_attack("published", "int8-paper", "|scale|/2 sum_c |q_c| s_c (published, unsound)", unsound=True))
    return found
