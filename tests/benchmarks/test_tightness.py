"""The tightness benchmark: a small run as a user starts it, its parts, and the page that it writes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks.tightness import measure, page, rows, tables, worst  # noqa: E402
from benchmarks.tightness.cases import Group  # noqa: E402
from benchmarks.tightness.heads import KINDS, synthetic  # noqa: E402
from benchmarks.tightness.summary import pick, spread  # noqa: E402

from certkv.reference.cache import Cache  # noqa: E402

RESULTS = ROOT / "benchmarks/results/tightness.csv"
PAGE = ROOT / "docs/tightness.md"
STEP = measure.HeadStep(
    error_lb=1.0,
    error=1.0,
    bound=2.0,
    paper=32.0,
    block_terms=8.0,
    key_share=0.5,
    value_share=0.5,
    keys=0.0,
    values=0.0,
    read=0.0,
    rounds=0,
    norm_share=0.1,
    quantized=True,
    violated=False,
)
GROUP = Group("synthetic", "mixed", 1024, 128, "int8-g64", 64)


def _head(kind: str, tokens: int = 512) -> worst.OneHead:
    head = synthetic(kind, tokens, seed=0, queries=4)
    return worst.OneHead(head.q[0], head.k[:, 0], head.v[:, 0], 128**-0.5)


def _naive(head: worst.OneHead, values: str, setups: tuple[measure.Setup, ...]) -> list[measure.HeadStep]:
    cache = worst.encode(head, values, 64)
    query = measure.Query(head.q[None], None)
    return [
        step for _, step in measure.head_steps(cache, head.k[:, None], head.v[:, None], [query], head.scale, setups)
    ]


def test_a_small_run_as_a_user_starts_it(tmp_path: Path) -> None:
    out = tmp_path / "new" / "small.csv"
    command = [sys.executable, "-m", "benchmarks.tightness", "--small", "--processes", "2", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 violations" in done.stdout
    found = rows.last_run(out)
    assert {row.head for row in found} >= set(KINDS)
    for row in pick(found, policy="naive"):
        assert 1.0 <= row.certificate_min <= row.certificate <= row.certificate_max
        # the certificate is the smaller of these terms and others, block by block
        assert row.certificate <= row.block_terms * (1.0 + 1e-3)  # four digits in the file
    for row in pick(found, policy="budget"):
        assert row.rounds_0 + row.rounds_1 + row.rounds_2 + row.rounds_3 + row.rung_3 == row.head_steps
        assert (row.read == 0.0) == (row.rounds_0 == row.head_steps)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_are_what_they_are_called(kind: str) -> None:
    head, again = (synthetic(kind, 1024, seed=3, queries=4) for _ in range(2))
    assert all(np.array_equal(getattr(head, name), getattr(again, name)) for name in ("q", "k", "v"))
    scores = head.q.astype(np.float64) @ head.k[:, 0].astype(np.float64).T / math.sqrt(128)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    effective = 1.0 / (weights**2).sum(axis=-1)  # how many tokens share the weight
    match kind:
        case "diffuse":
            assert effective.min() > 300
        case "sink":
            assert weights[:, 0].min() > 0.3
            assert weights[:, 1:].max() < 0.1
        case "retrieval":
            assert (weights[:, 256:768].sum(axis=-1) > 0.5).all()
        case "local":
            assert (weights[:, 512:].sum(axis=-1) > 0.9).all()


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="no kind of head"):
        synthetic("nonsense", 64, seed=0, queries=1)


@pytest.mark.parametrize("values", ["int4-g32", "int8-g64"])
def test_moved_originals_keep_their_codes_and_hurt(values: str) -> None:
    head = _head("diffuse")
    moved = worst.worst_case(head, values, 64)
    before, after = (worst.encode(x, values, 64).view(0) for x in (head, moved))
    for side in ("keys", "values"):
        assert np.array_equal(before.encoded(side).codes, after.encoded(side).codes)
        assert np.array_equal(before.encoded(side).step, after.encoded(side).step)
        assert np.array_equal(before.encoded(side).minimum, after.encoded(side).minimum)
    drawn, hurt = (_naive(x, values, measure.SETUPS[:1])[0] for x in (head, moved))
    # errors of 512 tokens, aligned instead of with random signs; a few are enough to tell
    assert hurt.error > 2.0 * drawn.error
    assert hurt.bound / hurt.error < 0.5 * drawn.bound / drawn.error


def test_rounds_are_counted() -> None:
    head = _head("mixed", tokens=1024)
    tight = measure.Setup("budget", 0.005, "values")
    (step,) = _naive(head, "int8-g64", (tight,))
    assert step.rounds >= 1
    assert step.read > 0
    impossible = measure.Setup("budget", 0.0, "values")
    (step,) = _naive(head, "int8-g64", (impossible,))
    assert step.rounds == -1
    loose = measure.Setup("budget", 10.0, "values")
    (step,) = _naive(head, "int8-g64", (loose,))
    assert (step.rounds, step.read) == (0, 0.0)


def test_tolerances_in_their_units() -> None:
    policy = measure.Setup("budget", 0.05, "absolute").policy(median_norm=8.0)
    assert policy.tolerance == pytest.approx(0.4)  # type: ignore[union-attr]
    policy = measure.Setup("budget", 0.05, "output").policy(median_norm=8.0)
    assert (policy.tolerance, policy.relative_to) == (0.05, "output")  # type: ignore[union-attr]


def test_rows_condense_and_come_back(tmp_path: Path) -> None:
    other = measure.HeadStep(**{**vars(STEP), "error": 0.125, "paper": 64.0, "violated": True})
    exact = measure.HeadStep(**{**vars(STEP), "quantized": False, "error": 0.0, "rounds": -1})
    row = rows.condense("now", "abc", "v", GROUP, measure.SETUPS[0], [STEP, other, exact])
    assert (row.head_steps, row.quantized, row.violations, row.rung_3) == (3, 2, 1, 1)
    assert row.certificate == pytest.approx(math.sqrt(2.0 * 16.0))
    assert (row.certificate_min, row.certificate_max) == (2.0, 16.0)
    assert row.paper_over_certificate == pytest.approx(math.sqrt(16.0 * 32.0))
    file = tmp_path / "x.csv"
    rows.append(file, [row])
    rows.append(file, [rows.condense("later", "abc", "v", GROUP, measure.SETUPS[0], [STEP])])
    (last,) = rows.last_run(file)
    assert (last.run, last.certificate) == ("later", 2.0)
    file.write_text("other,columns\n")
    with pytest.raises(ValueError, match="other columns"):
        rows.append(file, [row])


@pytest.mark.parametrize("violated", [False, True])
def test_a_violation_is_the_exit_code(tmp_path: Path, violated: bool) -> None:
    step = measure.HeadStep(**{**vars(STEP), "violated": violated})
    out = tmp_path / "x.csv"
    rows.append(out, [rows.condense("now", "abc", "v", GROUP, measure.SETUPS[0], [STEP, step])])
    command = [sys.executable, "-m", "benchmarks.tightness", "--small", "--report-only", "--out", str(out)]
    assert subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode == int(violated)


def test_spreads_weigh_by_head_steps() -> None:
    one = rows.condense("now", "abc", "v", GROUP, measure.SETUPS[0], [STEP])
    far = measure.HeadStep(**{**vars(STEP), "error": 0.125})
    three = rows.condense("now", "abc", "v", GROUP, measure.SETUPS[0], [far] * 3)
    joined = spread([one, three], "certificate")
    assert joined.mean == pytest.approx((2.0 * 16.0**3) ** 0.25)
    assert (joined.low, joined.high) == (2.0, 16.0)


def test_an_unmet_target_is_said() -> None:
    bad = measure.HeadStep(**{**vars(STEP), "paper": 6.0})
    row = rows.condense("now", "abc", "v", GROUP, measure.SETUPS[0], [bad])
    assert "| 3.0 | **no** |" in tables.targets([row])
    assert "| 16.0 | yes |" in tables.targets([rows.condense("now", "abc", "v", GROUP, measure.SETUPS[0], [STEP])])


def test_a_page_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        page.filled("nothing", rows.last_run(RESULTS))


def test_the_page_shows_the_newest_run() -> None:
    """Run ``python -m benchmarks.tightness --report-only`` after a change."""
    text = PAGE.read_text("utf-8")
    assert page.filled(text, rows.last_run(RESULTS)) == text


def test_block_terms_alone_are_a_bound_and_no_better() -> None:
    for kind in ("mixed", "local"):
        for step in _naive(_head(kind), "int4-g32", measure.SETUPS[:2]):
            assert step.error <= step.bound <= step.block_terms
            assert not step.violated


def test_several_kv_heads() -> None:
    rng = np.random.default_rng(0)
    k, v = (rng.normal(size=(200, 2, 64)).astype(np.float16) for _ in range(2))
    q = rng.normal(size=(4, 64)).astype(np.float16)
    cache = Cache(kv_heads=2, head_dim=64, keys="int8", values="int8-g64", block=64, dtype=k.dtype)
    cache.append(k, v)
    steps = [step for _, step in measure.head_steps(cache, k, v, [measure.Query(q, 150)], 0.125, measure.SETUPS[:2])]
    assert len(steps) == 8
    assert all(step.error <= step.bound <= step.block_terms for step in steps)
