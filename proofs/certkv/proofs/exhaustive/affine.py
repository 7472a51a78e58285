"""Steps and codes of the affine rule: facts of one 16-bit number, and of one number and one code."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from certkv.proofs.exhaustive.model import Array, Exhaustive, require_all
from certkv.proofs.exhaustive.sixteen import TYPES, finite, positive
from certkv.reference.formats.affine import HALF, quantize, reconstruct
from certkv.reference.numbers import FloatType, round_nearest, round_up

LEVELS = (3, 15, 255)
Rounding = Callable[[Any, FloatType], Array]
Quantize = Callable[[Any, int, int, FloatType], tuple[Array, Array, Array]]
BINADE = np.ldexp(np.arange(2**23, 2**24, dtype=np.float64), -23).astype(np.float32)
"""All float32 numbers in [1, 2)."""


def step_of_half_range(store: Rounding = round_up) -> None:
    """Check every positive 16-bit number as a half range: step32 is positive, the step covers it and is finite."""
    for ft in TYPES:
        # every half range is at least half the smallest number, and at most the largest: the list starts below both
        h = np.concatenate([[ft.smallest_subnormal / 2], positive(ft)]).astype(np.float32)
        for levels in LEVELS:
            step32 = h / np.float32(levels / 2)
            require_all(step32 >= np.float32(2.0**-149), "step32 vanished", half_range=h)
            step = store(step32.astype(np.float64), ft).astype(np.float64)
            require_all((step > 0) & np.isfinite(step), f"{ft.name} step positive and finite", half_range=h, step=step)
            require_all(step >= step32.astype(np.float64), f"{ft.name} step covers", half_range=h, step=step)


def code_of_the_maximum(widen: float = 1.0) -> None:
    """Check ``fl(h / (step32/2)) < L + 1/2``: h over one binade (powers of two scale it), then the subnormal end.

    Below 2**-118 step32 may be subnormal; half ranges that small come from bfloat16 and are multiples of 2**-134, fewer
    than 2**16 of them, and the stored step is a multiple of 2**-133.
    """
    for levels in LEVELS:
        k, limit = np.float32(levels / 2 * widen), np.float32(levels + 0.5)
        quotient = BINADE / (HALF * (BINADE / k))
        require_all(quotient < limit, f"code of the maximum, L = {levels}", half_range=BINADE, quotient=quotient)
        h = np.ldexp(np.arange(1, 2**16, dtype=np.float64), -134).astype(np.float32)
        unit = 2.0**-133
        step = (np.ceil((h / k).astype(np.float64) / unit) * unit).astype(np.float32)
        quotient = h / (HALF * step)
        require_all(quotient < limit, f"code of the maximum, subnormal, L = {levels}", half_range=h, quotient=quotient)


def ties(shift: float = 0.5) -> None:
    """Check that the quotient decides every comparison with ``n + 1/2`` as real numbers do, for every step and code.

    With hs = step/2 and ``m = (n + 1/2) hs``: m is a float32 number (or beyond all of them), ``fl(m / hs) = n + 1/2``,
    and the float32 numbers next to m fall on their own sides. Division is monotone, so all other d do too.
    """
    tie = (np.arange(256) + shift).astype(np.float32)
    largest = np.float32(np.finfo(np.float32).max)
    for ft in TYPES:
        for steps in np.array_split(positive(ft), 16):
            half_step = (HALF * steps.astype(np.float32))[:, None]
            exact = tie.astype(np.float64) * half_step.astype(np.float64)  # 9 + 11 bits
            inside = exact <= float(largest)
            m = np.where(inside, exact, largest).astype(np.float32)
            cases: dict[str, Any] = {"step": steps[:, None], "tie": tie}
            require_all((m.astype(np.float64) == exact) | ~inside, f"{ft.name}: middle is float32", **cases)
            with np.errstate(over="ignore", under="ignore"):
                below, above = np.nextafter(m, np.float32(0)), np.nextafter(m, np.float32(np.inf))
                at = m / half_step
                require_all(np.where(inside, at == tie, at < tie), f"{ft.name}: quotient at the middle", **cases)
                require_all(below / half_step < tie, f"{ft.name}: quotient below the middle", **cases)
                require_all(~inside | (above / half_step > tie), f"{ft.name}: quotient above the middle", **cases)


def _pairs(ft: FloatType) -> Array:
    """Channels of two tokens, every finite x with 0, with -x and with the largest number; [2, channels]."""
    numbers, _ = finite(ft)
    others = [np.zeros_like(numbers), -numbers, np.full_like(numbers, ft.max)]
    return np.concatenate([np.stack([numbers, other]) for other in others], axis=1)


def two_tokens(encode: Quantize = quantize) -> None:
    """Check the encoder itself on all those channels: codes in range, the minimum exact, the error within its bound."""
    for ft in TYPES:
        x = _pairs(ft)
        exact = x.astype(np.float64)
        spread = exact[0] != exact[1]
        for levels in LEVELS:
            codes, step, minimum = encode(x, 0, levels, ft)
            cases = {"first": exact[0], "second": exact[1]}
            require_all((step.astype(np.float64) > 0) == spread, f"{ft.name}: step 0 only where constant", **cases)
            require_all(np.max(codes, axis=0) <= levels, f"{ft.name}: code in range", **cases)
            lowest = np.where(exact == np.min(exact, axis=0), codes, 0)
            require_all(np.max(lowest, axis=0) == 0, f"{ft.name}: code of the minimum", **cases)
            # The theorem has L + 1/2. The half more is 2**-25 steps, and float64 rounds at most 2**-35 of one here: two
            # numbers of size M are at least 2**-8 M apart, so a step is at least 2**-17 M, and two operations round.
            error = np.abs(reconstruct(codes, step, minimum) - exact)
            bound = step.astype(np.float64) * (0.5 + (levels + 1) * 2.0**-24)
            require_all(np.all(error <= bound, axis=0), f"{ft.name}: error within half a step", **cases)


def _all_zero(x: Any, axis: int, levels: int, ft: FloatType) -> tuple[Array, Array, Array]:
    """Store code 0 for everything."""
    x32 = x.astype(np.float32)
    lo, hi = np.min(x32, axis=axis), np.max(x32, axis=axis)
    step = round_up((HALF * hi - HALF * lo).astype(np.float64) / (levels / 2), ft)
    return np.zeros_like(x, np.uint8), step, lo.astype(ft.dtype)


FACTS = (
    Exhaustive(
        "affine.step_positive",
        "affine",
        "every positive 16-bit number, and half the smallest, as half range: 0 < step32 <= step < inf, L = 3, 15, 255",
        step_of_half_range,
        partial(step_of_half_range, round_nearest),
    ),
    Exhaustive(
        "affine.code_of_the_maximum",
        "affine",
        "every float32 h of one binade and every h = n 2^-134, n < 2^16: fl(h/(step/2)) < L + 1/2",
        code_of_the_maximum,
        partial(code_of_the_maximum, 1.05),
    ),
    Exhaustive(
        "affine.ties",
        "affine",
        "every 16-bit step, every n in 0..255: float32 d above and below (n + 1/2) step/2 have quotients above and "
        "below n + 1/2",
        ties,
        partial(ties, 1 / 3),
    ),
    Exhaustive(
        "affine.two_tokens",
        "affine",
        "the encoder on every 16-bit x beside 0, -x and the largest number: codes in range, minimum exact, error <= "
        "step (1/2 + (L+1) 2^-24)",
        two_tokens,
        partial(two_tokens, _all_zero),
    ),
)
