"""docs/SOUNDNESS.md counts the lemmas as they are."""

from __future__ import annotations

import re
from pathlib import Path

from certkv.proofs.lemmas import all_lemmas

PAGE = Path(__file__).resolve().parents[2] / "docs/SOUNDNESS.md"


def test_counts_of_lemmas_by_solver() -> None:
    """Lemmas that rest on fewer solvers than the others are counted, not hidden."""
    solvers = [frozenset(lemma.solvers) for lemma in all_lemmas()]
    both, all_three = frozenset({"z3", "cvc5"}), frozenset({"z3", "cvc5", "bitwuzla"})
    counts = [
        len(solvers),
        sum(both <= mine for mine in solvers),
        solvers.count(all_three),
        solvers.count(frozenset({"cvc5", "bitwuzla"})),
        solvers.count(frozenset({"z3", "bitwuzla"})),
        solvers.count(frozenset({"bitwuzla"})),
    ]
    (sentence,) = re.findall(r"Of \d+ lemmas.*?alone;", PAGE.read_text("utf-8"), re.DOTALL)
    assert [int(number) for number in re.findall(r"(?<![z\w])\d+(?= |,)", sentence)] == counts
    assert sum(counts[i] for i in (1, 3, 4, 5)) == counts[0], "every lemma is in one of the groups"
