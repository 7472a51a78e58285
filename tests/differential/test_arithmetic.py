"""The arithmetic of the kernels against the reference's theorem, for the same kernel described in its terms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from certkv.fast import arithmetic, grouped_arithmetic
from certkv.fast.arithmetic import Arithmetic, Sums, charges
from certkv.fast.charges import LARGEST_SIZE
from certkv.fast.workspace import BIAS
from certkv.reference.bounds import kernel_arithmetic as theorem
from certkv.reference.bounds import kernel_model
from certkv.reference.bounds.kernel_model import KernelModel
from certkv.reference.numbers import BFLOAT16, FLOAT16, FLOAT32

SHAPES = (
    Sums(131_072, 128, 64, 132, 4, 0, bfloat16=False),
    Sums(8_192, 128, 64, 32, 8, 0, bfloat16=False),
    Sums(40_000, 96, 16, 7, 4, 32, bfloat16=True),
    Sums(1, 64, 15, 1, 8, 64, bfloat16=False),
    Sums(131_072, 128, 64, 132, 2, 32, False, key_bits=2, key_group=32, scaled=True, rotated=(True, True)),
    Sums(9_000, 80, 40, 9, 4, 32, True, key_bits=4, key_group=32, scaled=False, rotated=(True, False)),
)
MODELS = (arithmetic.TWIN, arithmetic.H200)
OUTPUTS = {torch.float32: FLOAT32, torch.float16: FLOAT16, torch.bfloat16: BFLOAT16}


def described(model: Arithmetic, sums: Sums, output: torch.dtype = torch.float32) -> KernelModel:
    """The same kernel in the reference's terms."""
    kernel = kernel_model.IEEE_FP32 if model is arithmetic.TWIN else kernel_model.H200_FP16_P
    rounding = kernel_model.Constant("decoding", arithmetic.U, "proved", "one rounding of a decoded number")
    turned = grouped_arithmetic.turned(sums.head_dim)
    query = turned * sums.rotated[0] + arithmetic.U * sums.scaled
    return replace(
        kernel,
        query_rounding=kernel_model.Constant("rotated-query", query, "proved", "theorem rotation, and the norm after"),
        value_roundings=grouped_arithmetic.turning(sums.head_dim) if sums.rotated[1] else 0,
        weights=kernel_model.weights(FLOAT16, bias=BIAS),
        tile=sums.tile(model),
        splits=sums.splits + 1,
        key_rounding=rounding if model is arithmetic.TWIN else kernel_model.EXACT,
        output=OUTPUTS[output],
    )


def test_constants_are_those_of_the_reference() -> None:
    for mine, theirs in ((arithmetic.TWIN, kernel_model.IEEE_FP32), (arithmetic.H200, kernel_model.H200_FP16_P)):
        assert mine.step == theirs.qk.step == theirs.pv.step
        assert mine.step_error == theirs.qk.error.value == theirs.pv.error.value
        assert mine.floor == theirs.qk.floor.value == theirs.pv.floor.value
        assert mine.flush == theirs.flush.value
        assert mine.fused_exponent == theirs.fused_exponent
        assert theirs.exp2.value == arithmetic.EXP2
        assert arithmetic.U == theirs.roundoff.value == theirs.division.value
        assert theirs.scale_constant.value == arithmetic.STORED_CONSTANT
    weights = kernel_model.H200_FP16_P.weights
    assert (weights.roundoff.value, weights.loss.value, weights.bias) == (arithmetic.U_P, arithmetic.P_LOSS, BIAS)
    for name in ("LN2_UB", "FAR_BITS", "FAR", "CODES"):
        assert getattr(arithmetic, name) == getattr(theorem, name), name


def log_weight_error(kernel: KernelModel, sums: Sums, size: float, score_bits: float) -> float:
    found = theorem.log_weight_error_ub(
        kernel,
        scale=1.0,
        head_dim=sums.head_dim,
        q_norm_ub=np.array([[1.0]]),
        key_size_ub=np.array([[size]]),
        range_bits_ub=np.array([[theorem.FAR_BITS]]),
        score_bits_ub=np.array([[score_bits]]),
        updates=sums.tiles - 1,
    )
    return float(found[0, 0])


@pytest.mark.parametrize("sums", SHAPES)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_constant_part_of_a_log_weight(model: Arithmetic, sums: Sums) -> None:
    # a size of 0, and no score: with one, an unfused kernel's rounding of x c is in `relative`
    expected = log_weight_error(described(model, sums), sums, 0.0, 0.0)
    assert expected <= arithmetic.weight_constant(model, sums) <= 1.01 * expected


@pytest.mark.parametrize("sums", SHAPES)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_relative_part_of_a_log_weight(model: Arithmetic, sums: Sums) -> None:
    kernel = described(model, sums)
    if model is arithmetic.H200:
        # 64 channels at a time, zeros beyond the last
        kernel = replace(kernel, qk=replace(kernel.qk, step=1, error=replace(kernel.qk.error, value=0.0)))
        kernel = replace(
            kernel,
            qk=replace(
                kernel.qk,
                error=replace(kernel.qk.error, value=model.steps(64 * sums.chunks) * model.step_error / sums.head_dim),
            ),
        )
    plain = replace(kernel, key_rounding=kernel_model.EXACT, query_rounding=kernel_model.EXACT)
    pairs = [(arithmetic.original_score(model, sums), plain)]
    if not model.centred:
        pairs.append((arithmetic.coded_score(model, sums), kernel))
    for size in (1.0, 1000.0, LARGEST_SIZE / 4):
        for charge, used in pairs:
            # sizes in the theorem are products of norms: of one channel, the same
            expected = log_weight_error(used, sums, size, size * 1.4427)
            floor = model.floor * sums.head_dim**0.5 * (1.0 + size + sums.head_dim**0.5 * model.floor)
            mine = charge.relative * (size + floor) + charge.constant
            assert expected <= mine * (1 + 2.0**-20)
            assert mine <= 1.1 * expected + (2.0 * arithmetic.U + charge.relative * floor) * size


@pytest.mark.parametrize("output", OUTPUTS, ids=str)
@pytest.mark.parametrize("sums", SHAPES)
@pytest.mark.parametrize("model", MODELS, ids=lambda m: m.name)
def test_accumulation_and_masses(model: Arithmetic, sums: Sums, output: torch.dtype) -> None:
    found = charges(model, sums, output)
    kernel = described(model, sums, output)
    updates = sums.tiles - 1
    rng = np.random.default_rng(1)
    mean, largest, norm = np.sort(np.exp2(rng.uniform(-20, 15, (3, 200))), axis=0)[[1, 2, 0]]
    expected = theorem.accumulation_ub(
        kernel,
        tokens=sums.tokens,
        head_dim=sums.head_dim,
        mean_size_ub=mean,
        max_size_ub=largest,
        output_norm_ub=norm,
        updates=updates,
    )
    mine = found.of_mean * mean + found.of_largest * largest + found.of_output * norm + found.absolute
    assert (expected <= mine).all()
    # ours also rounds metadata and sums P, at most the tile once more; what codes as operands cost stands in no model
    folded = np.zeros_like(mean)
    if sums.group and model is arithmetic.H200:
        unit = model.steps(max(sums.tile(model), sums.values.products)) * model.step_error
        folded = sums.values.relative(unit, model.step_error)[1] * mean
        folded += 2.0 * sums.values.lost(unit, model.step_error, sums.tokens, BIAS) * largest
        folded += 2.0 * sums.values.absolute(unit, model.step_error, sums.tokens, BIAS)
        folded += arithmetic.two_passes(model, sums) * norm
        # what small operands count as, relative to the error of o: minima, perhaps steps, and weights
        small = model.floor * found.of_mean
        folded += small * (2.0 * sums.head_dim**0.5 + 2.0 * sums.tokens * 2.0**-BIAS * largest)
        assert (folded <= 1.001 * mine).all()
    assert (mine - folded <= 6.0 * expected).all()
    cast = theorem.output_cast_ub(kernel, norm, sums.head_dim)
    if output is not torch.float32:
        assert (cast <= found.cast_relative * norm + found.cast_absolute).all()
    error = theorem.mass_error_ub(
        kernel,
        tokens=sums.tokens,
        block=sums.block,
        range_bits_ub=np.array([theorem.FAR_BITS]),
        updates=updates,
    )
    shares = np.exp2(rng.uniform(-60, 0, 200))
    # one token's share: weights sum to at least 1/2, any of the N may have lost `lost`, this one too
    lost = float(theorem.lost_weight_ub(kernel, updates)) + kernel.flush.value
    for whole in (0.5, 1.0, float(sums.tokens)):
        above = (shares * whole * (1.0 + error[0]) + lost) / (whole - sums.tokens * lost)
        assert (above <= found.share_up * shares + found.share_lost).all()
        below = (shares * whole / (1.0 + error[0]) - sums.block * lost) / (whole + sums.tokens * lost)
        assert (found.mass_down * shares - found.mass_lost <= below).all()
    assert found.share_up - 1.0 <= 2.0 * float(error[0]) + 8.0 * sums.tokens * lost
