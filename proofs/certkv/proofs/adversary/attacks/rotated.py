"""Attacks on rotations, on what two and four bits promise, on steps that norms force, and on levels of precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import NOTHING, PURE, STORED, Attack, Attained, Box
from certkv.proofs.adversary.balls import Vector, lower, minus, norm, precisely, total, upper
from certkv.proofs.adversary.blocks import ball, to_type
from certkv.reference.bounds import oscar_element, planes, token_norm_imbalance
from certkv.reference.bounds import rotation as rotation_bounds
from certkv.reference.formats import rotation
from certkv.reference.formats.planar import INT8_4
from certkv.reference.formats.zero_point import quantize_zero_point
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, norm_ub, round_nearest
from certkv.reference.numbers.types import AnyArray, FloatArray

CHANNELS = 8
TOKENS = 3


def exact_rotation(x: Vector) -> list[arb]:
    """``H x`` in one block, from the definition."""
    root = arb(len(x)).sqrt()
    signed = [[-one if (i & j).bit_count() % 2 else one for j, one in enumerate(x)] for i in range(len(x))]
    return [total(row) / root for row in signed]


def fractions(x: AnyArray) -> list[arb]:
    """Exact balls of numbers of any type."""
    return [ball(Fraction(float(one))) for one in x.astype(np.float64).ravel()]


def _type(gene: float) -> FloatType:
    return FLOAT16 if gene < 0.5 else BFLOAT16


def _rotation(precision: str) -> Attack:
    """Take vectors whose sums round badly; in binary32 originals of both types."""
    box = Box().add("x", CHANNELS, -4.0, 4.0).add("dtype", 1, 0.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        if precision == "float64":
            x: AnyArray = part["x"]
            found = fractions(rotation.rotate(x))
            bound = rotation_bounds.float64_error_ub(norm_ub(x), CHANNELS)
        else:
            x = to_type(part["x"], _type(part["dtype"][0]).name)
            y = rotation.rotate_originals(x).astype(np.float64) * 2.0**-rotation.EXPONENT
            found = fractions(y)
            bound = rotation_bounds.float32_error_ub(norm_ub(x.astype(np.float64)), CHANNELS)
        error = norm(minus(found, exact_rotation(fractions(x))))
        return Attained(lower(error), float(bound))

    def starts() -> Sequence[FloatArray]:
        # only the factor and the last product round: one channel
        one = [1.0 + 2.0**-7, *[0.0] * (CHANNELS - 1)]
        return [box.point(x=one, dtype=dtype) for dtype in (0.0, 1.0)]

    return Attack(
        f"rotation.{precision}",
        "rotation",
        f"gamma_(L+2) norm(x) in {precision}, 8 channels",
        box.low,
        box.high,
        evaluate,
        starts,
        1500,
        reproduces=PURE,
    )


def _rotation_elements() -> Attack:
    """Take numbers that were rounded before they were rotated: what decoded tokens are."""
    box = Box().add("x", CHANNELS, -4.0, 4.0).add("lost", CHANNELS, -1.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        x = part["x"]
        meant = [one + one * ball(Fraction(lost)) / 2**53 for one, lost in zip(fractions(x), part["lost"], strict=True)]
        errors = [abs(one) for one in minus(fractions(rotation.rotate(x)), exact_rotation(meant))]
        pairs = zip(errors, rotation.rotate_error_ub(x), strict=True)
        reached = [Attained(lower(error), float(bound)) for error, bound in pairs]
        return max(reached, key=lambda one: one.ratio)

    def starts() -> Sequence[FloatArray]:
        return [box.point(x=1.0, lost=1.0)]

    symbols = "gamma_(L+3) sum abs(x)/sqrt(n) in float64, 8 channels"
    return Attack("rotation.element", "rotation", symbols, box.low, box.high, evaluate, starts, 1200, reproduces=PURE)


def published(x: AnyArray, ft: FloatType) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Quantize a group to 2 bits as OScaR's code does: decoded numbers, stored step and offset; [tokens]."""
    x32 = x.astype(np.float32)
    lo, hi = x32.min(), x32.max()
    s = (hi - lo) / np.float32(3.0)
    zero = np.rint(-lo / s)
    codes = np.clip(np.rint(x32 / s + zero), 0, 3).astype(np.float64)
    step, shift = (round_nearest(np.float64(one), ft).astype(np.float64) for one in (s, -zero * s))
    return round_nearest(codes * step + shift, ft).astype(np.float64), step, shift


def _element(variant: str, levels: int) -> Attack:
    """Take groups of three numbers, also far from zero; the box has numbers of tokens of norm 1."""
    box = Box().add("x", TOKENS, -1.0, 1.0).add("offset", 1, -1.0, 1.0).add("size", 1, -9.0, 0.0)
    box = box.add("dtype", 1, 0.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        ft = _type(part["dtype"][0])
        x = to_type(part["offset"][0] + np.exp2(part["size"][0]) * part["x"], ft.name)
        if x.min() == x.max():
            return NOTHING
        if variant == "zero_point":
            codes, s, z = quantize_zero_point(x, 0, levels, ft)
            step, shift = s.astype(np.float64), z.astype(np.float64)
            means = [Fraction(float(shift)) + Fraction(float(step)) * int(code) for code in codes]
            bound = oscar_element.element_ub(step, shift, levels, ft)
        else:
            found, step, shift = published(x, ft)
            means = [Fraction(float(one)) for one in found]
            bound = oscar_element.published_element_ub(step, shift, ft) if variant == "published" else step / 2
        errors = [abs(Fraction(float(one)) - mean) for one, mean in zip(x.astype(np.float64), means, strict=True)]
        return Attained(lower(ball(max(errors))), float(bound))

    def starts() -> Sequence[FloatArray]:
        if variant == "half_step":
            # numbers from 0.535 to 0.988 of bfloat16, four steps from zero: offset, step and decode all round up
            return [box.point(x=[0.545, 1.0, 0.998], offset=-0.00455, size=-0.011, dtype=0.992)]
        # half a step below the first code, whose step was rounded as far as it can be
        near = (0.56, 0.55126953, 0.40610)
        return [
            box.point(x=[share, 1.0, 1.0], offset=0.0, size=0.0, dtype=dtype) for share in near for dtype in (0.0, 1.0)
        ]

    names = {
        "zero_point": "(1 + 4u)(D (1/2 + slack + L u) + u abs(Z)) + (L + 2) h, zero point",
        "published": "the same with a rounded decode, codes from unstored metadata",
        "half_step": "D/2, codes from unstored metadata (published, unsound)",
    }
    return Attack(
        f"oscar_element.{variant}_{2 if levels == 3 else 4}" if variant == "zero_point" else f"oscar_element.{variant}",
        "oscar_element",
        names[variant],
        box.low,
        box.high,
        evaluate,
        starts,
        1500,
        reproduces=STORED,
        unsound=variant == "half_step",
    )


def _score() -> Attack:
    """Take one group, a query along the signs of its errors or not, and a token's norm."""
    box = Box().add("x", TOKENS * 4, -1.0, 1.0).add("q", 4, -4.0, 4.0).add("norm", 1, 0.0, 40.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        x = to_type(part["x"].reshape(TOKENS, 4), "bfloat16")
        codes, step, shift = quantize_zero_point(x, 0, 3, BFLOAT16)
        element = oscar_element.element_ub(step.astype(np.float64), shift.astype(np.float64), 3, BFLOAT16)
        bound = oscar_element.score_ub(part["norm"], part["q"][None], element)[0, 0]
        steps, shifts = fractions(step), fractions(shift)
        q, n = fractions(part["q"]), fractions(part["norm"])[0]
        scores = []
        for token, row in zip(x, codes, strict=True):
            meaning = [z + s * int(code) for z, s, code in zip(shifts, steps, row, strict=True)]
            scores.append(abs(n * total(a * b for a, b in zip(q, minus(fractions(token), meaning), strict=True))))
        return Attained(max(lower(score) for score in scores), float(bound))

    def starts() -> Sequence[FloatArray]:
        column = [0.2578125, 0.12695312, 0.890625]
        return [box.point(x=np.repeat(column, 4), q=1.0, norm=3.0)]

    symbols = "n sum_c abs(q_c) e_c, 4 channels, 2 bits"
    return Attack(
        "oscar_element.score", "oscar_element", symbols, box.low, box.high, evaluate, starts, 800, reproduces=STORED
    )


def _steps(by: str) -> Attack:
    """Take groups of two tokens: what their distance, or their norms, force upon stored steps."""
    box = Box().add("x", 2 * CHANNELS, -2.0, 2.0).add("dtype", 1, 0.0, 1.0)
    claims: dict[str, Callable[..., float]] = {
        "distance": lambda *a: token_norm_imbalance.steps_norm_lb(*a),
        "norms": lambda *a: token_norm_imbalance.steps_norm_by_norms_lb(*a),
    }

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        ft = _type(part["dtype"][0])
        x = to_type(part["x"].reshape(2, CHANNELS), ft.name)
        _, step, _ = quantize_zero_point(x, 0, 3, ft)
        return Attained(claims[by](x.astype(np.float64), 3, ft), upper(norm(fractions(step))))

    def starts() -> Sequence[FloatArray]:
        # a range whose third lies just below the middle of two numbers, in every channel; parallel tokens
        gap = 3 * (1.0 + 2.0**-8 - 2.0**-9)
        return [box.point(x=[*[gap / 4] * CHANNELS, *[gap / 2] * CHANNELS], dtype=dtype) for dtype in (0.0, 1.0)]

    symbols = {"distance": "norm(k_m - k_n)/L from stored steps", "norms": "abs(norm(k_m) - norm(k_n))/L, the same"}[by]
    return Attack(
        f"token_norm_imbalance.{by}",
        "token_norm_imbalance",
        symbols,
        box.low,
        box.high,
        evaluate,
        starts,
        1200,
        reproduces=STORED,
    )


def _level(level: int) -> Attack:
    """Take channels of a block of keys in 8 bits and 4 more."""
    box = Box().add("x", TOKENS, -1.0, 1.0).add("dtype", 1, 0.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        ft = _type(part["dtype"][0])
        x = to_type(part["x"][:, None], ft.name)
        encoded = INT8_4.encode(x).at(level)
        step = encoded.step.astype(np.float64)
        if step[0] == 0:
            return NOTHING
        # minimum, step and codes of 12 bits: float64 decodes without rounding, or by a share of 2^-53
        off = minus(fractions(x), fractions(INT8_4.decode(encoded)))
        lost = float(INT8_4.decode_error_ub(encoded).max())
        error = max(lower(abs(one)) for one in off) - lost
        return Attained(error, float(planes.cell_ub(step, 4 * level, 255)[0]))

    def starts() -> Sequence[FloatArray]:
        middle = 0.5 if level == 0 else 1.0 / 16.0 + 15.0 / 32.0
        unit = 2.0**-8
        return [box.point(x=unit * np.array([0.0, 255.0, 127.0 + middle]), dtype=dtype) for dtype in (0.0, 1.0)]

    symbols = f"step (2^-{4 * level}/2 + 2 (L + 1) 2^-24), int8+4 at level {level}"
    return Attack(f"planes.level_{level}", "planes", symbols, box.low, box.high, evaluate, starts, 600, STORED)


def attacks() -> list[Attack]:
    """All of this file."""
    return [
        _rotation("float64"),
        _rotation("float32"),
        _rotation_elements(),
        _steps("distance"),
        _steps("norms"),
        _element("zero_point", 3),
        _element("zero_point", 15),
        _element("published", 3),
        _element("half_step", 3),
        _score(),
        _level(0),
        _level(1),
    ]
