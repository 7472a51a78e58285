"""Hill climbing over a box: restarts from random points, then a refinement of the best construction known."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from certkv.proofs.adversary.attack import NOTHING, Attack, Attained
from certkv.reference.numbers.types import FloatArray

RESTARTS = 5
SAMPLES = 12
"""Random points of a restart, the best of which is climbed from."""

BLIND_SHARE = 0.6
"""Share of the evaluations that know no construction: they say whether the search alone would find a hole."""


@dataclass(frozen=True, eq=False)
class Point:
    """An input and what it reaches."""

    genes: FloatArray
    attained: Attained


@dataclass(frozen=True, eq=False)
class Found:
    """Result of a search.

    Attributes
    ----------
    attack : Attack
    known : Point or None
        The best construction as it was given; None where there is none.
    blind : Point
        The best of the climbs from random points.
    best : Point
        The best of all.
    origin : str
        Where the best comes from: "construction", "construction, refined", "search".
    evaluations : int
    """

    attack: Attack
    known: Point | None
    blind: Point
    best: Point
    origin: str
    evaluations: int


def better(a: Point, b: Point) -> Point:
    """Return the point of larger ratio, the first in a tie; a violation beats everything."""
    return b if (b.attained.violated, b.attained.ratio) > (a.attained.violated, a.attained.ratio) else a


class Meter:
    """Counts evaluations and says when to stop: after so many, or at a moment."""

    def __init__(self, attack: Attack, evaluations: int, deadline: float = np.inf) -> None:
        self.attack = attack
        self.left = evaluations
        self.deadline = deadline
        self.used = 0

    @property
    def spent(self) -> bool:
        """Whether nothing is left."""
        return self.left <= 0 or time.monotonic() > self.deadline

    def point(self, genes: FloatArray) -> Point:
        """Evaluate."""
        self.left -= 1
        self.used += 1
        return Point(genes, self.attack.evaluate(genes))


def search(attack: Attack, seed: int = 0, effort: float = 1.0, seconds: float = np.inf) -> Found:
    """Search one attack's box.

    Parameters
    ----------
    attack : Attack
    seed : int
        The result depends on it, on the attack's id and on the effort only, unless time runs out.
    effort : float
        Multiplies the attack's number of evaluations.
    seconds : float
        Time limit; at least one random point and every construction are evaluated.

    Returns
    -------
    Found
    """
    rng = np.random.default_rng([seed, zlib.crc32(attack.id.encode())])
    whole = max(int(attack.evaluations * effort), 1)
    start = time.monotonic()
    constructions = [Point(genes, attack.evaluate(genes)) for genes in attack.starts()]
    share = BLIND_SHARE if constructions else 1.0
    meter = Meter(attack, max(int(whole * share), 1), start + share * seconds)
    blind = Point(attack.low, NOTHING)
    allowance = meter.left // RESTARTS + 1
    while not (meter.spent or blind.attained.violated):
        blind = better(blind, _restart(rng, meter, min(allowance, meter.left)))
    used = meter.used + len(constructions)
    if not constructions:
        return Found(attack, None, blind, blind, "search", used)
    known = constructions[0]
    for other in constructions[1:]:
        known = better(known, other)
    rest = Meter(attack, whole - meter.used, start + seconds)
    refined = _climb(rng, rest, known, rest.left, width=1e-3)
    best = better(better(known, refined), blind)
    origin = "construction" if best is known else "search" if best is blind else "construction, refined"
    return Found(attack, known, blind, best, origin, used + rest.used)


def _restart(rng: np.random.Generator, meter: Meter, evaluations: int) -> Point:
    """Take the best of some random points and climb from it."""
    attack = meter.attack
    best = meter.point(rng.uniform(attack.low, attack.high))
    for _ in range(min(SAMPLES, evaluations) - 1):
        if meter.spent:
            return best
        best = better(best, meter.point(rng.uniform(attack.low, attack.high)))
    return _climb(rng, meter, best, evaluations - SAMPLES, width=0.3)


def _climb(rng: np.random.Generator, meter: Meter, start: Point, evaluations: int, width: float) -> Point:
    """Change a few coordinates at a time; keep what is no worse; widen on success, narrow on failure."""
    best = start
    for _ in range(max(evaluations, 0)):
        if meter.spent or best.attained.violated:
            break
        candidate = meter.point(_changed(rng, meter.attack, best.genes, width))
        if candidate.attained.ratio > best.attained.ratio or candidate.attained.violated:
            best, width = candidate, min(width * 2.0, 0.5)
        else:
            if candidate.attained.ratio == best.attained.ratio:
                best = candidate  # drift along plateaus
            width = width * 0.93 if width > 1e-7 else 0.1
    return best


def _changed(rng: np.random.Generator, attack: Attack, genes: FloatArray, width: float) -> FloatArray:
    """Return a point nearby: one, some or all coordinates moved, or one set to a corner or to another's value."""
    low, high, n = attack.low, attack.high, len(genes)
    new = genes.copy()
    kind = rng.random()
    if kind < 0.12:
        new[rng.integers(n)] = _special(rng, low, high, int(rng.integers(n)))
    elif kind < 0.2:
        i, j = rng.integers(n, size=2)
        new[i] = rng.choice([1.0, -1.0]) * genes[j]
    else:
        count = 1 if kind < 0.55 else int(rng.integers(1, n + 1))
        where = rng.choice(n, count, replace=False)
        new[where] += width * (high - low)[where] * rng.standard_normal(count)
    return np.clip(new, low, high)


def _special(rng: np.random.Generator, low: FloatArray, high: FloatArray, i: int) -> float:
    """Return a corner, the middle, or a round number of one coordinate."""
    options = (low[i], high[i], 0.5 * (low[i] + high[i]), np.round(rng.uniform(low[i], high[i])))
    return float(options[int(rng.integers(len(options)))])


def shortened(attack: Attack, point: Point) -> Point:
    """Drop digits of the genes: easier to read and keep.

    The ratio falls by at most 1e-7 of itself and by at most a tenth of what it leaves to 1; a violation stays one.
    """
    ratio = point.attained.ratio
    loss = min(1e-7 * ratio, 0.1 * abs(1.0 - ratio))
    for genes in _roundings(point.genes):
        if (genes < attack.low).any() or (genes > attack.high).any():
            continue
        candidate = Point(genes, attack.evaluate(genes))
        kept = candidate.attained.ratio >= ratio - loss
        if kept and candidate.attained.violated == point.attained.violated:
            return candidate
    return point


def _roundings(genes: FloatArray) -> Iterator[FloatArray]:
    """From few to many significant digits."""
    rounding: Callable[[float, int], float] = lambda x, digits: float(f"{x:.{digits}g}")  # noqa: E731
    for digits in (2, 3, 4, 6, 8, 10, 12):
        yield np.array([rounding(float(x), digits) for x in genes])
