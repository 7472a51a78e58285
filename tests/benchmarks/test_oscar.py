"""The benchmark of OScaR's formats: a small run as a user starts it, its sources, and its parts."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks.oscar import __main__ as command  # noqa: E402
from benchmarks.oscar import finding, promised, sources  # noqa: E402

RESULTS = ROOT / "benchmarks/results/oscar.csv"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def test_a_small_run_as_a_user_starts_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "small.csv"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.oscar", "--small", "--out", str(out)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "0 violations" in done.stdout
    found = rows(out)
    assert {row["kind"] for row in found} == {"finding", "promise"}
    for row in found:
        if row["kind"] == "promise":
            assert float(row["ratio_min"]) >= 1.0
            assert row["violations"] == "0"


def test_the_file_has_the_columns_that_are_written() -> None:
    assert RESULTS.read_text("utf-8").splitlines()[0] == ",".join(command.columns())


def test_another_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(ValueError, match="other columns"):
        command.append(tmp_path / "other.csv", [])


def test_one_token_in_a_group_is_odd() -> None:
    for size, kind in ((0.05, "short"), (30.0, "long")):
        source = sources.imbalanced(size, 4, 256)
        kinds = finding.classes(source.k.astype(np.float64))
        assert np.flatnonzero(kinds[kind]).tolist() == list(range(0, 256, sources.GROUP))
        assert kinds["others"].sum() == 256 - 256 // sources.GROUP
    level = finding.classes(sources.imbalanced(1.0, 0, 256).k.astype(np.float64))
    assert level["others"].all()


def test_sinks_draw_half_of_the_weight() -> None:
    source = sources.sinks(0.05, 1024)
    k, q = source.k.astype(np.float64), source.q[0].astype(np.float64)
    odd = np.arange(1024) % sources.GROUP == 0
    weights = np.exp(source.scale * np.einsum("hd,thd->ht", q, np.repeat(k, 4, axis=1)))
    share = weights[:, odd].sum(axis=-1) / weights.sum(axis=-1)
    # 32 odd tokens score 0 with a spread of 0.05; 992 others e^1/2 on average, within some percent in a draw
    assert 0.4 < share.mean() < 0.6
    assert np.flatnonzero(finding.classes(k)["short"]).tolist() == np.flatnonzero(odd).tolist()


def test_our_own_models_keys_have_no_imbalance() -> None:
    """What the page says of the capture: every norm between 0.65 and 1.21 of the median of its group."""
    for source in sources.captures(small=False):
        norm = np.sqrt(np.square(source.k.astype(np.float64)).sum(axis=(1, 2))).reshape(-1, sources.GROUP)
        share = norm / np.median(norm, axis=-1, keepdims=True)
        assert share.min() > 0.65
        assert share.max() < 1.21


def test_nothing_is_off_where_nothing_is_coded() -> None:
    source = sources.imbalanced(10.0, 0, 128)
    found = finding.find(source, "dense", "dense", "dense")
    assert found.mse == 0.0
    assert found.output_error < 1e-12  # float64 against itself
    assert math.isnan(found.mse_short)
    assert found.long == 4
    assert found.bytes == 4 * source.k.shape[2]


def test_bytes_count_the_norm_once_for_all_heads() -> None:
    source = sources.imbalanced(10.0, 0, 128)
    neither, both = (finding.find(source, "", keys, "oscar") for keys in ("kivi", "oscar"))
    assert (neither.bytes, both.bytes) == (96.0, 96.5)


def test_promises_hold_and_read_what_is_promoted() -> None:
    source = next(iter(sources.heads(sources.PEAKED, small=True)))
    found = list(promised.promises(source, source.name, "oscar", "oscar"))
    assert [row.tolerance for row in found] == list(promised.TOLERANCES)
    assert found[0].read == 0.0
    for row in found:
        assert row.violations == 0
        assert 0.0 <= row.read <= 1.0
        assert row.ratio >= 1.0 or row.rung_3 == 1.0
