"""Rung 3: twin and interpreted kernel against float64 of the originals, by the arithmetic model; other heads stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast import arithmetic
from certkv.fast.arithmetic import Arithmetic, charges
from certkv.fast.exact_head import exact_head, exact_head_twin
from certkv.fast.kernels.exact_head import launch
from certkv.fast.kernels.merge import launch as launch_merge
from certkv.fast.merge import merge_twin
from certkv.fast.resident import TAIL
from certkv.fast.workspace import Workspace

from .attend_scene import Scene, output_bound, ratio, scene

INTERPRETED = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]
SCENES: dict[str, dict[str, Any]] = {
    "float16": {"lengths": [75, 33], "q_heads": 6, "kv_heads": 2, "head_dim": 80, "block": 16, "values": "int4"},
    "bfloat16": {
        "lengths": [40], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int8",
        "dtype": torch.bfloat16,
    },
    "only a tail": {"lengths": [9], "q_heads": 2, "kv_heads": 1, "head_dim": 192, "block": 16, "values": "int8"},
    "no tail": {"lengths": [48], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 16, "values": "int8"},
    "huge scores": {
        "lengths": [60], "q_heads": 2, "kv_heads": 1, "head_dim": 64, "block": 15, "values": "int8", "loud": 300.0,
    },
}  # fmt: skip


def moved(s: Scene) -> torch.Tensor:
    """Counters of bytes, at 0."""
    return torch.zeros(s.cache.batch, dtype=torch.int64)


def with_twin(s: Scene, out: Workspace) -> torch.Tensor:
    """Return the bytes moved."""
    found = moved(s)
    exact_head_twin(s.q, s.coded, s.cache.resident, s.cache.originals, s.cache.scratch, found, s.scale, out)
    merge_twin(out, out.flags)
    return found


def with_kernel(s: Scene, out: Workspace) -> torch.Tensor:
    found = moved(s)
    launch(s.q, s.coded, s.cache.resident, s.cache.originals, s.cache.scratch, found, s.scale, out)
    launch_merge(out, out.flags)
    return found


WAYS = [
    pytest.param(with_twin, arithmetic.TWIN, id="twin"),
    pytest.param(with_kernel, arithmetic.INTERPRETED, marks=INTERPRETED, id="kernel"),
]


def originals_of(s: Scene, sequence: int, head: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys and values in float64 [N, d]."""
    block, tokens = s.cache.block, s.cache.tokens[sequence]
    sides = []
    for full, held in (
        (s.cache.originals.keys, s.cache.resident.keys),
        (s.cache.originals.values, s.cache.resident.values),
    ):
        blocks = full[sequence, head, : tokens // block].reshape(-1, s.cache.head_dim)
        sides.append(torch.cat([blocks, held[sequence, head, TAIL, : tokens % block]]).to(torch.float64))
    return sides[0], sides[1]


@pytest.mark.parametrize(("way", "model"), WAYS)
@pytest.mark.parametrize("name", SCENES)
def test_flagged_heads(name: str, way: Any, model: Arithmetic) -> None:
    s = scene(**SCENES[name])
    out = s.workspace()
    out.flags[:, ::2] = 1
    for tensor in (out.output, out.lse, out.m, out.l, out.o):
        tensor.fill_(-7.0)
    way(s, out)
    allowed = charges(model, s.sums())
    group = s.q.shape[1] // s.cache.kv_heads
    for sequence in range(s.cache.batch):
        for at in range(0, s.q.shape[1], 2):
            k, v = originals_of(s, sequence, at // group)
            q = s.q[sequence, at].to(torch.float64)
            shares = torch.softmax(k @ q * s.scale, 0)
            floor = allowed.floor
            size = abs(s.scale) * (q.abs().clamp(min=floor) * k.abs().clamp(min=floor)).sum(-1)
            eps = allowed.original.relative * size + allowed.original.constant
            exact = shares @ v
            error = (out.output[sequence, at].to(torch.float64) - exact).norm()
            assert ratio(error, output_bound(allowed, shares, v, exact, eps)) <= 1.0
        assert (out.output[sequence, 1::2] == -7.0).all()
        assert (out.lse[sequence, 1::2] == -7.0).all()


@pytest.mark.parametrize(("way", "model"), WAYS)
def test_nothing_is_written_where_nothing_is_flagged(way: Any, model: Arithmetic) -> None:
    s = scene(**SCENES["float16"])
    out = s.workspace()
    way(s, out)
    for tensor in (out.part_m, out.part_l, out.part_o, out.output, out.m, out.l, out.o, out.lse):
        assert tensor.isnan().all()


@pytest.mark.parametrize(("way", "model"), WAYS)
def test_originals_that_are_missing_give_no_number(way: Any, model: Arithmetic) -> None:
    s = scene(**SCENES["float16"])
    s.cache.originals.erase(0, 2, 3)
    out = s.workspace()
    out.flags[:] = 1
    way(s, out)
    assert out.output[0].isnan().all()
    assert out.output[1].isfinite().all()


@pytest.mark.parametrize(("way", "model"), WAYS)
@pytest.mark.parametrize("name", SCENES)
def test_a_pinned_block_is_read_where_it_lies(name: str, way: Any, model: Arithmetic) -> None:
    """The same bits from the resident copy alone, and what is moved is what certificates count: all other blocks."""
    outputs, bytes_moved = [], []
    for pinned in (0, 1):
        s = scene(**SCENES[name], pinned=pinned)
        if pinned and max(s.cache.tokens) >= s.cache.block:
            s.cache.originals.keys[:, :, 0] = s.cache.originals.values[:, :, 0] = float("nan")
        out = s.workspace()
        out.flags[:] = 1
        bytes_moved.append(way(s, out))
        outputs.append(out.output)
    assert torch.equal(*outputs)
    size = 2 * s.cache.kv_heads * s.cache.originals.host_block_bytes
    assert size > 0
    blocks = [tokens // s.cache.block for tokens in s.cache.tokens]
    assert [x.tolist() for x in bytes_moved] == [[size * n for n in blocks], [size * max(0, n - 1) for n in blocks]]


def test_dispatch_on_a_cpu_is_the_twin() -> None:
    s = scene(**SCENES["float16"])
    mine, twin = s.workspace(), s.workspace()
    for out in (mine, twin):
        out.flags[:] = 1
    exact_head(s.q, s.coded, s.cache.resident, s.cache.originals, s.cache.scratch, moved(s), s.scale, mine)
    with_twin(s, twin)
    assert torch.equal(mine.output, twin.output)
