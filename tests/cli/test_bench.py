"""``certkv bench``: nothing is timed on what is wrong, and every row says what it is of. Twins stand in for kernels."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from certkv.cli.bench import bare, gate, rows, timing
from certkv.cli.bench import options as option_module
from certkv.cli.bench import scene as scene_module
from certkv.cli.bench.command import columns
from certkv.cli.bench.options import RefusedError, Tolerance, commit, parsed
from certkv.cli.bench.rows import Row
from certkv.cli.bench.scene import Scene
from certkv.cli.bench.timing import HostClock
from certkv.cli.main import build_parser
from certkv.fast import Budget, attend, finish
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.reference.formats import bytes_per_token, key_format, value_format

from .support import Run

SMALL = (
    "--device", "cpu", "--tokens", "40", "--q-heads", "2", "--kv-heads", "1", "--head-dim", "16", "--block", "8",
    "--values", "int4", "--replays", "1",
)  # fmt: skip


def options(*more: str) -> Any:
    return parsed(build_parser().parse_args(["bench", *SMALL, *more]))


def test_rows_are_printed_and_appended(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "bench.csv"
    outcome = run("bench", *SMALL, "--csv", out, "--commit", "one")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "checked: stored bits" in outcome.out
    assert "none of these times says anything about the kernels" in outcome.out
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))  # once is enough here
    assert run("bench", *SMALL, "--policy", "naive", "--csv", out, "--commit", "two").code == 0
    with out.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["commit"] for row in found] == ["one"] * 3 + ["two"]
    settings = [(row["policy"], row["tolerance"]) for row in found]
    assert settings == [("naive", ""), ("budget", "met"), ("budget", "1%"), ("naive", "")]
    for row in found:
        assert (row["tokens"], row["keys"], row["values"], row["head_dim"]) == ("40", "int8", "int4", "16")
        assert row["torch"] == torch.__version__
        assert float(row["step_us"]) > 0 < float(row["dense_us"])
        assert float(row["tightness"]) >= 1
        assert float(row["floor_us"]) > 0
        assert float(row["bare_us"]) > 0
        assert float(row["speedup"]) == pytest.approx(float(row["dense_us"]) / float(row["step_us"]), abs=1e-3)
        assert float(row["bare_speedup"]) == pytest.approx(float(row["dense_us"]) / float(row["bare_us"]), abs=1e-3)
        more = float(row["step_us"]) / float(row["bare_us"]) - 1
        assert float(row["certificate"]) == pytest.approx(100 * more, abs=1e-2)
        assert row["originals"] == "host"
    assert [row["rung"] for row in found[:2]] == ["0", "0"]  # a tolerance that is met promotes nothing
    assert float(found[1]["promoted"]) == 0 < 1 <= float(found[2]["promoted"])


def test_scratch_is_timed_cold_and_warm(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))
    out = tmp_path / "bench.csv"
    more = ("--tokens", "100", "--policy", "budget", "--tolerance", "20%", "--scratch-bytes", "65536", "--replays", "2")
    assert run("bench", *SMALL, *more, "--csv", out).code == 0
    with out.open(newline="") as file:
        cold, warm = csv.DictReader(file)
    assert (cold["scratch"], warm["scratch"]) == ("cold", "warm")
    assert float(cold["host_mb"]) == float(warm["host_mb"]) > 0
    assert float(cold["moved_mb"]) > 0 == float(warm["moved_mb"])


def broken(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Plant a defect: certificates promise ``factor`` of what they should."""
    honest = finish.finish_twin

    def lying(*arguments: Any) -> None:
        honest(*arguments)
        arguments[-1].certificate.bound.mul_(factor)

    monkeypatch.setattr(finish, "finish_twin", lying)


def test_nothing_is_timed_on_a_wrong_step(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch, 1e-3)
    monkeypatch.setattr(HostClock, "time", lambda *arguments: pytest.fail("timed"))
    out = tmp_path / "bench.csv"
    outcome = run("bench", *SMALL, "--csv", out)
    assert outcome.code == 1
    assert "nothing is timed" in outcome.out
    assert "errors exceed their bounds" in outcome.out
    assert not out.exists()


def test_what_was_judged_stays_and_what_is_wrong_ends_the_run(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are printed and written as they come; a later one that is wrong is neither."""
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))
    honest, out = Scene.ratios, tmp_path / "bench.csv"

    def off_at_60(self: Scene, *arguments: Any) -> Any:
        wrong, ratios = honest(self, *arguments)
        return wrong + (self.lengths[0] == 60), ratios

    monkeypatch.setattr(Scene, "ratios", off_at_60)
    outcome = run("bench", *SMALL, "--tokens", "40,60", "--policy", "naive", "--csv", out)
    assert outcome.code == 1
    assert "batch 1, 60 tokens" in outcome.out
    with out.open(newline="") as file:
        assert [row["tokens"] for row in csv.DictReader(file)] == ["40"]


def test_the_bare_pass_is_judged(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no certificate; that of a whole step over the same cache holds for it as well."""
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))
    honest, calls = attend.attend_twin, []

    def off(q: torch.Tensor, *arguments: Any) -> None:
        calls.append(q)
        honest(q if len(calls) < 3 else -q, *arguments)  # two steps of a plan come first

    monkeypatch.setattr(attend, "attend_twin", off)
    outcome = run("bench", *SMALL, "--policy", "naive")
    assert outcome.code == 1
    assert "the bare pass: 2 errors exceed their bounds" in outcome.out


def test_a_bare_pass_gives_the_output_of_a_whole_one() -> None:
    torch.manual_seed(4)
    scene = Scene(options(), "int8", "int4", [40], torch.device("cpu"))
    q = scene.queries("needle")
    pass_ = bare.Bare(scene.cache, q, scene.scale)
    expected = pass_.output.clone()
    pass_.output.zero_()
    pass_()
    assert torch.equal(pass_.output, expected)
    assert [call.__name__ for call, _, _ in pass_.calls] == ["attend_twin", "merge_twin"]
    assert scene.judged(q, pass_.output, pass_.bound)[0] == 0


def test_stores_that_only_a_certificate_needs_are_taken_out() -> None:
    source = "def k(weights, o):\n    tl.store(weights + 3 * i, p)\n    if o:\n        tl.store(weights, p)\n"
    kept = "    tl.store(o + weights, p)\n    x = weights + 1\n    tl.load(weights)\n"
    found = bare.stripped(source + kept)
    assert found is not None
    assert "tl.store(weights" not in found
    assert all(line in found.splitlines() for line in kept.splitlines())
    assert bare.stripped("def k(o):\n" + kept) is None


def test_the_variant_without_certificates_compiles() -> None:
    """For compute capability 9.0: a kernel of its own, put back afterwards, that does not spill."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    here = Path(__file__).resolve().parent
    script = [sys.executable, str(here.parent / "fast" / "hopper.py"), str(here / "bare_launches.py")]
    done = subprocess.run(script, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == 3 * ["attend_kernel", "variants", "attend_kernel"]
    assert all(int(line[1]) >= 1 for line in lines)
    # the last pair has keys of two bits, whose programs have 168 registers (tests/fast/test_compile_attend.py)
    assert all(line[2] == "0" for line in lines[:-3]), lines
    assert all(int(line[2]) <= 1024 for line in lines[-3:]), lines


def test_bytes_of_a_token_are_those_of_the_formats() -> None:
    """The floor of a pass: codes and metadata as the reference counts them, for whatever has kernels."""
    for keys in KEY_FORMATS:
        for values in VALUE_FORMATS:
            block = 128 if "g128" in keys else 64
            asked = options("--head-dim", "128", "--kv-heads", "2", "--block", str(block))
            scene = Scene(asked, keys, values, [block], torch.device("cpu"))
            both = (key_format(keys), value_format(values))
            assert rows.coded_bytes(scene.cache) == sum(bytes_per_token(fmt, block, 128, 2) for fmt in both)


def test_a_cache_is_filled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = []
    for at_once in (1 << 18, 1):  # the latter: a block of each sequence at a time
        monkeypatch.setattr(scene_module, "APPENDED_AT_ONCE", at_once)
        torch.manual_seed(5)
        stored.append(Scene(options(), "int8", "int4", [40, 17, 3], torch.device("cpu")))
    whole, pieces = (scene.cache for scene in stored)
    assert whole.tokens == pieces.tokens == (40, 17, 3)
    assert gate.differences(whole, pieces) == []


def test_no_cache_is_begun_after_the_time_that_was_given(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))
    outcome = run("bench", *SMALL, "--policy", "naive", "--minutes", "1e-9")
    assert outcome.code == 0
    assert "batch 1, 40 tokens, keys int8, values int4: not begun, 1e-09 minutes are over" in outcome.err
    assert "dense us" not in outcome.out


def test_kernels_are_compiled_ahead(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process takes one setting that is timed, or the gate's steps of one policy in one format.

    That they really do is seen of the first and of the last.
    """
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))
    honest, asked = subprocess.run, []

    def told(words: list[str], **named: Any) -> Any:
        asked.append(words)
        return honest(words, **{**named, "check": True}) if len(asked) in (1, 8) else None

    monkeypatch.setattr(subprocess, "run", told)
    outcome = run("bench", *SMALL, "--policy", "naive", "--values", "int4,int8", "--jobs", "2", "--commit", "x")
    assert outcome.code == 0, outcome.err
    assert "compiling in 2 processes" in outcome.err
    options_ = [(words[words.index("--values") + 1], words[words.index("--compile") + 1]) for words in asked]
    assert sorted(options_) == [(v, p) for v in ("int4", "int8") for p in ("budget", "naive", "paper", "timed")]
    assert [words[words.index("--policy") + 1] for words in asked if "timed" in words] == ["naive", "naive"]
    assert all("--head-dim=16" in words and "--device=cpu" in words for words in asked)


def test_compiling_takes_the_steps_of_a_policy(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []

    def recorded(scene: Scene, policy: Any, *_: Any) -> Iterator[str]:
        taken.append(policy)
        return iter(())

    monkeypatch.setattr(gate, "wrong_steps", recorded)
    outcome = run("bench", *SMALL, "--compile", "budget")
    assert (outcome.code, outcome.out) == (0, "")
    assert {policy.name for policy in taken} == {"budget"}
    assert len(taken) == 4


def test_rows_say_which_code_they_time(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git and without a version there is nothing to call it, unless it is given a name."""
    monkeypatch.setattr(option_module, "commit", lambda: "unknown")
    run("bench", *SMALL, "--csv", tmp_path / "a.csv").refused("no git checkout", "give --commit")
    assert not (tmp_path / "a.csv").exists()
    assert run("bench", *SMALL, "--policy", "naive").code == 0  # without a file there is nobody to mislead


def test_changed_files_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    said = {"ls-files": "options.py\n", "rev-parse": "abc1234\n", "status": ""}

    def git(command: list[str], **_: Any) -> Any:
        return subprocess.CompletedProcess(command, 0, stdout=said[command[1]])

    monkeypatch.setattr(subprocess, "run", git)
    assert commit() == "abc1234"
    said["status"] = " M fast/certkv/fast/plan.py\n"
    assert commit() == "abc1234+"


def test_what_is_timed_is_judged_too(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect that small shapes do not show."""
    broken(monkeypatch, 1e-3)
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))
    out = tmp_path / "bench.csv"
    outcome = run("bench", *SMALL, "--policy", "naive", "--csv", out)
    assert outcome.code == 1
    assert "batch 1, 40 tokens, keys int8, values int4" in outcome.out
    assert "step us" not in outcome.out
    assert not out.exists()


def gate_finds(*more: str) -> list[str]:
    torch.manual_seed(0)
    return list(gate.failures(options(*more), torch.device("cpu"), HostClock(1)))


def test_a_sound_library_passes_the_gate() -> None:
    assert gate_finds("--dtype", "bfloat16", "--values", "int8-g64") == []


def test_the_gate_sees_a_nan_that_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = finish.finish_twin

    def blind(q: torch.Tensor, *arguments: Any) -> None:
        honest(q.nan_to_num(0.0), *arguments)

    monkeypatch.setattr(finish, "finish_twin", blind)
    assert any("NaN in a query" in line for line in gate_finds())


def test_the_gate_sees_a_tolerance_that_is_not_enforced(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = finish.finish_twin

    def lax(*arguments: Any) -> None:
        honest(*arguments)
        certificate = arguments[-1].certificate
        certificate.tolerance.copy_(0.5 * certificate.bound)

    monkeypatch.setattr(finish, "finish_twin", lax)
    assert any("a bound exceeds its tolerance" in line for line in gate_finds())


def nan_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a defect: a number comes out as NaN, which a step notices, and rung 4 would make good."""
    honest = finish.finish_twin

    def damaged(q: torch.Tensor, coded: Any, output: torch.Tensor, *arguments: Any) -> None:
        honest(q, coded, output.clone().fill_(float("nan")), *arguments)

    monkeypatch.setattr(finish, "finish_twin", damaged)


def test_the_gate_does_not_let_rung_4_hide_a_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    nan_outputs(monkeypatch)
    found = gate_finds()
    assert any("status CHECKSUM" in line for line in found)


def test_a_nan_in_what_is_timed_is_reported(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    nan_outputs(monkeypatch)
    monkeypatch.setattr(gate, "failures", lambda *arguments: iter(()))
    outcome = run("bench", *SMALL, "--policy", "naive")
    assert outcome.code == 1
    assert "a number came out as NaN" in outcome.out


def test_the_gate_must_see_every_rung(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "policies", lambda scene: [Budget(0.0)])
    (found,) = gate_finds()
    assert "rungs [3] were taken" in found


def test_two_bits_pass_the_gate() -> None:
    """Their bounds are wide: a tolerance is met at once, or from originals."""
    found = gate_finds("--keys", "oscar", "--values", "oscar", "--head-dim", "32", "--block", "32")
    assert found == []


def test_the_gate_sees_a_replay_that_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    def stale(self: HostClock, run: Any) -> Any:
        run()
        return lambda: None  # as a graph that reads another query than the caller's

    monkeypatch.setattr(HostClock, "ready", stale)
    assert any("a replayed and an eager run differ" in line for line in gate_finds())


def test_stored_bits_are_compared_through_the_page_tables() -> None:
    asked = options()
    torch.manual_seed(1)
    one = Scene(asked, "int8", "int4", [40, 17], torch.device("cpu"))
    torch.manual_seed(1)
    other = Scene(asked, "int8", "int4", [40, 17], torch.device("cpu"))
    other.cache.reset(0)  # its pages are taken again in another order
    other.cache.append(other.k, other.v, lengths=[0, 8])
    other.cache.reset(1)
    other.cache.append(other.k, other.v, lengths=[40, 17])
    assert gate.differences(one.cache, other.cache) == []
    page = int(other.cache.pages.table[1, 1])
    other.cache.pool.value_codes[page, 0, 1, 3] ^= 16
    assert gate.differences(one.cache, other.cache) == ["value_codes of sequence 1"]


def test_a_share_of_the_blocks_is_promoted() -> None:
    asked = options()
    torch.manual_seed(2)
    scene = Scene(asked, "int8", "int4", [200], torch.device("cpu"))
    q = scene.queries("needle")
    for share in (0.02, 0.2):
        found = rows.budget(asked, scene, q, Tolerance("", None, share))
        assert rows.promoted(scene, rows.run_once(scene, q, found)[1]) >= share
    met = rows.budget(asked, scene, q, Tolerance("met", None, 0.0))
    assert rows.promoted(scene, rows.run_once(scene, q, met)[1]) == 0.0
    assert rows.budget(asked, scene, q, Tolerance("0.25", 0.25, 0.0)) == Budget(0.25, "values")


def test_scenes_are_judged_against_float64() -> None:
    torch.manual_seed(3)
    scene = Scene(options(), "int8", "int4", [40, 9], torch.device("cpu"))
    q = scene.queries("needle")
    _, step = rows.run_once(scene, q, Budget(0.05))
    wrong, ratios = scene.ratios(q, step)
    assert wrong == 0
    assert len(ratios) == 4
    assert min(ratios) >= 1
    step.output[1, 0, 0] += 100.0
    assert scene.ratios(q, step)[0] == 1
    step.output[1, 0, 0] = float("nan")
    assert scene.ratios(q, step)[0] == 1


BAD: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--tokens", "8k"), ("--tokens 8k", "whole numbers")),
    (("--batch", "0"), ("at least 1",)),
    (("--replays", "0"), ("--replays is 0",)),
    (("--minutes", "nan"), ("--minutes is nan",)),
    (("--jobs", "-1"), ("--jobs is -1",)),
    (("--policy", "fast"), ("unknown policy 'fast'", "naive, budget, paper")),
    (("--tolerance", "0.1,some"), ("--tolerance some", "met")),
    (("--tolerance", "-1"), ("--tolerance -1",)),
    (("--tolerance", "200%"), ("percentages",)),
    (("--keys", "int3"), ("unknown key format 'int3'", "int8")),
    (("--values", "int3"), ("unknown value format 'int3'", "int4-g32")),
    (("--q-heads", "3", "--kv-heads", "2"), ("multiple of the cache's 2 KV heads",)),
    (("--csv", "/proc/none/o.csv"), ("--csv /proc/none/o.csv cannot be written",)),
]


@pytest.mark.parametrize(("more", "parts"), BAD, ids=[" ".join(more) for more, _ in BAD])
def test_wrong_options_are_refused(more: tuple[str, ...], parts: tuple[str, ...], run: Run) -> None:
    outcome = run("bench", *SMALL, *more)
    assert outcome.code == 2
    errors = [line for line in outcome.err.splitlines() if not line.startswith("[")]  # progress
    assert len(errors) == 1
    for part in parts:
        assert part in errors[0]


def test_rows_of_another_kind_are_not_mixed(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "bench.csv"
    out.write_text("a,b\n1,2\n")
    run("bench", *SMALL, "--csv", out).refused("holds other columns")
    assert out.read_text() == "a,b\n1,2\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_error_says_what_to_do(run: Run) -> None:
    run("bench").refused("certkv bench needs an NVIDIA GPU", "--device cpu")


def test_without_torch_the_error_says_what_to_install(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    run("bench", *SMALL).refused("certkv bench needs torch", "pip install 'certkv[fast]'")


def test_it_runs_where_torch_and_numpy_are_all_there_is() -> None:
    """As on a bare machine with a GPU: no reference, and none of the packages that it needs."""
    absent = ("certkv.reference", "certkv.proofs", "flint", "mpmath", "ml_dtypes", "safetensors", "rich")
    script = (
        "import runpy, sys\n"
        f"sys.modules.update(dict.fromkeys({absent!r}))\n"
        "runpy.run_module('certkv.cli', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script, "bench", *SMALL, "--policy", "naive"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "dense us" in done.stdout
    refused = subprocess.run([*command, "--tokens", "x"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)


def test_the_gpus_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a stand-in for CUDA: warmed up, captured, and timed from after the flush to the end of the replay."""
    events: list[str] = []
    ticks = iter(range(100))

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            events.append("record")
            self.at = next(ticks)

        def elapsed_time(self, end: Event) -> float:
            return float(end.at - self.at)

    class Graph:
        def replay(self) -> None:
            events.append("replay")

    @contextmanager
    def capturing(graph: Graph) -> Iterator[None]:
        events.append("capture")
        yield

    for name, fake in (
        ("Event", Event),
        ("CUDAGraph", Graph),
        ("graph", capturing),
        ("synchronize", lambda: events.append("wait")),
    ):
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(timing, "FLUSH_BYTES", 1)
    clock = timing.GraphClock(torch.device("cpu"), replays=3)
    clock.flush.fill_(1)
    ready = clock.ready(lambda: events.append("run"))
    assert events == ["run", "wait", "capture", "run"]
    events.clear()

    def before() -> None:
        assert events[-1] in ("replay", "wait")
        events.append("before")

    assert clock.time(ready, before) == 1000.0  # milliseconds into microseconds
    assert events == ["replay"] * 5 + ["before", "record", "replay", "record", "wait"] * 3
    assert clock.flush.sum() == 0
    assert isinstance(timing.clock_for(torch.device("cpu"), 1), HostClock)


def test_columns_are_the_rows() -> None:
    assert columns()[:4] == ("commit", "certkv", "device", "torch")
    assert columns()[-3:] == ("speedup", "bare_speedup", "certificate")
    assert len(set(columns())) == len(columns())
    numbers = [2.0 if name in ("step_us", "bare_us", "dense_us") else 0 for name in Row.__dataclass_fields__]
    assert Row(*numbers).speedup == 1.0  # type: ignore[arg-type]


def test_the_code_is_named() -> None:
    assert commit()
    with pytest.raises(RefusedError):
        parsed(build_parser().parse_args(["bench", "--tolerance", "x"]))
