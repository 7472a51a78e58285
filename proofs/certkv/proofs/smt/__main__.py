"""``python -m certkv.proofs.smt [STEM ...]``: prove every lemma, refute every broken variant, print a table."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from certkv.proofs.lemmas import all_lemmas
from certkv.proofs.smt.check import ProofResult, prove, refute_broken
from certkv.proofs.smt.lemma import Lemma, smtlib
from certkv.proofs.smt.solvers import SOLVERS, versions


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the lemmas of the given stems (default: all); 0 if every answer is the wanted one, else 1."""
    parser = argparse.ArgumentParser(prog="python -m certkv.proofs.smt", description=__doc__)
    parser.add_argument("stems", nargs="*", metavar="STEM", help="only lemmas of these theorems")
    parser.add_argument("--quick", action="store_true", help="only the quick lemmas")
    parser.add_argument("--write", type=Path, metavar="DIR", help="also write every text: ID.smt2 and ID.broken.smt2")
    chosen = parser.parse_args(arguments)
    lemmas = [
        lemma
        for lemma in all_lemmas()
        if (not chosen.stems or lemma.stem in chosen.stems) and (lemma.quick or not chosen.quick)
    ]
    errors = Console(stderr=True)
    if not lemmas:
        errors.print("no such lemma")
        return 2
    table = Table(title=", ".join(f"{name} {version}" for name, version in versions().items()), expand=True)
    table.add_column("lemma", no_wrap=True)
    for name in SOLVERS:
        table.add_column(f"{name}, s", justify="right", no_wrap=True)
    table.add_column("hypotheses met by", no_wrap=True)
    table.add_column("broken refuted by")
    table.add_column("statement", ratio=1)
    failures: list[ProofResult] = []
    seconds = 0.0
    for lemma in track(lemmas, description="proving", console=errors, transient=True):
        if chosen.write:
            _write(lemma, chosen.write)
        results = [*prove(lemma), *refute_broken(lemma)]
        failures += [result for result in results if not result.ok]
        seconds += sum(result.outcome.seconds for result in results)
        table.add_row(*_row(lemma, results))
    output = Console(width=None if sys.stdout.isatty() else 200)
    output.print(table)
    for failure in failures:
        said = f"{failure.lemma}: {failure.question}, {failure.solver}: {failure.outcome.answer}"
        output.print(Text(f"FAILED {said} {failure.outcome.detail}", style="red"))
    output.print(f"{len(lemmas)} lemmas, {len(failures)} failures, {seconds:.1f} s in solvers")
    return 1 if failures else 0


def _write(lemma: Lemma, folder: Path) -> None:
    """Leave the texts for other solvers and for readers."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{lemma.id}.smt2").write_text(f"; {lemma.statement}\n{smtlib(lemma.build())}", "utf-8")
    broken = smtlib(lemma.broken())
    (folder / f"{lemma.id}.broken.smt2").write_text(f"; broken on purpose, so sat: {lemma.id}\n{broken}", "utf-8")


def _row(lemma: Lemma, results: Sequence[ProofResult]) -> list[Text]:
    """Cells of one lemma."""
    proofs = {r.solver: r for r in results if r.question == "proof"}
    times = [
        (f"{proofs[name].outcome.seconds:.3f}" if proofs[name].ok else proofs[name].outcome.answer)
        if name in proofs
        else "-"
        for name in SOLVERS
    ]
    met = ", ".join(r.solver for r in results if r.question == "hypotheses" and r.ok) or "NONE"
    refuted = ", ".join(
        f"{r.solver} {r.outcome.seconds:.3f}" if r.ok else f"{r.solver} {r.outcome.answer}"
        for r in results
        if r.question == "broken"
    )
    style = "" if all(r.ok for r in results) else "red"
    return [Text(cell, style=style) for cell in (lemma.id, *times, met, refuted, lemma.statement)]


if __name__ == "__main__":
    sys.exit(main())
