"""The plots of the page: ratios per head, and what tolerances cost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from benchmarks.tightness.cases import DEFAULT_BLOCK, VALUES
from benchmarks.tightness.measure import TOLERANCES
from benchmarks.tightness.rows import Row
from benchmarks.tightness.summary import mean, pick, spread
from benchmarks.tightness.tables import HEADS, SHORT
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from certkv.cli.page.svg import new_figure, style
from certkv.reference.policies import RELATIVE_TO

BOUNDS = (("paper", "paper's formula", "#d55e00", "s"), ("block_terms", "block_bound alone", "#009e73", "^"))
OURS = ("certificate", "certificate", "#0072b2", "o")
COLOURS = ("#0072b2", "#e69f00", "#666666")


def draw(folder: Path, rows: Sequence[Row]) -> None:
    """Write ``ratios.svg`` and ``reads.svg``."""
    folder.mkdir(parents=True, exist_ok=True)
    with style():
        for name, figure in (("ratios", ratios(rows)), ("reads", reads(rows))):
            # without a date, equal figures are equal files
            figure.savefig(folder / f"{name}.svg", metadata={"Date": None})


def ratios(rows: Sequence[Row]) -> Figure:
    """Bound over error per head, nothing promoted: mean and range."""
    figure = new_figure(9.0, 3.8)
    for axes, values in zip(figure.subplots(1, 2, sharey=True), VALUES, strict=True):
        for offset, (name, label, colour, marker) in enumerate((*BOUNDS, OURS)):
            for place, head in enumerate(HEADS):
                some = pick(rows, head=head, values=values, block=DEFAULT_BLOCK, policy="naive")
                found = spread([row for row in some if row.source != "moved"], name)
                x = place + 0.22 * (offset - 1)
                axes.plot([x, x], [found.low, found.high], color=colour, linewidth=1.5)
                axes.plot(x, found.mean, marker, color=colour, markersize=5, label=None if place else label)
        axes.axhline(1.0, color="#333333", linewidth=0.8)
        axes.set_yscale("log")
        axes.set_title(f"INT8 keys, {SHORT[values]} values")
        _heads(axes)
    figure.axes[0].set_ylabel("bound / true error")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def reads(rows: Sequence[Row]) -> Figure:
    """Originals read per head, by unit and tolerance."""
    figure = new_figure(9.0, 5.2)
    grid = figure.subplots(2, 2, sharex=True, sharey=True)
    for line, share in zip(grid, TOLERANCES, strict=True):
        for axes, values in zip(line, VALUES, strict=True):
            for offset, (unit, colour) in enumerate(zip(RELATIVE_TO, COLOURS, strict=True)):
                some = [
                    pick(rows, head=head, values=values, block=DEFAULT_BLOCK, tolerance=share, relative_to=unit)
                    for head in HEADS
                ]
                x = np.arange(len(HEADS)) + 0.26 * (offset - 1)
                axes.bar(x, [mean(mine, "read") for mine in some], 0.24, color=colour, label=unit)
            axes.set_title(f"{100 * share:.0f} %, {SHORT[values]} values")
            axes.yaxis.set_major_formatter(PercentFormatter(1.0))
            _heads(axes)
    for line in grid:
        line[0].set_ylabel("originals read, of dense")
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, [f"of {label}" for label in labels], loc="outside upper center", ncols=3)
    return figure


def _heads(axes: Axes) -> None:
    axes.set_xticks(range(len(HEADS)), HEADS, rotation=35, ha="right")
    axes.grid(visible=False, axis="x")
