"""The theorem's formulas on the very inputs that the fast path gets, in 80-bit arithmetic and written out anew.

A result here is within a relative 2^-50 of the real number (sums and products of non-negative numbers in 64 bits;
``e^x - 1 - x`` from its series where it would cancel), so a term that is at least ``1 + 2^-40`` times it is at least
the real one. What the fast path adds for underflow, 2^-100 and the like, is no part of the formulas.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from certkv.fast.certify import Pass
from certkv.fast.charges import Charges
from certkv.fast.coded import Coded
from certkv.fast.formats.packing import unpack_plane
from certkv.fast.score_error import ScoreErrors
from certkv.reference.annotations import log_codes
from certkv.reference.formats.rotation import rotate

Wide = np.longdouble
assert np.finfo(Wide).nmant >= 63
SLACK = Wide(1) + Wide(2) ** -40


def wide(x: torch.Tensor) -> Any:
    """80-bit numbers, exactly."""
    return x.to(torch.float64).numpy().astype(Wide)


def psi(x: Any) -> Any:
    small = np.where(x < 0.5, x, 0)
    term, total = np.full(x.shape, Wide(0.5)), np.full(x.shape, Wide(0.5))
    for k in range(3, 24):
        term = term * small / k
        total = total + term
    large = np.where(x < 0.5, Wide(1), x)
    return np.where(x < 0.5, total, (np.expm1(large) - large) / large**2)


def norms(w: Any) -> tuple[Any, ...]:
    """Sum, Euclidean norm, largest, norm without the largest; over the last axis."""
    ordered = np.sort(w, axis=-1)
    return w.sum(-1), np.sqrt((w**2).sum(-1)), ordered[..., -1], np.sqrt((ordered[..., :-1] ** 2).sum(-1))


def first(w: Any, delta: Any, omega: Any) -> Any:
    one, two, top, rest = norms(w)
    return np.minimum.reduce([delta * one, omega * two, top * delta + rest * omega])


def root(w: Any, delta: Any, omega: Any) -> Any:
    _, two, top, _ = norms(w)
    return np.minimum(top * omega, delta * two)


def second(w: Any, delta: Any, omega: Any) -> Any:
    one, two, top, _ = norms(w)
    return np.minimum.reduce([delta**2 * one, omega**2 * top, delta * omega * two])


class Block:
    """One block of one head: everything that the formulas take, as 80-bit numbers."""

    def __init__(self, coded: Coded, seen: Pass, charges: Charges, where: tuple[int, int, int]) -> None:
        sequence, head, block = where
        kv, g = divmod(head, seen.m.shape[1] // coded.anchor.shape[1])
        page = int(coded.page_table[sequence, block])
        pool, c = coded.pool, wide(seen.output[sequence, head])
        self.notes = wide(pool.value_notes[page, kv])
        ratio = log_codes.RATIOS.astype(Wide)
        self.eta = ratio[pool.residual_codes[page, kv].numpy()] * self.notes[0]
        self.n = ratio[pool.anchored_codes[page, kv].numpy()] * self.notes[2]
        shift = wide(seen.reference[sequence, kv, block, g]) - wide(seen.m[sequence, head])
        computed = wide(seen.weights[sequence, kv, block, g]) * np.exp2(shift) / wide(seen.l[sequence, head])
        self.a = computed * Wide(charges.share_up) + Wide(charges.share_lost)
        self.mass = computed.sum()
        self.mass_lb = max(self.mass * Wide(charges.mass_down) - Wide(charges.mass_lost), Wide(0))
        self.gamma = np.sqrt(((c - wide(coded.anchor[sequence, kv])) ** 2).sum())
        self.radius = min(self.notes[1] + np.sqrt((c**2).sum()), self.notes[2] + self.gamma)
        self.heaviest = int((self.a * self.n).argmax())
        used = self._decoded(coded, page, kv)[self.heaviest]
        self.distance = np.sqrt(((used - c) ** 2).sum()) + self.eta[self.heaviest]
        self.coded_keys, self.coded_values = (
            int(seen.levels[sequence, head, block]) & 1 == 0,
            int(seen.levels[sequence, head, block]) & 2 == 0,
        )

    def _decoded(self, coded: Coded, page: int, kv: int) -> Any:
        pool, block, head_dim = coded.pool, coded.block, coded.anchor.shape[-1]
        codes = unpack_plane(pool.value_codes[page, kv], coded.value_bits, block).numpy()
        step, minimum = wide(pool.value_step[page, kv]), wide(pool.value_minimum[page, kv])
        if coded.value_group:
            channel = np.arange(head_dim) // coded.value_group
            step, minimum = step[:, channel], minimum[:, channel]
        # float64 has 53 bits, of which a rotation loses three: within 2^-50, as said above
        decoded = minimum + step * codes
        return rotate(decoded.astype(np.float64)).astype(Wide) if coded.values_rotated else decoded

    def key(self, delta: Any, omega: Any) -> Any:
        if delta == 0 or omega == 0:
            return Wide(0)
        delta = min(delta, omega)

        def alike(a: Any) -> Any:
            beta = a * self.n
            about = min(first(beta, delta, omega), self.notes[5] * root(beta, delta, omega))
            return (
                about
                + psi(delta) * second(beta, delta, omega)
                + self.gamma * (first(a, delta, omega) + psi(delta) * second(a, delta, omega))
            )

        rest = self.a.copy()
        rest[self.heaviest] = 0
        apart = self.a[self.heaviest] * np.expm1(delta) * self.distance + alike(rest)
        return min(alike(self.a), apart, self.a.sum() * np.expm1(delta) * self.radius)

    def value(self) -> Any:
        one, two, top, rest = norms(self.a * self.eta)
        return min(one, self.notes[4] * two, top + self.notes[4] * rest) if self.coded_values else Wide(0)

    def weight(self, delta: Any, omega: Any) -> Any:
        if self.mass_lb == 0:
            return Wide(0)
        return self.mass_lb * np.exp(-min(delta, first(self.a, delta, omega) / self.mass_lb))


def errors_of(
    block: Block, errors: ScoreErrors, charges: Charges, where: tuple[int, int, int], tokens: int
) -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """``(Delta, Omega)`` without and with rounding."""
    delta, omega, size = (wide(x[where]) for x in errors)
    if not block.coded_keys:
        delta, omega = Wide(0), Wide(0)
    charge = charges.coded if block.coded_keys else charges.original
    eps = Wide(charge.relative) * size + Wide(charge.constant)
    return (delta, omega), (delta + eps, omega + np.sqrt(Wide(tokens)) * eps)
