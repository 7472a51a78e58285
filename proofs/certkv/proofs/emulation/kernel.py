"""The kernel: one query head over decoded keys and values, tile by tile and split by split."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from certkv.proofs.emulation.units import SMALLEST_NORMAL, Worst, chain, exp2, operand, single, stored
from certkv.reference.bounds.kernel_arithmetic import tiles_per_split
from certkv.reference.bounds.kernel_model import KernelModel
from certkv.reference.numbers import round_nearest
from certkv.reference.numbers.types import FloatArray

LN2 = math.log(2.0)


@dataclass(frozen=True, eq=False)
class Emulated:
    """What the kernel returned, and what only an emulation can see.

    Attributes
    ----------
    output : float64 [d]
        In the model's output type.
    full : float64 [d]
        The same before the cast.
    l : float
        Denominator over ``2**bias``.
    mass : float64 [blocks]
        Computed shares; a block is a tile.
    range_bits : float64 [N]
        ``M - x c`` of every token.
    score_bits : float
    updates : int
        Most updates of the maximum in a split.
    log_weight : float64 [N]
        Logarithm of every effective weight, up to float64's rounding; tokens that are far away: of the exact one.
    """

    output: FloatArray
    full: FloatArray
    l: float  # noqa: E741 - the name of the mathematics
    mass: FloatArray
    range_bits: FloatArray
    score_bits: float
    updates: int
    log_weight: FloatArray


def emulate(
    q: FloatArray, k: FloatArray, v: FloatArray, scale: float, model: KernelModel, worst: Worst | None = None
) -> Emulated:
    """Run the kernel.

    Parameters
    ----------
    q, k, v : float64 [d], [N, d], [N, d]
        Numbers of the operand types.
    scale : float
        Positive.
    model : KernelModel
        What this kernel does; what it is *certified* as may be another model.
    worst : Worst, optional
    """
    worst = worst or Worst()
    run = _Run(q, k, v, scale, model, worst)
    tiles, per_split = -(-len(k) // model.tile), tiles_per_split(model, len(k))
    states = [run.split(range(t, min(t + per_split, tiles))) for t in range(0, tiles, per_split)]
    return run.merged(states)


class _Run:
    """One call: inputs, and the logarithms of weights as they develop."""

    def __init__(self, q: FloatArray, k: FloatArray, v: FloatArray, scale: float, model: KernelModel, worst: Worst):
        self.model, self.worst = model, worst
        self.v = operand(v, model.value_rounding)
        c = single(scale / LN2, model)
        keys = operand(k, model.key_rounding)
        # every token's own dot product, the query on the left
        x = chain(model.qk, np.zeros(len(k)), operand(q, model.query_rounding), keys.T, model, worst)
        self.bits = single(x * c, model) if not model.fused_exponent else x * c
        self.exact_bits = x * c
        self.rounded_bits = single(x * c, model)
        self.log_weight = np.zeros(len(k))
        self.tile_max = np.zeros(-(-len(k) // model.tile))
        self.tile_sum = np.zeros(len(self.tile_max))
        self.updates = 0

    def tokens(self, tile: int) -> slice:
        return slice(tile * self.model.tile, min((tile + 1) * self.model.tile, len(self.bits)))

    def factor(self, low: float, high: float) -> tuple[float, float]:
        """Return exp2 of a rounded difference of maxima, and the logarithm of its effective value."""
        y = single(low - high, self.model)
        result = float(exp2(y, self.model, self.worst))
        return result, math.log(result) if result >= SMALLEST_NORMAL else float(y) * LN2

    def split(self, tiles: range) -> tuple[float, float, FloatArray, list[slice]]:
        """Return (m, l, o) of some tiles, and their tokens."""
        model, worst = self.model, self.worst
        top, total, o = -math.inf, 0.0, np.zeros((model.weights.parts, self.v.shape[1]))
        seen: list[slice] = []
        updates = 0
        for tile in tiles:
            here = self.tokens(tile)
            new = max(top, float(np.max(self.rounded_bits[here])))
            if seen and new > top:
                updates += 1
                shrink, log_shrink = self.factor(top, new)
                total, o = float(single(total * shrink, model)), single(o * shrink, model)
                for before in seen:
                    self.log_weight[before] += log_shrink
            top = new
            y = single(self.bits[here] - top, model)
            p = exp2(y, model, worst)
            parts = stored(p, model.weights)
            weight = np.sum(parts, axis=0)
            self.log_weight[here] = self._own(y, p, weight)
            rows = weight if model.sum_rounded else p * 2.0**model.weights.bias
            self.tile_max[tile], self.tile_sum[tile] = top, self._sum(0.0, rows)
            if model.sum_in_unit and not model.two_level:
                total = self._sum(total, rows)
            else:
                total = float(single(total + self.tile_sum[tile], model))
            for i, part in enumerate(parts):
                begin = np.zeros(self.v.shape[1]) if model.two_level else o[i]
                product = chain(model.pv, begin, part, self.v[here], model, worst)
                o[i] = single(o[i] + product, model) if model.two_level else product
            seen.append(here)
        self.updates = max(self.updates, updates)
        joined = single(o[0] + o[1], model) if model.weights.parts > 1 else o[0]
        return top, total, joined, seen

    def _sum(self, start: float, rows: FloatArray) -> float:
        """Sum weights of a tile one after the other, or in the unit."""
        if self.model.sum_in_unit:
            ones = np.ones((len(rows), 1))
            return float(chain(self.model.pv, np.array([start]), rows, ones, self.model, self.worst)[0])
        total = start
        for x in rows.tolist():
            total = float(single(total + x, self.model))
        return total

    def _own(self, y: FloatArray, p: FloatArray, weight: FloatArray) -> FloatArray:
        """Logarithm of a tile's own effective weights: of P, of p where P is subnormal, of 2^y where p is."""
        kept = self.model.weights
        smallest_normal = kept.type.smallest_subnormal * 2.0 ** (kept.type.precision - 1)
        with np.errstate(divide="ignore"):
            of_p = np.where(p >= SMALLEST_NORMAL, np.log(p), y * LN2)
            of_weight = np.log(weight) - kept.bias * LN2
        # where a remainder may be subnormal, P is taken if its relative error is in the model and p if it is not
        scaled = p * 2.0**kept.bias
        relative = np.abs(weight - scaled) <= kept.roundoff.value * scaled
        fine = relative & (scaled >= smallest_normal) & (p >= SMALLEST_NORMAL) & self.model.sum_rounded
        return np.where(fine, of_weight, of_p)

    def merged(self, states: list[tuple[float, float, FloatArray, list[slice]]]) -> Emulated:
        """Merge the splits at once, divide and cast."""
        model = self.model
        top = max(state[0] for state in states)
        total, o = 0.0, np.zeros(self.v.shape[1])
        for m, part_l, part_o, seen in states:
            if len(states) == 1:
                total, o = part_l, part_o
                break
            shrink, log_shrink = self.factor(m, top)
            total = float(single(total + single(part_l * shrink, model), model))
            o = single(o + single(part_o * shrink, model), model)
            for here in seen:
                self.log_weight[here] += log_shrink
        full = single(o / total, model)
        weights_of_tiles = exp2(single(self.tile_max - top, model), model, self.worst)
        mass = single(single(self.tile_sum * weights_of_tiles, model) / total, model)
        cast = full if model.output.precision == 24 else round_nearest(full, model.output).astype(np.float64)
        return Emulated(
            output=np.asarray(cast),
            full=full,
            l=total * 2.0**-model.weights.bias,
            mass=mass,
            range_bits=top - self.exact_bits,
            score_bits=float(np.max(np.abs(self.exact_bits))),
            updates=self.updates,
            log_weight=self.log_weight,
        )
