"""The float64 steps of a measurement where the rounding to bfloat16 cannot hide an error of theirs."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from certkv.reference.annotations import annotate_keys, annotate_values, measure
from certkv.reference.annotations.keys import relative_magnitude
from certkv.reference.annotations.values import token_mean_lb
from certkv.reference.errors import SettingError, ShapeError
from certkv.reference.formats import key_format, value_format
from certkv.reference.numbers import BFLOAT16, FLOAT16, round_down

from .exact import AnyArray, exact_blocks, exact_meaning, is_upper, mean_norm, squared_norms


def token_of_norm(target: Fraction, channels: int = 64) -> AnyArray:
    """A float16 token with squared norm at most `target`, short of it by less than target * 2**-60, greedily."""
    token = np.zeros(channels, dtype=np.float16)
    rest = target
    for c in range(channels):
        element = round_down(float(rest) ** 0.5, FLOAT16)
        if Fraction(float(element)) ** 2 > rest:
            element = np.nextafter(element, np.float16(0.0))
        token[c] = element
        rest -= Fraction(float(element)) ** 2
    assert 0 <= rest < target / 2**60
    return token


@pytest.mark.parametrize("norm", [1000.0, 776.0, 1020.0])
@pytest.mark.parametrize("hair", [Fraction(1, 2**57), -Fraction(1, 2**57)])
def test_norms_a_hair_from_a_bfloat16_number(norm: float, hair: Fraction) -> None:
    """Relative distance 2**-58: float64 alone cannot tell on which side of the bfloat16 number the norm is."""
    assert float(BFLOAT16.dtype.type(norm)) == norm
    x = token_of_norm(Fraction(norm) ** 2 * (1 + hair))[None, :]
    exact = squared_norms(exact_blocks(x))[0]
    assert 0 < abs(exact / Fraction(norm) ** 2 - 1) < Fraction(1, 2**56)
    fmt = value_format("dense")
    stored = annotate_values(x, fmt.encode(x), fmt, np.zeros(x.shape[-1]))
    for bound in (stored.norm_ub, stored.decoded_norm_ub, stored.anchored_norm_ub):
        assert is_upper(bound, exact)
    assert Fraction(float(stored.mean_norm_lb)) <= mean_norm(exact_blocks(x))[0]


def test_mean_is_a_lower_bound_where_the_plain_mean_is_not() -> None:
    per_token = np.random.default_rng(5).random((300, 7))
    exact = [sum(map(Fraction, row.tolist()), Fraction(0)) / 7 for row in per_token]
    assert all(Fraction(float(ours)) <= e for ours, e in zip(token_mean_lb(per_token), exact, strict=True))
    assert any(Fraction(float(plain)) > e for plain, e in zip(np.mean(per_token, axis=-1), exact, strict=True))


def test_residual_magnitude_covers_the_exact_residual() -> None:
    x = (np.random.default_rng(6).standard_normal((1, 16, 20)) * [[[2.0**-20], [1.0]] * 8]).astype(np.float16)
    for fmt in (key_format("int8-paper"), value_format("int4"), value_format("int4-g16")):
        encoded = fmt.encode(x)
        magnitude = measure.residual_magnitude(x, encoded, fmt)[0]
        exact = np.abs(exact_blocks(x[0]) - exact_meaning(encoded.take(0))[0])
        u = Fraction(2) ** -53
        assert (exact <= exact_blocks(magnitude) * (1 + u) / (1 - u)).all()


def test_anchored_norm_covers_the_rounding_of_the_difference() -> None:
    rng = np.random.default_rng(8)
    x, anchor = rng.standard_normal((1, 50, 1)).astype(np.float16), rng.standard_normal((1, 1)) * 1e-3
    plain = np.abs(x.astype(np.float64) - anchor[..., None, :])
    exact = squared_norms(exact_blocks(x[0]) - exact_blocks(anchor))
    ours = measure.inexact_norm_ub(plain)[0]
    assert all(is_upper(bound, e) for bound, e in zip(ours, exact, strict=True))
    assert not all(is_upper(bound, e) for bound, e in zip(plain[0, :, 0], exact, strict=True))


def test_relative_magnitude_without_a_step() -> None:
    step = np.array([0.0, 2.0])
    assert relative_magnitude(np.array([[0.0, 0.5]]), step).tolist() == [[0.0, 0.25]]
    # a residual that no multiple of the step can bound
    assert relative_magnitude(np.array([[1e-300, 0.5]]), step).tolist() == [[np.inf, 0.25]]


def test_relative_rows_cover_the_exact_quotients() -> None:
    """The exact residual over the unit is within the slack of what was computed."""
    x = (np.random.default_rng(9).standard_normal((1, 16, 20)) * [[[2.0**-20], [1.0]] * 8]).astype(np.float16)
    unit = np.random.default_rng(10).uniform(1e-3, 1.0, (1, 16, 1))
    for fmt in (key_format("int8-paper"), value_format("int4"), value_format("int4-g16")):
        encoded = fmt.encode(x)
        difference, magnitude = measure.residual(x, encoded, fmt), measure.residual_magnitude(x, encoded, fmt)
        quotient, slack = (exact_blocks(a[0]) for a in measure.relative_rows(difference, magnitude, unit))
        exact = (exact_blocks(x[0]) - exact_meaning(encoded.take(0))[0]) / exact_blocks(unit[0])
        off = np.abs(exact - quotient)
        assert (off <= slack).all()
        assert (off > 0).any()


def test_relative_rows_of_zero_and_of_infinite_units() -> None:
    one, nothing = np.ones((1, 1)), np.zeros((1, 1))
    for difference, unit, expected in ((one, nothing, np.inf), (nothing, nothing, 0.0), (one, one * np.inf, 0.0)):
        quotient, slack = measure.relative_rows(difference, difference, unit)
        assert quotient == expected
        assert slack == 0.0


def test_what_does_not_fit_is_refused() -> None:
    x = np.ones((2, 4, 20), dtype=np.float16)
    keys, values = key_format("int8"), value_format("int4-g16")
    with pytest.raises(ShapeError, match=r"\(2, 4, 20\)"):
        annotate_keys(x[:1], keys.encode(x), keys)
    with pytest.raises(ShapeError, match=r"\(2, 4, 20\)"):
        annotate_values(x[:, :3], values.encode(x), values, np.zeros(20))
    for anchor in (np.zeros(1), np.float64(0.0), np.zeros((2, 1)), np.zeros((3, 20)), np.zeros((1, 2, 20))):
        with pytest.raises(ShapeError, match="anchor"):
            annotate_values(x, values.encode(x), values, anchor)
    with pytest.raises(SettingError, match="int4-g16"):
        annotate_keys(x, values.encode(x), values)
