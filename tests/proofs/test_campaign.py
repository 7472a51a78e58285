"""The soundness campaign: a hundredth of it, and that it can fail."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from certkv.proofs.campaign import command, contract
from certkv.proofs.campaign.generators import GENERATORS
from certkv.proofs.campaign.plan import SIZES, Job, planned_jobs, scaled
from certkv.proofs.campaign.run import run_job
from certkv.proofs.campaign.settle import settle
from certkv.reference import Budget, Cache, Naive, Step, decode
from certkv.reference.annotations import log_codes
from certkv.reference.annotations import values as value_annotations
from certkv.reference.bounds import arithmetic, hull, spectral
from certkv.reference.bounds.weighted_sums import first_order, sums
from certkv.reference.exact import Enclosure, ExactFloat64, float64
from certkv.reference.ladder import Action, Observation
from certkv.reference.numbers import BFLOAT16, round_nearest
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.steps import budget, certify, coded_terms, distances, originals
from certkv.reference.steps.group import Group

Plant = Callable[[pytest.MonkeyPatch], None]


def test_a_hundredth_is_sound(tmp_path: Path) -> None:
    out = tmp_path / "campaign.json"
    table = tmp_path / "campaign.csv"
    options = ["--fraction", "0.01", "--jobs", "1", "--json", str(out), "--csv", str(table)]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "certkv.proofs.campaign", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert result["passed"]
    assert set(result["generators"]) == set(GENERATORS)
    assert all(tally["head_steps"] > 0 for tally in result["generators"].values())
    whole = result["total"]
    assert not whole["violations"]
    assert not whole["contract_breaks"]
    assert not whole["warnings"]
    assert not whole["undecided"]
    assert [r["needed"] for r in result["requirements"]] == [44_400, 4_400, 20, 400]
    assert all(r["counted"] >= r["needed"] for r in result["requirements"])
    # adversaries that come nowhere near the bound could not find a hole in it
    attained = {name: tally["error_over_bound"]["quantized"]["max"] for name, tally in result["generators"].items()}
    for name in ("half_steps", "mass_flip", "value_residuals", "one_token_blocks", "sign_groups", "rank_one"):
        assert attained[name] > 0.9, name
    # the table by generator and size says the same, and both kinds of promotion occur on their own
    rows = list(csv.DictReader(table.read_text("utf-8").splitlines()))
    assert sum(int(row["head_steps"]) for row in rows) == whole["head_steps"]
    assert sum(size["head_steps"] for size in result["sizes"].values()) == whole["head_steps"]
    assert {(row["generator"], row["size"]) for row in rows} >= {(name, "small") for name in GENERATORS}
    assert all(count > 0 for count in whole["promoted"].values())
    assert sum(whole["promoted"].values()) == whole["head_steps"]


def halved_score_error(patch: pytest.MonkeyPatch) -> None:
    original = Group._score_errors
    patch.setattr(Group, "_score_errors", lambda *a: tuple(0.5 * x for x in original(*a)))


def slightly_small_score_error(patch: pytest.MonkeyPatch) -> None:
    original = Group._score_errors
    patch.setattr(Group, "_score_errors", lambda *a: tuple(0.98 * x for x in original(*a)))


def no_rounding_in_rung_3(patch: pytest.MonkeyPatch) -> None:
    def attention(q: AnyArray, k: AnyArray, v: AnyArray, scale: float) -> ExactFloat64:
        exact = float64.attention(q, k, v, scale)
        return replace(exact, error_ub=np.zeros(len(q)))

    patch.setattr(originals, "float64", SimpleNamespace(attention=attention))


def no_rounding_in_scores(patch: pytest.MonkeyPatch) -> None:
    original = arithmetic.log_weight_error_ub
    patch.setattr(arithmetic, "log_weight_error_ub", lambda *a: 0.0 * original(*a))


def mean_residual_instead_of_largest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(value_annotations, "token_max", lambda per_token: per_token.mean(axis=-1))


def residual_norm_rounded_to_nearest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(value_annotations, "store_ub", lambda x: round_nearest(x, BFLOAT16))


def radius_about_the_anchor_only(patch: pytest.MonkeyPatch) -> None:
    def radius(norm: FloatArray, offset: FloatArray) -> FloatArray:
        return np.broadcast_to(norm, (*offset.shape, norm.shape[-1]))

    patch.setattr(hull, "anchored_radius", radius)


def final_rounding_forgotten(patch: pytest.MonkeyPatch) -> None:
    original = certify.round_output
    patch.setattr(certify, "round_output", lambda x, dtype: (original(x, dtype)[0], np.zeros(len(x))))


def underflow_for_free(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(arithmetic, "LOST_TO_UNDERFLOW", 0.0)


def small_norm_of_score_errors(patch: pytest.MonkeyPatch) -> None:
    original = Group._score_errors

    def errors(*a: Any) -> tuple[FloatArray, FloatArray]:
        delta, norm = original(*a)
        return delta, 0.9 * norm

    patch.setattr(Group, "_score_errors", errors)


def curvature_at_zero(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(spectral, "psi_ub", lambda x: np.full_like(x, 0.5))


def heaviest_token_where_it_was_stored(patch: pytest.MonkeyPatch) -> None:
    """Distances from the output of *decoded* values, in both forms that use them."""
    one, every = distances.token_radius, distances.token_radii

    def radius(group: Group, values: AnyArray, token: AnyArray, output: FloatArray) -> FloatArray:
        residual = group.coded_value_notes.token_residuals_ub()[np.arange(token.shape[-1]), token]
        return np.asarray(np.maximum(one(group, values, token, output) - np.where(values, 0.0, residual), 0.0))

    def radii(group: Group, values: AnyArray, output: FloatArray) -> FloatArray:
        residual = group.coded_value_notes.token_residuals_ub()
        return np.asarray(np.maximum(every(group, values, output) - np.where(values[..., None], 0.0, residual), 0.0))

    patch.setattr(coded_terms, "token_radius", radius)
    patch.setattr(coded_terms, "token_radii", radii)


def last_log_code_is_zero(patch: pytest.MonkeyPatch) -> None:
    original = log_codes.decode
    patch.setattr(log_codes, "decode", lambda codes, maximum: np.where(codes == 255, 0.0, original(codes, maximum)))


def small_norm_of_value_residuals(patch: pytest.MonkeyPatch) -> None:
    original = spectral.value_terms
    patch.setattr(spectral, "value_terms", lambda shares, sizes, norm: original(shares, sizes, 0.9 * norm))


def weight_not_divided_by_mass(patch: pytest.MonkeyPatch) -> None:
    def weight(shares: FloatArray, mass: FloatArray, errors: spectral.ScoreKnowledge) -> FloatArray:
        moved = first_order(sums(shares), errors.delta, errors.operator)
        return np.asarray(mass * arithmetic.exp_minus_lb(np.fmin(moved, errors.delta)))

    patch.setattr(spectral, "weight_lb", weight)


def output_at_the_anchor(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(coded_terms, "from_anchor", lambda group, output: np.zeros(len(output)))


@pytest.mark.parametrize(
    ("plant", "generator", "cases"),
    [
        (halved_score_error, "half_steps", 2),
        (slightly_small_score_error, "half_steps", 20),
        (no_rounding_in_rung_3, "gaussian:enclosed", 2),
        (no_rounding_in_scores, "rounded_scores:enclosed", 2),
        (mean_residual_instead_of_largest, "value_residuals", 5),
        (residual_norm_rounded_to_nearest, "one_token_blocks", 5),
        (radius_about_the_anchor_only, "mass_flip", 5),
        (final_rounding_forgotten, "needles", 3),
        (underflow_for_free, "underflowing_products:enclosed", 11),
        (small_norm_of_score_errors, "rank_one", 3),
        (curvature_at_zero, "rank_one", 3),
        (heaviest_token_where_it_was_stored, "peaked_blocks", 10),
        (last_log_code_is_zero, "log_range", 5),
        (small_norm_of_value_residuals, "aligned_values", 3),
        (weight_not_divided_by_mass, "mass_flip", 5),
        (output_at_the_anchor, "peaked_blocks", 5),
    ],
)
def test_a_bound_that_is_too_small_is_found(
    plant: Plant, generator: str, cases: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, _, size = generator.partition(":")
    plant(monkeypatch)
    tallies = [run_job(Job(name, size or "small", index), 0) for index in range(cases)]
    found = [line for tally in tallies for line in tally.violations]
    assert found, "the campaign is blind to this defect"

    # the line that reports it repeats it, and the command's exit code says so
    repeat = found[0].partition("#")[0].split()
    assert command.main([*repeat, "--jobs", "1"]) == 1
    printed = capsys.readouterr().out
    assert found[0] in printed
    assert "FAILED" in printed

    monkeypatch.undo()
    assert command.main([*repeat, "--jobs", "1"]) == 0


def test_a_budget_that_is_not_enforced_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(bound: FloatArray, limit: FloatArray, rounds_left: int) -> AnyArray:
        del limit, rounds_left
        return np.array([Action.ACCEPT for _ in bound], dtype=object)

    monkeypatch.setattr(budget, "decide", accept)
    tallies = [run_job(Job("gaussian", "small", index), 0) for index in range(10)]
    assert any("bound > tolerance below rung 3" in line for tally in tallies for line in tally.breaks)


def test_an_error_of_the_reference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(observation: Observation) -> Action:
        raise ValueError(f"planted: {observation.bound}")

    monkeypatch.setattr(budget, "next_action", fails)
    tally = run_job(Job("gaussian", "small", 0), 0)
    assert any("ValueError: planted" in line for line in tally.breaks)


def test_a_warning_of_the_reference_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    original = arithmetic.mass_ub

    def noisy(mass: FloatArray, tokens: int) -> FloatArray:
        warnings.warn("planted", RuntimeWarning, stacklevel=1)
        return original(mass, tokens)

    monkeypatch.setattr(arithmetic, "mass_ub", noisy)
    tally = run_job(Job("gaussian", "small", 0), 0)
    assert any("planted" in line for line in tally.warnings)


def small_step(policy: Budget | Naive) -> tuple[Step, Cache, AnyArray]:
    rng = np.random.default_rng(0)
    cache = Cache(kv_heads=1, head_dim=8, block=4)
    v = rng.standard_normal((10, 1, 8)).astype(np.float16)
    cache.append(rng.standard_normal((10, 1, 8)).astype(np.float16), v)
    return decode(rng.standard_normal((2, 8)).astype(np.float32), cache, policy), cache, v


def findings(step: Step, policy: Budget | Naive, cache: Cache, v: AnyArray) -> list[str]:
    return [
        *contract.check_numbers(step),
        *contract.check_tolerance(step, policy, v, 2),
        *contract.check_promotion(step, policy, cache, 2),
    ]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("bound", np.nan, "negative or NaN"),
        ("key", 0.0, "key + value + arithmetic < bound"),
        ("status", 3, "status"),
        ("rung", 5, "no such rung"),
        ("host_bytes", 7, "host_bytes"),
        ("promoted", 99, "more blocks"),
        ("levels", 99, "more blocks at levels"),
        ("levels", 1, "last level"),
        ("plane_bytes", -1, "not paid for"),
        ("plane_bytes", 8, "host_bytes"),
        ("tolerance", 1.0, "reports one"),
    ],
)
def test_every_broken_promise_is_named(field: str, value: float, says: str) -> None:
    step, cache, v = small_step(Naive())
    assert findings(step, Naive(), cache, v) == []
    changed = np.full_like(getattr(step.certificate, field), value)
    broken = replace(step, certificate=replace(step.certificate, **{field: changed}))
    assert any(says in line for line in findings(broken, Naive(), cache, v))


def test_tolerance_and_output_are_checked() -> None:
    policy = Budget(0.5, "absolute")
    step, cache, v = small_step(policy)
    assert findings(step, policy, cache, v) == []
    wide = replace(step, certificate=replace(step.certificate, tolerance=np.full(2, 0.6)))
    assert any("larger than what was asked" in line for line in findings(wide, policy, cache, v))
    lost = replace(step, output=np.full_like(step.output, np.nan))
    assert any("output is NaN" in line for line in findings(lost, policy, cache, v))
    assert contract.check_same(step, step) == []
    assert contract.check_same(step, lost) == ["repeated, output differs"]


def test_settle_decides_what_agrees_to_many_digits() -> None:
    k = np.zeros((3, 2), np.float16)
    v = np.array([[1.0, 5.0], [2.0, 5.0], [4.0, 5.0]], np.float16)
    exact = np.array([7.0 / 3.0, 5.0])
    error = abs(7 - 3 * 7.0 / 3.0) + 2.0**-53  # 7/3 has a rounding error below half an ulp of 2^-52 * 2
    enclosure = Enclosure(k, v)

    def judged(output: FloatArray, bound: float) -> tuple[bool, bool]:
        verdict = settle(output, bound, np.ones(2, np.float32), enclosure, v.astype(np.float64), 1.0)
        return verdict.violated, verdict.error_ub <= bound

    assert judged(exact, error + 2.0**-52) == (False, True)
    assert judged(exact, 2.0**-60) == (True, False)
    # the output's distance to the exact one is 1 up to that rounding, so 1 +- 2^-40 lie on either side
    assert judged(exact + np.array([0.0, 1.0]), 1.0 + 2.0**-40) == (False, True)
    assert judged(exact + np.array([0.0, 1.0]), 1.0 - 2.0**-40) == (True, False)
    # constant values: the exact output is that number, and a bound of 0 can be kept
    flat = np.full((3, 2), 3.0)
    verdict = settle(flat[0], 0.0, np.ones(2, np.float32), Enclosure(k, flat.astype(np.float16)), flat, 1.0)
    assert not verdict.violated
    assert verdict.error_ub == 0.0


def test_plan_scales_and_covers() -> None:
    assert scaled([10, 10, 10], 0.1) == [2, 1, 1]  # the first case is always taken
    assert sum(scaled([10] * 30, 0.01)) == 4
    assert scaled([10, 3], 2.5) == [25, 8]
    assert scaled([3, 4], 1.0) == [3, 4]
    full, hundredth = (planned_jobs(GENERATORS, fraction) for fraction in (1.0, 0.01))
    assert set(hundredth) <= set(full)
    assert {job.size for job in hundredth} == {"small", "enclosed", "medium", "wide", "large"}
    assert {job.generator for job in hundredth} == set(GENERATORS)
    # a larger campaign begins with the full one and goes on counting
    larger = planned_jobs(GENERATORS, 2.5)
    assert larger[: len(full)] == full
    assert len(set(larger)) == len(larger)
    assert len(larger) == pytest.approx(2.5 * len(full), abs=len(SIZES) * len(GENERATORS))
    assert len(full) == sum(sum(generator.cases.values()) for generator in GENERATORS.values())


def test_processes_change_nothing(tmp_path: Path) -> None:
    results = []
    for jobs in ("1", "2"):
        out = tmp_path / f"{jobs}.json"
        assert command.main(["--only", "ties:small", "--fraction", "0.02", "--jobs", jobs, "--json", str(out)]) == 0
        results.append(json.loads(out.read_text())["total"])
    assert results[0] == results[1]


def test_a_campaign_that_is_stopped_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert command.main(["--fraction", "0.001", "--jobs", "1", "--minutes", "1e-9", "--json", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "left out: time was up" in printed
    assert "MISSED" in printed
    assert json.loads(out.read_text())["left_out"] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--fraction", "0"],
        ["--fraction", "nan"],
        ["--fraction", "1e9"],
        ["--minutes", "0"],
        ["--jobs", "0"],
        ["--only", "nonsense"],
        ["--index", "3"],
    ],
)
def test_bad_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err
