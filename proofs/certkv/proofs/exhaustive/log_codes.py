"""Log codes: the table, every meaning, and every boundary between two codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.exhaustive.model import Array, CheckFailed, Exhaustive, require_all, require_equal
from certkv.reference.annotations import log_codes

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
MAXIMA = np.arange(1, 0x7F80, dtype=np.uint16).view(BFLOAT16)
"""All positive finite bfloat16 numbers."""

CODES = np.arange(256, dtype=np.uint8)
TABLE: tuple[int, ...] = tuple(log_codes.MANTISSAS.tolist())

Encode = Callable[[Any, Any], Array]
Decode = Callable[[Any, Any], Array]


def table(mantissas: Sequence[int] = TABLE) -> None:
    """Check ``m[j] = ceil(2^(16 - j/8))`` and the largest factor between two codes, in whole numbers."""
    for j, m in enumerate(mantissas):
        if not (m - 1) ** 8 < 2 ** (128 - j) <= m**8:
            raise CheckFailed(f"mantissa {j} is {m}, which is not the ceiling of 2^(16 - {j}/8)")
    for j, (m, following) in enumerate(zip(mantissas, [*mantissas[1:], mantissas[0] // 2], strict=True)):
        # m / following <= 2^(1/8) (1 + 2^-15), eighth powers
        if not m**8 * 2**120 <= 2 * following**8 * (2**15 + 1) ** 8:
            raise CheckFailed(f"codes {j} and {j + 1} are more than 2^(1/8) (1 + 2^-15) apart")


def _whole(maxima: Array) -> tuple[Array, Array]:
    """Return n and e with ``maxima = n 2^e``, 1 <= n < 256."""
    fraction, exponent = np.frexp(maxima.astype(np.float64))
    return (fraction * 256).astype(np.int64), exponent - 8


def meanings(decode: Decode = log_codes.decode, factor: float = 1.0) -> None:
    """Check every code of every maximum: the whole number ``n m[c % 8]`` scaled, decreasing in c, increasing in M.

    In float32 the same, in the order ``(M (m 2^-16)) 2^-k``, from M = 2^-95 up; there the lowest bit is 2^-149.
    """
    n, e = _whole(MAXIMA)
    mantissa, octave = log_codes.MANTISSAS[CODES % 8], CODES.astype(np.int64) // 8
    for rows in np.array_split(np.arange(len(MAXIMA)), 16):
        maxima = MAXIMA[rows]
        got = decode(np.broadcast_to(CODES, (len(rows), 256)), maxima)
        exact = np.ldexp((n[rows, None] * mantissa).astype(np.float64), e[rows, None] - 16 - octave)
        cases: dict[str, Any] = {"maximum": maxima.astype(np.float64)[:, None], "code": CODES}
        require_equal(got, exact, "meaning", **cases)
        require_all(got[:, :-1] > got[:, 1:], "decreasing in the code", maximum=cases["maximum"], code=CODES[:-1])
        require_all(got[:-1] < got[1:], "increasing in the maximum", maximum=cases["maximum"][:-1], code=CODES)
        require_equal(
            got[:, 0], maxima.astype(np.float64), "code 0 is the maximum itself", maximum=cases["maximum"][:, 0]
        )
        single = maxima.astype(np.float32)[:, None] * (mantissa.astype(np.float32) * np.float32(2.0**-16))
        single = single * np.ldexp(np.float32(1), -octave.astype(np.int32))
        large = maxima.astype(np.float64) >= factor * 2.0**-95
        if large.any():
            require_equal(single[large].astype(np.float64), got[large], "float32", maximum=cases["maximum"][large])


def boundaries(encode: Encode = log_codes.encode) -> None:
    """Check encoding at every meaning and next to it: the largest code whose meaning is at least x, 255 below all."""
    for maxima in np.array_split(MAXIMA, 16):
        _boundaries(encode, maxima)


def _boundaries(encode: Encode, maxima: Array) -> None:
    every = np.broadcast_to(CODES, (len(maxima), 256))
    at = log_codes.decode(every, maxima)
    before = np.concatenate([at[:, :1], at[:, :-1]], axis=1)
    cases: dict[str, Any] = {"maximum": maxima.astype(np.float64)[:, None], "code": CODES}
    require_equal(encode(at, maxima), every, "x is a meaning", **cases)
    require_equal(encode(np.nextafter(at, 0.0), maxima), every, "x just below a meaning", **cases)
    above = np.minimum(np.nextafter(at, np.inf), before)
    lower = np.where(above > at, np.maximum(every.astype(np.int64) - 1, 0), every).astype(np.uint8)
    require_equal(encode(above, maxima), lower, "x just above a meaning", **cases)
    nothing = np.zeros((len(maxima), 1))
    require_equal(encode(nothing, maxima), np.full((len(maxima), 1), 255, np.uint8), "x is 0", maximum=cases["maximum"])


def _nearest(x: Any, maximum: Any) -> Array:
    """Take the code whose meaning is nearest."""
    code = log_codes.encode(x, maximum).astype(np.int64)
    following = np.minimum(code + 1, 255)
    meaning, after = (log_codes.decode(c.astype(np.uint8), maximum) for c in (code, following))
    return np.asarray(np.where(x - after < meaning - x, following, code), np.uint8)


FACTS = (
    Exhaustive(
        "log_codes.table",
        "log_codes",
        "m[j] is the smallest whole number with m^8 >= 2^(128-j), and codes are at most 2^(1/8) (1 + 2^-15) apart",
        table,
        partial(table, mantissas=(65536, 60096, 55108, 50535, 46340, 42494, 38967, 35733)),
    ),
    Exhaustive(
        "log_codes.meanings",
        "log_codes",
        "256 codes of 32,639 bfloat16 maxima: decoding is exact in float64, and from 2^-95 up in float32; monotone",
        meanings,
        partial(meanings, factor=0.5),
    ),
    Exhaustive(
        "log_codes.boundaries",
        "log_codes",
        "every meaning of all bfloat16 maxima, and its float64 neighbours: the largest code that means at least x",
        boundaries,
        partial(boundaries, encode=_nearest),
    ),
)
