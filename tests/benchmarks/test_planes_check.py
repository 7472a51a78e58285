"""The check of refinement planes on a GPU: a small run on the twins, and that it ends at what is wrong."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks.gpu import planes_check  # noqa: E402

from certkv.fast import Budget, TieredCache, plan  # noqa: E402

NAME = "oscar+2+4"


def test_a_small_run_as_a_user_starts_it() -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.planes_check", "--tokens", "200,40", "--formats"]
    done = subprocess.run([*command, "int8+4/int4-g32+4"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("\nok ") == 2 + 2 * len(planes_check.TOLERANCES)


def pair() -> tuple[TieredCache, TieredCache]:
    torch.manual_seed(2)
    k, v = torch.randn(2, 1, 70, planes_check.KV_HEADS, planes_check.HEAD_DIM).half()
    made = [planes_check.cache_of(NAME, NAME, 96, "host", torch.device("cpu")) for _ in "ab"]
    for cache in made:
        cache.append(k, v)
    return made[0], made[1]


def flip(name: str) -> Callable[[TieredCache], None]:
    def wrong(cache: TieredCache) -> None:
        getattr(cache.pool, name)[cache.pages.pages(0)[1], 1].view(torch.uint8).bitwise_xor_(2)

    return wrong


def of_planes(side: int, level: int) -> Callable[[TieredCache], None]:
    def wrong(cache: TieredCache) -> None:
        cache.planes.sides[side][level][cache.pages.pages(0)[3], 0, 1, 5] ^= 1

    return wrong


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (of_planes(0, 0), "key plane 1"),
        (of_planes(0, 1), "key plane 2"),
        (of_planes(1, 0), "value plane 1"),
        (of_planes(1, 1), "value plane 2"),
        (flip("key_codes"), "key_codes"),
        (flip("finer_residual_codes"), "finer_residual_codes"),
        (flip("finer_key_notes"), "finer_key_notes"),
        (lambda cache: cache.planes.present[cache.pages.pages(0)[2]].zero_(), "not marked"),
    ],
)
def test_a_wrong_bit_ends_it(
    wrong: Callable[[TieredCache], None], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    mine, twin = pair()
    planes_check.same(mine, twin, "x")
    wrong(mine)
    with pytest.raises(SystemExit):
        planes_check.same(mine, twin, "x")
    assert told in capsys.readouterr().out


@pytest.mark.parametrize("name", ["plane_bytes", "host_bytes"])
def test_bytes_that_are_not_those_of_the_levels_end_it(name: str) -> None:
    cache, _ = pair()
    made = plan(cache, planes_check.KV_HEADS, Budget(0.05))
    step = made.run(torch.randn(1, planes_check.KV_HEADS, planes_check.HEAD_DIM).half(), made.step())
    assert step.certificate.plane_bytes.all()
    planes_check.bytes_read(made, step, "x")
    getattr(step.certificate, name)[0, 1] += 1
    with pytest.raises(SystemExit):
        planes_check.bytes_read(made, step, "x")
