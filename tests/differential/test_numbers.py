"""Roundings and factors against the reference, in torch and in the functions that kernels share."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from certkv.fast import log_codes as fast_codes
from certkv.fast import numbers as fast
from certkv.fast.operator_norm import operator_norm_ub as fast_operator
from certkv.reference import numbers as reference
from certkv.reference.annotations import log_codes
from certkv.reference.annotations.operator_norm import operator_norm_ub
from certkv.reference.numbers import BFLOAT16, FLOAT16, FLOAT32, FloatType

from .bridge import DEVICE, INTERPRETED_KERNELS, TORCH, bits, to_torch
from .rounding_kernel import log_codes_kernel, rounding_kernel

pytestmark = INTERPRETED_KERNELS

TYPES = [FLOAT16, BFLOAT16]
types = pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)


def all_finite(ft: FloatType) -> npt.NDArray[np.float64]:
    """Every finite number of a 16-bit type that is not negative."""
    infinity = 0x7C00 if ft is FLOAT16 else 0x7F80
    return np.asarray(np.arange(infinity, dtype=np.uint16).view(ft.dtype).astype(np.float64))


def around(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The numbers, their float64 neighbours, and what lies in between: a tie and its neighbours, a third."""
    middle = (numbers[1:] + numbers[:-1]) / 2
    near = [np.nextafter(x, to) for x in (numbers, middle) for to in (-np.inf, np.inf)]
    beyond = numbers[-1] * np.array([1 + 2.0**-52, 1.001, 2.0, 2.0**60])
    every = np.concatenate([numbers, middle, *near, (2 * numbers[1:] + numbers[:-1]) / 3, beyond])
    return np.asarray(every[every >= 0])


@types
def test_directed_rounding(ft: FloatType) -> None:
    x = around(all_finite(ft))
    x = np.concatenate([x, -x, [np.inf, -np.inf]])
    for mine, theirs in ((fast.round_up, reference.round_up), (fast.round_down, reference.round_down)):
        got = mine(torch.from_numpy(x), TORCH[ft.name])
        np.testing.assert_array_equal(bits(got + 0.0), (theirs(x, ft) + ft.dtype.type(0)).view(np.uint16))


def test_directed_rounding_to_single() -> None:
    rng = np.random.default_rng(5)
    single = rng.integers(0, 0x7F800000, size=20_000, dtype=np.uint32).view(np.float32).astype(np.float64)
    x = around(np.sort(single))
    np.testing.assert_array_equal(
        bits(fast.round_up(torch.from_numpy(x), torch.float32)), reference.round_up(x, FLOAT32).view(np.uint32)
    )
    np.testing.assert_array_equal(
        bits(fast.round_down(torch.from_numpy(x), torch.float32)), reference.round_down(x, FLOAT32).view(np.uint32)
    )


def singles(rng: np.random.Generator, n: int) -> npt.NDArray[np.float32]:
    """FP32 numbers, a third subnormal, with few significant bits or many."""
    patterns = rng.integers(0, 0x7F800000, size=n, dtype=np.uint32)
    patterns[: n // 3] %= np.uint32(0x00800000)
    patterns[::2] &= np.uint32(0xFFFF0000)
    return np.asarray(rng.permutation(patterns).view(np.float32))


def test_one_operation_in_float64_rounded_is_one_in_fp32() -> None:
    rng = np.random.default_rng(11)
    a, b = singles(rng, 300_000), singles(rng, 300_000)
    a64, b64 = (torch.from_numpy(x.astype(np.float64)) for x in (a, b))
    with np.errstate(all="ignore"):
        expected = (a - b, a / b, a * b)
    for mine, theirs in zip((a64 - b64, a64 / b64, a64 * b64), expected, strict=True):
        known = ~np.isnan(theirs)
        np.testing.assert_array_equal(fast.fp32(mine).to(torch.float32).numpy()[known], theirs[known])


@given(st.integers(0, 2**40))
def test_factors(n: int) -> None:
    assert fast.gamma(n) == reference.gamma(n)
    assert fast.outward(n) == reference.outward(n)


@types
def test_rounding_in_kernels(ft: FloatType) -> None:
    """Up to either type, down to bfloat16, and every 16-bit number there and back."""
    size = 1 << 17
    x = around(all_finite(ft))
    x = np.resize(np.concatenate([x, [np.inf]]), 2 * size)
    patterns = np.resize(all_finite(ft).astype(ft.dtype).view(np.int16), 2 * size)
    patterns[size:] |= np.int16(-(2**15))
    out = [torch.empty(2 * size, dtype=torch.int16, device=DEVICE) for _ in range(3)]
    wide = torch.empty(2 * size, dtype=torch.float64, device=DEVICE)
    rounding_kernel[(2 * size // 4096,)](
        torch.from_numpy(x).to(DEVICE),
        torch.from_numpy(patterns).to(DEVICE),
        out[0],
        out[1],
        wide,
        out[2],
        N=4096,
        BFLOAT=ft is BFLOAT16,
        enable_fp_fusion=False,
    )
    np.testing.assert_array_equal(bits(out[0]), reference.round_up(x, ft).view(np.uint16))
    # the largest finite number, also below infinity itself: a bound that is stored so is never infinite
    below = reference.round_down(np.where(np.isinf(x), 0.0, x), BFLOAT16).view(np.uint16)
    np.testing.assert_array_equal(bits(out[1])[np.isfinite(x)], below[np.isfinite(x)])
    np.testing.assert_array_equal(wide.cpu().numpy(), patterns.view(ft.dtype).astype(np.float64))
    np.testing.assert_array_equal(bits(out[2]), patterns.view(np.uint16))


@given(seed=st.integers(0, 2**32 - 1))
def test_log_codes(seed: int) -> None:
    """On, just above and just below what codes mean; far below all; maxima 0, subnormal, infinite; twin and kernel."""
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 0x7F80, size=4, dtype=np.uint16)
    pattern[0], pattern[1] = rng.choice([0, 1, 0x7F80, 0x7F7F]), rng.integers(0, 128)
    maximum = pattern.view(BFLOAT16.dtype)
    meaning = log_codes.RATIOS * np.where(np.isinf(maximum), 1.0, maximum.astype(np.float64))[:, None]
    x = np.concatenate([meaning, np.nextafter(meaning, 0), np.nextafter(meaning, np.inf), meaning / 3], axis=1)
    x = np.minimum(x, meaning[:, :1])
    x[:, -1] = 0.0
    stored = to_torch(maximum, BFLOAT16)
    codes = fast_codes.encode(torch.from_numpy(x), stored)
    expected = log_codes.encode(x, maximum)
    np.testing.assert_array_equal(codes.numpy(), expected)
    by_kernel = torch.empty(x.shape, dtype=torch.uint8, device=DEVICE)
    log_codes_kernel[(len(x),)](
        torch.from_numpy(x).to(DEVICE),
        stored.view(torch.int16).to(DEVICE),
        fast_codes.ratios(torch.device(DEVICE)),
        by_kernel,
        N=x.shape[1],
    )
    np.testing.assert_array_equal(bits(by_kernel), expected)
    np.testing.assert_array_equal(fast_codes.decode(codes, stored).numpy(), log_codes.decode(expected, maximum))


@given(
    seed=st.integers(0, 2**32 - 1), rows=st.integers(1, 20), columns=st.integers(1, 40), scale=st.integers(-300, 300)
)
def test_operator_norm(seed: int, rows: int, columns: int, scale: int) -> None:
    """The same bound as the reference, but for the order of sums: 2^-40 is more than both charge for rounding."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((2, rows, columns)) * 2.0**scale
    x[1] *= rng.random((rows, columns)) < 0.1
    mine = fast_operator(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(mine, operator_norm_ub(x), rtol=2.0**-40, atol=0.0)
    largest = np.linalg.svd(x, compute_uv=False)[:, 0]
    assert (mine >= largest * (1 - 2.0**-40)).all()


def test_operator_norm_of_what_is_not_finite() -> None:
    x = torch.ones(2, 3, 4, dtype=torch.float64)
    x[0, 1, 2], x[1, 0, 0] = torch.nan, torch.inf
    assert torch.isinf(fast_operator(x)).all()


def test_planted_mistakes_are_seen() -> None:
    """A rounding through FP32 to nearest and a code one too large are what the comparisons above must tell apart."""
    x = torch.tensor([1.0 + 2.0**-40], dtype=torch.float64)
    wrong: Any = x.to(torch.float32).to(torch.bfloat16)
    assert not torch.equal(wrong, fast.round_up(x, torch.bfloat16))
    one = torch.ones((), dtype=torch.bfloat16)
    code = fast_codes.encode(x - 2.0**-39, one)
    assert fast_codes.decode(code, one) >= x - 2.0**-39
    assert not (fast_codes.decode(code + 1, one) >= x - 2.0**-39).any()
