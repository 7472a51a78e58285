"""Greedy choice: the largest gains are a smallest set that removes enough; an exchange argument in small steps."""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, real, reals


def _exchange(*, larger: bool = True) -> Goal:
    rest, chosen, left_out, need = reals("rest chosen left_out need")
    return real(
        rest + left_out >= need,
        rest + chosen >= need,
        chosen >= 0,
        left_out >= chosen if larger else left_out >= 0,
    )


def _top_two(*, ordered: bool = True) -> Goal:
    # of four gains in descending order, no two beat the first two
    g = reals("g0 g1 g2 g3")
    order = between(0, g[3], g[2], g[1], g[0]) if ordered else z3.And([x >= 0 for x in g])
    pairs = [g[i] + g[j] for i in range(4) for j in range(i)]
    return real(z3.And([g[0] + g[1] >= pair for pair in pairs]), order)


def _fewest(*, short: bool = True) -> Goal:
    # if the best k - 1 fall short, any k - 1 do
    best, other, need = reals("best other need")
    return real(other < need, other <= best, best < need if short else best <= need)


def _enough(*, reached: bool = True) -> Goal:
    # what is left of the sum of non-negative terms is within the tolerance
    total, removed, tolerance, need = reals("total removed tolerance need")
    return real(
        total - removed <= tolerance, need == total - tolerance, removed >= need if reached else 2 * removed >= need
    )


LEMMAS = (
    Lemma(
        "greedy.exchange",
        "a chosen item replaced by a larger one left out: still enough is removed",
        _exchange,
        partial(_exchange, larger=False),
    ),
    Lemma(
        "greedy.top_two",
        "4 items in descending order: no pair removes more than the first two",
        _top_two,
        partial(_top_two, ordered=False),
    ),
    Lemma(
        "greedy.fewest",
        "the best k-1 items fall short of the need: so does every set of k-1",
        _fewest,
        partial(_fewest, short=False),
    ),
    Lemma(
        "greedy.enough",
        "removing at least total - tolerance leaves at most the tolerance",
        _enough,
        partial(_enough, reached=False),
    ),
)
