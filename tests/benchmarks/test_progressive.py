"""The benchmark of tolerances on a GPU: a small run on the twins, and that nothing is recorded of a wrong step."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks import table  # noqa: E402
from benchmarks.gpu import progressive  # noqa: E402
from benchmarks.gpu.ahead import PARTS, Setting  # noqa: E402
from benchmarks.tightness.heads import synthetic  # noqa: E402

from certkv.fast import Budget, plan  # noqa: E402
from certkv.fast.errors import CertkvError  # noqa: E402

ARGUMENTS = ("--tokens", "300", "--heads", "mixed", "--systems", "int8/int4,int8/int8")


def test_a_small_run_as_a_user_starts_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "p.csv"
    command = [sys.executable, "-m", "benchmarks.gpu.progressive", *ARGUMENTS, "--out", str(out), "--commit", "mine"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = table.last_run(out, progressive.Row)
    assert len(rows) == 2 * len(progressive.TOLERANCES)
    for row in rows:
        assert (row.commit, row.head, row.tokens, row.q_heads) == ("mine", "mixed", 300, 4)
        assert row.rung_0 + row.rung_1 + row.rung_2 + row.rung_3 == 4
        assert 0 <= row.fetched <= row.fetched_max
        assert row.tightness > 1
    first = [row for row in rows if row.system == "int8/int4"]
    assert first[0].fetched > 0  # at 2 %
    assert [row.fetched for row in first] == sorted((row.fetched for row in first), reverse=True)


def layer() -> progressive.Layer:
    return progressive.Layer.of([synthetic("mixed", 200, seed, 2) for seed in range(2)])


def test_a_layer_is_its_heads_side_by_side() -> None:
    made = layer()
    other = synthetic("mixed", 200, 1, 2)
    assert made.q.shape == (1, 4, 128)
    assert (made.q[0, 2:].cpu().numpy() == other.q).all()
    assert (made.v[0, :, 1].cpu().numpy() == other.v[:, 0]).all()


def test_a_wrong_step_ends_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    made = layer()
    cache, exact = progressive.filled(made, progressive.SYSTEMS[0]), made.exact()
    planned = plan(cache, 4, Budget(0.05), progressive.SCALE)
    step = planned.run(made.q, out=planned.step())
    assert progressive.judged(step, exact, "x") > 1
    step.certificate.bound.mul_(1e-6)
    with pytest.raises(SystemExit):
        progressive.judged(step, exact, "x")
    assert "x: an error exceeds its bound" in capsys.readouterr().out
    step.certificate.bound.fill_(1e6)
    step.certificate.rung.fill_(0)
    with pytest.raises(SystemExit):
        progressive.judged(step, exact, "x")
    assert "a bound exceeds its tolerance" in capsys.readouterr().out


def test_what_the_library_has_not_is_told() -> None:
    with pytest.raises(CertkvError, match="int3"):
        progressive.filled(layer(), progressive.System("x", "int8", "int3"))


def test_what_does_not_compile_costs_no_other_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is left out and told; what is late, or lost with its process, comes last."""
    names = ("int8/int4", "int8/int8", "oscar", "oscar planes")
    systems = [system for system in progressive.SYSTEMS if system.name in names]

    def begun(settings: Iterable[Setting], parts: Sequence[str] = PARTS) -> dict[Future[float], tuple[Setting, str]]:
        made: dict[Future[float], tuple[Setting, str]] = {}
        for of in settings:
            future: Future[float] = Future()
            if of.values == "oscar":
                future.set_exception(RuntimeError("no such register"))
            elif of.values == "oscar+2+4":
                future.set_exception(BrokenProcessPool())
            elif of.values != "int4-g32":
                future.set_result(3.0)
            made[future] = of, parts[0]
        return made

    monkeypatch.setattr(progressive, "begin", begun)
    ready, complaints = progressive.compiled([300], systems, 0.01)
    assert [system.name for system in ready] == ["int8/int8", "int8/int4", "oscar planes"]
    assert set(complaints) == {f"oscar, oscar: {part} does not compile: no such register" for part in PARTS[:2]}
