"""The page: verdict, table, plots with their figures as tables, settings. One file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

import matplotlib
import numpy as np

from certkv.cli.backends.base import Backend
from certkv.cli.capture import Capture
from certkv.cli.measure import HeadStep, PolicyRun
from certkv.cli.page import figures
from certkv.cli.page.data import (
    PARTS,
    drawn,
    grid,
    host_share,
    layers,
    mean_rung,
    pairs,
    part_shares,
    plane_share,
    positive,
)
from certkv.cli.page.look import CSS
from certkv.cli.page.markup import Markup, element, folded, join, table
from certkv.cli.page.svg import style, to_svg
from certkv.cli.report import (
    ALL_ORIGINAL,
    LEGEND,
    WORST,
    Row,
    all_original,
    describe_capture,
    enforced,
    mean_and_largest,
    mean_and_range,
    number,
    percent,
    planar,
    ranges,
    summary_rows,
    verdict_lines,
    violations,
)
from certkv.cli.summary import Spread, summarise
from certkv.cli.sweep import Reading
from certkv.cli.writer import document
from certkv.reference.policies import Budget

FOLD_FROM = 13
"""Rows from which a table is folded at first."""

UNITS = {
    "values": "share of the mass-weighted mean |v|",
    "output": "share of |output|",
    "absolute": "units of V",
}


def page_bytes(runs: Sequence[PolicyRun], readings: Sequence[Reading], capture: Capture, backend: Backend) -> bytes:
    """Build the page.

    Parameters
    ----------
    runs : sequence of PolicyRun
        Judged, one or more.
    readings : sequence of Reading
        The budget at a few tolerances, ascending; all in one unit.
    capture : Capture
    backend : Backend

    Returns
    -------
    bytes
        HTML in UTF-8. It loads nothing, and runs no script.
    """
    name = PurePath(capture.source).name
    with style():
        plots = [_scatter(runs), _distribution(runs), _rungs(runs), _bytes(runs, readings), _parts(runs)]
    sections = [_summary(runs, capture, backend.note), *plots, _settings(runs, capture, backend)]
    contents = element("ul", join(element("li", element("a", title, href=f"#{key}")) for key, title, _ in sections))
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    head = join(
        [
            Markup('<meta charset="utf-8">'),
            Markup('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Markup(f'<meta http-equiv="Content-Security-Policy" content="{policy}">'),
            element("title", f"certkv audit: {name}"),
            element("style", Markup(CSS)),
        ]
    )
    main = join(
        element("section", element("h2", title, id=key), content, aria_labelledby=key)
        for key, title, content in sections
    )
    title = element("h1", "certkv audit: ", element("span", name, class_="name"))
    body = join([element("header", title, element("nav", contents, aria_label="Contents")), element("main", main)])
    whole = element("html", element("head", head), element("body", body), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n".encode()


Section = tuple[str, str, Markup]
"""Id, title and content."""


def _title(run: PolicyRun) -> str:
    used = dict.fromkeys(f"{s.keys}, {s.values}, B = {s.block}" for s in run.storage)
    return f"{run.policy.name} ({'; '.join(used)})"


def _heading(run: PolicyRun) -> str:
    """Return the title of a panel: the policy, and what it stored, on two lines."""
    return _title(run).replace(" (", "\n", 1).removesuffix(")")


def _clouds(runs: Sequence[PolicyRun], heading: bool) -> list[figures.Cloud]:
    return [
        figures.Cloud(
            _heading(run) if heading else _title(run),
            pairs((s for s in drawn(run) if not s.violated), lambda s: s.bound),
            pairs(drawn(run), lambda s: s.paper_bound),
            pairs((s for s in drawn(run) if s.violated), lambda s: s.bound),
        )
        for run in runs
    ]


def _plot(svg: Markup, caption: str, figures_table: Markup, rows: int) -> Markup:
    figure = element("figure", svg, element("figcaption", caption))
    return join([figure, folded("The figures as a table", figures_table, rows < FOLD_FROM)])


def _summary(runs: Sequence[PolicyRun], capture: Capture, note: str | None) -> Section:
    lines = verdict_lines(runs)
    kind = "bad" if violations(runs) else "good" if lines[0].startswith("SOUND") else "open"
    rows = summary_rows(runs)
    ends = [i for i, row in enumerate(rows) if row.last]
    header = ("per policy", *(run.policy.name for run in runs))
    parts = [
        element("p", lines[0], class_=f"verdict {kind}"),
        element("ul", join(element("li", line) for line in describe_capture(capture))),
        table("Summary per policy", header, [(_label(row), *row.cells) for row in rows], ends),
        element("ul", join(element("li", line) for line in _legend()), class_="legend"),
    ]
    if note:
        parts.append(element("p", note))
    if all_original(runs):
        parts.insert(1, element("p", ALL_ORIGINAL))
    if violations(runs):
        parts.insert(1, _violations(violations(runs)))
    return "summary", "Verdict and summary", join(parts)


def _label(row: Row) -> str:
    return element("span", row.label, class_="sub") if row.label.startswith(" ") else row.label


def _legend() -> list[str]:
    """Return the legend of the printed table with its broken lines put together."""
    return "\n".join(LEGEND).replace("\n  ", " ").split("\n")


def _violations(found: Sequence[HeadStep]) -> Markup:
    shown = 10 * WORST
    more = f", the worst {shown} of {len(found)}" if len(found) > shown else ""
    header = ("policy", "layer", "query", "head", "error", "bound", "rung")
    rows = [
        (s.policy, str(s.layer), str(s.query), str(s.head), f"{s.error:.6g}", f"{s.bound:.6g}", str(s.rung))
        for s in found[:shown]
    ]
    return table(f"Violations{more}", header, rows)


def _spreads(runs: Sequence[PolicyRun]) -> tuple[list[tuple[str, ...]], list[int]]:
    """Return the rows of error, bound and quotients by policy and layer, and where a policy's rows end."""
    rows: list[tuple[str, ...]] = []
    ends = []
    for run in runs:
        for layer, steps in layers(run).items():
            coded = [s for s in steps if s.quantized]
            left_out = sum(not (positive(s.error) and positive(s.bound)) for s in coded)
            rows.append(
                (
                    f"{run.policy.name}, layer {layer}",
                    f"{len(coded) - left_out} of {len(steps)}",
                    str(sum(s.violated for s in steps)),
                    mean_and_largest(Spread.of(s.error for s in coded)),
                    mean_and_largest(Spread.of(s.bound for s in coded)),
                    mean_and_range(Spread.of(s.bound / s.error for s in coded if s.error > 0)),
                    mean_and_range(Spread.of(s.paper_bound / s.error for s in coded if s.error > 0)),
                )
            )
        ends.append(len(rows) - 1)
    return rows, ends


def _scatter(runs: Sequence[PolicyRun]) -> Section:
    title = "Bound against error"
    told = "; ".join(
        f"{run.policy.name}: {len(violations([run]))} violations, bound over error "
        f"{mean_and_range(summarise(run).tightness)}, the paper's formula over error "
        f"{mean_and_range(summarise(run).paper_tightness)}"
        for run in runs
    )
    label = f"Scatter plot, one panel per policy, logarithmic axes: promised limit against true error. {told}."
    svg = to_svg(figures.scatter(_clouds(runs, heading=True)), "scatter", label)
    caption = (
        "Every head at every query, where quantized blocks took part. A bound is a point above the line: the closer to "
        "it, the tighter. A point of ours below the line would be a violation. Left out: head-steps computed from "
        "originals alone, whose error is known to be rounding and no closer; errors of zero; infinite limits."
    )
    rows, ends = _spreads(runs)
    header = (
        "policy and layer",
        "head-steps drawn",
        "violations",
        "error: mean, largest",
        "bound: mean, largest",
        "bound / error",
        "paper's formula / error",
    )
    figures_table = table("Error and bound by policy and layer; means are geometric", header, rows, ends)
    return "scatter-section", title, _plot(svg, caption, figures_table, len(rows))


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def _distribution(runs: Sequence[PolicyRun]) -> Section:
    clouds = _clouds(runs, heading=False)
    rows = []
    for run, cloud in zip(runs, clouds, strict=True):
        ours = np.concatenate([cloud.ours, cloud.violated], axis=1)
        for what, xy in (("our bound", ours), ("the paper's formula", cloud.claim)):
            decades = np.log10(xy[1]) - np.log10(xy[0])
            cells = [figures.times(float(x)) for x in np.quantile(decades, QUANTILES)] if decades.size else ["-"] * 7
            rows.append((f"{run.policy.name}, {what}", str(decades.size), *cells))
    header = ("limit over error", "head-steps", "smallest", "5%", "25%", "median", "75%", "95%", "largest")
    told = "; ".join(f"{row[0]}: median {row[5]}, from {row[2]} to {row[8]}" for row in rows)
    label = f"Histograms of promised limit over true error, one per policy, logarithmic axis. {told}."
    svg = to_svg(figures.distribution(clouds), "distribution", label)
    caption = (
        "How many times too large the limits are: blue what certkv promises, orange what the formula of "
        "arXiv 2605.20868 says for the same steps. Vertical lines are geometric means. The further left, the tighter; "
        "nothing of ours may stand left of 1."
    )
    figures_table = table("Quantiles of limit over error", header, rows, range(1, len(rows), 2))
    return "tightness", "Tightness", _plot(svg, caption, figures_table, len(rows))


def _rungs(runs: Sequence[PolicyRun]) -> Section:
    rungs, shares = [grid(run, mean_rung) for run in runs], [grid(run, host_share) for run in runs]
    planes = planar(runs)
    rows, ends = [], []
    for run in runs:
        for layer, steps in layers(run).items():
            counts = [sum(s.rung == rung for s in steps) for rung in range(5)]
            read = (percent(host_share(steps)), *((percent(plane_share(steps)),) if planes else ()))
            rows.append((f"{run.policy.name}, layer {layer}", *map(str, counts), *read))
        ends.append(len(rows) - 1)
    told = "; ".join(
        f"{run.policy.name}: head-steps by rung 0 to 4 {', '.join(map(str, summarise(run).rungs))}, "
        f"{percent(summarise(run).host_share)} of the originals read"
        for run in runs
    )
    label = f"Heat maps by layer and query head, one column per policy: mean rung, and share of originals read. {told}."
    svg = to_svg(figures.heat_maps([_heading(run) for run in runs], rungs, shares), "rungs", label)
    caption = (
        "What each head needed, over its queries. Rung 0: the quantized first pass; 1: keys promoted; 2: values "
        "promoted; 3 and 4: computed from the originals. Below: the bytes needed from the originals over the bytes of "
        "all originals the head saw."
    )
    read_columns = ("originals read", *(("planes read",) if planes else ()))
    header = ("policy and layer", *(f"rung {i}" for i in range(5)), *read_columns)
    by_layer = table("Head-steps by highest rung", header, rows, ends)
    heads_header = ("policy and layer", *(f"head {h}" for h in range(max(g.cells.shape[1] for g in rungs))))
    heads_rows = [
        (f"{run.policy.name}, layer {layer}", *("" if np.isnan(x) else f"{x:.2f}, {percent(y)}" for x, y in cells))
        for run, r, s in zip(runs, rungs, shares, strict=True)
        for layer, cells in zip(
            r.layers, (zip(a, b, strict=True) for a, b in zip(r.cells, s.cells, strict=True)), strict=True
        )
    ]
    by_head = table("Mean rung and share of originals read, by layer and head", heads_header, heads_rows)
    both = join([_plot(svg, caption, by_layer, len(rows)), folded("The same for every head", by_head, False)])
    return "rungs-section", "Rungs by layer and head", both


def _bytes(runs: Sequence[PolicyRun], readings: Sequence[Reading]) -> Section:
    budget = readings[0].budget
    unit = UNITS[budget.relative_to]
    absolute = budget.relative_to == "absolute"
    bars = [
        figures.Bar(
            f"{r.budget.tolerance:.3g}" if absolute else f"{100 * r.budget.tolerance:.3g}%",
            r.block_share,
            r.head_share,
        )
        for r in readings
    ]
    beside = [(run.policy.name, summarise(run).host_share) for run in runs if not isinstance(run.policy, Budget)]
    told = ", ".join(f"{percent(r.share)} at {bar.label}" for r, bar in zip(readings, bars, strict=True))
    told += "".join(f"; policy {name}: {percent(share)}" for name, share in beside)
    label = f"Bar chart: share of the originals read by the budget policy, by tolerance ({unit}): {told}."
    svg = to_svg(figures.bytes_by_tolerance(bars, unit, beside), "bytes", label)
    judged = [run.policy for run in runs]
    caption = (
        "Bytes that a budget needs from the 16-bit originals, over the bytes of all the originals seen: what a dense "
        "pass would read. The quantized cache on the device is read besides. "
        + (
            "The budget that was asked for was judged above; the other "
            if any(r.budget in judged for r in readings)
            else "The "
        )
        + "tolerances were run for this plot alone: their bounds were enforced, but no true error was computed."
    )
    header = ("tolerance", "rung 0", "rung 1", "rung 2", "rung 3", "rung 4", "as blocks", "as heads", "originals read")
    rows = [
        (
            bar.label + (" (judged)" if r.budget in judged else ""),
            *map(str, r.rungs),
            *map(percent, (r.block_share, r.head_share, r.share)),
        )
        for r, bar in zip(readings, bars, strict=True)
    ]
    figures_table = table(f"Head-steps by rung and originals read; tolerance: {unit}", header, rows)
    return "bytes-section", "Bytes by tolerance", _plot(svg, caption, figures_table, len(rows))


def small_percent(share: float) -> str:
    """Format a share; one that is not zero does not look like it."""
    return "<0.1%" if 0 < share < 0.0005 else percent(share)


def _parts(runs: Sequence[PolicyRun]) -> Section:
    shares = [np.array([part_shares(steps) for steps in layers(run).values()]).reshape(-1, 3) for run in runs]
    numbers = [tuple(layers(run)) for run in runs]
    rows, ends = [], []
    for run, by_layer in zip(runs, shares, strict=True):
        for (layer, steps), share in zip(layers(run).items(), by_layer, strict=True):
            coded = [s for s in steps if s.quantized]
            means = [number(Spread.of(getattr(s, part) for s in coded).geomean) for part in PARTS]
            cells = ["-" if np.isnan(x) else small_percent(x) for x in share]
            rows.append((f"{run.policy.name}, layer {layer}", *cells, *means))
        ends.append(len(rows) - 1)
    overall = [part_shares(run.steps) for run in runs]
    told = "; ".join(
        f"{run.policy.name}: "
        + (
            "none known"
            if np.isnan(share).any()
            else ", ".join(f"{part} {small_percent(x)}" for part, x in zip(PARTS, share, strict=True))
        )
        for run, share in zip(runs, overall, strict=True)
    )
    label = f"Stacked bars by layer, one panel per policy: mean share of the bound's parts. {told}."
    svg = to_svg(figures.parts([_heading(run) for run in runs], numbers, shares), "parts", label)
    caption = (
        "What the bound is made of: the error that quantized keys can cause, that quantized values can cause, and "
        "rounding (arithmetic), often too small to be seen here. Means over the head-steps in which quantized blocks "
        "took part."
    )
    header = ("policy and layer", *(f"{p}: mean share" for p in PARTS), *(f"{p}: geometric mean" for p in PARTS))
    figures_table = table(
        "Parts of the bound by policy and layer; geometric means in the units of V", header, rows, ends
    )
    return "parts-section", "Parts of the bound", _plot(svg, caption, figures_table, len(rows))


STORED = {
    "keys": "keys",
    "values": "values",
    "block": "tokens per block",
    "residual": "tokens coded at once",
    "planes": "planes lie on",
    "blocks": "blocks",
    "tail": "tail",
}
"""What is shown of each layer's cache, by the names in the JSON."""


def _settings(runs: Sequence[PolicyRun], capture: Capture, backend: Backend) -> Section:
    config = document(runs, capture, backend)["config"]
    versions = {**config["versions"], "matplotlib": matplotlib.__version__}
    rows = [("file", config["file"]), ("backend", config["backend"]), *versions.items()]
    policies = []
    for run in runs:
        given = config["policies"][run.policy.name]
        parameters = ", ".join(f"{key} = {value}" for key, value in given["parameters"].items()) or "none"
        alike: dict[tuple[str, ...], list[int]] = {}
        for s in given["layers"]:
            parts = tuple("-" if s[key] is None else str(s[key]) for key in STORED)
            alike.setdefault(parts, []).append(s["layer"])
        policies += [
            (run.policy.name, enforced(run.policy), parameters, ranges(numbers), *s) for s, numbers in alike.items()
        ]
    header = ("policy", "enforced", "parameters", "layers", *STORED.values())
    sections = [
        table("What ran", ("setting", "value"), rows),
        table("Policies, as read back from what ran", header, policies),
    ]
    return "settings", "Settings and versions", join(sections)
