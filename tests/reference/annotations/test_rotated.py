"""Notes of rotated formats against enclosures: residuals of what is meant, ``H (norm (minimum + step code))``."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from flint import arb, fmpq
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.annotations import KeyAnnotations, annotate_keys, annotate_values
from certkv.reference.annotations.levels import finer_keys, finer_values
from certkv.reference.exact.enclosure import working_precision
from certkv.reference.formats import OSCAR_KEY_FORMATS, OSCAR_VALUE_FORMATS, Encoded, OscarKeys, OscarValues
from certkv.reference.formats.planes import join, unpack_plane
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, round_nearest
from certkv.reference.numbers.types import AnyArray

Rows = list[list[arb]]
TYPES = pytest.mark.parametrize("ft", [FLOAT16, BFLOAT16], ids=lambda ft: ft.name)


def ball(x: Fraction) -> arb:
    return arb(fmpq(x.numerator, x.denominator))


def exact(x: Any) -> Rows:
    """Stored numbers, [B, d]."""
    return [[ball(Fraction(float(one))) for one in row] for row in x.astype(np.float64)]


def rotated(x: list[arb]) -> list[arb]:
    """``H x`` from the definition."""
    result: list[arb] = []
    for bit in reversed(range(len(x).bit_length())):
        if len(x) >> bit & 1:
            block = x[len(result) : len(result) + (1 << bit)]
            result += [
                sum((-one if (i & j).bit_count() % 2 else one for j, one in enumerate(block)), arb(0))
                / arb(len(block)).sqrt()
                for i in range(len(block))
            ]
    return result


def meaning(fmt: OscarKeys | OscarValues, encoded: Encoded) -> Rows:
    """What a level of one block means, from the words of the pages on formats and planes."""
    base = unpack_plane(encoded.codes, fmt.bits, encoded.block)
    finer = sum(fmt.plane_bits[: encoded.level])
    codes = join(base, encoded.planes, fmt.plane_bits, encoded.block)
    cell = Fraction(1, 2**finer)
    rows: Rows = []
    for t in range(encoded.block):
        norm = Fraction(float(encoded.norm[t])) if encoded.norm is not None and encoded.norm.shape[-1] else Fraction(1)
        row = []
        for c in range(encoded.head_dim):
            at = (t // fmt.group, c) if isinstance(fmt, OscarKeys) else (t, c // fmt.group)
            step, minimum = (Fraction(float(x[at])) for x in (encoded.step, encoded.minimum))
            row.append(ball(norm * (minimum + step * (int(codes[t, c]) * cell + (cell - 1) / 2))))
        rows.append(rotated(row) if fmt.rotated else row)
    return rows


def of_keys(x: AnyArray, finest: Encoded, fmt: OscarKeys) -> tuple[KeyAnnotations, ...]:
    """Notes of every level, the base first."""
    return annotate_keys(x, finest.at(0), fmt), *finer_keys(x, finest, fmt)


def norm(x: list[arb]) -> arb:
    # a square, not a power: python-flint's power of a ball around 0 is NaN
    return sum((one * one for one in x), arb(0)).nonnegative_part().sqrt()


def operator_lb(rows: Rows) -> arb:
    """``||X^T y|| / ||y||`` for the best y that float64 finds: any y gives a lower bound."""
    plain = np.array([[float(one.mid()) for one in row] for row in rows])
    y = [ball(Fraction(float(one))) for one in np.linalg.svd(plain / max(float(np.abs(plain).max()), 1e-300))[0][:, 0]]
    image = [sum((w * row[c] for w, row in zip(y, rows, strict=True)), arb(0)) for c in range(len(rows[0]))]
    return norm(image) / norm(y)


def originals(seed: int, tokens: int, head_dim: int, ft: FloatType, exponent: int) -> AnyArray:
    """Tokens of different norms, one of zeros at times, in one KV head."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, head_dim)) * np.exp2(rng.uniform(-6, 6, (tokens, 1)))
    x[rng.random(tokens) < 0.1] = 0.0
    x[:, 0] *= 8.0
    return round_nearest(np.clip(np.ldexp(x, exponent), -ft.max, ft.max), ft)


EXPONENTS = {"float16": [-24, -12, 0, 8], "bfloat16": [-133, -100, 0, 110]}
SMALL = {"seed": st.integers(0, 2**32 - 1), "tokens": st.integers(1, 6), "head_dim": st.sampled_from([1, 6, 8, 12])}


def slightly_more(found: Any, true: arb) -> bool:
    """Whether a note is above the truth by no more than it has to: one step of bfloat16, and a little of float64.

    Residuals of 1e-16 of the original are what decoding may be off by, and are charged whole; 2^-40 of it is more.
    """
    return bool(arb(float(found)) <= true * (1 + arb(2) ** -6) + arb(2) ** -130)


@TYPES
@pytest.mark.parametrize("name", OSCAR_KEY_FORMATS)
@given(data=st.data(), **SMALL)
def test_keys(name: str, ft: FloatType, data: st.DataObject, seed: int, tokens: int, head_dim: int) -> None:
    fmt = OSCAR_KEY_FORMATS[name]
    x = originals(seed, tokens, head_dim, ft, data.draw(st.sampled_from(EXPONENTS[ft.name])))
    finest = fmt.encode(x[None, None])
    with working_precision(200):
        for level, notes in enumerate(of_keys(x[None, None], finest, fmt)):
            encoded = finest.at(level).take((0, 0))
            meant = meaning(fmt, encoded)
            off = [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(exact(x), meant, strict=True)]
            # these formats have no step per channel of a block, so that residuals are in the units of K
            largest = max(float(abs(one).lower()) for row in off for one in row)
            assert largest <= float(notes.relative_max_ub[0, 0])
            norms = [norm(row) for row in off]
            assert not any(one > float(notes.relative_norm_ub[0, 0]) for one in norms)
            assert not operator_lb(off) > float(notes.relative_operator_ub[0, 0])
            assert not any(norm(row) > float(notes.decoded_norm_ub[0, 0]) for row in meant)
            size = max((norm(row) for row in exact(x)), key=lambda one: float(one.mid()))
            longest = max(norms, key=lambda one: float(one.mid()))
            assert slightly_more(notes.relative_norm_ub[0, 0], longest + size * arb(2) ** -40)


@TYPES
@pytest.mark.parametrize("name", OSCAR_VALUE_FORMATS)
@given(data=st.data(), **SMALL)
def test_values(name: str, ft: FloatType, data: st.DataObject, seed: int, tokens: int, head_dim: int) -> None:
    fmt = OSCAR_VALUE_FORMATS[name]
    x = originals(seed, tokens, head_dim, ft, data.draw(st.sampled_from(EXPONENTS[ft.name])))
    finest = fmt.encode(x[None])
    with working_precision(200):
        base = annotate_values(x[None], finest.at(0), fmt, np.zeros(head_dim))
        for level, notes in enumerate((base, *finer_values(base, x[None], finest, fmt))):
            meant = meaning(fmt, finest.at(level).take(0))
            off = [[a - b for a, b in zip(*rows, strict=True)] for rows in zip(exact(x), meant, strict=True)]
            norms = [norm(row) for row in off]
            eta = notes.token_residuals_ub()[0]
            assert not any(one > float(e) for one, e in zip(norms, eta, strict=True))
            assert not any(one > float(notes.residual_norm_ub[0]) for one in norms)
            assert not any(norm(row) > float(notes.decoded_norm_ub[0]) for row in meant)
            # rows in units of what their codes mean, 0/0 = 0
            unit = [[one / float(e) if e > 0 else arb(0) for one in row] for row, e in zip(off, eta, strict=True)]
            assert not operator_lb(unit) > float(notes.residual_operator_ub[0])


def test_notes_of_another_level_are_too_small() -> None:
    """The defect: a finer level's notes for the base plane."""
    fmt = OSCAR_KEY_FORMATS["oscar+2+4"]
    x = originals(1, 6, 8, FLOAT16, 0)
    finest = fmt.encode(x[None, None])
    base, finer, finest_notes = of_keys(x[None, None], finest, fmt)
    with working_precision(200):
        meant = meaning(fmt, finest.at(0).take((0, 0)))
        off = [norm([a - b for a, b in zip(*rows, strict=True)]) for rows in zip(exact(x), meant, strict=True)]
    assert not any(one > float(base.relative_norm_ub[0, 0]) for one in off)
    assert any(one > float(finer.relative_norm_ub[0, 0]) for one in off)
    assert float(finest_notes.relative_norm_ub[0, 0]) < float(finer.relative_norm_ub[0, 0])
