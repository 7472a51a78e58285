"""The command: search every attack, print what it reached, fail if a bound was exceeded."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from certkv.proofs.adversary.attack import Attack
from certkv.proofs.adversary.attacks import all_attacks
from certkv.proofs.adversary.corpus import entries_of, replay, save
from certkv.proofs.adversary.search import Found, Point, search

WIDTH = 180


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    p = argparse.ArgumentParser(
        prog="python -m certkv.proofs.adversary",
        description="Optimise inputs towards error / bound = 1, theorem by theorem. Exit code 0: no bound was "
        "exceeded, every form that is known to be unsound was, and the stored corpus reproduces; 1: otherwise; "
        "2: bad usage.",
    )
    p.add_argument("--seconds", type=float, help="total time limit; without it every search runs to its end")
    p.add_argument("--effort", type=float, default=1.0, help="multiplies the evaluations of every search (default 1)")
    p.add_argument("--seed", type=int, default=0, help="seed of the searches (default 0)")
    p.add_argument("--only", nargs="+", metavar="ID", help="theorems or attacks to run (default: all)")
    p.add_argument("--json", type=Path, metavar="OUT", help="also write the results, genes included, here")
    p.add_argument("--save-corpus", type=Path, metavar="OUT", help="write the best inputs found as a new corpus")
    return p


def chosen(only: Sequence[str] | None, usage: argparse.ArgumentParser) -> list[Attack]:
    """Return the attacks asked for; bad usage exits with code 2."""
    attacks = list(all_attacks())
    if only is None:
        return attacks
    known = {attack.id for attack in attacks} | {attack.theorem for attack in attacks}
    for name in only:
        if name not in known:
            usage.error(f"--only {name}: give one of {', '.join(sorted(known))}")
    return [attack for attack in attacks if attack.id in only or attack.theorem in only]


def shown(ratio: float) -> str:
    """Write a ratio so that ``1 - 3e-16`` and 1 can be told apart."""
    gap = 1.0 - ratio
    return f"1 - {gap:.1e}" if 0.0 < gap < 1e-4 else f"{ratio:.6f}"


def passed(found: Found) -> bool:
    """Whether the search ended as it must: no violation, or (of an unsound form) a violation."""
    return found.best.attained.violated == found.attack.unsound


def show(console: Console, found: Sequence[Found], seconds: float) -> None:
    """Print the table."""
    table = Table(title=f"The largest error/bound that was reached ({seconds:.0f} s)", title_justify="left")
    for name, justify in (("attack", "left"), ("bound", "left"), ("error/bound", "right"), ("attained by", "left")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for name in ("search alone", "evaluations"):
        table.add_column(name, justify="right")
    for one in found:
        mark = "" if passed(one) else "  VIOLATION" if one.best.attained.violated else "  NOT EXCEEDED"
        reached = shown(one.best.attained.ratio) + mark
        blind = shown(one.blind.attained.ratio)
        table.add_row(one.attack.id, one.attack.bound, reached, one.origin, blind, f"{one.evaluations:,}")
    console.print(table)


@dataclass(frozen=True)
class Budgeted:
    """How much a run may search."""

    seed: int
    effort: float
    seconds: float | None

    def run(self, attacks: Sequence[Attack]) -> list[Found]:
        """Search every attack; time that one leaves over goes to the next ones."""
        start = time.monotonic()
        found = []
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("attacks", total=len(attacks))
            for i, attack in enumerate(attacks):
                limit = float("inf")
                if self.seconds is not None:
                    left = self.seconds - (time.monotonic() - start)
                    limit = max(left, 0.0) / (len(attacks) - i)
                found.append(search(attack, self.seed, self.effort, limit))
                progress.advance(task)
        return found


def point_json(point: Point | None) -> dict[str, object] | None:
    """Return a point as plain data."""
    if point is None:
        return None
    reached = point.attained
    return {
        "ratio": reached.ratio,
        "error_lb": reached.error_lb,
        "bound": reached.bound,
        "genes": [float(x) for x in point.genes],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    usage = parser()
    options = usage.parse_args(arguments)
    if not options.effort > 0 or options.seed < 0 or (options.seconds is not None and not options.seconds > 0):
        usage.error("--effort and --seconds must be above 0, --seed at least 0")
    attacks = chosen(options.only, usage)
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    start = time.monotonic()
    found = Budgeted(options.seed, options.effort, options.seconds).run(attacks)
    seconds = time.monotonic() - start
    show(console, found, seconds)
    good = all(passed(one) for one in found)
    if options.save_corpus:
        save(entries_of(found), options.save_corpus)
    elif options.only is None:
        results = replay()
        for played in results:
            if not played.ok:
                console.print(f"corpus, {played.stored.attack} ({played.stored.origin}): {played.detail}")
        console.print(f"corpus: {sum(r.ok for r in results)} of {len(results)} entries as stored")
        good = good and all(r.ok for r in results)
    console.print("sound" if good else "FAILED")
    if options.json:
        rows = [
            {
                "attack": one.attack.id,
                "theorem": one.attack.theorem,
                "bound": one.attack.bound,
                "unsound": one.attack.unsound,
                "passed": passed(one),
                "origin": one.origin,
                "evaluations": one.evaluations,
                "best": point_json(one.best),
                "construction": point_json(one.known),
                "search": point_json(one.blind),
            }
            for one in found
        ]
        result = {"passed": good, "seconds": seconds, "seed": options.seed, "effort": options.effort, "attacks": rows}
        options.json.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    return 0 if good else 1
