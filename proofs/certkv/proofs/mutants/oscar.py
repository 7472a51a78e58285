"""OScaR's formats: ties, zero points, tokens and groups of zeros, weak heads, norms, and the rotation of the query.

Each of these went wrong, or can, in 2-bit caches that rotate and scale (arXiv 2605.19660 and its code).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require, require_raises
from certkv.reference import NonFiniteError
from certkv.reference.formats import (
    OSCAR_KEY_FORMATS,
    OSCAR_VALUE_FORMATS,
    Format,
    OscarKeys,
    affine,
    oscar,
    oscar_values,
    rotation,
    token_group,
    token_norm,
    zero_point,
)
from certkv.reference.numbers import FLOAT16, FloatType, float_type
from certkv.reference.numbers.types import AnyArray, FloatArray

PLAIN = OscarKeys("plain", rotated=False, scope=None, zero_point=True)
"""The rule with a zero point alone: what goes in is what is quantized."""

JOINT = OSCAR_KEY_FORMATS["oscar"]


def off(fmt: Any, x: AnyArray) -> FloatArray:
    """Distance of every element from what is stored for it."""
    return np.asarray(np.abs(fmt.decode(fmt.encode(x)) - x.astype(np.float64)))


def column(numbers: list[float], dtype: Any = np.float16) -> AnyArray:
    """One channel of a block."""
    return np.array(numbers, dtype)[:, None]


def codes_are_of_what_is_stored() -> None:
    """Encode a group whose offset rounds up by a third and whose step rounds down: nobody is off by 0.99."""
    # stored 132 + 213/128 code: 133.66 and 135.33 and 136.99 are offered for 136, and 135.33 is nearest
    largest = float(off(PLAIN, column([131, 133, 136], ml_dtypes.bfloat16)).max())
    require(largest <= 1.0, f"a number is off by {largest}")
    last = float(off(PLAIN, column([131, 133, 136], ml_dtypes.bfloat16))[2, 0])
    require(last == 86 / 128, f"136 is off by {last}, though 86/128 is on offer")


def ties_go_to_even() -> None:
    """Encode a symmetric group, whose zero point is a tie, as every such group's is."""
    got = PLAIN.decode(PLAIN.encode(column([-6, 0, 6])))[:, 0].tolist()
    require(got == [-8.0, 0.0, 4.0], f"-6, 0, 6 came back as {got}")


def zero_tokens_stay_zero() -> None:
    """Encode a token of zeros among others: it comes back as zeros, whatever its group's range."""
    x = 1.0 + np.random.default_rng(32).random((2, 32, 16))
    x[:, 5] = 0.0
    for fmt in (JOINT, OSCAR_KEY_FORMATS["oscar-paper"], OSCAR_KEY_FORMATS["oscar-scaling"]):
        decoded = fmt.decode(fmt.encode(x.astype(np.float16)))
        require(not decoded[:, 5].any(), f"{fmt.name}: a token of zeros came back as {decoded[0, 5, 0]}")


def zero_groups_have_no_step() -> None:
    """Encode zeros: every stored step is 0, so that no bound made of steps charges them."""
    x = np.zeros((2, 64, 32), np.float16)
    formats: tuple[Format, ...] = (*OSCAR_KEY_FORMATS.values(), *OSCAR_VALUE_FORMATS.values())
    for fmt in formats:
        encoded = fmt.encode(x)
        require(not encoded.step.any(), f"{fmt.name}: the step of a group of zeros is {encoded.step.max()}")
        require(not fmt.decode(encoded).any(), f"{fmt.name}: zeros are lost")


def nan_is_refused() -> None:
    """Encode a NaN: it is an error with its position, not a number."""
    formats: tuple[Format, ...] = (JOINT, OSCAR_VALUE_FORMATS["oscar"])
    for fmt in formats:
        x = np.ones((1, 32, 8), np.float16)
        x[0, 7, 3] = np.nan
        error = require_raises(NonFiniteError, partial(fmt.encode, x), f"{fmt.name}: a NaN")
        require(getattr(error, "position", None) == (0, 7, 3), f"{fmt.name}: {error}")


def weak_heads_keep_their_codes() -> None:
    """Encode a head 2^17 times weaker than its neighbour: u is subnormal in FP16, and still takes four values."""
    x = np.random.default_rng(34).standard_normal((2, 32, 16))
    x[0] *= 2.0**-14
    x[1] *= 2.0**3
    stored = x.astype(np.float16)
    lost = np.linalg.norm(off(JOINT, stored)[0], axis=-1) / np.linalg.norm(stored[0].astype(np.float64), axis=-1)
    # a quarter of a range of four standard deviations, evenly: 0.29 to 0.4 of the norm; all of it where u is flushed
    require(float(lost.mean()) < 0.6, f"a weak head loses {lost.mean():.2f} of its norm")


def imbalance(size: float) -> tuple[AnyArray, Any]:
    """32 tokens of one head, the first so many times as long; all of the others."""
    x = np.random.default_rng(35).standard_normal((8, 1, 32, 128))
    x[..., 0, :] *= size
    return x.astype(np.float16), slice(1, None)


def squared(fmt: Any, x: AnyArray, tokens: Any) -> float:
    """Mean squared error of some tokens."""
    return float(np.square(off(fmt, x)[..., tokens, :]).mean())


def scaling_helps_neighbours_of_long_tokens() -> None:
    """Compare with rotation alone: beside a token 30 times as long, neighbours gain; around a short one, it itself."""
    alone = OSCAR_KEY_FORMATS["oscar-rotation"]
    long, others = imbalance(30.0)
    gain = squared(alone, long, others) / squared(JOINT, long, others)
    require(gain > 10.0, f"neighbours of a long token gain only {gain:.1f} times")
    short, others = imbalance(0.05)
    own = squared(alone, short, 0) / squared(JOINT, short, 0)
    require(own > 100.0, f"a short token itself gains only {own:.1f} times")
    gain = squared(alone, short, others) / squared(JOINT, short, others)
    # scaling the short token up cannot help its neighbours, and costs them what it adds to their range
    require(0.7 < gain < 1.3, f"neighbours of a short token changed by a factor of {gain:.2f}")


def norms_are_of_all_heads() -> None:
    """Encode two heads of very different norms jointly: elements scaled by the norm of all are at most 1."""
    x = np.random.default_rng(36).standard_normal((2, 32, 16)) * np.array([1.0, 40.0])[:, None, None]
    u, norm = JOINT.prepare(x.astype(np.float16), FLOAT16)
    want = np.sqrt(np.square(x.astype(np.float16).astype(np.float64)).sum(axis=(0, 2)))
    # FP32 butterflies of 16 channels are within 6 roundings of 2^-24
    require(bool((np.abs(norm - want) <= want * 2.0**-20).all()), "a norm is not that of all heads")
    require(bool((np.abs(u.astype(np.float64)) <= 1.0).all()), "an element is longer than its token")


def from_unrounded(x: AnyArray, axis: int, levels: int, ft: FloatType) -> tuple[Any, AnyArray, AnyArray]:
    """Codes from step and zero point as they were before they were rounded."""
    codes, step, shift = zero_point.quantize_zero_point(x, axis, levels, ft)
    x64 = x.astype(np.float64)
    low, high = x64.min(axis=axis, keepdims=True), x64.max(axis=axis, keepdims=True)
    s = np.where(high > low, (high - low) / levels, 1.0)
    zero = np.rint(-low / s)
    return np.where(high > low, np.clip(np.rint(x64 / s + zero), 0, levels), 0).astype(codes.dtype), step, shift


def halves_up(x: AnyArray, axis: int, levels: int, ft: FloatType) -> tuple[Any, AnyArray, AnyArray]:
    """Round ties up."""

    class Up:
        def __getattr__(self, name: str) -> Any:
            return (lambda y: np.floor(y + np.float32(0.5))) if name == "rint" else getattr(np, name)

    with patched((zero_point, "np", Up())):
        return zero_point.quantize_zero_point(x, axis, levels, ft)


def norm_of_one(y: Any, scope: Any) -> Any:
    """Store 1 as the norm of a token of zeros."""
    norm = token_norm.token_norm(y, scope)
    return np.where(norm == 0, np.float32(2.0**rotation.EXPONENT), norm)


def two_thirds(x: AnyArray, axis: int, levels: int, ft: FloatType) -> tuple[Any, AnyArray, AnyArray]:
    """Store 2/3 as the step of a constant group."""
    codes, step, minimum = affine.quantize(x, axis, levels, ft)
    return codes, np.where(step == 0, 2.0 / 3.0, step).astype(step.dtype), minimum


def nan_ignored(x: AnyArray, kind: frozenset[str]) -> FloatType:
    """Let a NaN become a number."""
    x[np.isnan(x)] = 0
    return float_type(x.dtype)


def flushed(self: OscarKeys, x: AnyArray, ft: FloatType) -> tuple[AnyArray, Any]:
    """Flush subnormal elements of scaled tokens."""
    u, norm = prepare(self, x, ft)
    return np.where(np.abs(u.astype(np.float64)) < float(np.finfo(np.float16).tiny), 0, u).astype(u.dtype), norm


prepare = OscarKeys.prepare


def not_scaled(self: OscarKeys, x: AnyArray, ft: FloatType) -> tuple[AnyArray, Any]:
    """Divide by nothing and store ones."""
    u, _ = prepare(replace(self, scope=None), x, ft)
    return u, np.ones(u.shape[:-1], np.float32)


def first_head(y: Any, scope: Any) -> Any:
    """Take the joint norm over the first KV head."""
    alone = token_norm.token_norm(y, "head")
    return np.broadcast_to(alone[..., :1, :], alone.shape)


CHECKS = (
    Check("oscar-stored-codes", "codes are nearest in terms of what is stored", codes_are_of_what_is_stored),
    Check("oscar-ties", "ties go to even", ties_go_to_even),
    Check("oscar-zero-token", "a token of zeros comes back as zeros", zero_tokens_stay_zero),
    Check("oscar-zero-group", "a group of zeros has no step", zero_groups_have_no_step),
    Check("oscar-nan", "a NaN is refused with its position", nan_is_refused),
    Check("oscar-weak-head", "a weak head beside a strong one keeps its codes", weak_heads_keep_their_codes),
    Check("oscar-imbalance", "scaling helps whom it helps", scaling_helps_neighbours_of_long_tokens),
    Check("oscar-joint-norm", "a joint norm is that of all KV heads", norms_are_of_all_heads),
)

MUTANTS = (
    Mutant(
        "oscar-unrounded",
        "-",
        "codes from step and zero point before they were rounded",
        lambda: patched((oscar, "quantize_zero_point", from_unrounded)),
        "oscar-stored-codes",
    ),
    Mutant(
        "oscar-ties-up",
        "-",
        "ties rounded up",
        lambda: patched((oscar, "quantize_zero_point", halves_up)),
        "oscar-ties",
    ),
    Mutant(
        "oscar-norm-one",
        "-",
        "1 stored as the norm of a token of zeros",
        lambda: patched((oscar, "token_norm", norm_of_one)),
        "oscar-zero-token",
    ),
    Mutant(
        "oscar-two-thirds",
        "-",
        "2/3 stored as the step of a group of zeros",
        lambda: patched((oscar, "quantize", two_thirds), (token_group, "quantize", two_thirds)),
        "oscar-zero-group",
    ),
    Mutant(
        "oscar-nan-ignored",
        "-",
        "a NaN key or value that turns finite",
        lambda: patched((oscar, "check_originals", nan_ignored), (oscar_values, "check_originals", nan_ignored)),
        "oscar-nan",
    ),
    Mutant(
        "oscar-flushed",
        "-",
        "subnormal elements of a weak head flushed to zero",
        lambda: patched((OscarKeys, "prepare", flushed)),
        "oscar-weak-head",
    ),
    Mutant(
        "oscar-not-scaled",
        "-",
        "tokens rotated but not scaled",
        lambda: patched((OscarKeys, "prepare", not_scaled)),
        "oscar-imbalance",
    ),
    Mutant(
        "oscar-first-head",
        "-",
        "the joint norm taken over one head",
        lambda: patched((oscar, "token_norm", first_head)),
        "oscar-joint-norm",
    ),
)
