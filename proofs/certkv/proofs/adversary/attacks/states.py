"""Attacks on states that are merged (``certificate_state``) or corrected (``correction``): every error is rounding."""

from __future__ import annotations

from typing import Any

import numpy as np
from flint import arb

from certkv.proofs.adversary.attack import MACHINE, NOTHING, Attack, Attained, Box
from certkv.proofs.adversary.balls import (
    balls,
    lower,
    minus,
    norm,
    normalised,
    precisely,
    total,
    weighted,
)
from certkv.reference import correction, correction_rounding
from certkv.reference.bounds.certificate_state import CertificateState
from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.softmax_state import SoftmaxState

BLOCKS, CHANNELS = 8, 2
OTHERS, PROMOTED = 6, 3
TOKENS = OTHERS + PROMOTED


def _merged(variant: str, dtype: Any) -> Attack:
    """Merge blocks one after another; exact are the terms of all under the factors that were computed."""
    box = (
        Box()
        .add("m", BLOCKS, -9.0, 0.0)
        .add("terms", 4 * BLOCKS, 0.25, 1.0)
        .add("output", CHANNELS * BLOCKS, -1.0, 1.0)
    )
    box.add("anchor", CHANNELS, -1.0, 1.0).add("charge", 1, 0.0, 1.0)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = {name: x.astype(dtype) for name, x in box.cut(genes).items()}
        parts = zip(part["m"], part["terms"].reshape(BLOCKS, 4), part["output"].reshape(BLOCKS, CHANNELS), strict=True)
        states = [
            CertificateState.from_block(
                SoftmaxState(np.asarray(m), np.asarray(dtype(1.0)), o),
                **dict(zip(("key_ub", "anchor_ub", "value_ub", "weight_lb"), map(np.asarray, terms), strict=True)),
            )
            for m, terms, o in parts
        ]
        merged, factors = states[0], [arb(1)]
        for state in states[1:]:
            mine, theirs = balls(float(f) for f in merged.softmax.factors(state.softmax))
            merged, factors = merged.merge(state), [*(f * mine for f in factors), theirs]
        charge = np.asarray(part["charge"][0])
        bound = merged.finish(part["anchor"].astype(np.float64), charge.astype(np.float64), 2 * BLOCKS)
        A, G, U, D = (total(f * float(getattr(s, n)) for s, f in zip(states, factors, strict=True)) for n in "AGUD")
        gamma = norm(minus(balls(merged.softmax.output), balls(part["anchor"])))
        exact = (A + gamma * G + U + total(factors) * float(charge)) / D
        return Attained(lower(exact), float(bound))

    symbols = f"(A + gamma G + U + l eps)/D merged in {np.dtype(dtype).name}, no construction"
    return Attack(
        f"certificate_state.{variant}",
        "certificate_state",
        symbols,
        box.low,
        box.high,
        evaluate,
        evaluations=600,
        reproduces=MACHINE,
    )


def _corrected(variant: str, symbols: str, constant: bool) -> Attack:
    """Correct a state in float32: logarithms of weights, by how much some of them change, and values."""
    box = Box().add("others", OTHERS, -12.0, 0.0).add("old", PROMOTED, -3.0, 0.0).add("change", PROMOTED, -12.0, 1.0)
    box.add("again", PROMOTED, -1.0, 1.0).add("log_rate", 1, -9.0, -3.0)
    box.add("values", CHANNELS * TOKENS, -1.0, 1.0).add("residuals", CHANNELS * PROMOTED, -0.5, 0.5)

    @precisely
    def evaluate(genes: FloatArray) -> Attained:
        part = box.cut(genes)
        single = np.float32
        rest, p_old = np.exp(part["others"]).astype(single), np.exp(part["old"]).astype(single)
        p_old[0] = 1.0
        p = (p_old * np.exp(part["change"])).astype(single)
        rate = 10.0 ** part["log_rate"][0]
        again = (p_old * (1.0 + rate * part["again"])).astype(single)
        v_hat = part["values"].astype(single).reshape(TOKENS, CHANNELS)
        v = (v_hat[OTHERS:] + part["residuals"].reshape(PROMOTED, CHANNELS)).astype(single)
        weights = np.concatenate([rest, p_old])
        before = SoftmaxState(np.asarray(single(0)), weights.sum(), weights @ v_hat)
        after = correction.correct(before, again, p, v_hat[OTHERS:], v)
        if not after.l > 0:
            return NOTHING
        old64, again64 = p_old.astype(np.float64), again.astype(np.float64)
        r = np.asarray((np.abs(old64 - again64) / np.minimum(old64, again64)).max() * outward(2))
        used, residual = norm_ub(v_hat), norm_ub(v.astype(np.float64) - v_hat[OTHERS:]) * outward(2)
        counted: dict[str, Any] = {"dtype": np.dtype(single), "carried": TOKENS, "tokens": PROMOTED, "again_ub": r}
        if constant:
            if correction.must_recompute(before.l, after.l, np.asarray(0.0)):
                return NOTHING
            bound = correction_rounding.kept_rounding_ub(**counted, value_ub=used.max(), residual_ub=residual.max())
        else:
            bound = correction_rounding.rounding_ub(
                **counted,
                l_old=before.l.astype(np.float64),
                l_new=after.l.astype(np.float64),
                value_old_ub=_sum(weights.astype(np.float64) * used),
                moved=_moved(p.astype(np.float64), again64, used[OTHERS:], residual),
                output_norm_ub=norm_ub(after.output),
            ).output
        exact = weighted(normalised(balls([*rest, *p])), [balls(x) for x in [*v_hat[:OTHERS], *v]])
        return Attained(lower(norm(minus(balls(after.output), exact))), float(bound))

    return Attack(
        f"correction.{variant}",
        "correction",
        f"{symbols}, float32, no construction",
        box.low,
        box.high,
        evaluate,
        evaluations=1500,
        reproduces=MACHINE,
    )


def _sum(x: AnyArray) -> FloatArray:
    """Sum from above."""
    return np.asarray(x.sum() * outward(TOKENS + 5))


def _moved(p: FloatArray, again: FloatArray, used: FloatArray, residual: FloatArray) -> correction_rounding.Moved:
    change = np.abs(p - again)
    return correction_rounding.Moved(
        weight=_sum(change),
        value=_sum(change * used + p * residual),
        weight_again=_sum(again),
        value_again=_sum(again * used),
    )


def attacks() -> list[Attack]:
    """All of this file."""
    return [
        _merged("float64", np.float64),
        _merged("float32", np.float32),
        _corrected("charged", "(e_o + ||c|| e_l)/(l_new - e_l)", constant=False),
        _corrected("kept", "(21 g + 10 r)(V_hat + eta)", constant=True),
    ]
