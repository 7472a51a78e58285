"""Theorem ``kernel_arithmetic`` against kernels in software that are as badly rounded as their models allow."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from certkv.proofs.emulation.certificate import Judged, judge
from certkv.proofs.emulation.kernel import LN2, Emulated, emulate
from certkv.proofs.emulation.units import DIRECTIONS, SIGNS, Worst, chain, exp2, stored
from certkv.reference import SettingError
from certkv.reference.bounds import kernel_arithmetic as theorem
from certkv.reference.bounds import outward_fp32
from certkv.reference.bounds.kernel_model import (
    H200_BF16_P,
    H200_FP16_P,
    H200_HILO_P,
    IEEE_FP32,
    KERNELS,
    TC_BITS,
    U_FP32,
    Constant,
    DotUnit,
    KernelModel,
    weights,
)
from certkv.reference.numbers import BFLOAT16, FLOAT16, norm_ub, round_nearest

ROOT = Path(__file__).resolve().parents[3]
ALL = {model.name: model for model in KERNELS}
BF16_OPERAND = Constant("bfloat16-operand", BFLOAT16.unit_roundoff, "proved", "IEEE 754")
BF16_OPERAND_LOSS = Constant("bfloat16-operand-loss", 2.0**-126, "proved", "IEEE 754")

VARIANTS = (
    *KERNELS,
    replace(H200_FP16_P, name="one-level", two_level=False),
    replace(H200_FP16_P, name="sum-in-unit", sum_in_unit=True),
    replace(H200_FP16_P, name="one-level-sum-in-unit", sum_in_unit=True, two_level=False),
    replace(H200_FP16_P, name="unbiased", weights=weights(FLOAT16)),
    replace(H200_BF16_P, name="unrounded-sum", sum_rounded=False),
    replace(H200_BF16_P, name="mixed-units", qk=DotUnit.fma(U_FP32), output=BFLOAT16),
    replace(IEEE_FP32, name="fused", fused_exponent=True),
    replace(
        H200_HILO_P,
        name="bf16-operands",
        key_rounding=BF16_OPERAND,
        key_loss=BF16_OPERAND_LOSS,
        query_rounding=BF16_OPERAND,
        value_rounding=BF16_OPERAND,
        value_loss=BF16_OPERAND_LOSS,
    ),
)


def halves(x: np.ndarray) -> np.ndarray:
    return np.asarray(round_nearest(x, FLOAT16).astype(np.float64))


def head(seed: int, tokens: int, dim: int, spread: float, shape: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query, keys and values in binary16, with scores spread over about `spread` nats (any number of them)."""
    rng = np.random.default_rng(seed)
    q, k, v = rng.normal(size=dim), rng.normal(size=(tokens, dim)), rng.normal(size=(tokens, dim))
    q *= math.sqrt(spread / dim)
    k *= math.sqrt(spread / dim)
    if shape == "rising":  # the maximum moves in every tile
        k = q * np.linspace(-1, 1, tokens)[:, None]
    elif shape == "needle":
        k[tokens // 3] = 3 * q
    elif shape == "one value":
        v[:] = v[0]
    elif shape == "empty heavy":
        k[0], v[0] = 4 * q, 0.0
    elif shape == "small values":
        v *= 2.0**-15
    return halves(q), halves(k), halves(v)


def exact_scores(q: np.ndarray, k: np.ndarray, scale: float) -> np.ndarray:
    return np.asarray(scale * (k @ q))


def assert_sound(
    model: KernelModel, q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, worst: Worst
) -> tuple[Emulated, Judged]:
    """The whole bound, and each of the three quantities that the theorem bounds."""
    done = emulate(q, k, v, scale, model, worst)
    judged = judge(q, k, v, scale, model, done)
    assert judged.error_lb <= judged.bound
    tile = np.arange(len(k)) // model.tile
    near = done.range_bits <= theorem.FAR_BITS
    # logarithms and scores in float64: about d + 8 roundings of numbers of this size
    scores = exact_scores(q, k, scale)
    slack = (k.shape[1] + 16) * 2.0**-52 * (1 + np.abs(scores).max() + norm_ub(q) * norm_ub(k).max() * scale)
    delta, eps = (done.log_weight - scores)[near], judged.log_error_ub[tile][near]
    assert np.max(delta - eps) <= np.min(delta + eps) + slack, "one constant brings every weight within eps_0"
    effective = np.where(near, done.log_weight, -np.inf)
    omega = np.exp(effective - effective.max())
    # float64 sums of at most 2,000 weights, each from a logarithm of up to 2^15 and its rounding: far below 1e-10
    mean = omega @ v / omega.sum()
    apart = float(np.linalg.norm(done.full - mean)) - (len(k) + 8) * 2.0**-52 * np.linalg.norm(v, axis=1).max()
    assert apart <= judged.accumulation_ub
    rho = np.bincount(tile, omega) / omega.sum()
    assert (judged.mass_lb <= rho * (1 + 1e-10)).all()
    assert (judged.mass_ub >= rho * (1 - 1e-10)).all()
    assert (judged.mass_ub > 0).all()
    return done, judged


@given(
    st.sampled_from(VARIANTS),
    st.integers(0, 2**32 - 1),
    st.integers(1, 150),
    st.sampled_from([1, 3, 16, 40]),
    st.sampled_from([0.0, 0.1, 3.0, 40.0, 700.0, 2e4]),
    st.sampled_from(["plain", "rising", "needle", "one value", "empty heavy", "small values"]),
    st.sampled_from([4, 16]),
    st.sampled_from([1, 3]),
    st.sampled_from(list(DIRECTIONS)),
    st.sampled_from(SIGNS),
)
def test_error_is_below_bound(
    model: KernelModel,
    seed: int,
    tokens: int,
    dim: int,
    spread: float,
    shape: str,
    tile: int,
    splits: int,
    cut: str,
    sign: str,
) -> None:
    q, k, v = head(seed, tokens, dim, spread, shape)
    assert_sound(replace(model, tile=tile, splits=splits), q, k, v, 1.0, Worst(cut, sign))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("seed", range(3))
def test_at_length(name: str, seed: int) -> None:
    """2,000 tokens in tiles of 64 and 5 splits, a scale of the usual kind."""
    q, k, v = head(seed, 2000, 64, 64.0, "plain")
    assert_sound(replace(ALL[name], splits=5), q, k, v, 0.125, Worst("down", "plus"))


@pytest.mark.parametrize(("model", "bits"), [(H200_BF16_P, 8), (H200_FP16_P, 11)])
def test_bound_is_not_absurd(model: KernelModel, bits: int) -> None:
    """Where the rounding of P is the error, bound/error is below 2.5; 2 of it is that one group alone is off."""
    # 64 tokens with an exact weight 1/2 and value -1, 64 with one just below the middle between two numbers
    tie = float(np.float32(math.log2(1 + 2.0**-bits * 0.97) - 1))
    k = np.concatenate([np.zeros(1), np.full(64, -1.0), np.full(64, tie)])[:, None]
    v = np.concatenate([np.zeros(1), np.full(64, -1.0), np.full(64, 1.0)])[:, None]
    model = replace(model, tile=129, splits=1)
    _, judged = assert_sound(model, np.ones(1), k, v, LN2, Worst("zero", "plus"))
    assert judged.bound < 2.5 * judged.error_lb


def test_growth_of_the_dot_unit_is_attained() -> None:
    """A chain that loses nearly everything that its steps may lose: at least a quarter of the unit's bound."""
    unit = H200_FP16_P.pv
    n = 64 * unit.step
    start = np.array([0.0])
    a = np.full(n, 1.0)
    # after a first step the accumulator is the largest addend, and every product loses almost 2^-23 of it
    b = np.full((n, 1), 2.0**-23 * 0.999)
    b[0] = 1.0
    got = chain(unit, start, a, b, H200_FP16_P, Worst("down"))
    lost = abs(float(got[0]) - math.fsum(b[:, 0]))
    allowed = theorem.grown(unit.steps(n) * unit.error.value) * math.fsum(b[:, 0])
    assert 0.25 * allowed < lost <= allowed


def test_tensor_core_step() -> None:
    """17 * 2^-25 for 16 products and the accumulator, 2^-23 for the result, and a little for both together."""
    assert 5.25 * 2.0**-23 < H200_FP16_P.qk.error.value < 5.251 * 2.0**-23
    assert IEEE_FP32.qk.steps(100) == 100
    assert H200_FP16_P.qk.steps(100) == 7


def test_subnormal_operands_are_aligned_by_their_field() -> None:
    """Beside 2^-24 * 1 the product 2^-24 * 2^-16 is cut off whole, though by value only 2^-16 apart."""
    unit = H200_FP16_P.pv
    a, b = np.array([1.0, 2.0**-15]), np.full((2, 1), 2.0**-24)
    got = float(chain(unit, np.array([0.0]), a, b, H200_FP16_P, Worst())[0])
    lost = math.fsum(a * b[:, 0]) - got
    assert lost == 0.0
    a[1] = 2.0**-16  # 2^-14 * 1 is the largest exponent, 25 bits below it is 2^-39
    lost = math.fsum(a * b[:, 0]) - float(chain(unit, np.array([0.0]), a, b, H200_FP16_P, Worst())[0])
    values = math.fsum(np.abs(a * b[:, 0]))
    assert lost == 2.0**-40
    assert lost > unit.error.value * values, "relative to values the unit errs by more than its constant"
    floor = unit.floor.value
    sizes = math.fsum(np.maximum(a, floor) * np.maximum(b[:, 0], floor))
    assert lost <= unit.error.value * sizes


def test_exp2_of_the_emulation_uses_its_allowance() -> None:
    y = -np.linspace(0.0, 120.0, 5000)
    for sign in ("plus", "minus"):
        for model in KERNELS:
            error = exp2(y, model, Worst(exp2=sign)) / np.exp2(y) - 1
            assert np.abs(error).max() <= model.exp2.value
            assert np.abs(error[1:]).min() > 0.4 * model.exp2.value
            assert error[0] == 0.0


def test_library_exp2() -> None:
    """Assumption of IEEE_FP32: NumPy's float32 exp2 within 2 ulp, over the vector and scalar paths."""
    y = -np.linspace(0.0, 125.0, 200_001).astype(np.float32)
    for got in (np.exp2(y), np.array([np.exp2(x) for x in y[::997]])):
        true = np.exp2(y[:: (1 if len(got) == len(y) else 997)].astype(np.float64))
        assert np.max(np.abs(got / true - 1)) <= IEEE_FP32.exp2.value


def test_parts_of_the_weights() -> None:
    p = np.exp2(np.linspace(-13.0, 0.0, 3000))
    p = p.astype(np.float32).astype(np.float64)
    for model in KERNELS:
        kept = model.weights
        error = np.abs(sum(stored(p, kept)) - p * 2.0**kept.bias)
        relative = kept.roundoff.value * p * 2.0**kept.bias
        assert (error <= np.maximum(relative, kept.loss.value)).all()


def test_losses_are_charged_by_format() -> None:
    """2^-39 of the largest weight with bias 14, 2^-25 without: 0.4 % and nothing at 128K tokens."""
    biased = theorem.lost_weight_ub(H200_FP16_P, 4)
    plain = theorem.lost_weight_ub(replace(H200_FP16_P, weights=weights(FLOAT16)), 4)
    assert 2.0**-39 < biased < 2.0**-38
    assert 2.0**-25 < plain < 2.0**-24
    assert theorem.lost_weight_ub(H200_BF16_P, 4) < 2.0**-120


def of_a_head(model: KernelModel, tokens: int = 131_072, **changes: object) -> tuple[float, float]:
    """Return eps_0 and eps_acc of a long head with scores of 10 nats and values of norm 1."""
    eps = theorem.log_weight_error_ub(
        model,
        scale=128**-0.5,
        head_dim=128,
        q_norm_ub=np.array([[11.3]]),
        key_size_ub=np.array([[11.3]]),
        range_bits_ub=np.array([[20.0]]),
        score_bits_ub=np.array([[16.0]]),
        updates=6,
    )
    one = np.ones(1)
    acc = theorem.accumulation_ub(
        model, tokens=tokens, head_dim=128, mean_size_ub=one, max_size_ub=one, output_norm_ub=one, updates=6, l_lb=100.0
    )
    return float(eps[0, 0]), float(acc[0])


def test_sizes_of_the_terms() -> None:
    """What the formats cost, to two digits, at 131,072 tokens and d = 128."""
    u = 2.0**-24
    eps, acc = of_a_head(H200_FP16_P)
    score = 8 * 5.25 * 2.0**-23 * 11.3 * 11.3 / 128**0.5
    expected = score + (6 + 2) * 2.0**-22 + math.log(2) * u * (34 + 40) + 2.0**-11
    assert eps == pytest.approx(expected, rel=0.01)
    tiles = 131_072 / 64 / 32
    o = 4 * 5.25 * 2.0**-23 + (tiles + 6 + 33) * u
    l_ = (64 + tiles + 6 + 33 + 1) * u
    assert acc == pytest.approx(o + l_, rel=0.01)
    assert of_a_head(H200_BF16_P)[0] > eps + 2.0**-9
    assert of_a_head(H200_HILO_P)[0] < eps - 2.0**-12


def test_one_level_costs_what_it_costs() -> None:
    """Over 4,096 tokens of a split 256 steps of 5.25 * 2^-23 instead of 4: 1.6e-4 beside 2.5e-6."""
    _, two = of_a_head(H200_FP16_P)
    _, one = of_a_head(replace(H200_FP16_P, two_level=False))
    assert one > 8 * two
    assert one - two == pytest.approx(252 * 5.25 * 2.0**-23, rel=0.1)


@pytest.mark.parametrize(
    "worse",
    [
        {"exp2": Constant("x", 2.0**-20, "assumption", "x")},
        {"weights": weights(BFLOAT16)},
        {"key_rounding": BF16_OPERAND},
        {"query_rounding": BF16_OPERAND},
        {"fused_exponent": False},
        {"scale_constant": Constant("x", 2.0**-10, "proved", "x")},
        {"qk": DotUnit.tensor_core(Constant("tensor-core-width", 4.0, "assumption", "V100"), TC_BITS)},
        {"products": 2},
        {"merges": 4},
    ],
)
def test_every_parameter_of_weights_counts(worse: dict[str, object]) -> None:
    assert of_a_head(replace(H200_FP16_P, **worse))[0] > of_a_head(H200_FP16_P)[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "worse",
    [
        {"two_level": False},
        {"tile": 256},
        {"splits": 2},
        {"value_rounding": BF16_OPERAND},
        {"value_roundings": 3},
        {"division": Constant("x", 2.0**-20, "assumption", "approximate")},
        {"sum_rounded": False},
        {"weights": weights(FLOAT16)},
        {"pv": DotUnit.tensor_core(Constant("tensor-core-width", 4.0, "assumption", "V100"), TC_BITS)},
    ],
)
def test_every_parameter_of_sums_counts(worse: dict[str, object]) -> None:
    assert of_a_head(replace(H200_FP16_P, **worse))[1] > of_a_head(H200_FP16_P)[1]  # type: ignore[arg-type]


def test_ranges() -> None:
    """What could overflow is infinite; a far range costs no more than 140 bits."""
    base = {"scale": 1.0, "head_dim": 4, "q_norm_ub": np.ones((1, 1)), "key_size_ub": np.ones((1, 1)), "updates": 1}
    bits = {"range_bits_ub": np.array([[1e9]]), "score_bits_ub": np.array([[1e3]])}
    far = theorem.log_weight_error_ub(H200_HILO_P, **(base | bits))  # type: ignore[arg-type]
    assert far[0, 0] < 3e-5
    for change in (
        {"key_size_ub": np.array([[1e38]])},
        {"score_bits_ub": np.array([[2.0**23]])},
        {"q_norm_ub": np.array([[np.nan]])},
        {"key_size_ub": np.array([[np.inf]]), "q_norm_ub": np.zeros((1, 1))},
    ):
        got = theorem.log_weight_error_ub(H200_HILO_P, **(base | bits | change))  # type: ignore[arg-type]
        assert got[0, 0] == np.inf
    huge = np.array([1e35])
    acc = theorem.accumulation_ub(
        H200_FP16_P, tokens=9, head_dim=4, mean_size_ub=huge, max_size_ub=huge, output_norm_ub=huge, updates=0
    )
    assert acc[0] == np.inf


def test_cast() -> None:
    norm = np.array([0.0, 1.0, 7e4])
    assert theorem.output_cast_ub(H200_FP16_P, norm, 16).tolist() == [0.0, 0.0, 0.0]
    narrow = theorem.output_cast_ub(replace(H200_FP16_P, output=FLOAT16), norm, 16)
    assert 0 < narrow[0] <= 2.0**-21
    assert 2.0**-11 < narrow[1] < 2.0**-11 + 2.0**-20
    assert narrow[2] == np.inf


def test_settings() -> None:
    with pytest.raises(SettingError, match="updates"):
        of_a_head(replace(H200_FP16_P, exp2=Constant("x", 2.0**-7, "assumption", "x")))
    for wrong in ({"tile": 0}, {"splits": 0}, {"merges": -1}, {"exp2": Constant("x", math.nan, "proved", "x")}):
        with pytest.raises(SettingError):
            replace(H200_FP16_P, **wrong)
    with pytest.raises(SettingError, match="bias"):
        weights(FLOAT16, bias=16)
    with pytest.raises(SettingError, match="parts"):
        weights(FLOAT16, parts=3)
    with pytest.raises(SettingError, match="scale"):
        theorem.log_weight_error_ub(
            IEEE_FP32,
            scale=math.nan,
            head_dim=1,
            q_norm_ub=np.ones((1, 1)),
            key_size_ub=np.ones((1, 1)),
            range_bits_ub=np.ones((1, 1)),
            score_bits_ub=np.ones((1, 1)),
            updates=0,
        )


def test_assumptions_are_listed() -> None:
    """docs/SOUNDNESS.md lists every constant that is an assumption, with its value, and no other."""
    text = (ROOT / "docs/SOUNDNESS.md").read_text("utf-8")
    table = text.split("## Assumptions about kernels")[1].split("\n\n## ")[0]
    listed = dict(re.findall(r"^\| `([a-z0-9-]+)` \| ([^|]+) \|", table, flags=re.MULTILINE))
    assumed = {c.name: c.value for model in KERNELS for c in model.constants() if c.status == "assumption"}
    assumed["binary32-exp"] = outward_fp32.EXP_ALLOWANCE
    assert set(listed) == set(assumed)
    for name, value in assumed.items():
        number = listed[name].strip()
        assert (2.0 ** float(number[2:]) if number.startswith("2^") else float(number)) == value


def test_every_constant_says_what_it_rests_on() -> None:
    lemmas = (ROOT / "proofs/certkv/proofs/lemmas").glob("*.py")
    text = "".join(path.read_text("utf-8") for path in lemmas)
    for model in KERNELS:
        for constant in model.constants():
            assert constant.source
            for name in re.findall(r"kernel_arithmetic\.\w+", constant.source):
                assert f'"{name}"' in text, name
