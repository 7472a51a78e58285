"""Relative tolerances: what an enforced ``bound <= tolerance`` means for the error."""

from __future__ import annotations

from functools import partial

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import real, reals


def _output(*, discounted: bool = True) -> Goal:
    # tolerance t/(1+t) ||c||, and ||c|| <= ||O|| + error
    error, c, exact, t = reals("error c O t")
    return real(
        error <= t * exact,
        t >= 0,
        error >= 0,
        exact >= 0,
        c <= exact + error,
        error * (1 + t) <= t * c if discounted else error <= t * c,
    )


def _values(*, rounded_down: bool = True) -> Goal:
    # t sum rho vbar with lower bounds is at most t sum rho vbar: one term
    total, total_lb, rho, rho_lb, mean, mean_lb, t = reals("total total_lb rho rho_lb mean mean_lb t")
    return real(
        t * (total_lb + rho_lb * mean_lb) <= t * (total + rho * mean),
        t >= 0,
        total_lb <= total,
        rho_lb >= 0,
        rho_lb <= rho,
        mean_lb >= 0,
        *([mean_lb <= mean] if rounded_down else [mean >= 0]),
    )


LEMMAS = (
    Lemma(
        "tolerance.output",
        "error <= t/(1+t) ‖c‖, ‖c‖ <= ‖O‖ + error gives error <= t ‖O‖; t ‖c‖ alone does not",
        _output,
        partial(_output, discounted=False),
    ),
    Lemma(
        "tolerance.values",
        "t Σρ v̄ with both rounded down is at most t Σρ v̄ (one more block)",
        _values,
        partial(_values, rounded_down=False),
    ),
)
