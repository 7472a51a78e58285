"""The campaign of faults: a small run as a user starts it, its page, and that an output beyond its bound is told."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks.faults import campaign, table  # noqa: E402
from benchmarks.faults.__main__ import BEGIN, END, rewrite  # noqa: E402
from benchmarks.faults.places import DAMAGE, fields, octets  # noqa: E402
from benchmarks.faults.scenes import scene  # noqa: E402

from certkv.fast import Naive, plan, verify  # noqa: E402

RESULTS, PAGE = ROOT / "benchmarks/results/faults.csv", ROOT / "docs/faults.md"


def test_a_small_run_as_a_user_starts_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "faults.csv"
    command = [sys.executable, "-m", "benchmarks.faults", "--small", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    counts = table.last_run(out)
    checked = [found for key, found in counts.items() if key.verify == "step"]
    assert f"{sum(found['faults'] for found in checked):,} faults" in done.stdout
    for found in counts.values():
        assert found["faults"] == sum(found[outcome] for outcome in campaign.OUTCOMES)
        assert found["checksum"] == found["dense"] + found["typed"]
    assert not any(found["beyond"] or found["crashed"] for found in checked)


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    counts = table.last_run(RESULTS)
    checked = [found for key, found in counts.items() if key.verify == "step"]
    assert sum(found["faults"] for found in checked) >= 20_000
    assert not any(found["beyond"] or found["crashed"] for found in checked)
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text())
    rewrite(copy, table.markdown(counts))
    assert copy.read_text() == PAGE.read_text()
    assert BEGIN in PAGE.read_text()
    assert END in PAGE.read_text()


def test_comparing_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a comparison that never finds anything, faults in values' codes go beyond bounds, and are counted so."""
    one = scene("int8", torch.float16, Naive(), 24, seed=0)
    monkeypatch.setattr(verify, "verify_twin", lambda *_: None)
    planned = plan(one.cache, 4, one.policy, verify="step")
    found = campaign.together(one, planned, "one bit", fields(one.cache)["value minimum"], random.Random(0))
    assert found["beyond"] > 0
    assert found["faults"] == 24


def test_every_kind_of_damage_changes_something() -> None:
    part, rng = torch.zeros(9, dtype=torch.uint8), random.Random(0)
    for damage in DAMAGE.values():
        for _ in range(50):
            before = octets(part).clone()
            damage(part, rng)
            assert not torch.equal(before, part)


def test_counts_survive_the_file(tmp_path: Path) -> None:
    key = campaign.Key("one bit", "off", "length")
    counts = {key: Counter(faults=3, beyond=2, within=1)}
    for when in ("2020", "2021"):
        table.append(tmp_path / "x.csv", when, "c", "v", counts)
        counts = {key: Counter(faults=4, within=4)}
    assert table.last_run(tmp_path / "x.csv")[key]["within"] == 4
