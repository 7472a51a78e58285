"""The certificate of an emulated kernel whose keys and values are exact: nothing but rounding is left."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.proofs.emulation.kernel import Emulated
from certkv.reference.bounds import kernel_arithmetic as theorem
from certkv.reference.bounds.arithmetic import exp_minus_lb, expm1_ub
from certkv.reference.bounds.kernel_model import KernelModel
from certkv.reference.exact.float64 import attention
from certkv.reference.numbers import norm_lb, norm_ub, outward
from certkv.reference.numbers.types import FloatArray


@dataclass(frozen=True, eq=False)
class Judged:
    """Bound and error of one head.

    Attributes
    ----------
    bound : float
        Theorem ``block_bound`` without the hull, the cast included.
    error_lb : float
        Lower bound of the distance from exact attention.
    log_error_ub : float64 [blocks]
    accumulation_ub : float
    mass_lb, mass_ub : float64 [blocks]
    """

    bound: float
    error_lb: float
    log_error_ub: FloatArray
    accumulation_ub: float
    mass_lb: FloatArray
    mass_ub: FloatArray


def _by_tile(x: FloatArray, tile: int) -> FloatArray:
    """Largest number of each tile."""
    return np.array([np.max(x[t : t + tile]) for t in range(0, len(x), tile)])


def judge(q: FloatArray, k: FloatArray, v: FloatArray, scale: float, model: KernelModel, done: Emulated) -> Judged:
    """Evaluate the certificate of a model for what a kernel returned, and measure the error."""
    n, d = k.shape
    q_norm = norm_ub(q)[None, None]
    # the range was computed with one rounding of float64
    bits = _by_tile(np.abs(done.range_bits), model.tile)[None] * outward(4)
    log_error = theorem.log_weight_error_ub(
        model,
        scale=scale,
        head_dim=d,
        q_norm_ub=q_norm,
        key_size_ub=_by_tile(norm_ub(k), model.tile)[None],
        range_bits_ub=bits,
        score_bits_ub=np.array([[done.score_bits]]),
        updates=done.updates,
    )
    error = theorem.mass_error_ub(model, tokens=n, block=model.tile, range_bits_ub=bits, updates=done.updates)
    share = done.mass[None]
    mass_ub = theorem.mass_ub(model, share, error, tokens=n, updates=done.updates)
    mass_lb = theorem.mass_lb(model, share, error, tokens=n, updates=done.updates)
    values = _by_tile(norm_ub(v), model.tile)[None]
    output = norm_ub(done.full)[None]
    accumulation = theorem.accumulation_ub(
        model,
        tokens=n,
        head_dim=d,
        mean_size_ub=(mass_ub * values).sum(axis=1) * outward(values.shape[1] + 2),
        max_size_ub=values.max(axis=1),
        output_norm_ub=output,
        updates=done.updates,
        l_lb=done.l,
    ) + theorem.output_cast_ub(model, output, d)
    radius = _by_tile(norm_ub(v - done.output), model.tile)[None]
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        top = (mass_ub * expm1_ub(log_error) * radius).sum(axis=1) + accumulation
        bound = top / (mass_lb * exp_minus_lb(log_error)).sum(axis=1) * outward(values.shape[1] + 12)
    truth = attention(q[None], k, v, scale)
    apart = norm_lb(done.output - truth.output[0]) * (1 - 2.0**-50) - truth.error_ub[0]
    found = float(bound[0])
    return Judged(
        bound=np.inf if np.isnan(found) else found,
        error_lb=max(float(apart), 0.0),
        log_error_ub=log_error[0],
        accumulation_ub=float(accumulation[0]),
        mass_lb=mass_lb[0],
        mass_ub=mass_ub[0],
    )
