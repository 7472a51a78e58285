"""The certificate in binary32: guards and factors that are not there."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require, require_raises
from certkv.reference import SettingError
from certkv.reference.bounds import outward_fp32
from certkv.reference.numbers.types import Float32Array

F32 = np.float32


def total(x: Float32Array) -> Float32Array:
    """Sum in binary32, one after the other."""
    result = F32(0.0)
    for number in x:
        result = F32(result + number)
    return np.asarray([result], dtype=F32)


def rest_is_covered() -> None:
    """Squares whose sum rounds down, beside a heavy one; and squares that are below the range."""
    light = np.nextafter(F32(1.0), F32(2.0)) * F32(1.3)
    for where, beta in {
        "rounded": np.array([40.0] + [light] * 253, dtype=F32),
        "flushed": np.full(16, 2.0**-80, dtype=F32),
    }.items():
        q2 = total(beta * beta)
        result = Fraction(float(outward_fp32.beta_perp_ub(q2, beta.max(), len(beta))[0]))
        squares = [Fraction(float(b)) ** 2 for b in beta]
        require(result**2 >= sum(squares) - max(squares), f"{where}: the rest of beta is above its bound")


def sums_are_covered() -> None:
    """Round down in the numerator, and up in the denominator."""
    A = np.array([1.0] + [2.0**-24 * 0.99] * 250, dtype=F32)
    D = np.array([1.0] + [2.0**-24 * 1.01] * 250, dtype=F32)
    zero = np.zeros(1, dtype=F32)
    exact = sum(Fraction(float(a)) for a in A) / sum(Fraction(float(d)) for d in D)
    result = Fraction(float(outward_fp32.finish(total(A), zero, zero, zero, total(D), zero)[0]))
    require(result >= exact, "the quotient of the sums is above its bound")
    flushed = 2.0**-106  # 2^20 terms of 2^-126
    kept = outward_fp32.finish(zero, zero, zero, zero, np.ones(1, dtype=F32), zero)
    require(bool(kept[0] >= flushed), "what was flushed to zero is above the bound")


def quotient_is_covered() -> None:
    """Divide so that the quotient is below the normal range."""
    zero = np.zeros(1, dtype=F32)
    A, D = F32(1.499e-31), F32(1.673e15)
    result = outward_fp32.finish(np.asarray([A]), zero, zero, zero, np.asarray([D]), zero)[0]
    require(Fraction(float(result)) >= Fraction(float(A)) / Fraction(float(D)), "a quotient that underflowed is lost")


def overflow_is_unknown() -> None:
    """Let the denominator's sum overflow: the real one is finite, and is not known."""
    one, zero = np.ones(1, dtype=F32), np.zeros(1, dtype=F32)
    with np.errstate(over="ignore"):
        D = total(np.full(4, 1e38, dtype=F32))
    result = outward_fp32.finish(one, zero, zero, zero, D, zero)[0]
    require(bool(np.isinf(result)), "a denominator that overflowed is taken for a number")


def psi_is_covered() -> None:
    """Small arguments, where the polynomial has no slack."""
    x = np.geomspace(1e-9, 0.1, 500).astype(F32)
    for argument, result in zip(x.tolist(), outward_fp32.psi_ub(x).tolist(), strict=True):
        y = Fraction(argument)
        below = Fraction(1, 2) + y / 6 + y * y / 24  # the series' first terms
        require(Fraction(result) >= below, f"psi({argument}) is above {result}")


def count_is_limited() -> None:
    """Too many roundings for the factor, and too large a block for the guard."""
    require_raises(SettingError, lambda: outward_fp32.roundings(2**22, 64, 1), "131,162 roundings")
    one = np.ones(1, dtype=F32)
    require_raises(SettingError, lambda: outward_fp32.beta_perp_ub(one, one, 4096), "a sum of 4,096 squares")


CHECKS = (
    Check("binary32-rest", "the guarded difference of squares is an upper bound", rest_is_covered),
    Check("binary32-sums", "the binary32 certificate is above the one of its real terms", sums_are_covered),
    Check("binary32-quotient", "a last quotient that underflows stays an upper bound", quotient_is_covered),
    Check("binary32-overflow", "a denominator that overflowed is unknown", overflow_is_unknown),
    Check("binary32-psi", "psi in binary32 is an upper bound", psi_is_covered),
    Check("binary32-count", "settings beyond the proved number of roundings are refused", count_is_limited),
)

MUTANTS = (
    Mutant(
        "perp-unguarded",
        "-",
        "||beta||^2 - beta_1^2 as computed",
        lambda: patched((outward_fp32, "PERP_GUARD", F32(0.0))),
        "binary32-rest",
    ),
    Mutant(
        "perp-flushed",
        "-",
        "squares below binary32's range taken as 0",
        lambda: patched((outward_fp32, "SQUARE_LOST", 0.0)),
        "binary32-rest",
    ),
    Mutant(
        "factor-missing",
        "-",
        "binary32 sums taken as exact",
        lambda: patched((outward_fp32, "FACTOR", F32(1.0))),
        "binary32-sums",
    ),
    Mutant(
        "sums-flushed",
        "-",
        "terms flushed to zero not charged",
        lambda: patched((outward_fp32, "LOST", F32(0.0))),
        "binary32-sums",
    ),
    Mutant(
        "quotient-flushed",
        "-",
        "a last quotient below the normal range not charged",
        lambda: patched((outward_fp32, "TINY", F32(0.0))),
        "binary32-quotient",
    ),
    Mutant(
        "denominator-infinite",
        "-",
        "an infinite denominator taken for a number",
        lambda: patched((outward_fp32, "MOST_DENOMINATOR", F32(np.inf))),
        "binary32-overflow",
    ),
    Mutant(
        "psi-nearest",
        "-",
        "psi's polynomial without a factor for its rounding",
        lambda: patched((outward_fp32, "UP", F32(1.0))),
        "binary32-psi",
    ),
    Mutant(
        "count-unlimited",
        "-",
        "any number of roundings under one factor",
        lambda: patched((outward_fp32, "MOST_ROUNDINGS", 2**60)),
        "binary32-count",
    ),
)
