"""The certificate's parts by themselves: binary32 functions, charges, shapes, and the kernels compiled for Hopper."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from flint import arb, ctx

from certkv.fast import outward_fp32
from certkv.fast.certify import distance_ub, lowered
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.errors import SettingError
from certkv.fast.kernels import outward_fp32 as device
from certkv.fast.outward_fp32 import above, below, check_roundings

from .compiled import SHARED_MEMORY, compiled

SCORE = ScoreCharge(1e-5, 1e-3)
CHARGES = Charges(2.0**-14, SCORE, SCORE, SCORE, 1.001, 1e-10, 0.999, 1e-9, 1e-5, 1e-6, 1e-5, 1e-9)


@triton.jit  # type: ignore[untyped-decorator]
def functions(x, psi, growth, decay, N: tl.constexpr):  # type: ignore[no-untyped-def]
    at = tl.arange(0, N)
    values = tl.load(x + at)
    tl.store(psi + at, device.psi_ub(values))
    tl.store(growth + at, device.expm1_ub(values))
    tl.store(decay + at, device.exp_minus_lb(values))


def evaluate(how: str, x: torch.Tensor) -> list[torch.Tensor]:
    if how == "twin":
        return [outward_fp32.psi_ub(x), outward_fp32.expm1_ub(x), outward_fp32.exp_minus_lb(x)]
    padded = torch.zeros(triton.next_power_of_2(len(x)))
    padded[: len(x)] = x
    out = [torch.empty_like(padded) for _ in range(3)]
    functions[(1,)](padded, *out, N=len(padded))
    return [o[: len(x)] for o in out]


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["twin", "kernel"])
def test_functions_enclose(how: str) -> None:
    """psi and e^x - 1 from above, e^-x from below, each within 1 %, against intervals; both sides of the switch."""
    x = np.concatenate([np.geomspace(1e-12, 80.0, 3000), np.linspace(0.0999, 0.1001, 300)]).astype(np.float32)
    x = x[x < 80.0]
    results = [y.tolist() for y in evaluate(how, torch.from_numpy(x))]
    before, ctx.prec = ctx.prec, 256
    try:
        for argument, psi, growth, decay in zip(x.tolist(), *results, strict=True):
            t = arb(argument)
            exact = (t.expm1() - t) / (t * t)
            assert arb(psi) >= exact, argument
            assert arb(psi) <= exact * arb(1.01), argument
            assert arb(growth) >= t.expm1(), argument
            assert arb(growth) <= t.expm1() * arb(1.01), argument
            assert arb(decay) <= (-t).exp(), argument
            assert arb(decay) * arb(1.01) >= (-t).exp(), argument
    finally:
        ctx.prec = before


@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["twin", "kernel"])
def test_functions_at_the_ends(how: str) -> None:
    psi, growth, decay = evaluate(how, torch.tensor([0.0, 80.5, torch.inf]))
    assert psi[0] >= 0.5
    assert growth[0] >= 0.0
    assert decay[0] <= 1.0
    assert torch.isinf(psi[1:]).all()
    assert torch.isinf(growth[1:]).all()
    assert (decay[1:] == 0).all()


def test_unknown_arguments_give_unknown_results() -> None:
    nothing = torch.tensor([torch.nan])
    assert torch.isinf(outward_fp32.psi_ub(nothing)).all()
    assert torch.isinf(outward_fp32.expm1_ub(nothing)).all()
    assert (outward_fp32.exp_minus_lb(nothing) == 0).all()
    assert torch.isinf(distance_ub(torch.tensor([[1.0, torch.nan]]), torch.zeros(1, 2))).all()


@pytest.mark.parametrize("size", [1e-30, 1e-10, 1.0, 1e10])
def test_distances(size: float) -> None:
    """From above, also where squares underflow; lowered, from below."""
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy((size * rng.standard_normal((50, 96))).astype(np.float32)) for _ in range(2))
    exact = (x.double() - y.double()).norm(dim=-1)
    got = distance_ub(x, y)
    assert (got.double() >= exact).all()
    assert (lowered(got).double() <= exact).all()
    if size >= 1e-10:
        assert (got.double() <= 1.001 * exact).all()
        assert (lowered(got).double() >= 0.99 * exact).all()


def test_rounding_of_constants() -> None:
    for x in (0.1, 1.0, 2.0**-140 / 3, 1e30 / 7):
        assert below(x) <= x <= above(x)
        assert above(x) - below(x) <= max(2.0**-22 * x, 2.0**-149)
    rounded = CHARGES.rounded()
    assert rounded.share_up >= CHARGES.share_up
    assert rounded.mass_down <= CHARGES.mass_down
    assert rounded.coded.constant >= CHARGES.coded.constant
    assert rounded.rounded() == rounded


@pytest.mark.parametrize(
    "change",
    [{"share_up": 0.9}, {"mass_down": 1.1}, {"share_lost": 0.0}, {"of_mean": float("nan")}, {"absolute": -1.0}],
)
def test_charges_that_are_none(change: dict[str, float]) -> None:
    with pytest.raises(SettingError):
        replace(CHARGES, **change)  # type: ignore[arg-type]


def test_shapes_that_round_too_often() -> None:
    check_roundings(128, 800)
    with pytest.raises(SettingError):
        check_roundings(960, 2)
    with pytest.raises(SettingError):
        check_roundings(64, 900)


def test_kernels_compile_without_spills() -> None:
    kernels: Counter[str] = Counter()
    for line in compiled("certify_launches.py"):
        name, registers, spills, shared, loose = line
        kernels[name] += 1
        assert (spills, loose) == (0, 0), line
        assert registers <= 255, line
        assert shared <= SHARED_MEMORY, line
    # four pairs of formats, four units of the tolerance in one of them
    per_format = ("score_error_kernel", "certify_kernel", "resident_terms_kernel")
    assert kernels == {**dict.fromkeys(per_format, 4), "choose_kernel": 7, "compact_kernel": 7}
