"""The audit end to end: what it prints, writes and returns."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from certkv.cli import audit, measure, progress
from certkv.cli.backends import reference
from certkv.reference import decode
from certkv.reference.exact import Verdict, judge

from .support import BFLOAT16, Run, read_json, save, synthetic

HEAD_KEYS = {
    "policy", "layer", "query", "head", "error", "bound", "key", "value", "arithmetic", "tolerance", "rung", "status",
    "promoted", "host_bytes", "plane_bytes", "levels", "paper_bound", "judged_by",
}  # fmt: skip
SUMMARY_KEYS = {
    "heads", "violations", "paper_violations", "by_enclosure", "undecided", "quantized",
    "error", "bound", "relative_bound",
    "tightness", "paper_tightness", "originals_bound", "infinite_bounds", "infinite_claims", "rungs",
    "within_tolerance", "unmet", "promoted_keys", "promoted_values",
    "refined_keys", "refined_values", "levels", "host_share", "plane_share", "coded_bytes", "device_bytes",
    "plane_bytes", "dense_bytes",
}  # fmt: skip


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Two layers of different shape, the second causal with its own scale."""
    second = synthetic(queries=3, q_heads=2, kv_heads=1, tokens=70, prefix="layers.5.")
    second |= {"layers.5.q_positions": np.array([0, 64, 69]), "layers.5.scale": np.array(0.5)}
    return save(synthetic(prefix="layers.1.") | second, tmp_path / "capture.safetensors")


def test_every_policy_is_sound_and_shown(capture: Path, run: Run) -> None:
    outcome = run("audit", capture)
    assert outcome.code == 0
    assert outcome.err == ""
    assert "SOUND: no error exceeds its bound (42 head-steps judged" in outcome.out  # 3 policies x (2 x 4 + 3 x 2)
    assert outcome.out.isascii()
    assert max(map(len, outcome.out.splitlines())) <= 120
    header = next(line for line in outcome.out.splitlines() if "per policy" in line)
    assert [cell.strip() for cell in header.strip("|").split("|")][1:] == ["naive", "paper", "budget"]
    row = {line.strip("|").split("|")[0].strip(): line for line in outcome.out.splitlines() if line.startswith("|")}
    assert row["key format, value format"].count("int8, int4-g32") == 2
    assert "int8-paper, int4-g16" in row["key format, value format"]
    for cell in row["VIOLATIONS: error above our bound"].strip("|").split("|")[1:]:
        assert cell.strip() == "0"


def test_single_heads_are_listed_on_request(capture: Path, run: Run) -> None:
    outcome = run("audit", capture, "--policy", "naive", "--heads")
    rows = [line for line in outcome.out.splitlines() if line.startswith("| naive")]
    assert len(rows) == 14
    assert rows[-1].split("|")[2:5] == ["     5 ", "     2 ", "    1 "]


def test_quiet_prints_nothing(capture: Path, run: Run) -> None:
    outcome = run("audit", capture, "--quiet")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_json_has_the_documented_form(capture: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    assert run("audit", capture, "--json", out, "--policy", "budget,naive", "--tolerance", ".125").code == 0
    tree = read_json(out)
    assert set(tree) == {"config", "summary", "heads"}
    assert set(tree["config"]) == {"file", "backend", "layers", "policies", "versions"}
    assert tree["config"]["backend"] == "reference"
    assert tree["config"]["policies"]["budget"]["parameters"] == {
        "tolerance": 0.125, "relative_to": "values", "rounds": 3,
    }  # fmt: skip
    assert tree["config"]["policies"]["naive"]["layers"][1] == {
        "layer": 5, "keys": "int8", "values": "int4-g32", "block": 64, "residual": 64, "planes": None,
        "blocks": 1, "tail": 6,
    }  # fmt: skip
    assert [layer["scale"] for layer in tree["config"]["layers"]] == [0.25, 0.5]
    assert list(tree["summary"]) == ["budget", "naive"]
    for summary in tree["summary"].values():
        assert set(summary) == SUMMARY_KEYS
        assert summary["violations"] == summary["unmet"] == 0
        assert sum(summary["rungs"]) == summary["heads"] == 14
    assert len(tree["heads"]) == 28
    for row in tree["heads"]:
        assert set(row) == HEAD_KEYS
        assert row["error"] <= row["bound"]
        assert row["status"] == "OK"
        assert row["tolerance"] is None or row["policy"] == "budget"  # infinity, which JSON does not have
        assert row["bound"] <= (row["tolerance"] or math.inf) or row["rung"] >= 3
        parts = row["key"] + row["value"] + row["arithmetic"]
        assert parts >= row["bound"] * (1 - 2**-52)  # two additions, each rounds by at most 2^-53 of its result
    places = [(row["policy"], row["layer"], row["query"], row["head"]) for row in tree["heads"]]
    assert len(set(places)) == 28
    assert places[:5] == [
        ("budget", 1, 0, 0),
        ("budget", 1, 0, 1),
        ("budget", 1, 0, 2),
        ("budget", 1, 0, 3),
        ("budget", 1, 1, 0),
    ]


def test_saved_outputs_give_the_same_verdict(capture: Path, run: Run, tmp_path: Path) -> None:
    out, table = tmp_path / "out.safetensors", tmp_path / "out.json"
    assert run("audit", capture, "--policy", "paper", "--save", out, "--json", table).code == 0
    saved, tensors = load_file(out), load_file(capture)
    assert set(saved) == {f"layers.{i}.{name}" for i in (1, 5) for name in ("output", "bound")}
    assert all(x.dtype == np.float64 for x in saved.values())
    for row in read_json(table)["heads"]:
        name, query, head = f"layers.{row['layer']}.", row["query"], row["head"]
        group = tensors[name + "q"].shape[1] // tensors[name + "k"].shape[1]
        positions = tensors.get(name + "q_positions")
        seen = slice(None) if positions is None else slice(0, int(positions[query]) + 1)
        scale = float(tensors.get(name + "scale", np.array(0.25)))
        output, bound = saved[name + "output"][query, head], saved[name + "bound"][query, head]
        k, v = (tensors[name + side][seen, head // group] for side in ("k", "v"))
        (verdict,) = judge(output[None], bound[None], tensors[name + "q"][query, head][None], k, v, scale)
        assert bound == row["bound"]
        assert not verdict.violated
        # Judged alone or with its group, an error lies within the same proved limits; the reported one is the upper.
        assert verdict.error_lb <= row["error"]


def test_single_layer_is_saved_under_plain_names(run: Run, tmp_path: Path) -> None:
    path = save(synthetic(), tmp_path / "a.npz")
    assert run("audit", path, "--policy", "naive", "--save", tmp_path / "o.safetensors", "--quiet").code == 0
    saved = load_file(tmp_path / "o.safetensors")
    assert {name: x.shape for name, x in saved.items()} == {"output": (2, 4, 16), "bound": (2, 4)}


def test_formats_are_the_users_or_the_policys_own(capture: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    options = ("--keys", "dense", "--values", "int8", "--block", "32")
    assert run("audit", capture, *options, "--json", out, "--quiet").code == 0
    for policy in read_json(out)["config"]["policies"].values():
        for layer in policy["layers"]:
            assert (layer["keys"], layer["values"], layer["block"]) == ("dense", "int8", 32)
    assert run("audit", capture, "--values", "int4", "--json", out, "--quiet").code == 0
    used = read_json(out)["config"]["policies"]
    assert [used[name]["layers"][0]["keys"] for name in ("naive", "paper", "budget")] == ["int8", "int8-paper", "int8"]
    assert {used[name]["layers"][0]["values"] for name in used} == {"int4"}


def test_float32_is_rounded_and_said(run: Run, tmp_path: Path) -> None:
    path = save(synthetic(dtype=np.float32), tmp_path / "a.npz")
    outcome = run("audit", path, "--round-to", "bfloat16", "--policy", "naive")
    assert outcome.code == 0
    assert "k and v were float32: rounded once to bfloat16; the rounded tensors are the originals" in outcome.out


def test_tokens_that_fill_no_block_are_said_to_be_original(run: Run, tmp_path: Path) -> None:
    path = save(synthetic(tokens=5), tmp_path / "a.npz")
    outcome = run("audit", path)
    assert outcome.code == 0
    assert "nothing was quantized" in outcome.out


def test_tolerance_zero_comes_from_the_originals(capture: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "o.json"
    assert run("audit", capture, "--policy", "budget", "--tolerance", "0", "--json", out, "--quiet").code == 0
    assert {row["rung"] for row in read_json(out)["heads"]} == {3}


TINY = {np.dtype(np.float16): 2.0**-24, BFLOAT16: 2.0**-133}  # smallest subnormals
LARGE = {np.dtype(np.float16): 65504.0, BFLOAT16: 2.0**127}


@pytest.mark.parametrize("dtype", [np.dtype(np.float16), BFLOAT16], ids=str)
@pytest.mark.parametrize(
    "what",
    ["zeros", "largest k", "largest v", "largest q, k, v", "tiny q, k, v", "one token", "scale", "negative scale"],
)
def test_extreme_captures_are_sound(what: str, dtype: Any, run: Run, tmp_path: Path) -> None:
    """No warning either: they are errors here."""
    rng = np.random.default_rng(5)
    tensors = synthetic(dtype=dtype, tokens=1 if what == "one token" else 150)
    for name in tensors:
        signs = rng.choice([-1.0, 1.0], tensors[name].shape)
        if what.startswith("largest") and name in what.removeprefix("largest"):
            tensors[name] = (LARGE[dtype] * signs).astype(dtype)
        elif what.startswith("tiny"):
            tensors[name] = (TINY[dtype] * 3 * signs).astype(dtype)
        elif what == "zeros":
            tensors[name] = np.zeros_like(tensors[name])
    if "scale" in what:
        tensors["scale"] = np.array(2.0**127 if what == "scale" else -0.25)
    out = tmp_path / "o.json"
    outcome = run("audit", save(tensors, tmp_path / "a.safetensors"), "--json", out)
    assert (outcome.code, outcome.err) == (0, "")
    for row in read_json(out)["heads"]:
        assert row["bound"] is None or row["error"] <= row["bound"]


def test_an_error_that_is_printed_is_measured(run: Run, tmp_path: Path) -> None:
    """At this scale float64 knows its own truth to about 10 only; enclosures know that one key takes all."""
    path = save(synthetic() | {"scale": np.array(2.0**127)}, tmp_path / "a.safetensors")
    out = tmp_path / "o.json"
    assert run("audit", path, "--policy", "paper", "--json", out, "--quiet").code == 0
    errors = [row["error"] for row in read_json(out)["heads"] if row["key"] + row["value"] > 0]
    assert errors
    # Scores are apart by 2^127 times at least 2^-20, so every other weight is below exp(-2^100): what is left is the
    # radius that the enclosure stopped at, 2^-24 of the largest value at most.
    assert max(errors) < 2.0**-20


def lower_bounds(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Plant a defect: certificates promise ``factor`` of what they should."""
    honest = decode

    def lying(*args: Any, **options: Any) -> Any:
        step = honest(*args, **options)
        certificate = dataclasses.replace(step.certificate, bound=step.certificate.bound * factor)
        return dataclasses.replace(step, certificate=certificate)

    monkeypatch.setattr(reference, "decode", lying)


def test_a_bound_that_is_too_small_is_found(
    capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lower_bounds(monkeypatch, 1e-3)
    out = tmp_path / "o.json"
    outcome = run("audit", capture, "--json", out)
    assert outcome.code == 1
    assert "VIOLATED:" in outcome.out
    assert "and " in outcome.out.splitlines()[-1]  # more than are listed
    assert "SOUND" not in outcome.out
    tree = read_json(out)
    above = [row for row in tree["heads"] if row["error"] > row["bound"]]
    assert len(above) == sum(s["violations"] for s in tree["summary"].values()) > 5
    assert run("audit", capture, "--quiet").code == 1


def test_an_output_that_is_not_a_number_is_a_violation(
    capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = decode

    def broken(*args: Any, **options: Any) -> Any:
        step = honest(*args, **options)
        step.output[0, 0] = np.nan
        return step

    monkeypatch.setattr(reference, "decode", broken)
    out = tmp_path / "o.json"
    assert run("audit", capture, "--policy", "naive", "--json", out).code == 1
    tree = read_json(out)
    assert tree["summary"]["naive"]["violations"] == 5  # head 0 of each step
    assert tree["heads"][0]["error"] is None


def test_what_could_not_be_decided_is_not_called_sound(
    capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def helpless(output: Any, *args: Any) -> list[Verdict]:
        return [Verdict(0.0, math.inf, False, "undecided")] * len(output)

    monkeypatch.setattr(measure, "judge", helpless)
    outcome = run("audit", capture, "--policy", "naive")
    assert "NOT DECIDED: 14 errors" in outcome.out
    assert "SOUND" not in outcome.out


BAD_OPTIONS: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--policy", "best"), ("unknown policy 'best'", "naive, paper, budget")),
    (("--policy", ""), ("unknown policy ''",)),
    (("--policy", "naive,naive"), ("named twice",)),
    (("--policy", "naive", "--tolerance", "1"), ("--tolerance is for the budget policy",)),
    (("--policy", "naive", "--relative-to", "output"), ("--relative-to is for the budget policy",)),
    (("--relative-to", "keys"), ("unknown 'keys'", "values, output, absolute")),
    (("--tolerance", "-1"), ("--tolerance", "at least 0")),
    (("--tolerance", "nan"), ("--tolerance", "finite")),
    (("--tolerance", "much"), ("--tolerance", "invalid float value: 'much'")),
    (("--keys", "int3"), ("--keys", "unknown key format 'int3'", "int8-paper, int8, dense")),
    (("--keys", "int4-g16"), ("--keys", "unknown key format")),
    (("--values", "int8-paper"), ("--values", "unknown value format", "int4-g16")),
    (("--block", "0"), ("--block is 0", "at least 1")),
    (("--block", "1.5"), ("--block", "invalid int value")),
    (("--backend", "cuda"), ("--backend", "unknown backend 'cuda'", "reference, torch, triton")),
    (("--round-to", "float8"), ("--round-to", "float8", "float16", "bfloat16")),
    (("--save", "o.safetensors"), ("--save is for one policy, but 3", "--policy budget")),
    (("--fast",), ("unrecognized arguments: --fast", "--help")),
]


@pytest.mark.parametrize(("options", "parts"), BAD_OPTIONS, ids=[" ".join(options) for options, _ in BAD_OPTIONS])
def test_wrong_options_are_refused_in_one_line(
    options: tuple[str, ...], parts: tuple[str, ...], capture: Path, run: Run
) -> None:
    run("audit", capture, *options).refused(*parts)


def test_commands_are_needed(run: Run) -> None:
    run().refused("COMMAND")
    run("prove").refused("'prove'", "audit")
    run("audit").refused("FILE")


def test_outputs_are_checked_before_the_run(
    capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the run started")

    monkeypatch.setattr(audit, "measure", never)
    run("audit", capture, "--json", tmp_path / "none" / "o.json").refused("--json", "does not exist")
    run("audit", capture, "--json", tmp_path).refused("--json", "is a directory")
    run("audit", capture, "--json", capture).refused("is the capture itself")
    run("audit", capture, "--json", capture / "o.json").refused("--json")
    run("audit", capture, "--policy", "naive", "--save", "/proc/o").refused("--save /proc/o cannot be written")
    same = tmp_path / "o"
    run("audit", capture, "--policy", "naive", "--save", same, "--json", same).refused("--json and --save both name")
    assert not same.exists()


def test_an_interrupt_is_one_line(capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(audit, "measure", interrupted)
    outcome = run("audit", capture, "--json", tmp_path / "o.json")
    assert (outcome.code, outcome.out, outcome.err) == (130, "", "certkv: interrupted\n")
    assert not (tmp_path / "o.json").exists()


def test_version_and_help(run: Run) -> None:
    assert run("--version").out.startswith("certkv ")
    overview = run("--help")
    assert overview.code == 0
    assert "audit" in overview.out
    assert "demo" in overview.out
    text = run("audit", "--help").out
    for part in ("q_positions", "--tolerance", "exit codes", "int4-g32", "layers.0.q"):
        assert part in text


def python(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python on certkv as the test process finds it."""
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment(), **options)


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONIOENCODING": "ascii"}


@pytest.mark.parametrize("module", ["certkv.cli", "certkv.cli.main"])
def test_as_a_process(module: str, capture: Path) -> None:
    done = python("-m", module, "audit", str(capture), "--policy", "budget")
    assert (done.returncode, done.stderr) == (0, "")
    assert "SOUND" in done.stdout
    refused = python("-m", module, "audit", "no-such-file-\u00e9")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.count("\n") == 1


def test_a_reader_that_leaves_early_is_no_error(capture: Path) -> None:
    command = f"'{sys.executable}' -m certkv.cli audit '{capture}' --heads"
    # The pipe's other end is closed before anything is printed, so that the first write already fails.
    script = f"({command}; echo $? >&2) | true"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, env=environment())
    assert done.stderr == "141\n"


def test_progress_without_a_terminal_is_a_line_now_and_then(
    capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    outcome = run("audit", capture, "--policy", "naive")
    assert "layer 5, naive: 14 of 14 head-steps\n" in outcome.err
    assert run("audit", capture, "--policy", "naive", "--quiet").err == ""


def test_ctrl_c_ends_the_process_with_130(tmp_path: Path) -> None:
    path = save(synthetic(queries=200, tokens=4000, d=64), tmp_path / "long.safetensors")  # far longer than the wait
    script = "import sys; from certkv.cli.main import main; print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", script, "audit", str(path)]
    pipe = subprocess.PIPE

    def listen() -> None:
        """Undo an ignored SIGINT, which a shell gives to what it runs in the background and a child inherits."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    options: dict[str, Any] = {"stdout": pipe, "stderr": pipe, "text": True, "env": environment()}
    with subprocess.Popen(command, preexec_fn=listen, **options) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(1.0)  # well inside the run
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "certkv: interrupted\n")
