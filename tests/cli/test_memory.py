"""``certkv memory``: the bytes of a real cache and plan, found without allocating them; the table in the guide."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from certkv.cli.main import build_parser
from certkv.cli.memory import planned
from certkv.fast import Budget, Naive, PaperPolicy, TieredCache
from certkv.fast.plan import Plan
from certkv.fast.policies import Policy
from certkv.fast.splits import PROGRAMS_PER_MULTIPROCESSOR, RESIDENT_PROGRAMS, splits_of, splits_on

from .support import Run

GUIDE = Path(__file__).resolve().parents[2] / "docs/fast.md"
SHAPE = ("--batch", "2", "--q-heads", "6", "--kv-heads", "3", "--head-dim", "40")
OPTIONS = (*SHAPE, "--block", "16", "--dtype", "bfloat16")


@pytest.mark.parametrize("values", ["int4", "int8-g64"])
@pytest.mark.parametrize("policy", [Naive(), PaperPolicy(), Budget()])
def test_figures_are_those_of_a_real_cache_and_plan(policy: Policy, values: str) -> None:
    arguments = build_parser().parse_args(["memory", *OPTIONS, "--policy", policy.name, "--values", values])
    column = planned(arguments, 200)
    cache = TieredCache(2, 3, 40, 200, torch.bfloat16, values=values, block=16)
    real = Plan(cache, 6, policy, 0.5, torch.bfloat16, multiprocessors=132)
    assert column.memory.rows == real.memory().rows
    assert column.memory.later == real.memory().later
    assert column.memory.dense == real.memory().dense == 2 * 200 * 3 * 40 * 2 * 2


@pytest.mark.parametrize("multiprocessors", [1, 46, 132])
@pytest.mark.parametrize("shape", [(1, 8, 2048), (8, 8, 2048), (1, 1, 3), (64, 8, 128)])
def test_splits_are_those_of_a_gpu(
    shape: tuple[int, int, int], multiprocessors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan asks the device, which is not here: the same on what such a device would say, and one wave of programs.

    Or else too few would be left for one, or there are no more splits than blocks.
    """
    batch, kv_heads, max_blocks = shape
    found = SimpleNamespace(multi_processor_count=multiprocessors)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: found)
    device = torch.device("cuda")
    cache: Any = SimpleNamespace(
        batch=batch,
        kv_heads=kv_heads,
        max_blocks=max_blocks,
        device=device,
        keys="int8",
        values="int4",
        head_dim=128,
        block=64,
        dtype=None,
    )
    splits = splits_on(cast(TieredCache, cache), multiprocessors)
    assert splits == splits_of(cache)
    places = multiprocessors * PROGRAMS_PER_MULTIPROCESSOR
    if places >= 5 * RESIDENT_PROGRAMS * batch * kv_heads:
        assert batch * kv_heads * (splits + RESIDENT_PROGRAMS) <= places


def test_table_has_the_papers_storage(run: Run) -> None:
    outcome = run("memory", "--tokens", "8192,131072", "--bytes")
    assert (outcome.code, outcome.err) == (0, "")
    rows = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")[3:-1]] for line in outcome.out.splitlines()}
    assert rows["the same of arXiv 2605.20868"] == ["288.0 B", "288.0 B"]  # 56.25 % of 512, Section 2.3
    # codes 128 + 64, a step and a minimum per channel and block of keys 8, per token and 32 channels of values 16
    assert rows["per token and KV head: codes, metadata"] == ["216.0 B", "216.0 B"]
    assert rows["16-bit keys and values"] == ["33,554,432", "536,870,912"]
    assert rows["codes and metadata"] == ["14,155,776", "226,492,416"]
    assert rows["codes and metadata of arXiv 2605.20868"] == ["18,874,368", "301,989,888"]


def test_the_guide_has_this_table(run: Run) -> None:
    """After a change, put between the marks what the command that stands above them prints."""
    text = GUIDE.read_text("utf-8")
    before, _, rest = text.partition("<!-- memory -->\n")
    (*_, command) = re.findall(r"`certkv (memory .*?)`", before)
    assert rest.partition("<!-- end -->")[0] == run(*command.split()).out


def test_nothing_is_allocated(run: Run) -> None:
    """More originals than there is memory here have a table, too."""
    outcome = run("memory", "--tokens", "131072", "--batch", "512")
    assert outcome.code == 0
    assert "262,144.0 (100.00%)" in outcome.out  # 256 GiB


def test_wrong_settings_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("memory", "--tokens", "8k").refused("--tokens 8k", "whole numbers")
    run("memory", "--tokens", "0").refused("at least 1")
    run("memory", "--keys", "int3", "--head-dim", "0").refused("int3", "head_dim is 0")
    run("memory", "--q-heads", "12").refused("multiple of the cache's 8 KV heads")
    run("memory", "--multiprocessors", "0").refused("--multiprocessors")
    monkeypatch.setitem(sys.modules, "torch", None)
    run("memory").refused("certkv memory needs torch", "pip install 'certkv[fast]'")
