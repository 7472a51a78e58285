"""Encoders and outputs: constant ranges, short groups, tiny ranges, and the base of the log-sum-exp."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from certkv.proofs.mutants.inputs import gaussian
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference import Budget, Naive, PaperPolicy
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, affine, channel, key_format, token_group, value_format
from certkv.reference.numbers import FloatType
from certkv.reference.numbers.types import AnyArray
from certkv.reference.steps import budget, naive, paper
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.group import Group, Levels

FORMATS = {**{name: key_format(name) for name in KEY_FORMATS}, **{name: value_format(name) for name in VALUE_FORMATS}}


def constants_are_exact() -> None:
    """Encode blocks in which every range is zero: what comes back is what went in."""
    for value in (0.0, 1.5, -65504.0, 2.0**-24):
        x = np.full((2, 8, 20), value, np.float16)
        for name, fmt in FORMATS.items():
            same = fmt.decode(fmt.encode(x)) == x.astype(np.float64)
            require(bool(same.all()), f"{name}: a constant of {value} is lost")


def short_groups_have_their_own_range() -> None:
    """Encode head sizes that no group divides, far from zero: the last group's step is that of its own channels."""
    rng = np.random.default_rng(11)
    x = (100.0 + rng.random((4, 6, 20))).astype(np.float16)
    for name in ("int4-g16", "int8-g64"):
        fmt = FORMATS[name]
        encoded = fmt.encode(x)
        levels = 15 if name.startswith("int4") else 255
        last = x[..., 16 if name == "int4-g16" else 0 :].astype(np.float64)
        span = last.max(axis=-1) - last.min(axis=-1)
        # the step is rounded up once to 11 bits, and the range once to 24
        limit = span / levels * (1.0 + 2.0**-9)
        require(bool((encoded.step[..., -1].astype(np.float64) <= limit).all()), f"{name}: a short group is stretched")


def tiny_ranges_keep_their_codes() -> None:
    """Encode ranges of a few subnormals, whose reciprocal step is beyond the 16-bit range."""
    rng = np.random.default_rng(12)
    x = (rng.integers(0, 16, (3, 8, 32)) * 2.0**-24).astype(np.float16)
    for name, fmt in FORMATS.items():
        encoded = fmt.encode(x)
        off = np.abs(fmt.decode(encoded) - x.astype(np.float64))
        # a step is at least the smallest subnormal; the half-step rule's excess is far below another half
        require(bool((off <= 2.0**-24).all()), f"{name}: a tiny range is off by {off.max() * 2.0**24} subnormals")


def lse_is_natural() -> None:
    """Compare every policy's log-sum-exp with the natural one of exact scores; nothing is quantized."""
    scene = gaussian(13, keys="dense", values="dense")
    ratio = len(scene.q) // scene.k.shape[1]
    keys = np.repeat(scene.k.astype(np.float64), ratio, axis=1)
    scores = scene.scale * np.einsum("hd,thd->ht", scene.q.astype(np.float64), keys)
    top = scores.max(axis=1)
    wanted = top + np.log(np.exp(scores - top[:, None]).sum(axis=1))
    for policy in (Naive(), PaperPolicy(), Budget(), Budget(0.0)):
        got = scene.decode(policy).lse
        # about 100 roundings of numbers below 100; another base is off by a factor of 1.44
        require(bool((np.abs(got - wanted) <= 1e-9 * (1 + np.abs(wanted))).all()), f"{policy.name}: another base")


def constant_lost(x: AnyArray, axis: int, levels: int, ft: FloatType) -> tuple[Any, AnyArray, AnyArray]:
    """Store no minimum where the range is zero."""
    codes, step, minimum = affine.quantize(x, axis, levels, ft)
    return codes, step, np.where(step == 0, 0, minimum).astype(minimum.dtype)


def reciprocal(x: AnyArray, axis: int, levels: int, ft: FloatType) -> tuple[Any, AnyArray, AnyArray]:
    """Multiply by a 16-bit reciprocal of the step, which overflows for tiny steps."""
    codes, step, minimum = affine.quantize(x, axis, levels, ft)
    with np.errstate(all="ignore"):
        inverse = (1.0 / np.expand_dims(step, axis).astype(np.float64)).astype(ft.dtype).astype(np.float64)
        scaled = np.rint((x.astype(np.float64) - np.expand_dims(minimum, axis).astype(np.float64)) * inverse)
    return np.clip(np.nan_to_num(scaled), 0, levels).astype(codes.dtype), step, minimum


def padded_with_zeros() -> AbstractContextManager[None]:
    """Fill a short last group with zeros before its range is taken."""
    encode = token_group.PerTokenGroup.encode

    def padded(self: token_group.PerTokenGroup, x: AnyArray) -> Any:
        head_dim = x.shape[-1]
        missing = self.groups(head_dim) * self.group - head_dim
        whole = encode(self, np.concatenate([x, np.zeros((*x.shape[:-1], missing), x.dtype)], axis=-1))
        return replace(whole, codes=whole.codes[..., :head_dim], head_dim=head_dim)

    return patched((token_group.PerTokenGroup, "encode", padded))


def base_two() -> AbstractContextManager[None]:
    """Return the logarithm to base 2."""

    def other(group: Group, levels: Levels, rows: Any) -> Attended:
        seen = attend(group, levels, rows)
        return replace(seen, lse=seen.lse / np.log(2.0))

    return patched((naive, "attend", other), (paper, "attend", other), (budget, "attend", other))


CHECKS = (
    Check("constants-exact", "a range of zero loses nothing", constants_are_exact),
    Check("short-group", "a short group has the range of its own channels", short_groups_have_their_own_range),
    Check("tiny-range", "a tiny range keeps its codes", tiny_ranges_keep_their_codes),
    Check("lse-natural", "the log-sum-exp is the natural one, on every rung", lse_is_natural),
)

MUTANTS = (
    Mutant(
        "constant-lost",
        "-",
        "a range of zero stored as scale 0 without its constant",
        lambda: patched((channel, "quantize", constant_lost), (token_group, "quantize", constant_lost)),
        "constants-exact",
    ),
    Mutant("group-padded", "-", "a short group padded with zeros", padded_with_zeros, "short-group"),
    Mutant(
        "reciprocal-step",
        "-",
        "codes by a 16-bit reciprocal of the step",
        lambda: patched((channel, "quantize", reciprocal), (token_group, "quantize", reciprocal)),
        "tiny-range",
    ),
    Mutant("lse-base-two", "-", "a log-sum-exp to base 2", base_two, "lse-natural"),
)
