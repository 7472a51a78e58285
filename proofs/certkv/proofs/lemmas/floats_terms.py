"""Words for goals about bits and IEEE floats. No lemma here.

bitwuzla knows no 16-bit type with 8 exponent bits as a type of constants, so a bfloat16 constant is its pattern, read
as the upper half of a binary32 number: the same value.

An operation is *exact* where rounding it up and rounding it down agree, because the real result lies between the two.
A float is at least a real number exactly if it is at least that number rounded up. So no wider type is ever needed to
compare a result with the real number that it stands for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal, Lemma

FP16, BF16, FP32, FP64 = z3.FPSort(5, 11), z3.FPSort(8, 8), z3.FPSort(8, 24), z3.FPSort(11, 53)
RNE, RTP, RTN = z3.RNE(), z3.RTP(), z3.RTN()

LEMMAS: tuple[Lemma, ...] = ()


def bits(conclusion: z3.BoolRef, *hypotheses: z3.BoolRef) -> Goal:
    """Bit-vectors only."""
    return Goal("QF_BV", hypotheses, conclusion)


def floats(conclusion: z3.BoolRef, *hypotheses: z3.BoolRef) -> Goal:
    """Floats, and bit-vectors that are read as floats."""
    return Goal("QF_BVFP", hypotheses, conclusion)


def vector(name: str, width: int) -> Any:
    """Bit-vector constant."""
    return z3.BitVec(name, width)


def constant(name: str, sort: Any) -> Any:
    """Float constant: any number, infinity or NaN."""
    return z3.FP(name, sort)


def half(name: str) -> Any:
    """Any binary16 number, widened to binary32."""
    return widen(z3.FP(name, FP16), FP32)


def brain(name: str) -> Any:
    """Any bfloat16 number, widened to binary32."""
    return z3.fpBVToFP(z3.Concat(vector(name, 16), z3.BitVecVal(0, 16)), FP32)


TYPES: dict[str, tuple[Callable[[str], Any], Any]] = {"float16": (half, FP16), "bfloat16": (brain, BF16)}
"""Originals: how to make a constant of the type, in binary32, and the type."""


def value(number: float, sort: Any) -> Any:
    """Literal; `number` must be a number of the type."""
    return z3.FPVal(number, sort)


def widen(x: Any, sort: Any) -> Any:
    """Convert to a type that has every number of x's."""
    return z3.fpFPToFP(RNE, x, sort)


def rounded(x: Any, sort: Any, mode: Any = RNE) -> Any:
    """Convert with one rounding."""
    return z3.fpFPToFP(mode, x, sort)


def stored_up(x: Any, sort: Any) -> Any:
    """Round binary32 up to a 16-bit type and widen it again."""
    return widen(rounded(x, sort, RTP), FP32)


def unsigned(x: Any, sort: Any) -> Any:
    """Integer of a bit-vector, as a float."""
    return z3.fpUnsignedToFP(RNE, x, sort)


def signed(x: Any, sort: Any) -> Any:
    """Two's complement integer of a bit-vector, as a float."""
    return z3.fpSignedToFP(RNE, x, sort)


def read(pattern: Any, sort: Any) -> Any:
    """Float with this pattern."""
    return z3.fpBVToFP(pattern, sort)


def finite(x: Any) -> z3.BoolRef:
    """Neither infinite nor NaN."""
    return z3.Not(z3.Or(z3.fpIsNaN(x), z3.fpIsInf(x)))


def chain(*terms: Any) -> z3.BoolRef:
    """Ascending floats, ``a <= b <= ...``; NaN makes it false."""
    steps = [z3.fpLEQ(x, y) for x, y in itertools.pairwise(terms)]
    return z3.And(steps) if len(steps) > 1 else steps[0]


def exact(operation: Callable[..., Any], *operands: Any) -> z3.BoolRef:
    """Whether ``operation(mode, *operands)`` rounds nothing."""
    return z3.fpEQ(operation(RTP, *operands), operation(RTN, *operands))
