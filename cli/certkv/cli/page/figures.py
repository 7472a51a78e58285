"""The plots: arrays in, matplotlib figures out. Colours are those of Okabe and Ito, and never the only difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from certkv.cli.page.data import Grid
from certkv.cli.page.svg import new_figure
from certkv.cli.report import percent, ratio
from certkv.reference.numbers.types import FloatArray

OURS = "#0072b2"
CLAIM = "#d55e00"
DARK = "#333333"
PART_COLOURS = ("#0072b2", "#e69f00", "#666666")
PART_HATCHES = ("", "//", "")

CELLS = ("{:.2g}", "{:.0%}")
"""How a cell of the heat maps says its rung and its share."""

ABSENT = "#dddddd"
"""Where a layer has fewer heads than another."""

WRITTEN = 160
"""Cells of a heat map from which their numbers stand in the table alone."""

WIDTH = 10.0
"""Inches across a page; what stands in it alone is narrower."""

PIXELS_FROM = 2000
"""Points from which a cloud is drawn as pixels: the file would grow with every point."""

TICKS = 16
"""Layers that are named along an axis at most; half as many across."""


@dataclass(frozen=True)
class Cloud:
    """One panel of `scatter` and of `distribution`.

    Attributes
    ----------
    title : str
    ours, claim, violated : float64 [2, n]
        Error and limit: of our bound, of the paper's formula, of head-steps that violate our bound.
    """

    title: str
    ours: FloatArray
    claim: FloatArray
    violated: FloatArray


@dataclass(frozen=True)
class Bar:
    """One tolerance: what was read of the originals as blocks, and as whole heads; shares."""

    label: str
    blocks: float
    heads: float


def _across(panels: int) -> float:
    """Return the width of a figure of so many panels side by side."""
    return min(WIDTH, 1.4 + 3.4 * panels)


def _nothing(axes: Axes, anywhere: bool) -> None:
    """Say that a panel is empty; without its axes where that is so of all of them."""
    if not anywhere:
        axes.set_axis_off()
    axes.text(0.5, 0.5, "nothing to draw", transform=axes.transAxes, ha="center", va="center", color="#555555")


def _decades(axis: Any) -> None:
    """Mark powers of ten alone, as many as fit."""
    axis.set_major_locator(LogLocator(10, numticks=7))
    axis.set_minor_formatter(NullFormatter())


def scatter(clouds: Sequence[Cloud]) -> Figure:
    """Draw bound against error, one panel per policy, all with the same axes."""
    figure = new_figure(_across(len(clouds)), 4.2)
    panels = figure.subplots(1, len(clouds), sharex=True, sharey=True, squeeze=False)[0]
    everything = np.concatenate([part for c in clouds for part in (c.ours, c.claim, c.violated)], axis=1)
    for axes, cloud in zip(panels, clouds, strict=True):
        axes.set_title(cloud.title)
        axes.set_xlabel("true error (units of V)")
        if not everything.size:
            _nothing(axes, False)
            continue
        axes.set(xscale="log", yscale="log")
        _points(axes, cloud.claim, CLAIM, "^", "the paper's formula (not a proof)", hollow=True)
        _points(axes, cloud.ours, OURS, "o", "our bound")
        axes.scatter(*cloud.violated, s=60, c="black", marker="x", zorder=4, label="our bound is violated")
        (left, right), (low, high) = (_limits(row) for row in everything)
        low = min(low, left)
        axes.set(xlim=(left, right), ylim=(low, high))
        line = np.array([left, right])
        axes.plot(line, line, color=DARK, linewidth=1.0, zorder=3, label="limit = error")
        axes.fill_between(line, low, line, color="#eeeeee", zorder=0, label="below it: no bound")
        _decades(axes.xaxis)
        _decades(axes.yaxis)
    panels[0].set_ylabel("promised limit of the error (units of V)")
    if everything.size:
        handles, labels = panels[0].get_legend_handles_labels()
        kept = [i for i, label in enumerate(labels) if "violated" not in label or any(c.violated.size for c in clouds)]
        legend = figure.legend(
            [handles[i] for i in kept],
            [labels[i] for i in kept],
            loc="outside lower center",
            ncols=min(len(kept), 4),
            markerscale=1.0 if everything.shape[1] < PIXELS_FROM else 1.6,
        )
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1.0)
    return figure


def _points(axes: Axes, xy: FloatArray, colour: str, marker: str, label: str, hollow: bool = False) -> None:
    many = xy.shape[1] > PIXELS_FROM
    faces = {"facecolors": "none", "edgecolors": colour} if hollow else {"color": colour}
    options: dict[str, Any] = {"s": 6 if many else 14, "linewidths": 0.7, "alpha": 0.3 if many else 0.65, **faces}
    axes.scatter(*xy, marker=marker, label=label, rasterized=many, zorder=2, **options)


def _limits(x: FloatArray) -> tuple[float, float]:
    """Return limits of a logarithmic axis: a little beyond the smallest and the largest, a factor of ten at least."""
    low, high = np.log10(x.min()), np.log10(x.max())
    margin = max(0.06 * (high - low), 0.5 - 0.5 * (high - low), 0.05)
    return float(10.0 ** max(low - margin, -323.0)), float(10.0 ** min(high + margin, 308.0))


def distribution(clouds: Sequence[Cloud]) -> Figure:
    """Draw how many times too large the limits are, one panel below the other."""
    figure = new_figure(WIDTH, 0.9 + 1.55 * len(clouds))
    panels = figure.subplots(len(clouds), 1, sharex=True, squeeze=False)[:, 0]
    ratios = [[np.log10(part[1]) - np.log10(part[0]) for part in (c.ours, c.claim)] for c in clouds]
    everything = np.concatenate([x for both in ratios for x in both])
    low, high = (min(0.0, everything.min()), max(1.0, everything.max())) if everything.size else (0.0, 1.0)
    step = (high - low) / 60
    edges = [low + step * i for i in range(-1, 62)]  # in decades: a quotient itself may be too large for a float
    for axes, cloud, (ours, claim) in zip(panels, clouds, ratios, strict=True):
        axes.set_title(cloud.title, loc="left")
        axes.set_ylabel("of the head-steps")
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.axvline(0.0, color=DARK, linewidth=1.0)
        axes.grid(axis="x", visible=False)
        if not ours.size and not claim.size:
            _nothing(axes, bool(everything.size))
            continue
        for x, colour, label, filled in ((ours, OURS, "our bound", True), (claim, CLAIM, "the paper's formula", False)):
            if not x.size:
                continue
            weights = np.full(x.size, 1 / x.size)
            bar: dict[str, Any] = {"histtype": "stepfilled" if filled else "step", "alpha": 0.75 if filled else 1.0}
            name = f"{label},\ngeometric mean {times(x.mean())}"
            near = [e for e in edges if x.min() - step <= e <= x.max() + step]  # no outline where there is nothing
            axes.hist(x, bins=near, weights=weights, color=colour, linewidth=1.3, label=name, **bar)
            axes.axvline(x.mean(), color=colour, linewidth=1.3, linestyle="-" if filled else "--")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    panels[-1].set_xlabel("promised limit / true error (1: exact; below 1: no bound)")
    panels[-1].xaxis.set_major_locator(MaxNLocator(8, integer=True))
    panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda x, _: times(x)))
    return figure


def times(decades: float) -> str:
    """Write a factor, given its logarithm to base 10."""
    return f"{ratio(10.0**decades)}x" if -3 < decades < 6 else f"10^{decades:.3g}x"


def heat_maps(titles: Sequence[str], rungs: Sequence[Grid], shares: Sequence[Grid]) -> Figure:
    """Draw mean rung and share of originals read, by layer and head, one column per policy."""
    rows = max(len(g.layers) for g in rungs)
    figure = new_figure(_across(len(titles)), 2.0 + 2 * min(3.2, max(0.9, 0.22 * rows)))
    panels = figure.subplots(2, len(titles), sharex="col", squeeze=False)
    most = max([0.05, *(float(np.nanmax(g.cells)) for g in shares)])
    for row, (grids, top, label) in enumerate(
        ((rungs, 4.0, "mean rung\n(0 to 4)"), (shares, most, "originals read,\n% of what dense reads"))
    ):
        for axes, title, g in zip(panels[row], titles, grids, strict=True):
            norm = Normalize(0.0, top)
            picture = axes.imshow(g.cells, cmap="Blues", norm=norm, aspect="auto", interpolation="nearest")
            axes.set_facecolor(ABSENT)
            axes.grid(visible=False)
            _write_cells(axes, g, CELLS[row], 0.6 * top)
            _name_layers(axes.yaxis, g.layers, TICKS)
            axes.xaxis.set_major_locator(MaxNLocator(TICKS // 2, integer=True))
            if row == 0:
                axes.set_title(title)
            else:
                axes.set_xlabel("query head")
        panels[row][0].set_ylabel("layer")
        bar = figure.colorbar(picture, ax=list(panels[row]), label=label, fraction=0.05, pad=0.02)
        if row == 0:
            bar.set_ticks([0, 1, 2, 3, 4])
        else:
            bar.formatter = PercentFormatter(1.0, decimals=0)
            bar.update_ticks()
    return figure


def _write_cells(axes: Axes, grid: Grid, text: str, light_from: float) -> None:
    """Write the numbers into the cells where there is room for them; white where a cell is dark."""
    if grid.cells.size > WRITTEN or grid.cells.shape[1] > TICKS:
        return
    for (layer, head), x in np.ndenumerate(grid.cells):
        if not np.isnan(x):
            colour = "white" if x > light_from else DARK
            axes.text(head, layer, text.format(x), ha="center", va="center", fontsize=7, color=colour)


def _name_layers(axis: Any, numbers: Sequence[int], most: int) -> None:
    """Write the numbers of the layers along an axis, as many as can be read."""
    kept = range(0, len(numbers), -(-len(numbers) // most))
    axis.set_major_locator(FixedLocator(list(kept)))
    axis.set_ticklabels([str(numbers[i]) for i in kept])


def bytes_by_tolerance(bars: Sequence[Bar], unit: str, others: Sequence[tuple[str, float]]) -> Figure:
    """Draw what is read of the originals at each tolerance, and beside it what other policies read."""
    figure = new_figure(7.6, 3.6)
    axes = figure.subplots()
    places = np.arange(len(bars))
    blocks, heads = (np.array([getattr(bar, part) for bar in bars]) for part in ("blocks", "heads"))
    axes.bar(places, blocks, 0.6, color=OURS, label="blocks promoted (rungs 0 to 2)")
    if heads.any():
        axes.bar(places, heads, 0.6, bottom=blocks, color="#e69f00", hatch="//", label="whole heads (rungs 3, 4)")
    for place, total in zip(places, blocks + heads, strict=True):
        axes.annotate(percent(total), (place, total), (0, 3), textcoords="offset points", ha="center")
    top = max([0.05, *(blocks + heads), *(share for _, share in others)])
    for (name, share), dash in zip(((n, s) for n, s in others if s), ("--", ":"), strict=False):
        axes.axhline(share, color=DARK, linewidth=1.0, linestyle=dash, label=f"policy {name}: {percent(share)}")
    axes.set_xticks(places, [bar.label for bar in bars])
    axes.set(xlabel=f"tolerance enforced ({unit})", ylabel="originals read, of what dense reads", ylim=(0, 1.15 * top))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if top > 0.1 else 1))
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def parts(titles: Sequence[str], numbers: Sequence[Sequence[int]], shares: Sequence[FloatArray]) -> Figure:
    """Draw what the bound is made of, by layer, one panel per policy; ``shares`` are float64 [layers, 3]."""
    figure = new_figure(_across(len(titles)), 3.4)
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title, layers, share in zip(panels, titles, numbers, shares, strict=True):
        axes.set_title(title)
        bottom = np.zeros(len(layers))
        for i, name in enumerate(("key", "value", "arithmetic")):
            height = np.nan_to_num(share[:, i])
            options: dict[str, Any] = {
                "color": PART_COLOURS[i],
                "hatch": PART_HATCHES[i] if len(layers) < TICKS else "",
                "label": name,
            }
            axes.bar(np.arange(len(layers)), height, 0.7, bottom=bottom, edgecolor="white", linewidth=0.5, **options)
            bottom += height
        _name_layers(axes.xaxis, layers, TICKS // 2)
        axes.set(xlabel="layer", xlim=(-0.7, len(layers) - 0.3), ylim=(0, 1))
        axes.grid(axis="x", visible=False)
        if not bottom.any():
            _nothing(axes, any(np.nansum(s) > 0 for s in shares))
    panels[0].set_ylabel("mean share of the bound")
    panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure
