"""The benchmark of planes: a small run as a user starts it, and the page that it writes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks.planes import measure, page, rows  # noqa: E402

from certkv.reference import Budget, Cache, Step, decode  # noqa: E402

RESULTS = ROOT / "benchmarks/results/planes.csv"
PAGE = ROOT / "docs/planes.md"


def test_a_small_run_as_a_user_starts_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "small.csv"
    command = [sys.executable, "-m", "benchmarks.planes", "--small", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = rows.last_run(out)
    assert "0 violations" in done.stdout
    assert len(found) == len(measure.SYSTEMS) * len(measure.TOLERANCES)
    assert {row.system for row in found} == {system.name for system in measure.SYSTEMS}
    rows.append(out, [replace(row, run="later") for row in found])
    assert {row.run for row in rows.last_run(out)} == {"later"}
    out.write_text("other,columns\n")
    with pytest.raises(ValueError, match="other columns"):
        rows.append(out, found)


def test_shares_are_those_of_the_certificates() -> None:
    """Of one small source, counted again from steps."""
    source = next(iter(measure.sources("small")))
    system = next(system for system in measure.SYSTEMS if system.name == "int8/int4 planes")
    found = measure.run(source, system, (0.02,))[0.02]
    cache = Cache(kv_heads=1, head_dim=128, keys="int8+4", values="int4-g32+4", block=64)
    cache.append(source.k, source.v)
    done = decode(source.queries[0][0], cache, Budget(0.02), scale=source.scale).certificate
    assert [one.fetched for one in found] == (done.host_bytes / (512 * 512)).tolist()
    assert [one.planes for one in found] == (done.plane_bytes / (512 * 512)).tolist()
    assert [one.values for one in found] == [tuple(x) for x in (done.levels[:, 1] / 8).tolist()]
    assert any(one.planes > 0 for one in found)
    assert not any(one.violated for one in found)


def test_a_violation_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    source = next(iter(measure.sources("small")))
    real = decode

    def wrong(*arguments: object, **named: object) -> Step:
        done = real(*arguments, **named)  # type: ignore[arg-type]
        return replace(done, output=done.output + np.float64(1.0))

    monkeypatch.setattr(measure, "decode", wrong)
    assert all(one.violated for one in measure.run(source, measure.SYSTEMS[1], (0.02,))[0.02])


def test_what_a_pass_reads_by_hand() -> None:
    """136 and 80 bytes of 512; annotations, and planes where they lie on the device."""
    plain, finer = measure.System("", "int8", "int4-g32"), measure.System("", "int8+4", "int4-g32+4", "device")
    base, device = measure.always_read(plain, 128)
    assert base == 216 / 512
    more_base, more_device = measure.always_read(finer, 128)
    assert more_base == base
    assert more_device == device + (128 + 78 / 64) / 512


def test_the_page_shows_the_newest_run() -> None:
    text = PAGE.read_text("utf-8")
    assert page.filled(text, rows.last_run(RESULTS)) == text, "python -m benchmarks.planes --report-only"
    with pytest.raises(ValueError, match="exactly once"):
        page.filled(text.replace("<!-- run: generated -->", ""), rows.last_run(RESULTS))


def test_the_newest_run_found_no_violation() -> None:
    newest = rows.last_run(RESULTS)
    assert not any(row.violations for row in newest)
    assert sum(row.head_steps for row in newest) > 5_000
