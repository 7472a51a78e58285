"""Theorem ``planes``: integers cut into planes and put together, cells within cells, and what a level means.

Integers are bit-vectors of 32 bits; a cell's width is w, b more bits cut it into ``B = 2^b`` parts.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import z3

from certkv.proofs.lemmas.floats_terms import bits, vector
from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import at_most, between, real, reals

ALL = ("z3", "cvc5", "bitwuzla")


def _mask(b: Any) -> Any:
    return (z3.BitVecVal(1, 32) << b) - 1


def _join(*, masked: bool = True) -> Goal:
    """One plane of b bits, put below a code and found again."""
    c, r, b = (vector(name, 32) for name in "crb")
    joined = (c << b) | r
    return bits(
        z3.And(z3.LShR(joined, b) == c, joined & _mask(b) == r),
        z3.ULE(b, 8),
        z3.ULT(c, 1 << 24),
        *([z3.ULE(r, _mask(b))] if masked else []),
    )


def _divide(*, order: bool = True) -> Goal:
    """Cut two planes from the top and join them: the integer again, and base and first plane are its upper part."""
    whole, a, b = (vector(name, 32) for name in ("whole", "a", "b"))
    base = z3.LShR(whole, a + b)
    first, second = z3.LShR(whole, b) & _mask(a), whole & _mask(b)
    if not order:
        first, second = second, first
    coarse = (base << a) | first
    return bits(z3.And((coarse << b) | second == whole, coarse == z3.LShR(whole, b)), z3.ULE(a, 8), z3.ULE(b, 8))


def _bytes(width: int, *, shift: int | None = None) -> Goal:
    """Pack codes of `width` bits into a byte: each is found where it was put, and the codes give back the byte."""
    count = 8 // width
    codes = [vector(f"code{i}", 8) for i in range(count)]
    packed = vector("byte", 8)
    step = width if shift is None else shift
    put = z3.BitVecVal(0, 8)
    for i, code in enumerate(codes):
        put = put | (code << (step * i))
    limit = 2**width - 1
    found = [z3.LShR(put, width * i) & limit for i in range(count)]
    again = z3.BitVecVal(0, 8)
    for i in range(count):
        again = again | ((z3.LShR(packed, width * i) & limit) << (step * i))
    facts = [x == code for x, code in zip(found, codes, strict=True)]
    return bits(z3.And(*facts, again == packed), *(z3.ULE(code, limit) for code in codes))


def _rows(count: int, *, up: bool = True) -> Goal:
    """Token ``i rows + row``: rows of a block hold its tokens, each at one place."""
    digits = count.bit_length() - 1
    block, row, other, t = (vector(name, 16) for name in ("block", "row", "other", "t"))
    i, j = vector("i", digits), vector("j", digits)
    rows = z3.LShR(block + (count - 1 if up else 0), digits)
    place = z3.Or([z3.And(z3.ULE(n * rows, t), z3.ULT(t - n * rows, rows)) for n in range(count)])
    once = z3.Implies(_times(i, rows) + row == _times(j, rows) + other, z3.And(row == other, i == j))
    return bits(
        z3.And(once, z3.Implies(z3.ULT(t, block), place)),
        z3.ULE(1, block),
        z3.ULE(block, 1 << 10),
        z3.ULT(row, rows),
        z3.ULT(other, rows),
    )


def _times(i: Any, rows: Any) -> Any:
    """``i rows`` for an i of few bits, by one sum per bit: a multiplier of full width is what a solver is slow at."""
    zero = z3.BitVecVal(0, rows.size())
    parts = [z3.If(z3.Extract(k, k, i) == 1, rows << k, zero) for k in range(i.size())]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _nested(*, last: int = 1) -> Goal:
    # the cells of a level lie in that of the level before; C and r are integers, which is not used
    p, C, r, w, g, B = reals("p C r w g B")
    fine = w / B
    low = (C * B + r) * fine - g
    return real(
        z3.And(p >= C * w - g, p <= C * w - g + w),
        between(low, p, low + fine),
        between(0, r, B - last),
        B >= 2,
        w > 0,
    )


def _centre(*, half: int = 2) -> Goal:
    # what a level's code means is the middle of its cell
    p, C, w, G = reals("p C w G")
    low = C * w - G / 2
    code = C * w + (w - G) / 2
    return real(at_most(half * (p - code), w), between(low, p, low + w), w > 0)


def _meaning(*, cell: bool = True) -> Goal:
    # from places to numbers: minimum + step p, off by e where p was rounded
    x, lo, s, p, code, w, e = reals("x lo s p code w e")
    return real(
        at_most(2 * (lo + s * code - x), s * ((w if cell else w / 2) + 2 * e)),
        at_most(2 * (p - code), w),
        at_most(x - (lo + s * p), s * e),
        s >= 0,
        e >= 0,
    )


def _base(*, grid: bool = True) -> Goal:
    # no planes and a grid of base codes: the level is the format itself
    c, w, G = reals("c w G")
    return real(c * w + (w - G) / 2 == c, w == 1, G == 1 if grid else G <= 1)


def _finest(*, step: bool = True) -> Goal:
    # all planes of a divided format: the step of the base, divided, is that of the format it came from
    C, w, G, s, coarse, lo = reals("C w G s coarse lo")
    return real(
        lo + coarse * (C * w + (w - G) / 2) == lo + s * C,
        w == G,
        coarse * w == s if step else coarse == s,
        w > 0,
    )


def _place(*, both: bool = True) -> Goal:
    # difference and quotient of a place round, and the sum with 1/2, which is at most 1; in units of a step
    p, Y, q, v, L, e = reals("p Y q v L e")
    return real(
        at_most(q - p, 2 * (L + 1 if both else L) * v),
        at_most(Y - p, (2 * L + 1) * v * (1 + 2 * v)),
        at_most(q - Y, v / 2 + e),
        between(3, L, 255),
        v * 2**24 == 1,
        64 * e <= v,
        e >= 0,
    )


def _notes(*, own: bool = True) -> Goal:
    # two blocks at two levels: each with the notes of the level that was executed
    a, b, coarse, fine, x, y = reals("a b coarse fine x y")
    return real(
        x * a + y * b <= x * (coarse if own else fine) + y * fine,
        a <= coarse,
        b <= fine,
        between(0, fine, coarse),
        x >= 0,
        y >= 0,
    )


PACKED = tuple(
    Lemma(
        f"planes.byte{width}",
        f"{8 // width} codes of {width} bits in a byte: each is found again, and they give back the byte",
        partial(_bytes, width),
        partial(_bytes, width, shift=width - 1),
        ALL,
    )
    for width in (1, 2, 4)
)

ROWS = tuple(
    Lemma(
        f"planes.rows{count}",
        f"{count} tokens a byte, rows = ceil(B/{count}): token t has the place t = i rows + row, and no other",
        partial(_rows, count),
        partial(_rows, count, up=False),
        ALL,
        count < 8,
    )
    for count in (2, 4, 8)
)

LEMMAS = (
    Lemma(
        "planes.join",
        "c << b | r, r < 2^b: >> b is c, the last b bits are r",
        _join,
        partial(_join, masked=False),
        ALL,
    ),
    Lemma(
        "planes.divide",
        "base and planes of a and b bits, joined, are the integer; base and first plane are its upper part",
        _divide,
        partial(_divide, order=False),
        ALL,
    ),
    *PACKED,
    *ROWS,
    Lemma(
        "planes.nested",
        "0 <= r <= B - 1: part r of a cell lies in the cell",
        _nested,
        partial(_nested, last=0),
    ),
    Lemma(
        "planes.centre",
        "a place in a cell is at most half its width from what the code means",
        _centre,
        partial(_centre, half=3),
    ),
    Lemma(
        "planes.meaning",
        "|x - (lo + s p)| <= s e, |p - code| <= w/2: |x - (lo + s code)| <= s(w/2 + e)",
        _meaning,
        partial(_meaning, cell=False),
    ),
    Lemma("planes.base", "no planes, G = 0: code_0 is the code", _base, partial(_base, grid=False)),
    Lemma(
        "planes.finest",
        "all planes, G = F: lo + (2^F s) code_F = lo + s C, the format that was divided",
        _finest,
        partial(_finest, step=False),
    ),
    Lemma(
        "planes.place",
        "a quotient off by (2L+1)v(1+2v) and a sum off by v/2: a place off by at most 2(L+1)v, in steps",
        _place,
        partial(_place, both=False),
    ),
    Lemma(
        "planes.notes",
        "blocks at two levels, each with its own notes: the sum of what they are off by is bounded",
        _notes,
        partial(_notes, own=False),
    ),
)
