"""Theorem ``outward_fp32``: binary32 results against rational and interval arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from flint import arb
from hypothesis import example, given
from hypothesis import strategies as st

from certkv.reference import SettingError
from certkv.reference.bounds import outward_fp32 as theorem
from certkv.reference.exact.enclosure import working_precision

F32 = np.float32
positive = st.floats(float(F32(2.0**-40)), 2.0**40, width=32)
every = st.floats(0.0, float(np.finfo(F32).max), width=32)
U = Fraction(1, 2**24)


def f32(numbers: object) -> np.ndarray:
    return np.array(numbers, dtype=F32)


def psi(x: float) -> arb:
    return (arb(x).expm1() - arb(x)) / (arb(x) * arb(x)) if x else arb(0.5)


def all_below_one_octave(low: float, count: int) -> np.ndarray:
    """Float32 numbers with equal distances in their patterns, from `low` on."""
    first = np.array(low, dtype=F32).view(np.uint32)
    return (first + np.arange(count, dtype=np.uint32) * np.uint32(997)).view(F32)


@pytest.mark.parametrize(
    ("function", "exact", "low", "high"),
    [
        (theorem.psi_ub, psi, 1e-12, 80.0),
        (theorem.expm1_ub, lambda x: arb(x).expm1(), 1e-12, 80.0),
    ],
)
def test_functions_from_above(
    function: Callable[[np.ndarray], np.ndarray], exact: Callable[[float], arb], low: float, high: float
) -> None:
    """On both sides of every switch, and everywhere between, in steps of 0.1 %: result >= exact, <= 1.01 exact."""
    x = np.geomspace(low, high, 4000).astype(F32)
    x = np.concatenate([x, all_below_one_octave(0.0999, 800), np.nextafter(theorem.PSI_SWITCH, f32([0, 1]))])
    with working_precision(256):
        for argument, result in zip(x.tolist(), function(x).tolist(), strict=True):
            value = exact(argument)
            assert arb(result) >= value, argument
            assert arb(result) <= value * arb(1.01), argument


def test_functions_at_the_ends() -> None:
    assert theorem.psi_ub(f32([0.0]))[0] >= 0.5
    assert theorem.psi_ub(f32([np.inf, 200.0])).tolist() == [np.inf, np.inf]
    assert np.isnan(theorem.psi_ub(f32([np.nan]))).all()
    assert theorem.expm1_ub(f32([np.inf])).tolist() == [np.inf]
    assert theorem.exp_minus_lb(f32([0.0, 80.0, np.inf])).tolist()[1:] == [0.0, 0.0]
    tiny = np.array([1e-45, 1e-40, 2.0**-126, 1e-30], dtype=F32)
    # e^x - 1 <= x + x^2 for x <= 1
    assert all(
        Fraction(float(y)) >= Fraction(float(x)) * (1 + Fraction(float(x)))
        for x, y in zip(tiny, theorem.expm1_ub(tiny), strict=True)
    )


def test_exp_from_below() -> None:
    """``e^-x``: result <= exact, and within 1.01 of it below 80."""
    x = np.linspace(0.0, 79.99, 6000).astype(F32)
    with working_precision(256):
        for argument, result in zip(x.tolist(), theorem.exp_minus_lb(x).tolist(), strict=True):
            value = (-arb(argument)).exp()
            assert arb(result) <= value, argument
            assert arb(result) * arb(1.01) >= value, argument


def test_library_is_within_the_allowance() -> None:
    """The assumption itself, with the vector loops that NumPy uses: far inside."""
    x = np.linspace(0.1, 80.0, 20_000).astype(F32)
    wide = x.astype(np.float64)
    for got, true in ((np.expm1(x), np.expm1(wide)), (np.exp(-x), np.exp(-wide))):
        # float64 is off by less than 2^-50
        assert np.max(np.abs(got / true - 1)) < theorem.EXP_ALLOWANCE / 8


@given(st.integers(1, theorem.PERP_BLOCK), st.integers(0, 2**32 - 1), st.sampled_from(["flat", "peak", "tiny", "wide"]))
def test_beta_perp(size: int, seed: int, shape: str) -> None:
    """Any numbers, summed in the worst order found: at least the root of what is left without the largest."""
    rng = np.random.default_rng(seed)
    beta = rng.random(size).astype(F32)
    if shape == "peak":
        beta[1:] *= F32(2.0**-12)
    elif shape == "tiny":
        beta *= F32(2.0**-75)
    elif shape == "wide":
        beta = np.exp(rng.uniform(-70, 40, size)).astype(F32)
    exact = [Fraction(float(b)) for b in beta]
    rest = sum(b * b for b in exact) - max(exact) ** 2
    for order in (np.sort(beta), np.sort(beta)[::-1], beta):
        q2 = F32(0.0)
        for b in order:
            q2 = F32(q2 + F32(b * b))
        result = Fraction(float(theorem.beta_perp_ub(f32(q2), beta.max(), size)))
        assert result**2 >= rest
        # at most sqrt(rest + (2^-15 + 2^-18) Q) and what was flushed: the guard, the error of q2, 2^-20 twice
        total = sum(b * b for b in exact)
        assert result**2 <= (rest + total * (Fraction(1, 2**15) + Fraction(1, 2**18))) * (
            1 + Fraction(1, 2**17)
        ) + Fraction(size + 2, 2**123)


def test_beta_perp_needs_its_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without 2^-16 q2 a block of equal squares that round down is undercut."""
    beta = np.full(254, np.nextafter(F32(1.0), F32(2.0)) * F32(1.3), dtype=F32)
    beta[0] = F32(40.0)
    q2 = F32(0.0)
    for b in beta:
        q2 = F32(q2 + F32(b * b))
    exact = [Fraction(float(b)) for b in beta]
    rest = sum(b * b for b in exact) - max(exact) ** 2
    assert Fraction(float(theorem.beta_perp_ub(f32(q2), beta.max(), 254))) ** 2 >= rest
    monkeypatch.setattr(theorem, "PERP_GUARD", F32(0.0))
    assert Fraction(float(theorem.beta_perp_ub(f32(q2), beta.max(), 254))) ** 2 < rest


def test_beta_perp_blocks() -> None:
    for block in (0, 255):
        with pytest.raises(SettingError, match="guard"):
            theorem.beta_perp_ub(f32(1.0), f32(1.0), block)
    assert theorem.beta_perp_ub(f32(np.inf), f32(1.0), 4) == np.inf


@given(every, every, every, every, positive, every)
def test_finish(A: float, G: float, U: float, eps: float, D: float, gamma: float) -> None:
    result = float(theorem.finish(*(f32([x]) for x in (A, G, U, eps, D, gamma)))[0])
    a, g, u, e, d, c = (Fraction(x) for x in (A, G, U, eps, D, gamma))
    exact = (a + c * g + u + e) / d
    if np.isfinite(result):
        assert Fraction(result) >= exact
        lost = (1 + c) * Fraction(1, 2**100) / d + Fraction(1, 2**126)
        assert Fraction(result) <= Fraction(101, 100) * (exact + lost)
    else:
        # infinite only where the bound, or something on the way, comes near binary32's largest number
        assert max(exact, a + c * g + u + e) * Fraction(101, 100) > Fraction(float(np.finfo(F32).max))


def test_finish_of_the_unknown() -> None:
    one = np.ones(1, dtype=F32)
    for i in range(6):
        arguments = [one] * 6
        arguments[i] = f32([np.nan])
        assert theorem.finish(*arguments)[0] == np.inf
    assert theorem.finish(one, one, one, one, f32([2.0**-61]), one)[0] == np.inf
    assert theorem.finish(one, one, one, one, f32([0.0]), one)[0] == np.inf
    assert theorem.finish(one, one, one, one, f32([np.inf]), one)[0] == np.inf


@given(st.floats(0.0, 2.0**-60, width=32), st.floats(2.0**10, 2.0**127, width=32))
@example(float(F32(1.499e-31)), float(F32(1.673e15)))
def test_finish_where_the_quotient_underflows(A: float, D: float) -> None:
    zero = f32([0.0])
    result = theorem.finish(f32([A]), zero, zero, zero, f32([D]), zero)[0]
    assert Fraction(float(result)) >= Fraction(A) / Fraction(D)
    assert result >= theorem.TINY  # so it stays where results are flushed to zero


def down(x: Fraction) -> Fraction:
    return x * (1 - U)


def up(x: Fraction) -> Fraction:
    return x * (1 + U)


@pytest.mark.parametrize(
    ("tokens", "block", "splits"), [(131_072, 64, 32), (4096, 16, 1), (131_072, 128, 8), (1, 1, 1)]
)
def test_count_covers_the_worst_roundings(tokens: int, block: int, splits: int) -> None:
    """Let every operation of a model path round the wrong way by u: the factor suffices, elementary errors too."""
    k = theorem.roundings(tokens, block, splits)
    numerator, denominator = Fraction(1), Fraction(1)
    for _ in range(k + 1):
        numerator, denominator = down(numerator), up(denominator)
    # keep the numbers short: (1-u)^k >= 1 - k u is what the proof uses
    assert numerator >= 1 - (k + 1) * U
    assert numerator / denominator * Fraction(float(theorem.FACTOR)) * (1 - Fraction(theorem.ELEMENTARY)) >= 1


def test_factor_is_not_for_free() -> None:
    """At the limit the factor is not four times too large, and with four times the roundings it fails."""
    assert theorem.roundings(131_072, 64, 32) == 280
    k = 4 * theorem.MOST_ROUNDINGS
    assert (1 - U) ** k / (1 + U) ** k * Fraction(float(theorem.FACTOR)) < 1


def test_too_many_roundings() -> None:
    with pytest.raises(SettingError, match="more splits"):
        theorem.roundings(131_072, 64, 2)
    with pytest.raises(SettingError, match="at least 1"):
        theorem.roundings(0, 64, 2)


@pytest.mark.parametrize("order", ["ascending", "descending", "pairs"])
def test_sums_in_binary32(order: str) -> None:
    """A whole certificate in float32, 2,048 blocks: bound above the exact one, ratio at most 1 + 2^-11."""
    rng = np.random.default_rng(3)
    terms = np.exp(rng.normal(size=(4, 2048)) * 4).astype(F32)
    terms = np.sort(terms, axis=1) if order != "descending" else -np.sort(-terms, axis=1)
    gamma = f32([0.7])
    sums = []
    for row in terms:
        if order == "pairs":
            sums.append(f32([row.sum(dtype=F32)]))
            continue
        total = F32(0.0)
        for x in row[:900]:  # roundings(...) allows fewer than 1,000 on a path
            total = F32(total + x)
        sums.append(f32([total]))
    kept = terms if order == "pairs" else terms[:, :900]
    A, G, U_, D = (sum(Fraction(float(x)) for x in row) for row in kept)
    exact = (A + Fraction(float(gamma[0])) * G + U_) / D
    result = Fraction(float(theorem.finish(sums[0], sums[1], sums[2], f32([0.0]), sums[3], gamma)[0]))
    assert exact <= result <= exact * (1 + Fraction(1, 2**11))


def test_inflate() -> None:
    x = np.array([1.0, 0.0, 2.0**-130, 3e38], dtype=F32)
    got = theorem.inflate(x)
    assert got[0] >= 1 + 2.0**-12
    assert (got[1:3] > 0).all()
    assert got[3] > x[3]
