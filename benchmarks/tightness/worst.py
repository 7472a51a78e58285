"""Why bounds are not tighter: the same head with every original moved inside its rounding cell.

A certificate has to hold for all originals that agree with what is stored. Here each key and value is moved by less
than half a step, so that every code stays, in the direction that hurts one query most; then the moved head is encoded,
attended and judged like any other. What remains of bound/error is what the theorem gives away; the rest of the original
ratio is luck of the draw, which a worst-case bound cannot count on.

The direction. To first order the error along a unit vector g is ``sum_t a'_t tau_t <V_t - c, g> + sum_t a'_t <e_t,
g>`` with tau_t the change of the score and e_t the value residual. Under ``||tau||_2 <= Omega_b`` the worst tau of a
block is along ``a'_t <V_t - c, g>``; the key residual that makes it, smallest relative to the steps sigma_c, is along
``sigma_c^2 q_c``. The worst value residuals are along g. g itself is found by alternating maximization.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.annotations.keys import residual_unit
from certkv.reference.cache import Cache, Side
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.steps.attend import attend
from certkv.reference.steps.group import Group, Levels

INSIDE = 0.45
"""Share of a step by which an original may leave its decoded value: short of half, so that 16 bits mostly keep the
code; where they do not, the original stays."""

ALTERNATIONS = 30
TINY = 1e-300


@dataclass(frozen=True, eq=False)
class OneHead:
    """One query head over one KV head; q [d], k and v [tokens, d]."""

    q: AnyArray
    k: AnyArray
    v: AnyArray
    scale: float


def encode(head: OneHead, values: str, block: int) -> Cache:
    """Make the cache of one head, INT8 keys."""
    cache = Cache(kv_heads=1, head_dim=len(head.q), dtype=head.k.dtype, keys="int8", values=values, block=block)
    cache.append(head.k[:, None], head.v[:, None])
    return cache


def worst_case(head: OneHead, values: str, block: int) -> OneHead:
    """Move the originals of the coded blocks; codes and steps stay.

    Parameters
    ----------
    head : OneHead
        At least one block long.
    values : str
        Value format; one with steps per token and group.
    block : int
    """
    cache = encode(head, values, block)
    view = cache.view(0)
    group = Group(head.q[None].astype(np.float64), np.arange(1), head.scale, view, 0)
    seen = attend(group, Levels.coded(1, view.blocks), np.arange(1))
    share, omega, notes = seen.share[0], group.operator_ub[0], group.coded_value_notes
    pull = share[..., None] * (group.coded_values - seen.output[0])
    g = worst_direction(pull, omega)

    sigma = residual_unit(view.encoded("keys"))
    tau = omega[:, None] * unit_rows(pull @ g)
    weighted = sigma**2 * group.q[0]
    change = weighted / np.maximum(head.scale * weighted @ group.q[0], TINY)[:, None]
    eta = notes.token_residuals_ub()
    strength = np.minimum(notes.residual_operator_ub.astype(np.float64)[:, None] * unit_rows(share * eta), 1.0)

    encoded = view.encoded("values")
    width = -(-len(g) // encoded.step.shape[-1])  # channels that share a step
    value_step = np.repeat(encoded.step.astype(np.float64), width, axis=-1)[..., : len(g)]
    coded = view.blocks * block
    shape = (view.blocks, block, -1)
    old_k, old_v = head.k[:coded].reshape(shape), head.v[:coded].reshape(shape)
    k, v = head.k.copy(), head.v.copy()
    by_group = old_v.reshape(*shape[:2], -1, width)
    v_ends = [np.repeat(x[..., 0], width, axis=-1) for x in ends(by_group, -1)]
    k[:coded] = moved(old_k, ends(old_k, 1), view.decoded("keys"), tau[..., None] * change[:, None], sigma[:, None])
    v[:coded] = moved(old_v, v_ends, view.decoded("values"), (eta * strength)[..., None] * g, value_step)
    again = encode(OneHead(head.q, k, v, head.scale), values, block).view(0)
    sides: tuple[tuple[Side, AnyArray, AnyArray], ...] = (("keys", k, head.k), ("values", v, head.v))
    for side, new, old in sides:
        same = (again.decoded(side) == view.decoded(side)).reshape(coded, -1)
        new[:coded] = np.where(same, new[:coded], old[:coded])
    return OneHead(head.q, k, v, head.scale)


def unit_rows(x: FloatArray) -> FloatArray:
    """Scale every row to norm 1; rows of zeros stay."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), TINY))


def worst_direction(pull: FloatArray, omega: FloatArray) -> FloatArray:
    """Find a unit vector g [d] that makes ``sum_b Omega_b ||pull_b g||`` large; ``pull [blocks, B, d]``."""
    weighted = pull * np.sqrt(omega)[:, None, None]
    g: FloatArray = np.linalg.eigh(np.einsum("nbd,nbe->de", weighted, weighted, optimize=True))[1][:, -1]
    for _ in range(ALTERNATIONS):
        g = unit_rows(np.einsum("nbd,nb->d", pull, unit_rows(pull @ g) * omega[:, None], optimize=True))
    return g


def ends(original: AnyArray, axis: int) -> list[AnyArray]:
    """Return the extremes along an axis, which is kept: they decide minimum and step."""
    return [original.min(axis=axis, keepdims=True), original.max(axis=axis, keepdims=True)]


def moved(
    original: AnyArray, extremes: list[AnyArray], decoded: FloatArray, residual: FloatArray, step: FloatArray
) -> AnyArray:
    """Put originals at their decoded values plus residuals, cut to ``INSIDE`` steps; the extremes stay; [tokens, d]."""
    low, high = extremes
    fixed = (original == low) | (original == high)
    there = (decoded + np.clip(residual, -INSIDE * step, INSIDE * step)).astype(original.dtype)
    return np.where(fixed, original, np.clip(there, low, high)).reshape(-1, original.shape[-1])
