"""Theorem ``packing``: codes put into a significand are the numbers they stand for, without a conversion."""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.lemmas.floats_terms import (
    BF16,
    FP16,
    FP32,
    RNE,
    RTN,
    RTP,
    floats,
    read,
    rounded,
    signed,
    unsigned,
    value,
    vector,
)
from certkv.proofs.smt.lemma import Goal, Lemma

ALL = ("z3", "cvc5", "bitwuzla")


def _byte_half(*, pattern: int = 0x6400) -> Goal:
    """Spacing of binary16 is 1 from 1024 to 2048, so the byte fills whole units; one subtraction removes the 1024."""
    code = vector("code", 8)
    lifted = read(z3.ZeroExt(8, code) | pattern, FP16)
    plain = z3.fpSub(RNE, lifted, value(1024, FP16))
    byte = unsigned(code, FP16)
    return floats(z3.And(z3.fpEQ(lifted, z3.fpAdd(RNE, value(1024, FP16), byte)), z3.fpEQ(plain, byte)))


def _nibble_half(*, shift: int = 6) -> Goal:
    """Use the four leading fraction bits of a number in [1, 2), which count sixteenths."""
    code = vector("code", 16)
    lifted = read((code << shift) | 0x3C00, FP16)
    sixteenth = z3.fpMul(RNE, unsigned(code, FP16), value(1 / 16, FP16))
    wanted = z3.fpAdd(RNE, value(1, FP16), sixteenth)
    return floats(z3.fpEQ(lifted, wanted), z3.ULE(code, 15))


def _high_nibble(*, offset: int = 64) -> Goal:
    """Leave a high nibble where it is: 1024 + 16 code, scaled and shifted by one fused multiply-add."""
    packed = vector("packed", 16)
    lifted = read((packed & 0xF0) | 0x6400, FP16)
    plain = z3.fpFMA(RNE, lifted, value(1 / 16, FP16), value(-offset, FP16))
    return floats(z3.fpEQ(plain, unsigned(z3.LShR(packed, 4) & 15, FP16)))


def _signed_half(*, offset: int = 1152) -> Goal:
    """Flipping the sign bit turns -128..127 into 0..255."""
    code = vector("code", 8)
    lifted = read(z3.ZeroExt(8, code ^ 0x80) | 0x6400, FP16)
    return floats(z3.fpEQ(z3.fpSub(RNE, lifted, value(offset, FP16)), signed(code, FP16)))


def _nibble_brain(*, pattern: int = 0x4300) -> Goal:
    """Spacing of bfloat16 is 1 from 128 to 256; from 1 to 2 the leading fraction bits count sixteenths."""
    code = vector("code", 16)
    zeros = z3.BitVecVal(0, 16)
    units = read(z3.Concat(code | pattern, zeros), FP32)
    sixteenths = read(z3.Concat((code << 3) | 0x3F80, zeros), FP32)
    number = unsigned(code, FP32)
    scaled = z3.fpMul(RNE, number, value(1 / 16, FP32))
    facts = [
        z3.fpEQ(units, z3.fpAdd(RNE, value(128, FP32), number)),
        z3.fpEQ(sixteenths, z3.fpAdd(RNE, value(1, FP32), scaled)),
    ]
    return floats(z3.And(facts), z3.ULE(code, 15))


def _byte_single(*, pattern: int = 0x4B000000) -> Goal:
    """Spacing of binary32 is 1 from 2**23 to 2**24."""
    code = vector("code", 8)
    lifted = read(z3.ZeroExt(24, code) | pattern, FP32)
    return floats(z3.fpEQ(z3.fpSub(RNE, lifted, value(2.0**23, FP32)), unsigned(code, FP32)))


def _byte_brain(*, width: int = 8) -> Goal:
    """All codes, signed or not, are numbers of bfloat16 and of binary16."""
    code = vector("code", width)
    exact = [
        rounded(unsigned(code, FP32), sort, RTP) == rounded(unsigned(code, FP32), sort, RTN) for sort in (BF16, FP16)
    ]
    exact += [rounded(signed(code, FP32), sort, RTP) == rounded(signed(code, FP32), sort, RTN) for sort in (BF16, FP16)]
    return floats(z3.And(exact))


LEMMAS = (
    Lemma(
        "packing.byte_in_float16",
        "byte | 0x6400, read as float16, is 1024 + byte, and subtracting 1024 in float16 is exact",
        _byte_half,
        partial(_byte_half, pattern=0x6800),
        ALL,
    ),
    Lemma(
        "packing.nibble_in_float16",
        "code << 6 | 0x3C00, read as float16, is 1 + code/16",
        _nibble_half,
        partial(_nibble_half, shift=5),
        ALL,
    ),
    Lemma(
        "packing.high_nibble_in_float16",
        "(p & 0xF0) | 0x6400, read as float16, times 1/16 minus 64 in one fused operation is p >> 4",
        _high_nibble,
        partial(_high_nibble, offset=63),
        ALL,
    ),
    Lemma(
        "packing.signed_byte_in_float16",
        "(byte ^ 0x80) | 0x6400, read as float16, minus 1152 is the signed code -128..127",
        _signed_half,
        partial(_signed_half, offset=1024),
        ALL,
    ),
    Lemma(
        "packing.nibble_in_bfloat16",
        "code | 0x4300 and code << 3 | 0x3F80, read as bfloat16, are 128 + code and 1 + code/16",
        _nibble_brain,
        partial(_nibble_brain, pattern=0x4380),
        ALL,
    ),
    Lemma(
        "packing.byte_in_float32",
        "byte | 0x4B000000, read as float32, minus 2^23 is the byte",
        _byte_single,
        partial(_byte_single, pattern=0x4B800000),
        ALL,
    ),
    Lemma(
        "packing.code_is_float",
        "every 8-bit code, signed or unsigned, is a number of bfloat16 and of float16",
        _byte_brain,
        partial(_byte_brain, width=9),
        ALL,
    ),
)
