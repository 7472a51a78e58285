"""States that are corrected instead of computed anew: what rounding leaves of them is charged."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference import correction, correction_rounding
from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray
from certkv.reference.softmax_state import SoftmaxState

DIM = 2
OTHERS, PROMOTED = 24, 6
COUNT = OTHERS + PROMOTED
FP32 = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Case:
    """A head in float32 whose promoted tokens turn out to weigh e^-delta of what they did, or e^delta."""

    p_old: AnyArray
    p_again: AnyArray
    p: AnyArray
    v_hat: AnyArray
    v: AnyArray

    @classmethod
    def random(cls, seed: int, delta: float) -> Case:
        """Old weights are read (every third seed), or computed again up to 300 units in the last place off."""
        rng = np.random.default_rng(seed)
        others = np.exp(rng.uniform(-1.0, 0.0, OTHERS) - (delta if seed % 2 else 0.0))
        first = np.append(1.0, np.exp(rng.uniform(-1.0, 0.0, PROMOTED - 1)))
        p_old = np.concatenate([others, first]).astype(np.float32)
        change = -np.ones(PROMOTED) if seed % 2 else rng.choice([-1.0, 1.0], PROMOTED)
        p = (first * np.exp(delta * change)).astype(np.float32)
        again = (p_old[OTHERS:] * (1 + rng.integers(-300, 301, PROMOTED) * (seed % 3 > 0) * 2.0**-23)).astype(
            np.float32
        )
        v = rng.standard_normal((COUNT, DIM)).astype(np.float32)
        v_hat = v.copy()
        v_hat[OTHERS:] += (0.1 * rng.standard_normal((PROMOTED, DIM))).astype(np.float32)
        return cls(p_old, again, p, v_hat, v)

    @property
    def states(self) -> tuple[SoftmaxState, SoftmaxState]:
        """Before and after the correction."""
        before = SoftmaxState(np.asarray(0, np.float32), self.p_old.sum(), self.p_old @ self.v_hat)
        with np.errstate(all="ignore"):
            return before, correction.correct(before, self.p_again, self.p, self.v_hat[OTHERS:], self.v[OTHERS:])

    @property
    def again_ub(self) -> FloatArray:
        """Return r."""
        a, b = self.p_old[OTHERS:].astype(np.float64), self.p_again.astype(np.float64)
        return np.asarray((np.abs(a - b) / np.minimum(a, b)).max() * outward(2))

    def error(self) -> Fraction:
        """Exact square of the output's error."""
        p, v, output = (
            np.array([Fraction(float(e)) for e in x.ravel()], dtype=object).reshape(x.shape)
            for x in (np.concatenate([self.p_old[:OTHERS], self.p]), self.v, self.states[1].output)
        )
        off = output - p @ v / p.sum()
        return Fraction((off * off).sum())

    def charged(self) -> float:
        """Bound it by `rounding_ub`."""
        before, after = self.states
        size, residual = norm_ub(self.v_hat), norm_ub(self.v.astype(np.float64) - self.v_hat)[OTHERS:]
        p, again = self.p.astype(np.float64), self.p_again.astype(np.float64)
        change, up = np.abs(p - again), outward(COUNT + 5)
        moved = correction_rounding.Moved(
            weight=np.asarray(change.sum() * up),
            value=np.asarray((change @ size[OTHERS:] + p @ residual) * up),
            weight_again=np.asarray(again.sum() * up),
            value_again=np.asarray(again @ size[OTHERS:] * up),
        )
        found = correction_rounding.rounding_ub(
            dtype=FP32,
            carried=COUNT,
            tokens=PROMOTED,
            l_old=before.l.astype(np.float64),
            l_new=after.l.astype(np.float64),
            value_old_ub=np.asarray(self.p_old.astype(np.float64) @ size * up),
            moved=moved,
            again_ub=self.again_ub,
            output_norm_ub=norm_ub(after.output),
        )
        return float(found.output)

    def kept(self) -> float:
        """Bound it by the constant."""
        residual = norm_ub(self.v.astype(np.float64) - self.v_hat)
        found = correction_rounding.kept_rounding_ub(
            dtype=FP32,
            carried=COUNT,
            tokens=PROMOTED,
            value_ub=norm_ub(self.v_hat).max(),
            residual_ub=residual.max(),
            again_ub=self.again_ub,
        )
        return float(found)


DELTAS = (0.1, 1.0, 3.0, 8.0, 45.0)


def corrections_are_charged() -> None:
    """Correct states in float32, mild and cancelling ones, and compare with rational arithmetic."""
    for delta in DELTAS:
        for seed in range(12):
            case = Case.random(seed, delta)
            bound = case.charged()
            if np.isfinite(bound):
                error = case.error()
                require(error <= Fraction(bound) ** 2, f"Delta {delta}: error {float(error) ** 0.5}, charged {bound}")
    mild = [Case.random(seed, 0.1).charged() for seed in range(12)]
    require(max(mild) < 1e-2, f"a charge of {max(mild)} where nothing cancels")


def kept_states_are_good() -> None:
    """Keep what need not be recomputed: the constant holds."""
    kept = 0
    for delta in DELTAS:
        for seed in range(12):
            case = Case.random(seed, delta)
            before, after = case.states
            if not correction.must_recompute(before.l, after.l, np.asarray(0.0)):
                kept += 1
                bound = case.kept()
                output = after.output
                require(bool(np.isfinite(output).all()), f"Delta {delta}: kept an output of {output}")
                error = case.error()
                require(error <= Fraction(bound) ** 2, f"Delta {delta}: error {float(error) ** 0.5}, allowed {bound}")
    require(kept > 12, f"only {kept} states kept")
    for broken in ((np.nan, 1.0, 0.0), (1.0, np.nan, 0.0), (1.0, 1.0, np.nan), (1.0, np.inf, 0.0), (1.0, 1.0, 1.5)):
        again = correction.must_recompute(*(np.asarray(x) for x in broken))
        require(bool(again), f"l before, l after, Delta = {broken}: kept")


REAL_ROUNDING = correction_rounding.rounding_ub


def charged_otherwise(change: Callable[[dict[str, Any]], dict[str, Any]]) -> AbstractContextManager[None]:
    """Change what the charge is computed from."""
    return patched((correction_rounding, "rounding_ub", lambda **given: REAL_ROUNDING(**(given | change(given)))))


def relative_to_the_new(given: dict[str, Any]) -> dict[str, Any]:
    """Charge rounding relative to what is left."""
    share = given["l_new"] / given["l_old"]
    nothing = np.zeros(())
    moved = replace(given["moved"], weight=nothing, value=nothing)
    return {"l_old": given["l_new"], "value_old_ub": given["value_old_ub"] * share, "moved": moved}


def free_again(given: dict[str, Any]) -> dict[str, Any]:
    """Take weights that are computed again for those inside the state."""
    return {"again_ub": np.zeros(())}


def never_recompute(l_old: FloatArray, l_new: FloatArray, delta_ub: FloatArray) -> BoolArray:
    """Keep every state that is positive."""
    return np.asarray(~(l_new > 0))


def recompute_if_less(l_old: FloatArray, l_new: FloatArray, delta_ub: FloatArray) -> BoolArray:
    """Ask whether something is wrong, which a NaN never is."""
    return np.asarray((l_new < l_old / 4) | (delta_ub > 1))


CHECKS = (
    Check("correction-charged", "the rounding of a corrected state is charged", corrections_are_charged),
    Check("correction-kept", "a corrected state that is kept is as good as promised", kept_states_are_good),
)

MUTANTS = (
    Mutant(
        "correction-relative-to-new",
        "-",
        "rounding charged relative to the new l alone",
        lambda: charged_otherwise(relative_to_the_new),
        "correction-charged",
    ),
    Mutant(
        "correction-again-free",
        "-",
        "weights computed again taken for those in the state",
        lambda: charged_otherwise(free_again),
        "correction-charged",
    ),
    Mutant(
        "correction-no-threshold",
        "-",
        "a state kept whatever has cancelled",
        lambda: patched((correction, "must_recompute", never_recompute)),
        "correction-kept",
    ),
    Mutant(
        "correction-nan-kept",
        "A9",
        "`l_new < l_old / 4`, false for NaN",
        lambda: patched((correction, "must_recompute", recompute_if_less)),
        "correction-kept",
    ),
)
