"""Is a certified output within its bound? Float64 decides where it can, enclosures decide the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from certkv.reference.errors import SettingError, ShapeError
from certkv.reference.exact.convert import to_float64
from certkv.reference.exact.enclosure import Enclosure, distance, float_lb, float_ub
from certkv.reference.exact.float64 import attention
from certkv.reference.numbers import U, norm_lb, norm_ub
from certkv.reference.numbers.types import AnyArray, FloatArray

Enclosures = Literal["doubtful", "vague", "always"]
SMALLEST = float(np.finfo(np.float64).smallest_subnormal)
NARROWER = (2.0**-24, 2.0**-60, 2.0**-200)
"""Radii of the enclosures relative to the bound; the last is finer than any margin that a float64 bound can have."""

VAGUE = 0.5
"""A verdict is vague where its lower limit is below this share of its upper one: within its bound, but by how much?"""


@dataclass(frozen=True)
class Verdict:
    """What is known about one head's true error.

    Attributes
    ----------
    error_lb, error_ub : float
        Proved limits of the L2 distance between the output and the exact attention, in the units of v.
    violated : bool
        Whether the error provably exceeds the bound: ``error_lb > bound``.
    judged_by : {"float64", "enclosure", "nothing to judge", "undecided"}
        "nothing to judge": the output is not finite. "undecided": at the largest precision the enclosure still says
        nothing (``error_ub`` is infinite), so the absence of a violation means nothing; count these apart.
    """

    error_lb: float
    error_ub: float
    violated: bool
    judged_by: str


def judge(
    output: AnyArray,
    bound: AnyArray,
    q: AnyArray,
    k: AnyArray,
    v: AnyArray,
    scale: float,
    enclosures: Enclosures = "doubtful",
) -> list[Verdict]:
    """Judge the outputs of the query heads that share one KV head at one step.

    Parameters
    ----------
    output : float array [G, d]
        Any type that float64 holds exactly.
    bound : float array [G]
        Claimed upper bounds of the error. NaN counts as infinite.
    q, k, v : array [G, d_k], [N, d_k], [N, d]
        The originals that these queries see (causal slicing is the caller's).
    scale : float
    enclosures : {"doubtful", "vague", "always"}
        Which heads are judged by an enclosure. "doubtful": those that float64 and its proved error cannot decide.
        "vague": also those whose error float64 does not know to within a factor of two; heads computed from the
        originals are among them. "always": every head.

    Returns
    -------
    list of Verdict, length G
        An output that is not finite violates every finite bound and no infinite one.

    Raises
    ------
    ShapeError, DTypeError, SettingError
    NonFiniteError
        Where an enclosure is needed and q, k or v is not finite.
    """
    if enclosures not in get_args(Enclosures):
        raise SettingError(f"enclosures={enclosures!r}; it must be one of {', '.join(get_args(Enclosures))}")
    if output.shape != (len(q), *v.shape[1:]) or bound.shape != (len(q),):
        raise ShapeError(
            f"output {output.shape} and bound {bound.shape} must be [G, d] and [G] for q {q.shape}, v {v.shape}"
        )
    outputs = to_float64("output", output)
    bounds = [math.inf if math.isnan(b) else b for b in to_float64("bound", bound).tolist()]
    verdicts = _by_float64(outputs, bounds, q, k, v, scale)
    enclosure: Enclosure | None = None
    for head, (row, claimed, verdict) in enumerate(zip(outputs, bounds, verdicts, strict=True)):
        if verdict is None or (verdict.judged_by == "float64" and _wanted(verdict, enclosures)):
            enclosure = enclosure or Enclosure(k, v)
            verdicts[head] = _by_enclosure(row, claimed, q[head], enclosure, scale, float(np.max(norm_ub(v))))
    return [verdict for verdict in verdicts if verdict is not None]


def _wanted(verdict: Verdict, enclosures: Enclosures) -> bool:
    """Whether a verdict of float64 is to be replaced by an enclosure's."""
    return enclosures == "always" or (enclosures == "vague" and verdict.error_lb < VAGUE * verdict.error_ub)


def _by_float64(
    outputs: FloatArray, bounds: list[float], q: AnyArray, k: AnyArray, v: AnyArray, scale: float
) -> list[Verdict | None]:
    """Verdicts of float64; None where it is in doubt."""
    truth = attention(q, k, v, scale)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = outputs - truth.output
        # Each difference rounds once: |computed - exact| <= u |computed|.
        apart = norm_ub(difference)
        upper = np.where(apart > 0.0, (apart * (1.0 + 2.0 * U) + truth.error_ub) * (1.0 + 4.0 * U), truth.error_ub)
        lower = np.maximum((norm_lb(difference) * (1.0 - 4.0 * U) - truth.error_ub) * (1.0 - 4.0 * U), 0.0)
    finite = np.all(np.isfinite(outputs), axis=1)
    verdicts: list[Verdict | None] = []
    for ok, lb, ub, claimed in zip(finite, lower.tolist(), upper.tolist(), bounds, strict=True):
        if not ok:
            verdicts.append(Verdict(math.inf, math.inf, claimed < math.inf, "nothing to judge"))
        elif lb > claimed or ub <= claimed:
            verdicts.append(Verdict(lb, ub, lb > claimed, "float64"))
        else:
            verdicts.append(None)
    return verdicts


def _by_enclosure(
    output: FloatArray, bound: float, q: AnyArray, enclosure: Enclosure, scale: float, largest_value: float
) -> Verdict:
    """Verdict of an enclosure whose radius is far below the bound (2^-24 of it) or, if that is 0, below the values."""
    radius = 2.0**-24 * min(max(bound, 2.0**-64 * largest_value), largest_value)
    lb, ub = 0.0, math.inf
    # narrower tries where the first cannot tell a tiny bound from a tinier error, or an error from a bound it attains
    for wanted in (radius, *(share * bound or SMALLEST for share in NARROWER)):
        error = distance(output, enclosure.attention(q, scale, wanted))
        lb, ub = float_lb(error), float_ub(error)
        if lb > bound or ub <= bound or (bound == math.inf and ub < math.inf):
            return Verdict(max(lb, 0.0), ub, lb > bound, "enclosure")
    if math.isnan(lb) or math.isnan(ub):
        lb, ub = 0.0, math.inf
    return Verdict(max(lb, 0.0), ub, False, "undecided")
