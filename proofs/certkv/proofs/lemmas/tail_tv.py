"""Lemma ``tail_tv``: scores wrong on a tail T of mass alpha only, ``TV <= tau(alpha, E)``.

Notation of the derivation: ``x = E - 1``, ``k = E - F``, ``V0 = 1 - alpha (1 - F)``, ``V1 = 1 + alpha x``,
``m = sqrt(E V0)``, ``n = sqrt(E V1)``. A set S has mass p of the tail inside and r outside, ``alpha = p + r``; at the
maximum ``w = E`` inside, ``w = F`` outside and ``w = 1`` off the tail, so ``W = 1 + p x - r (1 - F)``. Case A: S lies
within the tail and gains ``p (E/W - 1)``. Case B: S holds everything off the tail, and the complement loses
``r (1 - F/W)``. Neither needs to know on which side of 1 W lies. ``tau`` is ``alpha (1 - alpha) x / V1`` if
``alpha^2 x + 3 alpha <= 1`` (*raised*), else ``(E - m)^2 / (E^2 - 1)`` (*split*). Lemmas are multiplied out.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import between, inverse, real, reals


class Tail(NamedTuple):
    """The numbers of a set S at the extreme weights."""

    p: Any
    r: Any
    E: Any
    F: Any

    @property
    def alpha(self) -> Any:
        """Mass of the tail."""
        return self.p + self.r

    @property
    def W(self) -> Any:
        """Sum of ``a' w``."""
        return 1 + self.p * (self.E - 1) - self.r * (1 - self.F)

    @property
    def V0(self) -> Any:
        """W with the whole tail at F."""
        return 1 - self.alpha * (1 - self.F)

    @property
    def V1(self) -> Any:
        """W with the whole tail at E."""
        return 1 + self.alpha * (self.E - 1)

    @property
    def facts(self) -> list[z3.BoolRef]:
        """What is known of any S."""
        return [inverse(self.E, self.F), self.p >= 0, self.r >= 0, self.alpha <= 1]

    @property
    def is_raised(self) -> z3.BoolRef:
        """First case of ``tau``."""
        return 1 - 3 * self.alpha - self.alpha * self.alpha * (self.E - 1) >= 0


def tail() -> Tail:
    """Return fresh constants."""
    return Tail(*reals("p r E F"))


def _symmetric(*, inverted: bool = True) -> Goal:
    # a = a' w / W; then a' = a v / (sum a v) with v = 1/w, because sum a v = 1/W
    a, a_prime, w, v, W, E, F = reals("a a_prime w v W E F")
    return real(
        z3.And(a * v * W == a_prime, v >= F, v <= E),
        inverse(E, F),
        between(F, w, E),
        W > 0,
        a * W == a_prime * w,
        w * v == 1 if inverted else w == v,
    )


def _optimal(*, above: bool = True) -> Goal:
    # Whatever a set decides about a token, taking it exactly if w > W gains as much. Off the tail w = 1 for all: a part
    # of mass s of what is there, in all of mass f, gains no more than all of it or nothing.
    a, w, W, gain, s, f = reals("a w W gain s f")
    one, off = (w > W, W < 1) if above else (w < W, W > 1)
    return real(
        z3.And(gain <= z3.If(one, a * (w - W), 0), s * (1 - W) <= z3.If(off, f * (1 - W), 0)),
        a >= 0,
        W > 0,
        between(0, s, f),
        z3.Or(gain == a * (w - W), gain == 0),
    )


def _extreme_inside(*, bounded: bool = True) -> Goal:
    # X and Y: sums of a' w over S within T and over the rest of T; rest: mass off the tail
    t = tail()
    X, Y = reals("X Y")
    rest = 1 - t.alpha
    return real(
        X * (t.p * t.E + t.r * t.F + rest) <= t.p * t.E * (X + Y + rest),
        *t.facts,
        X >= 0,
        t.r * t.F <= Y,
        *([t.p * t.E >= X] if bounded else []),
    )


def _extreme_outside(*, bounded: bool = True) -> Goal:
    t = tail()
    X, Y = reals("X Y")
    rest = 1 - t.alpha
    return real(
        Y * (t.p * t.E + t.r * t.F + rest) >= t.r * t.F * (X + Y + rest),
        *t.facts,
        t.p * t.E >= X,
        Y >= 0,
        *([t.r * t.F <= Y] if bounded else []),
    )


def _linear(*, both: bool = True) -> Goal:
    t = tail()
    k = t.E - t.F
    return real(
        z3.And(
            t.p * t.E + t.r * t.F + (1 - t.alpha) == t.W,
            t.V0 + t.p * k == t.W,
            t.V1 - t.r * k == t.W,
            t.V0 + t.alpha * k == t.V1 if both else t.V0 + t.r * k == t.V1,
        )
    )


def _binding(*, three: int = 3) -> Goal:
    t = tail()
    alpha, x = t.alpha, t.E - 1
    return real(x * (alpha * alpha * x + three * alpha - 1) == t.V1 * t.V1 - t.E * t.V0, inverse(t.E, t.F))


def _interpolate(*, sign: int = 1) -> Goal:
    # the gain in case A is h(W) / k with h(W) = (W - V0)(E - W) / W
    W, V0, V1, E = reals("W V0 V1 E")
    left = (V1 - V0) * (E - V1) * W - (W - V0) * (E - W) * V1
    return real(left == sign * (V1 - W) * (E * V0 - W * V1))


def _increasing(*, capped: bool = True) -> Goal:
    W, V1, product = reals("W V1 product")
    return real((V1 - W) * (product - W * V1) >= 0, W > 0, W <= V1, product >= V1 * V1 if capped else product >= V1)


def _raised_gain(*, alpha_left: bool = True) -> Goal:
    t = tail()
    x, k = t.E - 1, t.E - t.F
    gain = t.alpha * (1 - t.alpha) * x if alpha_left else t.alpha * x
    return real(k * gain == (t.V1 - t.V0) * (t.E - t.V1), inverse(t.E, t.F))


def _case_a_raised(*, raised: bool = True) -> Goal:
    t = tail()
    return real(
        t.p * (t.E - t.W) * t.V1 <= t.alpha * (1 - t.alpha) * (t.E - 1) * t.W,
        *t.facts,
        *([t.is_raised] if raised else []),
    )


def _root(*, square: bool = True) -> Goal:
    # the maximum of h without the cap: a^2 = E, b^2 = V0
    a, b, W = reals("a b W")
    return real((W - b * b) * (a * a - W) <= ((a - b) * (a - b) if square else (a - b)) * W, a >= 1, b > 0, W > 0)


def _case_b_raised(*, raised: bool = True) -> Goal:
    t = tail()
    return real(
        t.r * (t.W - t.F) * t.V1 <= t.alpha * (1 - t.alpha) * (t.E - 1) * t.W,
        *t.facts,
        *([t.is_raised] if raised else []),
    )


def _case_b_slope(*, all_of_it: bool = True) -> Goal:
    # with the loss g(r) = r (W - F) / W, and W = V0 at r = alpha: (g(alpha) - g(r)) V0 W
    t = tail()
    left = t.alpha * (t.V0 - t.F) * t.W - t.r * (t.W - t.F) * t.V0
    return real(left == (t.p if all_of_it else t.alpha) * (t.V0 * t.W - t.F * t.V1))


def _case_b_rising(*, third: bool = True) -> Goal:
    t = tail()
    return real(
        t.V0 * t.W >= t.F * t.V1, inverse(t.E, t.F), t.p >= 0, t.r >= 0, 3 * t.alpha <= 1 if third else 2 * t.alpha <= 1
    )


def _case_b_end(*, half: bool = True) -> Goal:
    # the loss at r = alpha
    t = tail()
    return real(
        z3.And((1 - t.alpha) * (t.E - 1) == t.E * (t.V0 - t.F), t.V1 <= t.E * t.V0),
        *t.facts,
        *([2 * t.alpha <= 1] if half else []),
    )


def _case_b_linear(*, square: bool = True) -> Goal:
    # Y = E W
    t = tail()
    slope = t.E * t.E - 1 if square else t.E - 1
    return real(t.E * t.V1 - slope * t.r == t.E * t.W, inverse(t.E, t.F))


def _case_b_root(*, shift: int = 1) -> Goal:
    # the loss r (1 - 1/Y) = (n^2 - Y)(Y - 1) / ((E^2 - 1) Y)
    n, Y = reals("n Y")
    return real((n * n - Y) * (Y - 1) <= (n - shift) * (n - shift) * Y, n >= 1, Y > 0)


def _compare(*, shift: int = 1) -> Goal:
    # (n - 1)^2 <= (E - m)^2 because n^2 = E (1 + E - m^2) <= (E + 1 - m)^2
    m, n, E = reals("m n E")
    return real((n - 1) * (n - 1) <= (E - m) * (E - m), n >= 1, m >= 0, m <= E, n * n == E * (shift + E - m * m))


def _compare_square(*, shift: int = 1) -> Goal:
    m, E = reals("m E")
    return real((E + 1 - m) * (E + 1 - m) - E * (1 + E - m * m) == (E + shift) * (m - 1) * (m - 1))


def _roots_exist(*, bounded: bool = True) -> Goal:
    # m^2 = E V0 lies between 1 and E^2, and n^2 = E V1 = E (1 + E - m^2)
    t = tail()
    mm = t.E * t.V0
    return real(
        z3.And(mm >= 1, mm <= t.E * t.E, t.E * (1 + t.E - mm) == t.E * t.V1),
        inverse(t.E, t.F),
        t.p >= 0,
        t.r >= 0,
        *([t.alpha <= 1] if bounded else []),
    )


LEMMAS = (
    Lemma(
        "tail_tv.symmetric",
        "aW = a'w, v = 1/w: a' = avW with v in [F, E]; so the tail's mass may be taken under either softmax",
        _symmetric,
        partial(_symmetric, inverted=False),
    ),
    Lemma(
        "tail_tv.optimal_set",
        "a token adds at most max(a'(w - W), 0), and s <= f off the tail at most max(f(1 - W), 0): the best S is "
        "{w > W}, all of what is off the tail or none",
        _optimal,
        partial(_optimal, above=False),
    ),
    Lemma(
        "tail_tv.extreme_inside",
        "S within the tail: its exact share is largest at w = E inside and F outside",
        _extreme_inside,
        partial(_extreme_inside, bounded=False),
    ),
    Lemma(
        "tail_tv.extreme_outside",
        "the complement within the tail: its exact share is smallest at the same weights",
        _extreme_outside,
        partial(_extreme_outside, bounded=False),
    ),
    Lemma(
        "tail_tv.linear",
        "pE + rF + 1 - α = W = V0 + pk = V1 - rk and V1 = V0 + αk",
        _linear,
        partial(_linear, both=False),
    ),
    Lemma(
        "tail_tv.binding",
        "V1² - E V0 = x(α²x + 3α - 1): the cap binds exactly in the first case",
        _binding,
        partial(_binding, three=2),
    ),
    Lemma(
        "tail_tv.interpolate",
        "(V1-V0)(E-V1)W - (W-V0)(E-W)V1 = (V1-W)(E V0 - W V1)",
        _interpolate,
        partial(_interpolate, sign=-1),
    ),
    Lemma(
        "tail_tv.increasing",
        "0 < W <= V1, V1² <= E V0: (V1-W)(E V0 - W V1) >= 0, so the gain is largest at W = V1",
        _increasing,
        partial(_increasing, capped=False),
    ),
    Lemma(
        "tail_tv.raised_gain",
        "(V1-V0)(E-V1) = k α(1-α)x: the gain there is the first case of τ",
        _raised_gain,
        partial(_raised_gain, alpha_left=False),
    ),
    Lemma(
        "tail_tv.case_a_raised",
        "at once: α²x + 3α <= 1 gives p(E-W)(1+αx) <= α(1-α)xW",
        _case_a_raised,
        partial(_case_a_raised, raised=False),
    ),
    Lemma(
        "tail_tv.case_a_root",
        "a² = E, b² = V0: (W-V0)(E-W) <= (a-b)²W, the second case of τ",
        _root,
        partial(_root, square=False),
    ),
    Lemma(
        "tail_tv.case_b_slope",
        "identity: α(V0-F)W - r(W-F)V0 = p(V0 W - F V1), the loss at r = α less that at r",
        _case_b_slope,
        partial(_case_b_slope, all_of_it=False),
    ),
    Lemma(
        "tail_tv.case_b_rising",
        "α <= 1/3: F V1 <= V0 W, so the loss is largest at r = α",
        _case_b_rising,
        partial(_case_b_rising, third=False),
    ),
    Lemma(
        "tail_tv.case_b_end",
        "α <= 1/2: E(V0-F) = (1-α)x and V1 <= E V0: the loss α(1-α)x/(E V0) at r = α is at most α(1-α)x/V1",
        _case_b_end,
        partial(_case_b_end, half=False),
    ),
    Lemma(
        "tail_tv.case_b_raised",
        "at once: α²x + 3α <= 1 gives r(W-F)(1+αx) <= α(1-α)xW",
        _case_b_raised,
        partial(_case_b_raised, raised=False),
    ),
    Lemma(
        "tail_tv.case_b_linear",
        "Y = EW = n² - (E²-1)r",
        _case_b_linear,
        partial(_case_b_linear, square=False),
    ),
    Lemma(
        "tail_tv.case_b_root",
        "(n²-Y)(Y-1) <= (n-1)²Y: without F, the loss is at most (n-1)²/(E²-1)",
        _case_b_root,
        partial(_case_b_root, shift=2),
    ),
    Lemma(
        "tail_tv.roots_exist",
        "m² = E V0 lies in [1, E²] and n² = E(1 + E - m²)",
        _roots_exist,
        partial(_roots_exist, bounded=False),
    ),
    Lemma(
        "tail_tv.compare",
        "m <= E, n² = E(1+E-m²): (n-1)² <= (E-m)², so case B is below case A",
        _compare,
        partial(_compare, shift=2),
    ),
    Lemma(
        "tail_tv.compare_square",
        "identity: (E+1-m)² - E(1+E-m²) = (E+1)(m-1)²",
        _compare_square,
        partial(_compare_square, shift=2),
    ),
)
