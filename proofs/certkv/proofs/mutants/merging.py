"""Certificates that are merged from parts: nothing may get lost, or appear, on the way."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference.bounds import certificate_state, outward_fp32
from certkv.reference.bounds.certificate_state import LOST, CertificateState
from certkv.reference.numbers import FLOAT32, norm_ub, outward, round_down, round_up
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.softmax_state import SoftmaxState

TYPES = (np.float64, np.float32)
CHARGE, DIM = np.asarray(0.05), 2
LARGEST, TOGETHER = 0.2, 0.25
"""Score errors of a token, and in norm of a block."""


@dataclass(frozen=True, eq=False)
class Part:
    """A state, and every block in it with the exact product of the factors that it has met."""

    state: CertificateState
    blocks: tuple[tuple[CertificateState, Any], ...]
    merges: int = 0

    def merge(self, other: Part) -> Part:
        """Merge, in mpmath beside it."""
        factors = self.state.softmax.factors(other.state.softmax)
        parts = zip((self, other), factors, strict=True)
        blocks = tuple((block, f * mpmath.mpf(float(x))) for part, x in parts for block, f in part.blocks)
        return Part(self.state.merge(other.state), blocks, 1 + max(self.merges, other.merges))


def block_state(s: FloatArray, v: FloatArray, dtype: Any) -> CertificateState:
    """State of one block; key terms as if all distances were 1, value terms as if all residuals were 0.01."""
    m = np.asarray(s.max(), dtype)
    p = np.exp(s.astype(dtype) - m)
    weights = p.astype(np.float64)
    moved = min(LARGEST * weights.sum(), TOGETHER * float(norm_ub(weights))) * outward(len(s) + 2)
    exponent = moved / weights.sum() * outward(len(s) + 2)
    terms = {
        "key_ub": moved,
        "anchor_ub": moved,
        "value_ub": 0.01 * weights.sum(),
        "weight_lb": weights.sum() * np.exp(-exponent) / outward(len(s) + 8),
    }
    if dtype is np.float32:
        terms = {k: (round_down if k == "weight_lb" else round_up)(x, FLOAT32) for k, x in terms.items()}
    return CertificateState.from_block(
        SoftmaxState(m, p.sum(), p @ v.astype(dtype)), **{k: np.asarray(x, dtype) for k, x in terms.items()}
    )


def leaves(s: FloatArray, v: FloatArray, dtype: Any) -> list[CertificateState]:
    """Give each block of scores [blocks, B] to a worker of its own."""
    return [block_state(*block, dtype) for block in zip(s, v, strict=True)]


def whole_bound(s: FloatArray, v: FloatArray, merged: Part, anchor: FloatArray, charge: float) -> Any:
    """Evaluate the theorem in mpmath: the terms of whole blocks under their effective weights."""
    parts = list(merged.blocks)
    if len(parts) != len(s):  # the work was divided otherwise, but the whole is what it is
        whole = [block_state(*block, merged.state.A.dtype.type) for block in zip(s, v, strict=True)]
        top = float(merged.state.softmax.m)
        parts = [(x, mpmath.exp(float(x.softmax.m) - top)) for x in whole]
    A, G, U, D = (mpmath.fsum(f * float(getattr(x, name)) for x, f in parts) for name in "AGUD")
    weight = mpmath.fsum(f * float(x.softmax.l) for x, f in parts)
    offset = [mpmath.mpf(float(c)) - float(a) for c, a in zip(merged.state.softmax.output, anchor, strict=True)]
    return (A + mpmath.sqrt(mpmath.fsum(x * x for x in offset)) * G + U + weight * charge) / D


def merging_gives_the_whole() -> None:
    """Merge blocks in random trees: the bound is the theorem's, and more only by roundings and their factor."""
    for dtype in TYPES:
        for seed in range(12):
            rng = np.random.default_rng(seed)
            s, v = 4.0 * rng.standard_normal((6, 4)), rng.standard_normal((6, 4, DIM))
            anchor = rng.standard_normal(DIM)
            parts = [Part(x, ((x, mpmath.mpf(1)),)) for x in leaves(s, v, dtype)]
            with mpmath.workdps(50):
                while len(parts) > 1:
                    i, j = sorted(rng.choice(len(parts), 2, replace=False))
                    parts = [*parts[:i], *parts[i + 1 : j], *parts[j + 1 :], parts[i].merge(parts[j])]
                bound = float(parts[0].state.finish(anchor, CHARGE, 2 * parts[0].merges))
                formula = whole_bound(s, v, parts[0], anchor, float(CHARGE))
                require(bool(bound >= formula), f"{dtype.__name__}, tree {seed}: bound {bound} below {formula}")
                # the factor, what made it necessary, and the rounding of its product: three times its excess over 1
                most = 3 * (2.0**-12 if dtype is np.float32 else 2.0**-46)
                require(bool(bound <= formula * (1 + most)), f"{dtype.__name__}, tree {seed}: {bound}, whole {formula}")


def nothing_is_lost_far_away() -> None:
    """Put a block with a huge key term so far below that its factor underflows."""
    for dtype, far, huge in ((np.float32, -200.0, 1e30), (np.float64, -800.0, 1e300)):
        one: AnyArray = np.asarray(1.0, dtype)
        zero = 0 * one
        near = SoftmaxState(zero, one, one[None])
        light = CertificateState.from_block(near, key_ub=zero, anchor_ub=zero, value_ub=zero, weight_lb=one)
        heavy = CertificateState.from_block(
            replace(near, m=np.asarray(far, dtype)),
            key_ub=np.asarray(huge, dtype),
            anchor_ub=zero,
            value_ub=zero,
            weight_lb=one,
        )
        merged = light.merge(heavy)
        with mpmath.workdps(50):
            exact = mpmath.exp(far) * float(huge)
            require(bool(float(merged.A) >= exact), f"{dtype.__name__}: key terms {float(merged.A)}, exactly {exact}")
        least = np.asarray(np.finfo(dtype).smallest_subnormal)
        below = replace(heavy, softmax=replace(near, m=-one), A=least)
        bound = light.merge(below).finish(np.ones(1), np.asarray(0.0), 2)
        require(bool(bound > 0), f"{dtype.__name__}: a product that underflows leaves a bound of 0")
        tiny = replace(light, D=np.asarray(0.5 * LOST[np.dtype(dtype)], dtype))
        found = tiny.finish(np.ones(1), np.asarray(0.0), 0)
        require(bool(found == np.inf), f"{dtype.__name__}: a denominator of rounding alone gives {found}")


REAL_MERGE = CertificateState.merge
Combine = Callable[[Any, Any, CertificateState, CertificateState], dict[str, Any]]


def merged_otherwise(combine: Combine) -> AbstractContextManager[None]:
    """Merge as before, but for what ``combine`` makes of factors and states."""

    def merge(self: CertificateState, other: CertificateState) -> CertificateState:
        with np.errstate(all="ignore"):
            mine, theirs = self.softmax.factors(other.softmax)
            return replace(REAL_MERGE(self, other), **combine(mine, theirs, self, other))

    return patched((CertificateState, "merge", merge))


def terms_not_rescaled() -> AbstractContextManager[None]:
    """Add the terms of blocks whatever their references."""
    return merged_otherwise(lambda f, g, x, y: {"A": x.A + y.A, "G": x.G + y.G, "U": x.U + y.U})


def denominators_added() -> AbstractContextManager[None]:
    """Add denominators whatever their references: too much."""
    return merged_otherwise(lambda f, g, x, y: {"D": x.D + y.D})


def squares_added() -> AbstractContextManager[None]:
    """Join key terms like orthogonal errors."""
    return merged_otherwise(lambda f, g, x, y: {"A": np.hypot(f * x.A, g * y.A)})


def squared_factors() -> AbstractContextManager[None]:
    """Rescale terms of degree 1 like sums of squares."""
    return merged_otherwise(lambda f, g, x, y: {"A": f * f * x.A + g * g * y.A})


def factors_as_computed() -> AbstractContextManager[None]:
    """Multiply upper sums with factors that are 0 where they underflow."""
    return merged_otherwise(lambda f, g, x, y: {"A": f * x.A + g * y.A})


def block_split() -> AbstractContextManager[None]:
    """Give the halves of every block to two workers."""

    def halves(s: FloatArray, v: FloatArray, dtype: Any) -> list[CertificateState]:
        half = s.shape[1] // 2
        pairs = [
            (block_state(a[:half], b[:half], dtype), block_state(a[half:], b[half:], dtype))
            for a, b in zip(s, v, strict=True)
        ]
        return [state for pair in pairs for state in pair]

    return patched((sys.modules[__name__], "leaves", halves))


REAL_FINISH = CertificateState.finish


def charge_per_output() -> AbstractContextManager[None]:
    """Add eps_acc to the numerator without its weight l."""

    def finish(self: CertificateState, anchor: FloatArray, accumulation_ub: FloatArray, roundings: int) -> AnyArray:
        return REAL_FINISH(self, anchor, accumulation_ub / self.softmax.l, roundings)

    return patched((CertificateState, "finish", finish))


def no_outward_factor() -> AbstractContextManager[None]:
    """Return the certificate as it comes out."""
    return patched((certificate_state, "outward", lambda n: 1.0), (outward_fp32, "FACTOR", np.float32(1.0)))


def no_charge_for_underflow() -> AbstractContextManager[None]:
    """Take products that underflow for exact."""
    nothing = dict.fromkeys(LOST, 0.0)
    return patched(
        (certificate_state, "LOST", nothing),
        (outward_fp32, "LOST", np.float32(0.0)),
        (outward_fp32, "LEAST_DENOMINATOR", np.float32(0.0)),
    )


CHECKS = (
    Check("merged-whole", "merging in any order gives the bound of the whole", merging_gives_the_whole),
    Check("merged-far", "what underflows is not lost from a certificate", nothing_is_lost_far_away),
)

MUTANTS = (
    Mutant("merge-not-rescaled", "-", "A, G, U added without rescaling", terms_not_rescaled, "merged-whole"),
    Mutant("merge-denominators", "-", "D added without rescaling", denominators_added, "merged-whole"),
    Mutant("merge-orthogonal", "-", "key terms joined by root of squares", squares_added, "merged-whole"),
    Mutant("merge-squared-factor", "-", "key terms rescaled twice", squared_factors, "merged-whole"),
    Mutant("merge-block-split", "-", "a block divided between two workers", block_split, "merged-whole"),
    Mutant("merge-charge-unweighted", "-", "eps_acc without its weight l", charge_per_output, "merged-whole"),
    Mutant("merge-no-outward", "-", "the merged certificate not rounded outward", no_outward_factor, "merged-whole"),
    Mutant("merge-factor-lost", "-", "a factor that underflowed, times a key term", factors_as_computed, "merged-far"),
    Mutant("merge-underflow-free", "-", "products that underflow not charged", no_charge_for_underflow, "merged-far"),
)
