"""Attend and merge: the twin, and the kernel as the interpreter runs it, against float64 of the decoded cache.

Differences are judged by the terms of the arithmetic model alone (`attend_scene.judge`).
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast import arithmetic
from certkv.fast.attend import attend_twin
from certkv.fast.errors import SettingError
from certkv.fast.kernels.attend import launch
from certkv.fast.kernels.merge import launch as launch_merge
from certkv.fast.merge import merge_twin
from certkv.fast.workspace import Workspace, plan_workspace

from .attend_scene import Judged, Scene, all_weights, judge, scene

INTERPRETED = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]

SCENES: dict[str, dict[str, Any]] = {
    "int4": {"lengths": [150, 37], "q_heads": 8, "kv_heads": 2, "head_dim": 128, "block": 64, "values": "int4"},
    "int8": {"lengths": [128, 65], "q_heads": 4, "kv_heads": 1, "head_dim": 128, "block": 64, "values": "int8"},
    "int4, bfloat16": {
        "lengths": [70], "q_heads": 3, "kv_heads": 1, "head_dim": 80, "block": 16, "values": "int4",
        "dtype": torch.bfloat16,
    },
    "int4-g32": {"lengths": [75], "q_heads": 2, "kv_heads": 2, "head_dim": 64, "block": 32, "values": "int4-g32"},
    "int4-g32, bfloat16": {
        "lengths": [50], "q_heads": 2, "kv_heads": 1, "head_dim": 96, "block": 16, "values": "int4-g32",
        "dtype": torch.bfloat16,
    },
    "int8-g64": {"lengths": [50], "q_heads": 5, "kv_heads": 1, "head_dim": 80, "block": 16, "values": "int8-g64"},
    "a head size of 192": {
        "lengths": [50], "q_heads": 2, "kv_heads": 1, "head_dim": 192, "block": 16, "values": "int4",
    },
    "a head size of 256": {
        "lengths": [35], "q_heads": 16, "kv_heads": 1, "head_dim": 256, "block": 16, "values": "int8",
    },
    "odd blocks": {"lengths": [61], "q_heads": 5, "kv_heads": 1, "head_dim": 96, "block": 15, "values": "int4"},
    "odd blocks of bytes": {
        "lengths": [61], "q_heads": 1, "kv_heads": 1, "head_dim": 64, "block": 17, "values": "int8",
    },
    "odd blocks in groups": {
        "lengths": [61], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 15, "values": "int4-g32",
    },
    "a pinned block": {
        "lengths": [70, 16, 15], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int4",
        "pinned": 1,
    },
    "one token": {"lengths": [1], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int4"},
    "more splits than blocks": {
        "lengths": [33], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int4", "splits": 7,
    },
    "one split": {
        "lengths": [130], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int8", "splits": 1,
    },
    "huge scores": {
        "lengths": [100], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int4", "loud": 300.0,
    },
    "huge scores, bfloat16": {
        "lengths": [100], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int8",
        "dtype": torch.bfloat16, "loud": 3000.0,
    },
    "tiny keys": {
        "lengths": [100], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int4", "loud": 1e-6,
        "scale": 1000.0,
    },
    "a negative scale": {
        "lengths": [70], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int4", "scale": -0.2,
    },
    "oscar": {
        "lengths": [150, 37], "q_heads": 8, "kv_heads": 2, "head_dim": 128, "block": 64, "keys": "oscar",
        "values": "oscar",
    },
    "oscar, bfloat16": {
        "lengths": [100, 70], "q_heads": 3, "kv_heads": 1, "head_dim": 80, "block": 32, "keys": "oscar",
        "values": "oscar", "dtype": torch.bfloat16, "pinned": 1,
    },
    "oscar of 4 bits": {
        "lengths": [200], "q_heads": 4, "kv_heads": 4, "head_dim": 64, "block": 64, "keys": "oscar-4",
        "values": "oscar-4",
    },
    "oscar of 4 bits, bfloat16": {
        "lengths": [140], "q_heads": 4, "kv_heads": 1, "head_dim": 96, "block": 64, "keys": "oscar-4-g64",
        "values": "oscar-4", "dtype": torch.bfloat16,
    },
    "oscar, odd blocks": {
        "lengths": [131], "q_heads": 5, "kv_heads": 1, "head_dim": 72, "block": 45, "keys": "oscar-head",
        "values": "oscar-g64",
    },
    "keys of oscar, scaled only": {
        "lengths": [70], "q_heads": 2, "kv_heads": 2, "head_dim": 64, "block": 16, "keys": "oscar-scaling",
        "values": "int4",
    },
    "values of oscar": {
        "lengths": [70], "q_heads": 2, "kv_heads": 1, "head_dim": 128, "block": 16, "values": "oscar",
    },
    "kivi, loud": {
        "lengths": [150], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 64, "keys": "kivi", "values": "kivi",
        "loud": 20.0,
    },
    "oscar, tiny and a large scale": {
        "lengths": [150], "q_heads": 2, "kv_heads": 2, "head_dim": 64, "block": 64, "keys": "oscar", "values": "oscar",
        "loud": 1e-5, "scale": -1000.0,
    },
    "a scale of zero": {
        "lengths": [70], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int4", "scale": 0.0,
    },
}  # fmt: skip


def with_twin(s: Scene) -> Workspace:
    out = s.workspace()
    attend_twin(s.q, s.coded, s.cache.resident, s.scale, out)
    merge_twin(out)
    return out


def with_kernel(s: Scene) -> Workspace:
    out = s.workspace()
    launch(s.q, s.coded, s.cache.resident, s.scale, out)
    launch_merge(out, None)
    return out


def assert_within(judged: Judged) -> None:
    assert max(judged) <= 1.0, judged


@pytest.mark.parametrize("name", SCENES)
def test_twin(name: str) -> None:
    s = scene(**SCENES[name])
    assert_within(judge(s, with_twin(s), arithmetic.TWIN))


@pytest.mark.parametrize("name", [pytest.param(name, marks=INTERPRETED) for name in SCENES])
def test_kernel_interpreted(name: str) -> None:
    s = scene(**SCENES[name])
    assert_within(judge(s, with_kernel(s), arithmetic.INTERPRETED))


@pytest.mark.parametrize("with_pass", [with_twin, pytest.param(with_kernel, marks=INTERPRETED)])
def test_denominator_is_the_sum_of_executed_weights(with_pass: Any) -> None:
    s = scene(**SCENES["a pinned block"])
    out = with_pass(s)
    error = arithmetic.sum_error(arithmetic.TWIN, s.sums()) + 2.0**-16 * arithmetic.U  # as the twin sums, in any order
    factor_error = 2.0 * arithmetic.EXP2 * arithmetic.factors(s.sums())
    for at, (weights, reference) in all_weights(s, out).items():
        total = (weights * torch.exp2(reference - out.m[at].double())).sum()
        assert abs(float(out.l[at].double() / total) - 1.0) <= error + factor_error
        assert torch.equal(weights, weights.to(torch.float16).to(torch.float64))


@pytest.mark.parametrize("with_pass", [with_twin, pytest.param(with_kernel, marks=INTERPRETED)])
def test_what_is_not_covered_is_not_touched(with_pass: Any) -> None:
    s = scene(**SCENES["a pinned block"])
    out = with_pass(s)
    for sequence, tokens in enumerate(s.cache.tokens):
        blocks = tokens // s.cache.block
        assert out.weights[sequence, :, blocks:].isnan().all()
        assert out.weights[sequence, :, :1].isnan().all()
        assert out.reference[sequence, :, blocks:].isnan().all()
        assert (out.resident_weights[sequence, :, 1, tokens % s.cache.block :] == 0).all()
        assert (out.resident_reference[sequence, :, 0].isinf()).all() == (blocks == 0)
    assert out.output.isfinite().all()


@pytest.mark.parametrize("with_pass", [with_twin, pytest.param(with_kernel, marks=INTERPRETED)])
def test_a_defect_shows(with_pass: Any) -> None:
    """The judge is not blind: one code of a heavy token off by a few steps is beyond what rounding explains."""
    s = scene(**SCENES["int8"])
    out = with_pass(s)
    page = int(s.cache.pages.table[0, 0])
    s.cache.pool.value_codes[page, 0, 3] ^= 0x10
    model = arithmetic.TWIN if with_pass is with_twin else arithmetic.INTERPRETED
    assert judge(s, out, model).output > 1.0
    s.cache.pool.value_codes[page, 0, 3] ^= 0x10
    s.cache.pool.key_codes[page, 0, 3] ^= 0x04
    assert judge(s, out, model).weights > 1.0


@pytest.mark.parametrize("with_pass", [with_twin, pytest.param(with_kernel, marks=INTERPRETED)])
def test_a_query_that_is_not_finite_gives_no_number(with_pass: Any) -> None:
    s = scene(**SCENES["int4"])
    s.q[0, 1, 5] = torch.nan
    out = with_pass(s)
    assert out.output[0, 1].isnan().all()
    assert out.l[0, 1].isnan()
    assert out.output[0, 0].isfinite().all()


@pytest.mark.parametrize(
    ("heads", "message"),
    [((6, 4), "6 query heads do not share 4 KV heads"), ((6, 0), "kv_heads is 0"), ((0, 2), "q_heads is 0")],
)
def test_a_workspace_of_no_shape_is_refused(heads: tuple[int, int], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        plan_workspace(1, *heads, 64, 16, 4, 2)
