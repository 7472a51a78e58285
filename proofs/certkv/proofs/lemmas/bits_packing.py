"""Theorem ``packing``: two 4-bit codes per byte along the tokens, and how kernels read them, lose nothing."""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.floats_terms import bits, vector
from certkv.proofs.smt.lemma import Goal, Lemma

ALL = ("z3", "cvc5", "bitwuzla")


def _byte(*, shift: int = 4) -> Goal:
    """Pack two codes, read both."""
    low, high = vector("low", 8), vector("high", 8)
    packed = low | (high << shift)
    return bits(z3.And(packed & 15 == low, z3.LShR(packed, 4) == high), z3.ULE(low, 15), z3.ULE(high, 15))


def _back(*, mask: int = 15) -> Goal:
    """Read a byte, pack it again."""
    packed = vector("packed", 8)
    return bits((packed & mask) | (z3.LShR(packed, 4) << 4) == packed)


def _word(*, width: int = 4) -> Goal:
    """Eight codes in a word: each is found where it was put, and nothing else is in the word."""
    codes = [vector(f"code{i}", 32) for i in range(8)]
    word = codes[0]
    for i, code in enumerate(codes[1:], 1):
        word = word | (code << (width * i))
    found = [z3.LShR(word, 4 * i) & 15 for i in range(8)]
    again = found[0]
    for i, code in enumerate(found[1:], 1):
        again = again | (code << (4 * i))
    facts = [x == code for x, code in zip(found, codes, strict=True)]
    return bits(z3.And(*facts, again == word), *[z3.ULE(code, 15) for code in codes])


def _pairs(*, shift: int = 4) -> Goal:
    """Four byte rows in one word: one mask gives tokens t..t+3, a shift and a mask give t+half..t+half+3."""
    near, far = [vector(f"near{i}", 8) for i in range(4)], [vector(f"far{i}", 8) for i in range(4)]
    rows = [low | (high << 4) for low, high in zip(near, far, strict=True)]
    word = z3.Concat(*reversed(rows))  # byte row t is the lowest byte: little-endian
    mask = z3.BitVecVal(0x0F0F0F0F, 32)
    first, second = word & mask, z3.LShR(word, shift) & mask
    facts = [z3.Extract(8 * i + 7, 8 * i, first) == near[i] for i in range(4)]
    facts += [z3.Extract(8 * i + 7, 8 * i, second) == far[i] for i in range(4)]
    return bits(z3.And(facts), *[z3.ULE(code, 15) for code in [*near, *far]])


def _place(t: Any, half: Any) -> tuple[Any, Any]:
    """Byte row and nibble of a token."""
    return z3.If(z3.ULT(t, half), t, t - half), z3.UGE(t, half)


def _index(*, odd: int = 1) -> Goal:
    """Tokens have different places, every place is in the array, and a place names its token."""
    t, s, block = vector("t", 32), vector("s", 32), vector("block", 32)
    half = z3.LShR(block + odd, 1)
    (row, high), (row_s, high_s) = _place(t, half), _place(s, half)
    different = z3.Implies(t != s, z3.Or(row != row_s, high != high_s))
    back = z3.If(high, row + half, row) == t
    return bits(
        z3.And(z3.ULT(row, half), different, back),
        z3.ULE(1, block),
        z3.ULT(block, 1 << 31),
        z3.ULT(t, block),
        z3.ULT(s, block),
    )


def _spare(*, last_only: bool = True) -> Goal:
    """Every place holds a token, but for the high nibble of the last row where B is odd."""
    row, block, high = vector("row", 32), vector("block", 32), z3.Bool("high")
    half = z3.LShR(block + 1, 1)
    token = z3.If(high, row + half, row)
    spare = z3.And(high, row == half - 1, block & 1 == 1) if last_only else z3.BoolVal(False)
    return bits(z3.Xor(z3.ULT(token, block), spare), z3.ULE(1, block), z3.ULT(block, 1 << 31), z3.ULT(row, half))


LEMMAS = (
    Lemma(
        "packing.byte",
        "codes a, b in 0..15: p = a | b << 4 gives p & 15 = a and p >> 4 = b",
        _byte,
        partial(_byte, shift=3),
        ALL,
    ),
    Lemma(
        "packing.byte_back",
        "every byte p: (p & 15) | (p >> 4) << 4 = p, so no two pairs of codes share a byte",
        _back,
        partial(_back, mask=7),
        ALL,
    ),
    Lemma(
        "packing.word",
        "8 codes in a 32-bit word: (w >> 4i) & 15 is code i, and the codes give back w",
        _word,
        partial(_word, width=3),
        ALL,
    ),
    Lemma(
        "packing.pairs",
        "4 byte rows as a word: w & 0x0f0f0f0f are tokens t..t+3, (w >> 4) & 0x0f0f0f0f are t+half..t+half+3, in order",
        _pairs,
        partial(_pairs, shift=3),
        ALL,
    ),
    Lemma(
        "packing.index",
        "half = ceil(B/2): t -> (t, low) or (t - half, high) is injective into half rows and invertible, for every B",
        _index,
        partial(_index, odd=0),
        ALL,
    ),
    Lemma(
        "packing.spare",
        "every nibble holds exactly one token, except the last high one where B is odd",
        _spare,
        partial(_spare, last_only=False),
        ALL,
    ),
)
