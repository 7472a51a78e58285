"""Greedy choice: the largest gains are a smallest set that removes enough; an exchange argument in small steps.

With costs: gain per cost, against the price theta = gain per cost of the last item taken. An item's *worth to be left*
is theta c - g, at most 0 before the last item and at least 0 from it on.
"""

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


def _exchange_costs(*, denser: bool = True) -> Goal:
    # the share x of a denser item j that gains as much as item i costs no more: g_i/c_i <= g_j/c_j without quotients
    gi, ci, gj, cj, x = reals("g_i c_i g_j c_j x")
    return real(
        x * cj <= ci,
        gi >= 0,
        gj > 0,
        ci > 0,
        cj > 0,
        x * gj == gi,
        gi * cj <= gj * ci if denser else gi <= gj,
    )


def _density_item(*, ordered: bool = True) -> Goal:
    # one item: any share s of it is worth at least what the choice P takes, all before the last and nothing from it on
    s, p, g, c, theta = reals("s p g c theta")
    before, after = z3.And(p == 1, g >= theta * c), z3.And(p == 0, g <= theta * c)
    return real(
        s * (theta * c - g) >= p * (theta * c - g),
        between(0, s, 1),
        g >= 0,
        c > 0,
        z3.Or(before, after if ordered else p == 0),
    )


def _density(*, short: bool = True) -> Goal:
    # summed: P falls short, S does not, so S costs more than P
    theta, CS, GS, CP, GP, need = reals("theta C_S G_S C_P G_P need")
    return real(
        CS > CP,
        theta > 0,
        theta * CS - GS >= theta * CP - GP,
        need <= GS,
        need > GP if short else need >= GP,
    )


def _one_item(*, last: bool = True) -> Goal:
    # P and its next item cost less than the cheapest and one item
    chosen, P, best, c, most = reals("chosen P best c most")
    return real(
        chosen < best + most, chosen == P + c, best > P if last else 2 * best >= P, c <= most, best > 0, most > 0
    )


def _falling(*, useful: bool = True) -> Goal:
    # from the last useful level: if the next one has as much gain per cost as a dearer one, the step after has no more
    g1, c1, g2, c2 = reals("g1 c1 g2 c2")
    return real(
        (g2 - g1) * c1 <= g1 * (c2 - c1),
        c1 > 0,
        c2 > c1,
        *([g2 * c1 <= g1 * c2] if useful else []),
    )


def _left_out(*, below: bool = True) -> Goal:
    # a level below the line to a dearer one is worth at least as much left as that line's ends: none is missed
    g1, c1, g2, c2, theta, zero, end = reals("g1 c1 g2 c2 theta zero end")
    return real(
        theta * c1 - g1 >= z3.If(end <= zero, end, zero),
        zero == 0,
        end == theta * c2 - g2,
        between(0, c1, c2),
        c2 > 0,
        theta >= 0,
        g1 * c2 <= g2 * c1 if below else g1 <= g2,
    )


def _level(*, falling: bool = True) -> Goal:
    # where steps fall, the level up to which steps are at least as dense as theta has the least worth to be left
    g1, c1, g2, c2, theta, least = reals("g1 c1 g2 c2 theta least")
    first, second = theta * c1 - g1, theta * (c2 - c1) - (g2 - g1)
    return real(
        z3.And(least <= 0, least <= first, least <= first + second),
        c1 > 0,
        c2 > c1,
        least == z3.If(first > 0, 0, z3.If(second > 0, first, first + second)),
        *([(g2 - g1) * c1 <= g1 * (c2 - c1)] if falling else []),
    )


def _cheaper_plan(*, least: bool = True) -> Goal:
    # the cheaper of two plans keeps the promise of either
    one, two, best, most, chosen = reals("one two best most chosen")
    smaller = z3.If(two < one, two, one)
    return real(z3.And(chosen < best + most, chosen <= two), one < best + most, chosen == (smaller if least else one))


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
    Lemma(
        "greedy.exchange_costs",
        "a denser item, in the share that gains as much, costs no more",
        _exchange_costs,
        partial(_exchange_costs, denser=False),
    ),
    Lemma(
        "greedy.density_item",
        "s(θc - g) >= p(θc - g), p = 1 where g >= θc and 0 where g <= θc, 0 <= s <= 1",
        _density_item,
        partial(_density_item, ordered=False),
    ),
    Lemma(
        "greedy.density",
        "the items before the last one cost less than any set, or shares, that suffice",
        _density,
        partial(_density, short=False),
    ),
    Lemma(
        "greedy.one_item",
        "the choice costs less than the cheapest one and one item",
        _one_item,
        partial(_one_item, last=False),
    ),
    Lemma(
        "greedy.falling",
        "a useful level, then a dearer one: the second step has no more gain per cost than the first",
        _falling,
        partial(_falling, useful=False),
    ),
    Lemma(
        "greedy.left_out",
        "a level below the line between two others is never worth more than both",
        _left_out,
        partial(_left_out, below=False),
    ),
    Lemma(
        "greedy.level",
        "falling steps: the level where they pass θ has the least θc - g of all",
        _level,
        partial(_level, falling=False),
    ),
    Lemma(
        "greedy.cheaper_plan",
        "the cheaper of two plans keeps the promise of the first",
        _cheaper_plan,
        partial(_cheaper_plan, least=False),
    ),
)
