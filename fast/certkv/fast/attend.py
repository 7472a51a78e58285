"""Attend: one pass over the coded blocks and the resident originals; the kernel is `certkv.fast.kernels.attend`.

With scores x in bits, per split of the tokens:

    m  = fl(fl(max_t x_t) - 14)      P_t = fp16(2^(x_t - m))      l = sum_t P_t      o = sum_t P_t V_hat_t

P is what multiplies the values and what l sums, so that rounding it is an error of the scores and nothing else. The
kernel updates m block by block; the twin takes the maximum of a split at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from certkv.fast.arithmetic import signed_constant
from certkv.fast.coded import Coded, by_head, grouped
from certkv.fast.formats.packing import unpack_plane
from certkv.fast.formats.rotation import rotate_fp32
from certkv.fast.resident import FIRST, TAIL, Resident
from certkv.fast.scaled_query import query_power
from certkv.fast.split_terms import split_terms
from certkv.fast.workspace import BIAS, Workspace

if TYPE_CHECKING:
    from certkv.fast.rounding import Rounding


def attend(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    scale: float,
    out: Workspace,
    rounding: Rounding | None = None,
) -> None:
    """Write the executed weights, the state of every split, and what the first tier of a certificate needs.

    Parameters
    ----------
    q : T [batch, Hq, d], finite, contiguous
        Of the originals' type.
    coded : Coded
        ``coded.first`` blocks are taken from ``resident`` instead.
    resident : Resident
    scale : float
        What scores are multiplied with; any sign.
    out : Workspace
        ``weights`` and ``reference`` of the blocks, the same of resident tokens, and the states of splits are written.
    rounding : Rounding or None
        What rounding costs the first tier of a certificate; ``statistics`` and ``part_terms`` are written where it is
        given.

    Notes
    -----
    Shapes and types are the planner's business; nothing here synchronises or, on a GPU, allocates.
    """
    if q.is_cuda:
        from certkv.fast.kernels.attend import launch

        launch(q, coded, resident, scale, out, rounding)
    else:
        attend_twin(q, coded, resident, scale, out, rounding)


def attend_twin(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    scale: float,
    out: Workspace,
    rounding: Rounding | None = None,
) -> None:
    """Twin of the kernel, in binary32; see `attend`."""
    sign, constant = signed_constant(scale)
    heads, block = coded.anchor.shape[1], coded.block
    query = grouped(q.to(torch.float32), heads) * sign
    turned, units = coded_query(query, grouped(query_power(q), heads), constant, coded)
    parts = {name: grouped(getattr(out, name), heads) for name in ("part_m", "part_l", "part_o")}
    weights, reference, statistics = (by_head(x) for x in (out.weights, out.reference, out.statistics))
    slots, references = grouped(out.resident_weights, heads), grouped(out.resident_reference, heads)
    for s, tokens in enumerate(coded.lengths.tolist()):
        blocks = max(0, tokens // block - coded.first)
        for split in range(out.splits):
            first, last = (coded.first + blocks * i // out.splits for i in (split, split + 1))
            pages = coded.page_table[s, first:last].to(torch.int64)
            keys, values = decode_keys(coded, pages), decode_values(coded, pages)
            p, m, state = softmax_tiles(turned[s], keys, values, units[s], decode_norms(coded, pages))
            weights[s, :, :, first:last], reference[s, :, :, first:last] = p, m[..., None]
            store_split(parts, s, split, m, (state[0], rotate(state[1]) if coded.values_rotated else state[1]))
        slots[s], references[s] = 0.0, -torch.inf
        pinned, tail = block * coded.first * (tokens >= block), tokens % block
        keys, values = (
            torch.cat([x[s, :, FIRST, :pinned], x[s, :, TAIL, :tail]], dim=1).to(torch.float32)[:, None]
            for x in (resident.keys, resident.values)
        )
        p, m, state = softmax_tiles(query[s], keys, values, constant)
        slots[s, :, :, FIRST, :pinned], slots[s, :, :, TAIL, :tail] = p[:, :, 0, :pinned], p[:, :, 0, pinned:]
        for slot, count in ((FIRST, pinned), (TAIL, tail)):
            if count:
                references[s, :, :, slot] = m
        store_split(parts, s, out.splits, m, state)
        if rounding is not None:
            seen, chosen = statistics[s], slice(coded.first, coded.first + blocks)
            seen[:, :, chosen, :3] = weight_statistics(weights[s, :, :, chosen])
            seen[:, :, chosen, 3] = scaled_squares(q[s].view(query[s].shape), coded, coded.page_table[s, chosen])
            grouped(out.resident_sums, heads)[s] = weight_statistics(slots[s])[..., 0]
    if rounding is not None:
        split_terms(q, coded, scale, rounding, out)


def weight_statistics(p: torch.Tensor) -> torch.Tensor:
    """Sum, sum of squares and largest of executed weights, [H, G, n, B] -> float32 [H, G, n, 3]."""
    wide = p.to(torch.float32)
    return torch.stack([wide.sum(-1), (wide * wide).sum(-1), wide.amax(-1)], dim=-1)


def scaled_squares(q: torch.Tensor, coded: Coded, pages: torch.Tensor) -> torch.Tensor:
    """Squares of ``||s q'||``, or of ``||q'||`` where keys have groups, [H, G, d] -> float32 [H, G, n]."""
    scaled = torch.ldexp(q.to(torch.float32), query_power(q)[..., None])
    if coded.key_group:
        return scaled.square().sum(-1)[..., None].expand(*scaled.shape[:2], len(pages))
    step = coded.pool.key_step[pages.to(torch.int64)].to(torch.float32).transpose(0, 1)
    return (scaled[:, :, None] * step[:, None]).square().sum(-1)


def store_split(
    parts: dict[str, torch.Tensor],
    s: int,
    split: int,
    m: torch.Tensor,
    state: tuple[torch.Tensor, torch.Tensor],
    heads: torch.Tensor | None = None,
) -> None:
    """Write the state of one sequence and split, for the heads that are given, bool [H, G]; None for all."""
    for name, new in zip(("part_m", "part_l", "part_o"), (m, *state), strict=True):
        target = parts[name][s, :, :, split]
        here = heads if heads is None or new.ndim == 2 else heads[..., None]
        target.copy_(new if here is None else torch.where(here, new, target))


def softmax_tiles(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    constant: float | torch.Tensor,
    norms: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Attend to tiles of tokens: query [H, G, d], keys and values [H, n, T, d], all float32.

    Scores are times ``norms``, [H or 1, n, T], and then times ``constant``, [H, G] or one for all.

    Returns
    -------
    p : float16 [H, G, n, T]
    m : float32 [H, G]
        -inf for no tokens.
    l, o : float32 [H, G], [H, G, d]
    """
    heads, tiles, tile, head_dim = keys.shape
    scores = query @ keys.reshape(heads, tiles * tile, head_dim).transpose(1, 2)
    scores = scores.reshape(heads, query.shape[1], tiles, tile)
    if norms is not None:
        scores = scores * norms[:, None]
    scores = scores * constant[..., None, None] if isinstance(constant, torch.Tensor) else scores * constant
    if tiles * tile == 0:
        none = query.new_zeros(query.shape[:2])
        return scores.to(torch.float16), none - torch.inf, (none, query.new_zeros(query.shape))
    m = scores.amax((-2, -1)) - BIAS
    p = torch.exp2(scores - m[..., None, None]).to(torch.float16)
    weights = p.to(torch.float32)
    tile_sums = weights.transpose(1, 2) @ values  # [H, n, G, d], each from zero
    return p, m, (weights.sum((-2, -1)), tile_sums.sum(1))


def rotate(x: torch.Tensor) -> torch.Tensor:
    """Rotate the last axis, every operation rounded to float32."""
    return rotate_fp32(x.to(torch.float64)).to(torch.float32)


def coded_query(
    query: torch.Tensor, power: torch.Tensor, constant: float, coded: Coded
) -> tuple[torch.Tensor, torch.Tensor]:
    """Query as coded keys want it, [batch, H, G, d], and the constant in its units, [batch, H, G]."""
    units = torch.full(power.shape, constant, dtype=torch.float32, device=query.device)
    if not coded.keys_rotated:
        return query, units
    # a power of two takes small numbers away from underflow
    return rotate(torch.ldexp(query, power[..., None])), torch.ldexp(units, -power)


def decode_norms(coded: Coded, pages: torch.Tensor) -> torch.Tensor | None:
    """Norms of whole pages, float32 [H or 1, n, B]; None where there are none."""
    return coded.pool.key_norm[pages].transpose(0, 1) if coded.key_norms else None


def decode_keys(coded: Coded, pages: torch.Tensor) -> torch.Tensor:
    """``minimum + step code`` of whole pages, float32 [H, n, B, d], rounded once; norms are apart."""
    pool, group = coded.pool, coded.key_group
    codes = unpack_plane(pool.key_codes[pages], coded.key_bits, coded.block).to(torch.float32) + coded.key_offset
    step, minimum = (x[pages].to(torch.float32) for x in (pool.key_step, pool.key_minimum))
    if group:
        tokens = torch.arange(coded.block, device=codes.device) // group
        step, minimum = step[:, :, tokens], minimum[:, :, tokens]
    else:
        step, minimum = step[:, :, None], minimum[:, :, None]
    return (minimum + step * codes).transpose(0, 1)


def decode_values(coded: Coded, pages: torch.Tensor) -> torch.Tensor:
    """As `decode_keys`."""
    pool, block, group = coded.pool, coded.block, coded.value_group
    codes = unpack_plane(pool.value_codes[pages], coded.value_bits, block)
    step, minimum = (x[pages].to(torch.float32) for x in (pool.value_step, pool.value_minimum))
    if group:
        channels = torch.arange(codes.shape[-1], device=codes.device) // group
        step, minimum = step[..., channels], minimum[..., channels]
    else:
        step, minimum = step[:, :, None], minimum[:, :, None]
    # a step has 11 significant bits and a code 8, or 9 with an offset: the product is exact
    return (minimum + step * (codes.to(torch.float32) + coded.value_offset)).transpose(0, 1)
