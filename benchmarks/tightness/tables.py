"""The tables of the page, in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from benchmarks.tightness.captures import BUNDLED, NAMES
from benchmarks.tightness.cases import BLOCKS, DEFAULT_BLOCK, VALUES
from benchmarks.tightness.heads import KINDS
from benchmarks.tightness.measure import TOLERANCES
from benchmarks.tightness.rows import Row
from benchmarks.tightness.summary import geometric, markdown, mean, number, percent, pick, spread

from certkv.reference.policies import RELATIVE_TO

HEADS = (*KINDS, *NAMES)
SHORT = {"int4-g32": "INT4", "int8-g64": "INT8"}
"""Value formats as the tables call them."""


def ratios(rows: Sequence[Row]) -> str:
    """Show bound over error where nothing is promoted."""
    header = ["head", "values", "paper's formula", "`block_bound` alone", "certificate", "first block pinned"]
    header += ["paper / certificate", "key part, %", "bound / value norm, %"]
    body = []
    for values in VALUES:
        for head in HEADS:
            mine = pick(rows, head=head, values=values, block=DEFAULT_BLOCK)
            naive = pick(_drawn(mine), policy="naive")
            pinned = pick(_drawn(mine), policy="pinned")
            line = [
                head,
                SHORT[values],
                *(str(spread(naive, name)) for name in ("paper", "block_terms", "certificate")),
            ]
            line += [str(spread(pinned, "certificate")), number(geometric(naive, "paper_over_certificate"))]
            line += [percent(mean(naive, "key_part", "quantized")), percent(geometric(naive, "bound_share"))]
            body.append(line)
    return markdown(header, body)


def blocks(rows: Sequence[Row]) -> str:
    """Show what the block size changes, over all heads of a source at lengths that were run with every size."""
    header = ["heads", "values", *(f"B = {block}" for block in BLOCKS)]
    parts: list[tuple[str, Callable[[list[Row]], str]]] = [
        ("certificate / error", lambda some: number(geometric(pick(some, policy="naive"), "certificate"))),
        ("paper / certificate", lambda some: number(geometric(pick(some, policy="naive"), "paper_over_certificate"))),
        *(
            (f"read at {100 * share:.0f} % of the values, %", _read(share))
            for share in sorted(TOLERANCES, reverse=True)
        ),
    ]
    body = []
    for what, figure in parts:
        for source in ("synthetic", "capture"):
            for values in VALUES:
                some = _every_size(pick(rows, source=source, values=values))
                cells = [figure(pick(some, block=block)) for block in BLOCKS]
                body.append([f"{source}: {what}", SHORT[values], *cells])
    return markdown(header, body)


def _read(share: float) -> Callable[[list[Row]], str]:
    return lambda some: percent(mean(pick(some, tolerance=share, relative_to="values"), "read"))


def _every_size(rows: list[Row]) -> list[Row]:
    """Rows of lengths that were run with every block size."""
    return [row for row in rows if {other.block for other in pick(rows, tokens=row.tokens)} == set(BLOCKS)]


def _drawn(rows: Iterable[Row]) -> list[Row]:
    """All but the moved ones."""
    return [row for row in rows if row.source != "moved"]


def reads(rows: Sequence[Row]) -> str:
    """Show what tolerances cost: originals read, mean and worst head-step."""
    header = ["head", "values"]
    header += [f"{100 * share:.0f} % of {unit}" for share in TOLERANCES for unit in RELATIVE_TO]
    body = []
    for values in VALUES:
        for head in HEADS:
            line = [head, SHORT[values]]
            for share in TOLERANCES:
                for unit in RELATIVE_TO:
                    mine = pick(rows, head=head, values=values, block=DEFAULT_BLOCK, tolerance=share, relative_to=unit)
                    line.append(f"{percent(mean(mine, 'read'))} ({percent(max(row.read_max for row in mine))})")
            body.append(line)
    return markdown(header, body)


def promoted(rows: Sequence[Row]) -> str:
    """Show what tolerances cost: blocks promoted."""
    header = ["head", "values"]
    header += [f"{100 * share:.0f} % of {unit}: keys, values" for share in TOLERANCES for unit in ("values", "output")]
    body = []
    for values in VALUES:
        for head in HEADS:
            line = [head, SHORT[values]]
            for share in TOLERANCES:
                for unit in ("values", "output"):
                    mine = pick(rows, head=head, values=values, block=DEFAULT_BLOCK, tolerance=share, relative_to=unit)
                    line.append(f"{percent(mean(mine, 'keys_promoted'))}, {percent(mean(mine, 'values_promoted'))}")
            body.append(line)
    return markdown(header, body)


def rounds(rows: Sequence[Row]) -> str:
    """Count rounds of promotion."""
    names = ("rounds_0", "rounds_1", "rounds_2", "rounds_3", "rung_3")
    body = []
    for share in TOLERANCES:
        for unit in RELATIVE_TO:
            mine = pick(rows, policy="budget", tolerance=share, relative_to=unit)
            total = sum(row.head_steps for row in mine)
            counts = [sum(int(getattr(row, name)) for row in mine) for name in names]
            body.append([f"{100 * share:.0f} % of {unit}", str(total), *(str(count) for count in counts)])
    return markdown(["tolerance", "head-steps", "0 rounds", "1", "2", "3", "rung 3"], body)


def moved(rows: Sequence[Row]) -> str:
    """Show bound over error as drawn, and with the originals moved inside their cells."""
    body = []
    for worst in pick(rows, source="moved"):
        same = pick(rows, head=worst.head, values=worst.values, block=worst.block, tokens=worst.tokens)
        before = spread(pick(_drawn(same), policy="naive"), "certificate")
        body.append([worst.head, SHORT[worst.values], str(before), str(spread([worst], "certificate"))])
    return markdown(["head", "values", "as drawn", "moved"], body)


def targets(rows: Sequence[Row]) -> str:
    """Compare what was to be reached with what was."""
    drawn = _drawn(rows)
    naive = pick(drawn, policy="naive")
    five = pick(drawn, tolerance=0.05, relative_to="values", values="int8-g64")
    body = []
    for values in (*VALUES, None):
        chosen = naive if values is None else pick(naive, values=values)
        name = "INT8 and INT4" if values is None else SHORT[values]
        for source in ("synthetic", "capture"):
            gain = geometric(pick(chosen, source=source), "paper_over_certificate")
            body.append(
                [f"paper's formula / certificate, {source}, {name} values", "at least 8", *_met(gain, gain >= 8)]
            )
        captured = pick(chosen, source="capture")
        for which, some in (("all captures", captured), ("the one that ships", pick(captured, head=BUNDLED))):
            tightness = geometric(some, "certificate")
            body.append([f"bound / error, {which}, {name} values", "at most 20", *_met(tightness, tightness <= 20)])
    per_head = {head: mean(pick(five, head=head), "read") for head in HEADS}
    worst = max(KINDS, key=lambda head: per_head[head])
    name = f"originals read at 5 % of the value norm, INT8 values, worst head type ({worst})"
    body.append([name, "below 5 %", f"{percent(per_head[worst])} %", "yes" if per_head[worst] < 0.05 else "**no**"])
    worst = max(NAMES, key=lambda head: per_head[head])
    name = f"the same, worst capture ({worst})"
    body.append([name, "below 5 %", f"{percent(per_head[worst])} %", "yes" if per_head[worst] < 0.05 else "**no**"])
    count, violations = sum(row.head_steps for row in rows), sum(row.violations for row in rows)
    body.append([f"violations in {count} head-steps", "0", str(violations), "yes" if not violations else "**no**"])
    return markdown(["figure, all lengths and block sizes", "target", "measured", "met"], body)


def _met(x: float, good: bool) -> list[str]:
    return [number(x), "yes" if good else "**no**"]
