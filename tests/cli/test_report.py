"""The HTML report: valid, complete, the same numbers as the JSON, safe against what a capture's name says."""

from __future__ import annotations

import dataclasses
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certkv.cli import audit, measure, progress
from certkv.cli.backends import reference
from certkv.cli.backends.base import Formats
from certkv.cli.capture import load_capture
from certkv.cli.page import build, figures
from certkv.cli.page.data import drawn, grid, mean_rung, pairs, part_shares
from certkv.cli.page.markup import Markup, element, escape
from certkv.cli.page.svg import style, to_svg
from certkv.cli.sweep import SHARES, missing, readings_of, sweep, tolerances
from certkv.reference import Budget, Naive, decode

from .support import Run, read_json, save, synthetic

VOID = {"meta"}
SECTIONS = (
    "Verdict and summary",
    "Bound against error",
    "Tightness",
    "Rungs by layer and head",
    "Bytes by tolerance",
    "Parts of the bound",
    "Settings and versions",
)
PLOTS = 5


class Page(HTMLParser):
    """A page taken apart; whatever is not closed in order, or closed without being open, fails."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text: list[str] = []
        self.caption = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), (tag, attrs)
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr" and self.caption:
            self.tables[self.caption].append([])
        elif tag in ("th", "td"):
            self.tables[self.caption][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, tag  # HTML has no self-closing elements; SVG has
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "table":
            self.caption = ""

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if "caption" in self.open:
            self.caption = data
            assert data not in self.tables
            self.tables[data] = []
        elif "th" in self.open or "td" in self.open:
            self.tables[self.caption][-1][-1] += data

    def row(self, caption: str, first: str) -> dict[str, str]:
        """One row of a table, by the names of the columns."""
        header, *rows = self.tables[caption]
        (found,) = [row for row in rows if row[0].strip() == first]
        return dict(zip(header, found, strict=True))

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for key, value in attrs.items() if key == name]


def read(path: Path) -> Page:
    text = path.read_text("utf-8")
    assert text.startswith("<!DOCTYPE html>\n<html lang=")
    return Page(text)


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two layers of different shape, the second causal."""
    second = synthetic(queries=3, q_heads=2, kv_heads=1, tokens=70, prefix="layers.5.")
    second |= {"layers.5.q_positions": np.array([0, 64, 69])}
    return save(synthetic(prefix="layers.1.") | second, tmp_path_factory.mktemp("report") / "capture.safetensors")


@pytest.fixture
def both(capture: Path, run: Run, tmp_path: Path) -> tuple[Page, Any]:
    """The report and the JSON of one run."""
    page, tree = tmp_path / "out.html", tmp_path / "out.json"
    outcome = run("audit", capture, "--report", page, "--json", tree)
    assert (outcome.code, outcome.err) == (0, "")
    return read(page), read_json(tree)


def test_every_section_is_there_and_reachable(both: tuple[Page, Any]) -> None:
    page, _ = both
    links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert len(links) == len(SECTIONS)
    assert all(link is not None and link[1:] in ids for link in links)
    for title in SECTIONS:
        assert page.text.count(title) == 2  # in the contents and above the section
    for name in page.attributes("aria-labelledby"):
        assert name in ids


def test_the_page_needs_nothing_else(both: tuple[Page, Any], tmp_path: Path) -> None:
    page, _ = both
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "iframe", "object", "embed", "link", "base", "form", "foreignobject"}
    addresses = [x for name in ("href", "src", "xlink:href", "action", "srcset", "data") for x in page.attributes(name)]
    assert addresses
    assert all(x.startswith(("#", "data:image/png;base64,")) for x in addresses)
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    text = (tmp_path / "out.html").read_text()
    assert "@import" not in text
    # what else looks like an address are the names of the two XML namespaces
    assert set(re.findall(r"https?://[^\"'\s<>]+", text)) == {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip
    ids = set(page.attributes("id"))
    inner = [x[1:] for x in addresses if x.startswith("#")] + re.findall(r"url\(#([^)]+)\)", text)
    assert set(inner) <= ids
    assert text.count("<style") == 1  # one inside a plot would reach the whole page
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def test_plots_are_told_in_words_and_in_tables(both: tuple[Page, Any]) -> None:
    page, tree = both
    plots = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert [plot["role"] for plot in plots] == ["img"] * PLOTS
    for plot in plots:
        label = plot["aria-label"]
        assert label is not None
        assert all(name in label for name in tree["summary"]), label
    assert len(page.tables) == 9
    assert all(len({len(row) for row in rows}) == 1 for rows in page.tables.values())


def three(x: float) -> str:
    """Three digits, as all the page's numbers have them."""
    return f"{x:.3g}"


def test_numbers_are_those_of_the_json(both: tuple[Page, Any]) -> None:
    page, tree = both
    for name, summary in tree["summary"].items():
        cell = page.row("Summary per policy", "VIOLATIONS: error above our bound")
        assert cell[name] == str(summary["violations"])
        cell = page.row("Summary per policy", "bound: mean, largest")
        assert cell[name] == f"{three(summary['bound']['geomean'])}, {three(summary['bound']['high'])}"
        assert page.row("Summary per policy", "head-steps with quantized blocks")[name] == str(summary["quantized"])
        for layer in (1, 5):
            heads = [row for row in tree["heads"] if row["policy"] == name and row["layer"] == layer]
            counts = page.row("Head-steps by highest rung", f"{name}, layer {layer}")
            assert [counts[f"rung {i}"] for i in range(5)] == [
                str(sum(row["rung"] == i for row in heads)) for i in range(5)
            ]
            if layer == 1:  # every query sees all of its 150 tokens of 16 channels
                seen = len(heads) * 2 * 150 * 16 * 2
                assert counts["originals read"] == f"{100 * sum(row['host_bytes'] for row in heads) / seen:.1f}%"
            for head in {row["head"] for row in heads}:
                rungs = [row["rung"] for row in heads if row["head"] == head]
                cell = page.row("Mean rung and share of originals read, by layer and head", f"{name}, layer {layer}")
                assert cell[f"head {head}"].startswith(f"{np.mean(rungs):.2f}, ")
            # the first layer has tokens in full blocks at every query, and no head of these policies is at rung 3
            if layer == 1 and name != "budget":
                spread = page.row("Error and bound by policy and layer; means are geometric", f"{name}, layer 1")
                errors, bounds = ([row[key] for row in heads] for key in ("error", "bound"))
                for key, x in (("error", errors), ("bound", bounds)):
                    assert spread[f"{key}: mean, largest"] == f"{three(np.exp(np.log(x).mean()))}, {three(max(x))}"
                assert spread["head-steps drawn"] == "8 of 8"
                parts = page.row(
                    "Parts of the bound by policy and layer; geometric means in the units of V", f"{name}, layer 1"
                )
                sums = [row["key"] + row["value"] + row["arithmetic"] for row in heads]
                share = np.mean([row["key"] / total for row, total in zip(heads, sums, strict=True)])
                assert parts["key: mean share"] == f"{100 * share:.1f}%"
                values = [row["value"] for row in heads]
                assert parts["value: geometric mean"] == three(np.exp(np.log(values).mean()))
    coded = [row for row in tree["heads"] if row["policy"] == "paper" and row["key"] + row["value"] > 0]
    ratios = [row["bound"] / row["error"] for row in coded]
    quantiles = page.row("Quantiles of limit over error", "paper, our bound")
    assert quantiles["head-steps"] == str(len(coded))
    assert (quantiles["smallest"], quantiles["largest"]) == (f"{three(min(ratios))}x", f"{three(max(ratios))}x")


def test_settings_are_those_of_the_json(both: tuple[Page, Any]) -> None:
    page, tree = both
    ran = {row[0]: row[1] for row in page.tables["What ran"][1:]}
    assert ran.pop("matplotlib")
    assert ran == {"file": tree["config"]["file"], "backend": "reference", **tree["config"]["versions"]}
    rows = [row for row in page.tables["Policies, as read back from what ran"] if row[0] == "paper"]
    assert [row[3:] for row in rows] == [
        ["1", "int8-paper", "int4-g16", "16", "16", "-", "9", "6"],
        ["5", "int8-paper", "int4-g16", "16", "16", "-", "4", "6"],
    ]
    assert "coverage = 0.995" in rows[0][2]


def test_bytes_by_tolerance_are_those_of_single_audits(
    capture: Path, run: Run, tmp_path: Path, both: tuple[Page, Any]
) -> None:
    """Each tolerance of the ladder, audited by itself, with the truth."""
    page, _ = both
    caption = "Head-steps by rung and originals read; tolerance: share of the mass-weighted mean |v|"
    assert [row[0] for row in page.tables[caption]] == ["tolerance", "1%", "2%", "5% (judged)", "10%"]
    for share, name in ((0.01, "1%"), (0.05, "5% (judged)"), (0.1, "10%")):
        alone = tmp_path / f"{share}.json"
        assert run("audit", capture, "--policy", "budget", "--tolerance", share, "--json", alone, "--quiet").code == 0
        summary = read_json(alone)["summary"]["budget"]
        row = page.row(caption, name)
        assert row["originals read"] == f"{100 * summary['host_share']:.1f}%"
        assert [row[f"rung {i}"] for i in range(5)] == [str(n) for n in summary["rungs"]]
    assert (
        page.row(caption, "5% (judged)")["originals read"]
        == page.row("Summary per policy", "originals read, of all seen")["budget"]
    )


def test_the_sweep_reads_what_the_audit_reads(capture: Path) -> None:
    """With the promoted blocks apart from the whole heads."""
    loaded = load_capture(capture)
    budgets = tolerances(Budget(0.3, relative_to="output"))
    assert [b.tolerance for b in budgets] == [*SHARES, 0.3]
    budgets.insert(0, Budget(0.0, relative_to="output"))  # all from the originals
    judged = readings_of(measure.measure(loaded, budgets, Formats()))
    swept = sweep(loaded, budgets, Formats(), lambda what, steps: None)
    assert swept == judged
    assert swept[0].head_share > 0 == swept[0].block_share
    assert any(r.block_share > 0 for r in swept)
    assert all(r.share == pytest.approx(r.block_share + r.head_share) for r in swept)  # one rounding more
    assert [r.share for r in swept] != [swept[0].share] * 6


def test_tolerances_stay_in_the_unit() -> None:
    assert [b.tolerance for b in tolerances(Budget())] == [0.01, 0.02, 0.05, 0.1]
    absolute = tolerances(Budget(2.0, relative_to="absolute"))
    assert [b.tolerance for b in absolute] == [0.4, 0.8, 2.0, 4.0]
    assert {b.relative_to for b in absolute} == {"absolute"}
    assert [b.tolerance for b in tolerances(Budget(0.0, relative_to="absolute"))] == [0.0]
    assert [b.tolerance for b in tolerances(Budget(1e308, relative_to="absolute"))] == [0.2 * 1e308, 0.4 * 1e308, 1e308]
    assert missing(tolerances(Budget()), [Naive(), Budget()]) == [Budget(t) for t in (0.01, 0.02, 0.1)]


def test_without_a_report_nothing_more_is_run(capture: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    honest = reference.take_step

    def counted(layer: Any, query: int, cache: Any, policy: Any) -> Any:
        seen.append(policy.name)
        return honest(layer, query, cache, policy)

    monkeypatch.setattr(reference, "take_step", counted)
    monkeypatch.setattr(audit, "sweep", lambda capture, budgets, *more: [] if not budgets else 1 / 0)
    assert run("audit", capture, "--quiet").code == 0
    assert len(seen) == 3 * 5


def test_no_truth_is_computed_for_the_sweep(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("judged")

    monkeypatch.setattr(measure, "judge", never)
    (reading,) = sweep(load_capture(capture), [Budget(0.02)], Formats(), lambda what, steps: None)
    assert sum(reading.rungs) == 14


def test_progress_counts_the_sweep(capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    lines = run("audit", capture, "--policy", "naive", "--report", tmp_path / "r.html").err.splitlines()
    assert lines[-1] == "layer 5, tolerance 0.1: 70 of 70 head-steps"  # 14 of naive, 4 x 14 of the sweep
    quiet = run("audit", capture, "--policy", "naive", "--report", tmp_path / "r.html", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_the_same_run_gives_the_same_file(capture: Path, run: Run, tmp_path: Path) -> None:
    one, other = tmp_path / "1.html", tmp_path / "2.html"
    for path in (one, other):
        assert run("audit", capture, "--report", path, "--quiet", "--policy", "naive").code == 0
    assert one.read_bytes() == other.read_bytes()


EVIL = "<script>alert(1)<\u2215script> \"'><img src=x onerror=alert(2)>&amp;\u202e\x07.npz"
"""A file name that would be markup; U+2215 stands for the slash, which no file name has."""


def test_names_are_text_and_nothing_else(run: Run, tmp_path: Path) -> None:
    path = save(synthetic(tokens=70), tmp_path / EVIL)
    out = tmp_path / "o.html"
    assert run("audit", path, "--report", out, "--quiet", "--policy", "naive").code == 0
    page = read(out)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img"}
    assert not any(key.startswith("on") for _, attrs in page.tags for key in attrs)
    shown = EVIL.replace("\u202e", r"\u202e").replace("\x07", r"\x07")
    assert f"certkv audit: {shown}" in page.text  # the title
    assert any(row[1].endswith(shown) for row in page.tables["What ran"])


def test_a_name_that_is_no_unicode_is_shown(run: Run, tmp_path: Path) -> None:
    path = save(synthetic(tokens=70), tmp_path / "caf\udce9.npz")
    assert run("audit", path, "--report", tmp_path / "o.html", "--quiet", "--policy", "naive").code == 0
    assert r"certkv audit: caf\udce9.npz" in read(tmp_path / "o.html").text


def test_markup_escapes_what_it_did_not_make() -> None:
    assert escape("a<b> & \"c\" 'd'") == "a&lt;b&gt; &amp; &quot;c&quot; &#x27;d&#x27;"
    assert escape(Markup("<b>")) == "<b>"
    assert element("p", "x < y ", element("b", "&"), title='"><script>') == (
        '<p title="&quot;&gt;&lt;script&gt;">x &lt; y <b>&amp;</b></p>'
    )
    # what is put together by hand is text again
    assert escape(f"{Markup('<b>')}") == "&lt;b&gt;"


def test_without_matplotlib_nothing_starts(
    capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the run started")

    monkeypatch.setattr(audit, "measure", never)
    monkeypatch.setattr(audit, "load_capture", never)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.backends.backend_svg", None)
    run("audit", capture, "--report", tmp_path / "o.html").refused(
        "--report needs matplotlib", "install certkv[report]"
    )
    assert not (tmp_path / "o.html").exists()


def test_matplotlib_is_imported_for_the_report_alone(capture: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from certkv.cli.main import main; code = main(sys.argv[1:]); "
        "print(code, any(name.partition('.')[0] == 'matplotlib' for name in sys.modules))"
    )
    plain = [sys.executable, "-c", script, "audit", str(capture), "--quiet", "--json", str(tmp_path / "o.json")]
    for more, expected in (([], "0 False\n"), (["--report", str(tmp_path / "o.html")], "0 True\n")):
        done = subprocess.run([*plain, *more], capture_output=True, text=True, check=True)
        assert (done.stdout, done.stderr) == (expected, "")


def test_settings_that_matplotlib_refuses_are_said(capture: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "certkv.cli", "audit", str(capture), "--report", str(tmp_path / "o.html")]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"MPLBACKEND": "nonsense"})
    assert done.returncode == 2
    assert done.stderr.startswith("certkv: error: --report needs matplotlib, which refuses its own settings: ")
    assert done.stderr.count("\n") == 1


def test_bad_places_are_refused_before_the_run(
    capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object) -> None:
        raise AssertionError("the run started")

    monkeypatch.setattr(audit, "measure", never)
    run("audit", capture, "--report", tmp_path).refused("--report", "is a directory")
    run("audit", capture, "--report", tmp_path / "none" / "o.html").refused("--report", "does not exist")
    run("audit", capture, "--report", capture).refused("--report", "is the capture itself")
    run("audit", capture, "--report", "/proc/o.html").refused("--report /proc/o.html cannot be written")
    same = tmp_path / "o"
    run("audit", capture, "--report", same, "--json", same).refused("--json and --report both name")
    run("audit", capture, "--policy", "naive", "--report", same, "--save", same).refused("--save and --report both")
    assert not same.exists()


def test_a_report_that_is_there_is_replaced_whole(
    capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "o.html"
    out.write_text("old")
    with monkeypatch.context() as patch:
        patch.setattr(audit, "measure", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("audit", capture, "--report", out)
    assert out.read_text() == "old"
    assert run("audit", capture, "--report", out, "--quiet", "--policy", "naive").code == 0
    assert read(out).tables
    assert sorted(p.name for p in tmp_path.iterdir()) == ["o.html"]


def lower_bounds(monkeypatch: pytest.MonkeyPatch, factor: float) -> None:
    """Plant a defect: certificates promise ``factor`` of what they should."""

    def lying(*args: Any, **options: Any) -> Any:
        step = decode(*args, **options)
        certificate = dataclasses.replace(step.certificate, bound=step.certificate.bound * factor)
        return dataclasses.replace(step, certificate=certificate)

    monkeypatch.setattr(reference, "decode", lying)


@pytest.mark.parametrize("factor", [1e-3, 0.0])
def test_violations_are_shown(
    factor: float, capture: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bound of zero too, which has no place in the plot."""
    lower_bounds(monkeypatch, factor)
    out, tree = tmp_path / "o.html", tmp_path / "o.json"
    assert run("audit", capture, "--report", out, "--json", tree, "--quiet").code == 1
    page = read(out)
    violations = sum(s["violations"] for s in read_json(tree)["summary"].values())
    assert any(f"VIOLATED: {violations} errors" in text for text in page.text)
    assert not any("SOUND" in text for text in page.text)
    assert len(page.tables["Violations"]) == 1 + violations
    rows = page.tables["Error and bound by policy and layer; means are geometric"]
    column = rows[0].index("violations")
    assert sum(int(row[column]) for row in rows[1:]) == violations


def test_violations_are_drawn_apart(capture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower_bounds(monkeypatch, 1e-3)
    runs = measure.measure(load_capture(capture), [Naive()], Formats())
    (cloud,) = build._clouds(runs, heading=True)
    assert cloud.violated.shape[1] == sum(step.violated for step in runs[0].steps) > 0
    with style():
        figure = figures.scatter([cloud])
    (axes,) = figure.axes
    names = [str(text.get_text()) for text in figure.legends[0].get_texts()]
    assert "our bound is violated" in names
    low, high = axes.get_ylim()
    left, right = axes.get_xlim()
    for xy in (cloud.ours, cloud.claim, cloud.violated):  # nothing is cut off
        assert ((left < xy[0]) & (xy[0] < right)).all()
        assert ((low < xy[1]) & (xy[1] < high)).all()


def test_a_violation_from_the_originals_is_drawn_too(capture: Path) -> None:
    loaded = load_capture(capture)
    (honest,) = measure.measure(loaded, [Budget(0.0)], Formats())
    assert drawn(honest) == []
    step = dataclasses.replace(honest.steps[0], error=1.0, violated=True)
    honest.steps[0] = step
    (cloud,) = build._clouds([honest], heading=True)
    assert cloud.violated.tolist() == [[1.0], [step.bound]]


def test_plots_have_the_points_that_were_measured(capture: Path) -> None:
    runs = measure.measure(load_capture(capture), [Naive(), Budget()], Formats())
    clouds = build._clouds(runs, heading=True)
    with style():
        scatter, bars = figures.scatter(clouds), figures.distribution(clouds)
    for axes, run_ in zip(scatter.axes, runs, strict=True):
        claim, ours, _ = (np.asarray(points.get_offsets()) for points in axes.collections[:3])
        steps = drawn(run_)
        assert ours.tolist() == [[s.error, s.bound] for s in steps]
        assert claim.tolist() == [[s.error, s.paper_bound] for s in steps]
        (line,) = axes.lines
        assert np.array_equal(line.get_xdata(), line.get_ydata())
        assert axes.get_xlabel() == "true error (units of V)"
    assert len(bars.axes) == 2
    for axes, cloud in zip(bars.axes, clouds, strict=True):
        ours = np.log10(cloud.ours[1]) - np.log10(cloud.ours[0])
        assert any(np.allclose(line.get_xdata(), ours.mean(), rtol=1e-12) for line in axes.lines)


def test_heat_maps_show_layers_and_heads_in_their_places(capture: Path) -> None:
    (run_,) = measure.measure(load_capture(capture), [Budget(0.5)], Formats())
    found = grid(run_, mean_rung)
    assert found.layers == (1, 5)
    assert np.isnan(found.cells).tolist() == [[False] * 4, [False, False, True, True]]
    for row, layer in enumerate(found.layers):
        for head in range(4 if layer == 1 else 2):
            rungs = [s.rung for s in run_.steps if (s.layer, s.head) == (layer, head)]
            assert found.cells[row, head] == np.mean(rungs)
    with style():
        figure = figures.heat_maps(["budget"], [found], [found])
    labels = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert labels == ["1", "5"]


def test_what_has_no_place_on_a_logarithmic_axis_is_left_out(capture: Path) -> None:
    (run_,) = measure.measure(load_capture(capture), [Naive()], Formats())
    step = next(s for s in run_.steps if s.quantized)
    odd = [dataclasses.replace(step, error=e, bound=b) for e, b in ((0.0, 1.0), (1.0, np.inf), (np.nan, 1.0))]
    assert pairs([step, *odd], lambda s: s.bound).tolist() == [[step.error], [step.bound]]
    infinite = dataclasses.replace(step, key=np.inf)
    assert np.isnan(part_shares([infinite])).all()
    original = dataclasses.replace(step, rung=3, key=0.0, value=0.0)
    alone = part_shares([step])
    assert alone.sum() == pytest.approx(1.0)  # three quotients and two sums
    assert part_shares([infinite, original, step]).tolist() == alone.tolist()


@pytest.mark.parametrize("what", ["one token", "zeros", "largest", "tiny", "exact", "tolerance 0", "scale"])
def test_extreme_captures_are_drawn(what: str, run: Run, tmp_path: Path) -> None:
    """No warning either: they are errors here."""
    tensors = synthetic(tokens=1 if what == "one token" else 150)
    size = {"zeros": 0.0, "largest": 65504.0, "tiny": 2.0**-24}.get(what)
    if size is not None:
        rng = np.random.default_rng(2)
        tensors = {name: (size * rng.choice([-1.0, 1.0], x.shape)).astype(x.dtype) for name, x in tensors.items()}
    if what == "scale":
        tensors["scale"] = np.array(2.0**127)
    options = {"exact": ("--keys", "dense", "--values", "dense"), "tolerance 0": ("--tolerance", "0")}.get(what, ())
    path, out = save(tensors, tmp_path / "a.safetensors"), tmp_path / "o.html"
    outcome = run("audit", path, "--report", out, "--quiet", *options)
    assert (outcome.code, outcome.err) == (0, "")
    page = read(out)
    assert len([tag for tag, _ in page.tags if tag == "svg"]) == PLOTS
    assert any("nothing was quantized" in text for text in page.text) == (what == "one token")


def test_clouds_of_very_many_points_do_not_swell_the_file() -> None:
    rng = np.random.default_rng(0)
    xy = np.exp(rng.standard_normal((2, 30_000)))
    cloud = figures.Cloud("naive", xy, xy, np.empty((2, 0)))
    with style():
        svg = to_svg(figures.scatter([cloud]), "scatter", "many")
    assert len(svg) < 600_000
    assert "data:image/png;base64," in svg


def test_a_users_own_settings_of_matplotlib_do_not_matter(capture: Path, run: Run, tmp_path: Path) -> None:
    import matplotlib

    one, other = tmp_path / "1.html", tmp_path / "2.html"
    assert run("audit", capture, "--report", one, "--quiet", "--policy", "naive").code == 0
    with matplotlib.rc_context({"font.size": 30.0, "axes.facecolor": "black", "svg.fonttype": "none"}):
        assert run("audit", capture, "--report", other, "--quiet", "--policy", "naive").code == 0
        assert matplotlib.rcParams["font.size"] == 30.0  # and are left as they were
    assert one.read_bytes() == other.read_bytes()
