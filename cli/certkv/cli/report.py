"""What the user reads: a table with one column per policy, and a verdict. Plain ASCII text."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from certkv.cli.backends.base import Storage
from certkv.cli.capture import Capture, Layer
from certkv.cli.measure import HeadStep, PolicyRun
from certkv.cli.summary import Spread, Summary, summarise
from certkv.cli.text import printable
from certkv.reference.policies import Budget, Policy

WIDTH = 112
"""Columns where the output is no terminal, and the most that is used of one."""

WORST = 5
"""Violations that are listed one by one."""

LEGEND = (
    "error: L2 distance of an output to exact attention over the 16-bit originals, from proved limits",
    "bound: what the certificate of that same step promises the error cannot exceed, rounding included",
    "paper's claim: what the formula of arXiv 2605.20868 (Section 4) promises for the same step. It ignores rounding:",
    "  an error counts as above it only if it is so by more than our bound of the rounding",
    "means are geometric; |output|, |v| are L2 norms; rung 0: first pass, 1: keys promoted, 2: values promoted,",
    "  3 and 4: computed from the originals",
)


ALL_ORIGINAL = "note: no block is full, so every token is still original and nothing was quantized"


class PlainConsole(Console):
    """A console that lets a broken pipe be what it is; rich would leave with 1, our code for a violation."""

    def on_broken_pipe(self) -> None:
        """Pass the error on.

        Raises
        ------
        BrokenPipeError
        """
        raise BrokenPipeError


def console(file: TextIO | None = None) -> Console:
    """Return a console that writes to ``file`` (standard output), no wider than `WIDTH`, without markup or emoji."""
    target = sys.stdout if file is None else file
    plain = Console(file=target)
    return PlainConsole(
        file=target,
        markup=False,
        emoji=False,
        highlight=False,
        width=min(plain.width, WIDTH) if plain.is_terminal else WIDTH,
    )


def number(x: float) -> str:
    """Format with three digits; "-" where there is nothing, "inf" for no bound."""
    return "-" if math.isnan(x) else f"{x:.3g}"


def percent(share: float) -> str:
    """Format a share with one digit after the point."""
    return f"{100 * share:.1f}%"


def ratio(x: float) -> str:
    """Format a factor, without an exponent up to a million."""
    return f"{x:.0f}" if 100 <= x < 1e6 else number(x)


def mean_and_largest(x: Spread) -> str:
    """Format as "mean, largest"."""
    return "-" if math.isnan(x.geomean) else f"{number(x.geomean)}, {number(x.high)}"


def mean_and_range(x: Spread) -> str:
    """Format factors as "mean x (smallest .. largest)"."""
    return "-" if math.isnan(x.geomean) else f"{ratio(x.geomean)}x ({ratio(x.low)} .. {ratio(x.high)})"


def describe_layer(layer: Layer) -> str:
    """Say in one line what a layer holds."""
    causal = "every query sees all" if layer.positions is None else "causal"
    scale = "from the file" if layer.scale_given else "1/sqrt(d)"
    return (
        f"layer {layer.index}: {layer.queries} queries x {layer.q.shape[1]} heads on {layer.k.shape[1]} KV heads, "
        f"{layer.tokens} tokens, d = {layer.k.shape[2]}, {layer.k.dtype.name}, {causal}, "
        f"scale {number(layer.scale)} ({scale})"
    )


def ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers with runs contracted: ``0-5, 9``."""
    runs: list[list[int]] = []
    for n in numbers:
        if runs and n == runs[-1][-1] + 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def describe_capture(capture: Capture) -> Iterable[str]:
    """Say what the file holds, layers that are alike together, and what was rounded."""
    alike: dict[str, list[int]] = {}
    for layer in capture.layers:
        alike.setdefault(describe_layer(layer).partition(": ")[2], []).append(layer.index)
    for text, layers in alike.items():
        yield f"layer{'s' if len(layers) > 1 else ''} {ranges(layers)}: {text}"
    rounded = [layer for layer in capture.layers if layer.rounded_from]
    if rounded:
        yield (
            f"k and v were {rounded[0].rounded_from}: rounded once to {rounded[0].k.dtype.name}; "
            "the rounded tensors are the originals of this audit"
        )


def enforced(policy: Policy) -> str:
    """Say what a policy enforces."""
    if not isinstance(policy, Budget):
        return "nothing"
    share = {"values": " x mean |v|", "output": " x |output|", "absolute": ""}
    return f"{policy.tolerance:g}{share[policy.relative_to]}"


@dataclass(frozen=True)
class Row:
    """A line of the table: a figure, and what it is for each policy; ``last`` of its group or not."""

    label: str
    cells: tuple[str, ...]
    last: bool = False


def summary_rows(runs: Sequence[PolicyRun]) -> list[Row]:
    """Return the figures of every policy, in words and numbers."""
    summaries = [summarise(run) for run in runs]
    rows = [
        Row("key format, value format", tuple(_used(run, lambda s: f"{s.keys}, {s.values}") for run in runs)),
        Row("tokens per block", tuple(_used(run, lambda s: str(s.block)) for run in runs)),
        *_placed(runs),
        Row("enforced: bound at most", tuple(enforced(run.policy) for run in runs), last=True),
    ]
    figures = _figures(summaries, planar(runs))
    return rows + [Row(label, tuple(cell(s) for s in summaries), last) for label, cell, last in figures]


def planar(runs: Sequence[PolicyRun]) -> bool:
    """Whether any cache had refinement planes."""
    return any(s.planes is not None for run in runs for s in run.storage)


def _placed(runs: Sequence[PolicyRun]) -> list[Row]:
    """Say how many tokens wait as originals, and where planes lie, where that is not what every cache has."""
    rows = []
    if any(s.residual != s.block for run in runs for s in run.storage):
        rows.append(Row("tokens coded at once", tuple(_used(run, lambda s: str(s.residual)) for run in runs)))
    if planar(runs):
        rows.append(Row("planes lie on", tuple(_used(run, lambda s: f"the {s.planes}") for run in runs)))
    return rows


def summary_table(runs: Sequence[PolicyRun]) -> Table:
    """Build the table: a row per figure, a column per policy."""
    table = Table(box=box.ASCII2, title_justify="left", pad_edge=True)
    table.add_column("per policy", no_wrap=True)
    for run in runs:
        table.add_column(run.policy.name, justify="right")
    for row in summary_rows(runs):
        table.add_row(row.label, *row.cells, end_section=row.last)
    return table


def _used(run: PolicyRun, what: Callable[[Storage], str]) -> str:
    """Say what the caches that ran had."""
    return "; ".join(dict.fromkeys(map(what, run.storage)))


def _tolerance(s: Summary) -> str:
    return "-" if s.within_tolerance is None else f"{s.within_tolerance} of {s.heads}"


def _levels(shares: Sequence[float]) -> str:
    """Write the share of blocks at each level, the base plane first."""
    return " / ".join(f"{100 * x:.1f}" for x in (1.0 - sum(shares), *shares)) + "%"


REFINED = "  at levels between: keys, values"
OF_PLANES = ("  keys by level, base first", "  values by level", "planes read, of all seen", "  planes")

_FIGURES: tuple[tuple[str, Callable[[Summary], str], bool], ...] = (
    ("head-steps (query x head) judged", lambda s: str(s.heads), False),
    ("VIOLATIONS: error above our bound", lambda s: str(s.violations), False),
    ("error above the paper's claim", lambda s: str(s.paper_violations), True),
    ("head-steps with quantized blocks", lambda s: str(s.quantized), False),
    ("  error: mean, largest", lambda s: mean_and_largest(s.error), False),
    ("  bound: mean, largest", lambda s: mean_and_largest(s.bound), False),
    ("  bound / |output|: mean, largest", lambda s: mean_and_largest(s.relative_bound), False),
    ("  tightness, bound / error", lambda s: mean_and_range(s.tightness), False),
    ("  paper's claim / error", lambda s: mean_and_range(s.paper_tightness), False),
    ("head-steps from originals alone", lambda s: str(s.heads - s.quantized), False),
    ("  bound: largest", lambda s: number(s.originals_bound), False),
    ("infinite: bounds, paper's claims", lambda s: f"{s.infinite_bounds}, {s.infinite_claims}", True),
    ("bound within the tolerance", _tolerance, False),
    ("head-steps by rung 0/1/2/3/4", lambda s: " / ".join(map(str, s.rungs)), False),
    ("blocks promoted: keys, values", lambda s: f"{percent(s.promoted_keys)}, {percent(s.promoted_values)}", False),
    (REFINED, lambda s: f"{percent(s.refined_keys)}, {percent(s.refined_values)}", False),
    (OF_PLANES[0], lambda s: _levels(s.levels[0]), False),
    (OF_PLANES[1], lambda s: _levels(s.levels[1]), False),
    (OF_PLANES[2], lambda s: percent(s.plane_share), False),
    ("originals read, of all seen", lambda s: percent(s.host_share), True),
    ("bytes/token and KV head, 16-bit", lambda s: ratio(s.dense_bytes), False),
    ("  coded (codes, metadata)", lambda s: _bytes(s.coded_bytes, s), False),
    (OF_PLANES[3], lambda s: _bytes(s.plane_bytes, s), False),
    ("  all on the device", lambda s: _bytes(s.device_bytes, s), False),
)


def _figures(summaries: Sequence[Summary], planes: bool) -> list[tuple[str, Callable[[Summary], str], bool]]:
    """Leave out what is about planes where there are none, and about levels between where no head used one."""
    refined = any(s.refined_keys + s.refined_values > 0 for s in summaries)
    left_out = {*(() if refined else (REFINED,)), *(() if planes else OF_PLANES)}
    return [figure for figure in _FIGURES if figure[0] not in left_out]


def _bytes(x: float, s: Summary) -> str:
    return f"{x:.1f} = {percent(x / s.dense_bytes)}"


def violations(runs: Sequence[PolicyRun]) -> list[HeadStep]:
    """Return every head-step whose error provably exceeds its bound, worst first."""
    found = [step for run in runs for step in run.steps if step.violated]
    return sorted(found, key=lambda step: -(step.error / step.bound if step.bound > 0 else math.inf))


def verdict_lines(runs: Sequence[PolicyRun]) -> list[str]:
    """Say what came out, in a line or a few."""
    judged = sum(len(run.steps) for run in runs)
    by_enclosure = sum(step.judged_by == "enclosure" for run in runs for step in run.steps)
    how = f"{judged} head-steps judged, {by_enclosure} of them by interval arithmetic"
    found = violations(runs)
    undecided = sum(step.judged_by == "undecided" for run in runs for step in run.steps)
    if not found and undecided:
        return [
            f"NOT DECIDED: {undecided} errors could not be compared with their bounds; no other exceeds its ({how})."
        ]
    if not found:
        return [f"SOUND: no error exceeds its bound ({how})."]
    lines = [f"VIOLATED: {len(found)} errors exceed their bound ({how})."]
    for step in found[:WORST]:
        lines.append(
            f"  {step.policy}, layer {step.layer}, query {step.query}, head {step.head}: "
            f"error {step.error:.6g} > bound {step.bound:.6g}, rung {step.rung}"
        )
    if len(found) > WORST:
        lines.append(f"  and {len(found) - WORST} more (--json lists every head)")
    return lines


def head_table(runs: Sequence[PolicyRun]) -> Table:
    """Build the table of single heads: the certificate beside the true error."""
    table, planes = Table(box=box.ASCII2, pad_edge=True), planar(runs)
    for name in (
        "policy",
        "layer",
        "query",
        "head",
        "error",
        "bound",
        "bound/error",
        "paper's claim",
        "tolerance",
        "rung",
        *(("levels",) if planes else ()),
    ):
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for step in (step for run in runs for step in run.steps):
        # from originals alone, the error is of the size of rounding, and known no closer than that
        error = number(step.error) if step.quantized else f"< {number(step.error)}"
        quotient = ratio(step.bound / step.error) if step.quantized and step.error > 0 else "-"
        limits = [number(step.paper_bound), number(step.tolerance), str(step.rung)]
        if planes:
            limits.append(",".join("/".join(map(str, side)) for side in step.levels))
        table.add_row(
            step.policy, str(step.layer), str(step.query), str(step.head), error, number(step.bound), quotient, *limits
        )
    return table


def all_original(runs: Sequence[PolicyRun]) -> bool:
    """Whether no cache had a coded block."""
    return all(s.blocks == 0 for run in runs for s in run.storage)


def print_report(
    runs: Sequence[PolicyRun],
    capture: Capture,
    heads: bool = False,
    file: TextIO | None = None,
    note: str | None = None,
) -> None:
    """Print what was read, the table, a note of who computed it, and the verdict."""
    out = console(file)
    out.print(f"capture {printable(capture.source, out.encoding)}", soft_wrap=True)
    for line in describe_capture(capture):
        out.print(f"  {line}", soft_wrap=True)
    if heads:
        out.print(head_table(runs))
    out.print(summary_table(runs))
    for line in LEGEND:
        out.print(line, soft_wrap=True)
    for line in filter(None, (ALL_ORIGINAL if all_original(runs) else None, note)):
        out.print(line, soft_wrap=True)
    out.print()
    for line in verdict_lines(runs):
        out.print(line, soft_wrap=True)
