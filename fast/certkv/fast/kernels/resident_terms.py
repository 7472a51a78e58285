"""Certify resident tokens: one program per slot, KV head and sequence; heads of the group one after another.

    key  =  (e^eps - 1) sum_t a_t ||V_t - c||      weight  =  rho e^-eps
    eps  =  relative |scale| max_t sum_c max(|q_c|, floor) max(|k_tc|, floor) + constant

`certkv.fast.resident_terms` has the twin and explains the arguments.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.certify import Terms
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE, Charges
from certkv.fast.coded import Coded
from certkv.fast.kernels.certify import distance_ub
from certkv.fast.kernels.outward_fp32 import (
    DOWN,
    INFINITY,
    exp_minus_lb,
    expm1_ub,
    inflate,
    known,
    load16,
    lowered,
    not_negative,
)
from certkv.fast.kernels.spectral import mass_lb, share_factor
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.outward_fp32 import above
from certkv.fast.resident_terms import ResidentPass

LARGEST = tl.constexpr(LARGEST_SIZE)
OPERAND = tl.constexpr(LARGEST_OPERAND)


@triton.jit
def resident_terms_kernel(
    query,
    keys,
    values,
    weights,
    reference,
    maxima,
    denominators,
    output,
    lengths,
    active,
    mass_out,
    partial,
    scale,
    floor,
    entries,
    H: tl.constexpr,
    G: tl.constexpr,
    B: tl.constexpr,
    BP: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    FIRST: tl.constexpr,
    BFLOAT: tl.constexpr,
    charges,
    program=None,
):
    """Bound a slot of a KV head of a sequence."""
    slot, head, sequence = place_of(program)
    relative, constant, share_up, share_lost, mass_down, mass_lost = charges
    kv = sequence * H + head
    length = tl.load(lengths + sequence)
    pinned = tl.where(length >= B, B * FIRST, 0)
    tokens = tl.where(slot == 0, pinned, length % B)
    column, channel = tl.arange(0, BP), tl.arange(0, DP)
    live, there = column < tokens, channel < D
    mask = live[:, None] & there[None, :]
    at = ((kv * 2 + slot).to(tl.int64) * B + column)[:, None] * D + channel[None, :]
    k = tl.abs(load16(keys + at, mask, BFLOAT))
    v = load16(values + at, mask, BFLOAT)
    norms = tl.where(live, distance_ub(v, 0.0, D), 0.0)
    count = tl.maximum(tokens, 1).to(tl.float32)
    mean = lowered(tl.div_rn(tl.sum(norms), count))
    mean = tl.where(mean < INFINITY, mean, 0.0)
    largest = tl.max(norms)
    for g in range(G):
        row = (kv * G + g).to(tl.int64)
        if tl.load(active + row) != 0:
            q = tl.abs(load16(query + row * D + channel, there, BFLOAT))[None, :]
            sizes = tl.where(mask, tl.maximum(q, floor) * tl.maximum(k, floor), 0.0)
            fits = tl.min(tl.where((q <= OPERAND) & (k <= OPERAND) | ~mask, 1, 0), 1) > 0
            dots = tl.where(fits, known(tl.sum(sizes, 1)), INFINITY)
            size = known(inflate(scale * tl.max(dots)))
            eps = tl.where(size <= LARGEST, inflate(relative * size + constant), INFINITY)

            shared = tl.load(reference + row * 2 + slot)
            factor = share_factor(shared, tl.load(maxima + row), tl.load(denominators + row))
            p = tl.load(weights + (row * 2 + slot) * B + column, mask=live, other=0.0).to(tl.float32)
            a = tl.where(live, not_negative(p * factor), 0.0)
            mass = tl.sum(a)
            a = tl.where(live, a * share_up + share_lost, 0.0)
            least = mass_lb(mass, mass_down, mass_lost)

            c = tl.load(output + row * D + channel, mask=there, other=0.0)[None, :]
            distance = tl.where(live, distance_ub(v, tl.where(mask, c, 0.0), D), 0.0)
            key = known(inflate(expm1_ub(eps) * tl.sum(a * distance)))
            empty = tokens == 0
            tl.store(mass_out + row * 2 + slot, tl.where(empty, 0.0, mass))
            entry = partial + (row * entries + entries - 2 + slot) * 8
            tl.store(entry, tl.where(empty, 0.0, key))
            tl.store(entry + 1, 0.0)
            tl.store(entry + 2, 0.0)
            tl.store(entry + 3, tl.where(empty, 0.0, least * exp_minus_lb(eps) * DOWN))
            tl.store(entry + 4, tl.where(empty, 0.0, least * mean * DOWN))
            tl.store(entry + 5, tl.where(empty, 0.0, known(tl.sum(a * norms))))
            tl.store(entry + 6, tl.where(empty, 0.0, largest))
            tl.store(entry + 7, tl.where(empty, 0.0, tl.max(distance)))


def work(
    seen: ResidentPass,
    coded: Coded,
    scale: float,
    charges: Charges,
    mass: torch.Tensor,
    out: Terms,
    active: torch.Tensor,
) -> Work:
    """Return what to launch; arguments as those of the twin, contiguous; queries are of the originals' type."""
    (batch, heads, head_dim), kv_heads = seen.output.shape, coded.anchor.shape[1]
    return Work(
        resident_terms_kernel,
        (2, kv_heads, batch),
        (
            seen.q.view(torch.int16),
            seen.keys.view(torch.int16),
            seen.values.view(torch.int16),
            *seen[3:],
            coded.lengths,
            active,
            mass,
            out.partial,
            above(abs(scale)),
            charges.floor,
            out.partial.shape[2],
        ),
        {
            "H": kv_heads,
            "G": heads // kv_heads,
            "B": coded.block,
            "BP": triton.next_power_of_2(coded.block),
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            "FIRST": coded.first,
            "BFLOAT": seen.keys.dtype == torch.bfloat16,
        },
        {
            "charges": (
                charges.resident.relative,
                charges.resident.constant,
                charges.share_up,
                charges.share_lost,
                charges.mass_down,
                charges.mass_lost,
            )
        },
    )


def resident_terms(
    seen: ResidentPass,
    coded: Coded,
    scale: float,
    charges: Charges,
    mass: torch.Tensor,
    out: Terms,
    active: torch.Tensor,
) -> None:
    """Launch; arguments as those of the twin, contiguous."""
    work(seen, coded, scale, charges, mass, out, active).launch(4)
