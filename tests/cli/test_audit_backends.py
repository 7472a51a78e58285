"""Audits by the kernel library: twins on the CPU, kernels in the interpreter; refusals where something is missing."""

from __future__ import annotations

import dataclasses
import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from certkv.cli.backends import backend, fast
from certkv.cli.backends.base import Formats
from certkv.cli.capture import load_capture
from certkv.cli.measure import HeadStep, PolicyRun, measure
from certkv.fast import finish
from certkv.reference import Budget, Naive, PaperPolicy
from certkv.reference.exact import judge

from .support import BFLOAT16, Run, read_json, save, synthetic


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    """Two layers of different shape and type, the second causal, out of order, with its own scale."""
    second = synthetic(queries=4, q_heads=2, kv_heads=1, tokens=140, d=20, dtype=BFLOAT16, prefix="layers.5.")
    second |= {"layers.5.q_positions": np.array([130, 64, 0, 64]), "layers.5.scale": np.array(0.5)}
    return save(synthetic(prefix="layers.1.") | second, tmp_path / "capture.safetensors")


def test_every_policy_is_sound(capture: Path, run: Run, tmp_path: Path) -> None:
    out, page = tmp_path / "o.json", tmp_path / "o.html"
    outcome = run("audit", capture, "--backend", "torch", "--json", out, "--report", page)
    assert outcome.code == 0, outcome.err
    assert "SOUND: no error exceeds its bound (48 head-steps judged" in outcome.out  # 3 policies x (2 x 4 + 4 x 2)
    assert "note: backend torch does not evaluate the paper's formula" in outcome.out
    assert "backend torch does not evaluate" in page.read_text("utf-8")
    tree = read_json(out)
    assert tree["config"]["backend"] == "torch"
    assert tree["config"]["versions"]["torch"] == torch.__version__
    assert tree["config"]["versions"]["device"] == "cpu"
    used = tree["config"]["policies"]
    # the paper's own formats have no kernels: its thresholds run over ours, in its blocks
    assert [used["paper"]["layers"][0][name] for name in ("keys", "values", "block")] == ["int8", "int4-g32", 16]
    for summary in tree["summary"].values():
        assert summary["violations"] == summary["unmet"] == summary["undecided"] == 0
        assert summary["infinite_claims"] == 16
    for row in tree["heads"]:
        assert row["error"] <= row["bound"]
        assert row["bound"] <= (row["tolerance"] or math.inf) or row["rung"] >= 3
        assert row["paper_bound"] is None
    order = [(row["layer"], row["query"], row["head"]) for row in tree["heads"][:16]]
    assert order == sorted(order)  # whatever the order of the positions


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter")
@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language")
@pytest.mark.parametrize(
    "formats",
    [(), ("--keys", "int8+4", "--values", "int4-g32+4"), ("--keys", "oscar+2+4", "--values", "oscar+2+4")],
    ids=["one level", "planes", "two planes"],
)
def test_kernels_are_sound(formats: tuple[str, ...], run: Run, tmp_path: Path) -> None:
    """In the interpreter, which takes a second for a step: few tokens."""
    path = save(synthetic(queries=1, q_heads=2, kv_heads=1, tokens=45), tmp_path / "a.safetensors")
    out = tmp_path / "o.json"
    options = ("--policy", "naive,budget", "--tolerance", "0.02", "--block", "8", "--json", out)
    outcome = run("audit", path, "--backend", "triton", *options, *formats)
    assert outcome.code == 0, outcome.err
    tree = read_json(out)
    assert tree["config"]["backend"] == "triton"
    interpreted = os.environ["TRITON_INTERPRET"] == "1"
    where = "cpu, kernels interpreted" if interpreted else torch.cuda.get_device_name()
    assert tree["config"]["versions"]["device"] == where
    assert tree["config"]["versions"]["triton"]
    for row in tree["heads"]:
        assert row["error"] <= row["bound"]
        assert row["bound"] <= (row["tolerance"] or math.inf) or row["rung"] >= 3


def test_the_same_schema_as_the_reference(capture: Path, run: Run, tmp_path: Path) -> None:
    trees = {}
    for engine in ("reference", "torch"):
        out = tmp_path / f"{engine}.json"
        assert run("audit", capture, "--backend", engine, "--json", out, "--quiet").code == 0
        trees[engine] = read_json(out)
    ours, theirs = trees["torch"], trees["reference"]
    assert set(ours["config"]) == set(theirs["config"])
    assert set(ours["heads"][0]) == set(theirs["heads"][0])
    assert ours["summary"]["naive"].keys() == theirs["summary"]["naive"].keys()
    for one, other in zip(ours["heads"], theirs["heads"], strict=True):
        assert [one[name] for name in ("policy", "layer", "query", "head")] == [
            other[name] for name in ("policy", "layer", "query", "head")
        ]
    for name in ("naive", "budget"):  # blocks, tails and stored bytes are those of the reference
        assert ours["config"]["policies"][name]["layers"] == theirs["config"]["policies"][name]["layers"]
        assert ours["summary"][name]["coded_bytes"] == theirs["summary"][name]["coded_bytes"]
        assert ours["summary"][name]["dense_bytes"] == theirs["summary"][name]["dense_bytes"]


def steps(path: Path, engine: str, budget: Budget) -> list[HeadStep]:
    """Judge every head-step of one budget."""
    (found,) = measure(load_capture(path), [budget], Formats(block=16), backend=backend(engine))
    return found.steps


@pytest.mark.parametrize("place", ["host", "device"])
def test_planes_are_read_and_counted(place: str, capture: Path, run: Run, tmp_path: Path) -> None:
    """What is stored is the reference's, to the byte; what is read is said head by head."""
    trees = {}
    options = ("--policy", "naive,budget", "--tolerance", "0.02", "--block", "16", "--planes", place, "--quiet")
    for engine in ("reference", "torch"):
        out = tmp_path / f"{engine}.json"
        formats = ("--keys", "int8+4", "--values", "int4-g32+4", "--json", out)
        outcome = run("audit", capture, "--backend", engine, *formats, *options)
        assert outcome.code == 0, outcome.err
        trees[engine] = read_json(out)
    ours, theirs = trees["torch"], trees["reference"]
    assert ours["config"]["policies"]["budget"]["layers"] == theirs["config"]["policies"]["budget"]["layers"]
    for name in ("plane_bytes", "coded_bytes", "dense_bytes"):
        assert ours["summary"]["budget"][name] == theirs["summary"]["budget"][name]
    heads = [row for row in ours["heads"] if row["policy"] == "budget"]
    assert any(row["plane_bytes"] for row in heads)
    assert all(row["plane_bytes"] == 0 for row in ours["heads"] if row["policy"] == "naive")
    for row in ours["heads"]:
        assert row["error"] <= row["bound"]
        assert [side[-1] for side in row["levels"]] == row["promoted"]
        if row["rung"] < 3:
            d = {layer["layer"]: layer["head_dim"] for layer in ours["config"]["layers"]}[row["layer"]]
            fetched = row["plane_bytes"] if place == "host" else 0
            assert row["host_bytes"] == sum(row["promoted"]) * 16 * d * 2 + fetched


def test_rungs_are_the_references_away_from_ties(capture: Path) -> None:
    """A head stays on rung 0 where its first bound is within the tolerance; both backends show that bound.

    The kernel library shows the bound of its first tier, which is larger; so where the tolerance is between the two, a
    head may differ or its second tier may accept it: these are ties here.
    """
    free = {engine: steps(capture, engine, Budget(1e30, "absolute")) for engine in ("torch", "reference")}
    bounds = np.array([[step.bound for step in free[engine]] for engine in ("torch", "reference")])
    limit = float(np.median(bounds))
    ours, theirs = (steps(capture, engine, Budget(limit, "absolute")) for engine in ("torch", "reference"))
    compared = 0
    for one, other, pair in zip(ours, theirs, bounds.T, strict=True):
        assert one.rung == 0 or pair[0] > limit
        if (pair[0] <= limit) == (pair[1] <= limit):
            compared += 1
            assert (one.rung == 0) == (other.rung == 0)
            assert (one.promoted == (0, 0)) == (other.promoted == (0, 0))
    assert compared > len(ours) // 2
    for engine in ("torch", "reference"):
        assert {step.rung for step in steps(capture, engine, Budget(0.0))} == {3}


def test_a_causal_query_sees_the_cache_of_its_time(capture: Path) -> None:
    (found,) = measure(load_capture(capture), [Budget(0.0)], Formats(), backend=backend("torch"))
    causal = [step for step in found.steps if step.layer == 5 and step.head == 0]
    assert [step.blocks for step in causal] == [2, 1, 0, 1]
    assert [step.promoted[0] for step in causal] == [1, 0, 0, 0]  # all but the first block, which is pinned
    assert found.storage[1].tokens == 140  # what no query saw is appended at last


def test_saved_outputs_give_the_same_verdict(capture: Path, run: Run, tmp_path: Path) -> None:
    out = tmp_path / "o.safetensors"
    assert run("audit", capture, "--backend", "torch", "--policy", "naive", "--save", out).code == 0
    saved, tensors = load_file(out), load_file(capture)
    output, bound = saved["layers.1.output"], saved["layers.1.bound"]
    assert output.dtype == bound.dtype == np.float64
    for head in range(4):
        k, v = (tensors[f"layers.1.{side}"][:, head // 2] for side in "kv")
        for verdict in judge(output[:, head], bound[:, head], tensors["layers.1.q"][:, head], k, v, 0.25):
            assert not verdict.violated


def test_a_bound_that_is_too_small_is_found(capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = finish.finish_twin

    def lying(*arguments: Any) -> None:
        honest(*arguments)
        arguments[-1].certificate.bound.mul_(1e-3)

    monkeypatch.setattr(finish, "finish_twin", lying)
    outcome = run("audit", capture, "--backend", "torch", "--policy", "naive")
    assert outcome.code == 1
    assert "VIOLATED:" in outcome.out


def test_an_output_that_is_off_is_found(capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of these captures are below 4, and so is every value's norm by far below 400."""
    honest = finish.finish_twin

    def off(*arguments: Any) -> None:
        honest(*arguments)
        arguments[-1].output[..., 0].add_(400.0)

    monkeypatch.setattr(finish, "finish_twin", off)
    assert run("audit", capture, "--backend", "torch", "--quiet").code == 1


def test_a_number_that_is_none_is_not_made_good(capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rung 4 would hide that the kernels computed a NaN."""
    honest = finish.finish_twin

    def damaged(q: torch.Tensor, coded: Any, output: torch.Tensor, *arguments: Any) -> None:
        honest(q, coded, output.clone().fill_(float("nan")), *arguments)

    monkeypatch.setattr(finish, "finish_twin", damaged)
    run("audit", capture, "--backend", "torch", "--policy", "naive").refused("backend torch", "layers.1.q[0]")


def test_a_cache_that_forgets_a_token_is_found(capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Truth comes from the capture, not from what the cache was given."""
    honest = fast.FastLayer.append_to
    monkeypatch.setattr(fast.FastLayer, "append_to", lambda self, tokens: honest(self, max(1, tokens - 1)))
    assert run("audit", capture, "--backend", "torch", "--policy", "budget", "--tolerance", "0").code == 1


REFUSED: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    (("--keys", "int8-paper"), ("--keys", "backend torch has no format 'int8-paper'", "int8", "--backend reference")),
    (("--values", "dense"), ("--values", "no format 'dense'", "int8, int4, int4-g32, int8-g64", "int8+4")),
    (("--block", "100000"), ("backend torch, layer 1", "use smaller blocks")),
    (("--residual", "128"), ("--residual 128: backend torch", "leave --residual out, or use --backend reference")),
]


@pytest.mark.parametrize(("options", "parts"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_settings_without_kernels_are_refused(
    options: tuple[str, ...], parts: tuple[str, ...], capture: Path, run: Run
) -> None:
    run("audit", capture, "--backend", "torch", *options).refused(*parts)


def test_kernels_without_planes_are_told(capture: Path, run: Run) -> None:
    options = ("--keys", "int8+4", "--values", "int4+4", "--planes", "device")
    run("audit", capture, "--backend", "triton", *options).refused("--values int4+4: kernels do not", "--backend torch")


def test_queries_of_another_type_are_refused(run: Run, tmp_path: Path) -> None:
    tensors = synthetic()
    tensors["q"] = tensors["q"].astype(np.float32)
    path = save(tensors, tmp_path / "a.npz")
    run("audit", path, "--backend", "torch").refused("q is float32", "of the type of k and v, float16")


def test_a_scale_beyond_the_kernels_is_refused(run: Run, tmp_path: Path) -> None:
    path = save(synthetic() | {"scale": np.array(2.0**100)}, tmp_path / "a.npz")
    run("audit", path, "--backend", "torch").refused("layer 0", "between 2**-60 and 2**60")


def test_without_torch_the_error_says_what_to_install(capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    run("audit", capture, "--backend", "torch").refused("--backend torch needs torch", "pip install 'certkv[fast]'")


def test_without_triton_the_error_says_what_to_install(
    capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    run("audit", capture, "--backend", "triton").refused("--backend triton needs triton", "certkv[fast]")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_the_error_says_what_to_do(capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET")
    run("audit", capture, "--backend", "triton").refused("needs an NVIDIA GPU", "--backend torch")


def test_policies_keep_their_parameters() -> None:
    """A field that the two sides do not share would be dropped in silence otherwise."""
    for policy in (Naive(), PaperPolicy(coverage=0.9, seed=3), Budget(0.125, "output", 2)):
        made = fast.translated(policy)
        assert dataclasses.asdict(made) == dataclasses.asdict(policy)
        assert made.name == policy.name


def test_runs_of_one_layer_share_a_cache(tmp_path: Path) -> None:
    """Steps do not write to the cache: policies side by side give what each gives alone."""
    loaded = load_capture(save(synthetic(), tmp_path / "a.npz"))
    policies = [Budget(0.05), Budget(0.01)]
    both: list[PolicyRun] = measure(loaded, policies, Formats(), backend=backend("torch"))
    for policy, together in zip(policies, both, strict=True):
        (alone,) = measure(loaded, [policy], Formats(), backend=backend("torch"))
        assert [s.bound for s in alone.steps] == [s.bound for s in together.steps]
        assert [s.error for s in alone.steps] == [s.error for s in together.steps]


@pytest.mark.parametrize("unit", ["values", "output", "absolute"])
def test_tolerances_are_enforced_in_every_unit(unit: str, run: Run, tmp_path: Path) -> None:
    path, out = save(synthetic(), tmp_path / "a.npz"), tmp_path / "o.json"
    options = ("--policy", "budget", "--relative-to", unit, "--tolerance", "0.03", "--json", out, "--quiet")
    assert run("audit", path, "--backend", "torch", *options).code == 0
    tree = read_json(out)
    assert tree["config"]["policies"]["budget"]["parameters"]["relative_to"] == unit
    for row in tree["heads"]:
        assert row["tolerance"] > 0
        assert row["bound"] <= row["tolerance"] or row["rung"] == 3
        if unit == "absolute":
            # times 1 - 2^-20, rounded to FP32
            assert 0.03 * (1 - 2**-20) * (1 - 2**-24) <= row["tolerance"] <= 0.03
