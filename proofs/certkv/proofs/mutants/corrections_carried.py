"""Errors that are carried from correction to correction: what each round leaves and rounds is in them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.reference import correction_carried
from certkv.reference.correction_carried import Carried
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray

OTHERS, BLOCKS, BLOCK, ROUNDS = 8, 3, 4, 3
COUNT = OTHERS + BLOCKS * BLOCK
U32 = 2.0**-24
GAMMA = (BLOCK + 8) * U32 * 1.001
"""Weights in binary32, a difference or a product each, sums over a block, joins."""

AGAIN = 2.0**-12
"""How far weights inside the state may be from those that are read."""


@dataclass(eq=False)
class Head:
    """A softmax state in binary32, the weights and values it should be made of, and what it carries; scalar values."""

    w: AnyArray
    inside: AnyArray
    v: AnyArray
    l: np.float32  # noqa: E741 (the softmax state's name)
    o: np.float32
    carried: Carried

    @classmethod
    def random(cls, seed: int) -> Head:
        """Sum a first pass: what is read later is up to `AGAIN` off, all to one side."""
        rng = np.random.default_rng(seed)
        w = np.exp(rng.uniform(-3.0, 0.0, COUNT)).astype(np.float32)
        inside = (w * (1.0 + AGAIN * 0.99 * (1 if seed % 2 else -1))).astype(np.float32)
        w[:OTHERS] = inside[:OTHERS]
        v = (rng.standard_normal(COUNT) + 2.0).astype(np.float32)
        total, out = np.float32(0.0), np.float32(0.0)
        for weight, value in zip(inside, v, strict=True):
            total, out = np.float32(total + weight), np.float32(out + np.float32(weight * value))
        sizes = (np.abs(inside.astype(np.float64)) * np.abs(v)).sum() * 1.001
        rate, joins = (COUNT + 2) * U32 * 1.001, ROUNDS * U32 * 1.001
        carried = correction_carried.first(np.asarray(float(total)), np.asarray(sizes), rate, rate, joins)
        return cls(w, inside, v, total, out, carried)

    def promote(self, block: int, b: AnyArray, v_new: AnyArray, keys: bool) -> None:
        """Correct one block, of which the weights are read, and carry what that costs."""
        at = slice(OTHERS + block * BLOCK, OTHERS + (block + 1) * BLOCK)
        a, v = self.w[at].copy(), self.v[at].copy()
        b = b if keys else a
        for t in range(BLOCK):
            self.l = np.float32(self.l + np.float32(b[t] - a[t]))
            if keys:
                self.o = np.float32(self.o + np.float32(np.float32(b[t] * v_new[t]) - np.float32(a[t] * v[t])))
            else:
                self.o = np.float32(self.o + np.float32(a[t] * np.float32(v_new[t] - v[t])))
        if keys:
            self.inside[at] = b
        self.w[at], self.v[at] = b, v_new
        sums = [np.asarray([x.sum() * 1.001, (x * np.abs(y)).sum() * 1.001]) for x, y in ((a, v), (b, v_new))]
        self.carried = correction_carried.carry(self.carried, sums[0], sums[1], GAMMA + AGAIN, keys)

    def output(self) -> float:
        """Divide."""
        return float(self.o) / float(self.l) if self.l else float("nan")

    def off(self) -> tuple[Fraction, Fraction]:
        """Exact errors of the denominator and of the quotient, against what is inside."""
        w, v = ([Fraction(float(x)) for x in of] for of in (self.inside, self.v))
        mean = sum((x * y for x, y in zip(w, v, strict=True)), Fraction(0)) / sum(w, Fraction(0))
        return abs(Fraction(float(self.l)) - sum(w, Fraction(0))), abs(Fraction(self.output()) - mean)


def errors_are_carried() -> None:
    """Change blocks by factors up to e^12, again and again, keys or values, and compare with rational arithmetic."""
    kept = 0
    for seed in range(40):
        head, rng = Head.random(seed), np.random.default_rng(seed + 1000)
        for step in range(ROUNDS):
            keys = (seed + step) % 3 > 0
            block = step if seed % 2 else 0
            at = slice(OTHERS + block * BLOCK, OTHERS + (block + 1) * BLOCK)
            change = np.exp(rng.uniform(-12.0, 12.0 if seed % 4 else 0.0))
            b = (head.w[at] * change).astype(np.float32)
            head.promote(block, b, (head.v[at] * rng.uniform(0.5, 2.0)).astype(np.float32), keys)
            bound = float(
                correction_carried.output_ub(head.carried, np.asarray(float(head.l)), np.asarray(abs(head.output())))
            )
            if not np.isfinite(bound):
                break
            kept += 1
            weight, value = head.off()
            where = f"seed {seed}, round {step}"
            require(
                weight <= Fraction(float(head.carried.weight)), f"{where}: the denominator is off by {float(weight)}"
            )
            require(value <= Fraction(bound) + Fraction(2.0**-50), f"{where}: off by {float(value)}, allowed {bound}")
            require(bound < 0.05, f"{where}: {bound} is allowed, which says nothing")
    require(kept > 60, f"only {kept} states kept")


def what_is_left_is_enough() -> None:
    """Give up a state that is not known to 2^-10, of which a sixteenth is not left, and what is no number."""
    one = Carried(np.asarray(1.0), np.asarray(0.0))
    for weight, l_new, again in (
        (1.0, 1024.0, False),
        (1.0, 1023.0, True),
        (np.nan, 1.0, True),
        (1.0, np.nan, True),
        (1.0, np.inf, True),
        (0.0, -1.0, True),
    ):
        said = correction_carried.must_recompute(Carried(np.asarray(weight), one.value), np.asarray(l_new))
        require(bool(said) == again, f"lost {weight} of {l_new}: recomputed is {bool(said)}")
    first = correction_carried.first(np.asarray(1.0), np.asarray(1.0), 0.0, 0.0, 0.0)
    said = correction_carried.must_recompute(first, np.asarray(1.0 / 16.01))
    require(bool(said), "less than a sixteenth of the first denominator is left, and kept")


def weights_fit_their_type() -> None:
    """Exact scores far above the coded ones: weights in binary16 are finite, and relative to one reference."""
    for bits in ([-20.0, 3.0, 40.0], [-20.0, -30.0, -25.0], [0.0, 14.0, 16.5]):
        scores = np.asarray(bits)
        reference = float(correction_carried.risen(np.asarray(-14.0), scores))
        with np.errstate(over="ignore"):
            weights = np.exp2(scores - reference).astype(np.float16)
        require(bool(np.isfinite(weights).all()), f"scores {bits}: weights {weights}")
        require(reference >= -14.0, f"scores {bits}: the reference fell to {reference}")


REAL_CARRY, REAL_FIRST = correction_carried.carry, correction_carried.first


def carries(change: Callable[[Carried, FloatArray, FloatArray, float, bool], Carried]) -> AbstractContextManager[None]:
    """Carry something else."""
    return patched((correction_carried, "carry", change))


def only_what_comes(before: Carried, out: FloatArray, into: FloatArray, rate: float, keys: bool = True) -> Carried:
    """Leave out what was taken out."""
    return REAL_CARRY(before, 0.0 * out, into, rate, keys)


def rounding_alone(before: Carried, out: FloatArray, into: FloatArray, rate: float, keys: bool = True) -> Carried:
    """Take weights that are read for those inside the state."""
    return REAL_CARRY(before, out, into, rate - AGAIN, keys)


def forgotten(before: Carried, out: FloatArray, into: FloatArray, rate: float, keys: bool = True) -> Carried:
    """Begin anew each round."""
    nothing = np.zeros(())
    return REAL_CARRY(Carried(nothing, nothing), out, into, rate, keys)


def keep_everything(carried: Carried, l_new: FloatArray) -> BoolArray:
    """Ask whether something is wrong, which a NaN never is."""
    return np.asarray((carried.weight > correction_carried.LEFT * l_new) | np.isinf(l_new))


def no_least(l_first: FloatArray, sizes_ub: FloatArray, weight: float, value: float, joins: float) -> Carried:
    """Carry what the first pass lost, however little."""
    return Carried((weight + joins) * l_first, REAL_FIRST(l_first, sizes_ub, weight, value, joins).value)


def where_it_was(reference: FloatArray, bits: FloatArray) -> FloatArray:
    """Leave the reference."""
    return np.asarray(reference)


def largest_score(reference: FloatArray, bits: FloatArray) -> FloatArray:
    """Follow the largest score also where it is lower."""
    return np.asarray(bits.max(axis=-1) - correction_carried.BIAS)


CHECKS = (
    Check("correction-carried", "what corrections lose is carried from round to round", errors_are_carried),
    Check("correction-left", "a state of which too little is known is given up", what_is_left_is_enough),
    Check("correction-range", "weights of corrected blocks fit their type", weights_fit_their_type),
)

MUTANTS = (
    Mutant(
        "carried-out-free",
        "-",
        "weights that were taken out are not charged",
        lambda: carries(only_what_comes),
        "correction-carried",
    ),
    Mutant(
        "carried-again-free",
        "-",
        "weights that are read taken for those inside the state",
        lambda: carries(rounding_alone),
        "correction-carried",
    ),
    Mutant(
        "carried-forgotten",
        "-",
        "each round begins with nothing lost",
        lambda: carries(forgotten),
        "correction-carried",
    ),
    Mutant(
        "carried-nan-kept",
        "A9",
        "`lost > LEFT l`, false for NaN",
        lambda: patched((correction_carried, "must_recompute", keep_everything)),
        "correction-left",
    ),
    Mutant(
        "carried-no-least",
        "-",
        "any share of the first denominator may be left",
        lambda: patched((correction_carried, "first", no_least)),
        "correction-left",
    ),
    Mutant(
        "carried-reference-stays",
        "-",
        "weights relative to the coded scores' reference: infinite in 16 bits",
        lambda: patched((correction_carried, "risen", where_it_was)),
        "correction-range",
    ),
    Mutant(
        "carried-reference-falls",
        "-",
        "the reference follows scores down, and other weights' accuracy with it",
        lambda: patched((correction_carried, "risen", largest_score)),
        "correction-range",
    ),
)
