"""The worst inputs found, kept as the genes of their attacks, and played again."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from certkv.proofs.adversary.attack import NOTHING, Attack, Attained
from certkv.proofs.adversary.attacks import attack_by_id
from certkv.proofs.adversary.search import Found, Point, shortened

FILE = "corpus.json"

OPPOSITE = "most lost to rounding"
"""Origin of an entry whose annotation was rounded by nearly a whole unit: rounded to nearest it would be wrong."""

SAMPLES = 100


@dataclass(frozen=True)
class Stored:
    """One entry: an attack's id, its genes (exact float64 numbers), what they reached, and how they were found."""

    attack: str
    origin: str
    ratio: float
    genes: tuple[float, ...]


@dataclass(frozen=True)
class CorpusResult:
    """One entry played again.

    Attributes
    ----------
    stored : Stored
    attained : Attained
        What the entry reaches now.
    ok : bool
        The stored ratio and genes are numbers that can be reached, the error is not above the bound, and their ratio is
        the stored one, to within what the attack states. For the control of a form that is known to be unsound: its
        bound is exceeded, as it must be.
    detail : str
        What is wrong; empty where nothing is.
    """

    stored: Stored
    attained: Attained
    ok: bool
    detail: str


def load() -> list[Stored]:
    """Read the corpus that ships with the package."""
    text = (resources.files("certkv.proofs.adversary") / FILE).read_text("utf-8")
    entries = json.loads(text)["entries"]
    return [Stored(e["attack"], e["origin"], float(e["ratio"]), tuple(map(float, e["genes"]))) for e in entries]


def replay(entries: Sequence[Stored] | None = None) -> list[CorpusResult]:
    """Play entries again: the whole corpus, unless some are given.

    Returns
    -------
    list of CorpusResult
        In the order of the entries; nothing raises, a wrong one has ``ok`` False.
    """
    return [_play(entry) for entry in (load() if entries is None else entries)]


def _play(entry: Stored) -> CorpusResult:
    attack = attack_by_id(entry.attack)
    genes = np.array(entry.genes)
    if not (np.isfinite(genes).all() and 0.0 < entry.ratio < math.inf):
        # compared with an infinite ratio everything would be near enough, and one of 0 says nothing
        detail = f"the stored entry is none that a search could have left: ratio {entry.ratio!r}, genes {entry.genes}"
        return CorpusResult(entry, NOTHING, False, detail)
    attained = attack.evaluate(genes)
    ratio, bound = attained.ratio, attained.bound
    if attack.unsound:
        detail = "" if attained.violated else f"a form known to be unsound was not exceeded: {ratio:.9g} of it"
    elif attained.violated:
        detail = f"VIOLATION: error of at least {attained.error_lb!r} above the bound {bound!r}"
    elif not abs(ratio - entry.ratio) <= attack.reproduces * entry.ratio:
        detail = f"reaches {ratio!r} of the bound instead of {entry.ratio!r} (to within {attack.reproduces:.1g})"
    else:
        detail = ""
    return CorpusResult(entry, attained, not detail, detail)


def most_lost(attack: Attack) -> Point:
    """Return the random point with the smallest ratio above 0.

    Where a number is rounded up, an error just below the result makes the ratio 1, but it is an error just above the
    number before that a rounding to nearest would under-report.
    """
    rng = np.random.default_rng(0)
    drawn = (rng.uniform(attack.low, attack.high) for _ in range(SAMPLES))
    points = [Point(genes, attack.evaluate(genes)) for genes in drawn]
    return min((p for p in points if p.attained.ratio > 0.0), key=lambda p: p.attained.ratio)


def entries_of(found: Sequence[Found]) -> list[Stored]:
    """Make a corpus from searches: the best point of each, and the best that was found without a construction.

    Of annotations also the point of `most_lost`.
    """
    entries = []
    for one in found:
        points: dict[str, Point] = {one.origin: one.best}
        useful = one.blind.attained.violated if one.attack.unsound else one.blind.attained.ratio > 0.0
        if useful and "search" not in points:
            points["search"] = one.blind
        for origin, point in points.items():
            kept = shortened(one.attack, point)
            genes = tuple(float(x) for x in kept.genes)
            entries.append(Stored(one.attack.id, origin, kept.attained.ratio, genes))
        if one.attack.theorem == "annotations":
            lost = most_lost(one.attack)
            genes = tuple(float(x) for x in lost.genes)
            entries.append(Stored(one.attack.id, OPPOSITE, lost.attained.ratio, genes))
    return entries


def save(entries: Sequence[Stored], path: Path) -> None:
    """Write a corpus, one entry per line."""
    lines = ",\n".join(
        json.dumps({"attack": e.attack, "origin": e.origin, "ratio": e.ratio, "genes": list(e.genes)}, allow_nan=False)
        for e in entries
    )
    path.write_text('{"entries": [\n' + lines + "\n]}\n", "utf-8")
