"""Rung 3: attention of the originals for flagged heads; the kernel is `certkv.fast.kernels.exact_head`.

As `certkv.fast.attend`, with keys and values as they were appended: no codes, and no theorem but its arithmetic term.
"""

from __future__ import annotations

import torch

from certkv.fast.arithmetic import signed_constant
from certkv.fast.attend import softmax_tiles, store_split
from certkv.fast.coded import Coded, grouped
from certkv.fast.host import Originals
from certkv.fast.merge import merge
from certkv.fast.resident import FIRST, TAIL, Resident
from certkv.fast.scratch import Scratch
from certkv.fast.workspace import Workspace


def exact_head(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    originals: Originals,
    scratch: Scratch,
    moved: torch.Tensor,
    scale: float,
    out: Workspace,
) -> None:
    """Compute the heads that ``out.flags`` names from their originals, and merge their splits.

    Parameters
    ----------
    q : T [batch, Hq, d], finite, contiguous
    coded : Coded
        For lengths and shapes; codes are not read.
    resident : Resident
        For the tail, and the first block where it is pinned.
    originals : Originals
        Of full blocks: on q's device, or pinned in host memory.
    scratch : Scratch
        Read where it holds a block; everything else streams past it, since a head reads everything once.
    moved : int64 [batch]
        Bytes moved from the host for each sequence are added.
    scale : float
    out : Workspace
        ``part_*`` and the merged state of flagged heads are written; weights and all of other heads stay.
    """
    if q.is_cuda:
        from certkv.fast.kernels.exact_head import launch

        launch(q, coded, resident, originals, scratch, moved, scale, out)
    else:
        exact_head_twin(q, coded, resident, originals, scratch, moved, scale, out)
    merge(out, out.flags)


def exact_head_twin(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    originals: Originals,
    scratch: Scratch,
    moved: torch.Tensor,
    scale: float,
    out: Workspace,
) -> None:
    """Twin of the kernel, in binary32; see `exact_head`."""
    sign, constant = signed_constant(scale)
    heads, block = coded.anchor.shape[1], coded.block
    query = grouped(q.to(torch.float32), heads) * sign
    parts = {name: grouped(getattr(out, name), heads) for name in ("part_m", "part_l", "part_o")}
    flags = grouped(out.flags, heads)
    for s, tokens in enumerate(coded.lengths.tolist()):
        flagged = flags[s] != 0
        if not flagged.any():
            continue
        blocks = tokens // block
        pinned = min(coded.first, blocks)
        away = torch.full((heads,), 2 * (blocks - pinned), device=q.device)
        if scratch.slots:
            away -= (scratch.table[s, :, pinned:blocks] >= 0).sum((1, 2))
        moved[s] += (flagged.any(-1) * away).sum() * originals.host_block_bytes
        for split in range(out.splits + 1):
            first, last = (blocks * i // out.splits for i in (split, split + 1))
            at = torch.arange(first, last, device=q.device)
            held = resident.keys[s], resident.values[s]
            if split == out.splits:
                sides = [x[:, TAIL, None, : tokens % block] for x in held]
            else:
                stores = originals.keys, originals.values
                sides = [_blocks(x, scratch, s, at[at >= pinned], side) for side, x in enumerate(stores)]
                if first < min(pinned, last):
                    sides = [torch.cat([x[:, FIRST, None], y], 1) for x, y in zip(held, sides, strict=True)]
            k, v = (x.to(torch.float32) for x in sides)
            _, m, state = softmax_tiles(query[s], k, v, constant)
            store_split(parts, s, split, m, state, flagged)


def _blocks(store: torch.Tensor, scratch: Scratch, sequence: int, blocks: torch.Tensor, side: int) -> torch.Tensor:
    """Originals of some blocks of all KV heads of a sequence, T [H, n, B, d]."""
    h, block = (
        x.flatten() for x in torch.meshgrid(torch.arange(store.shape[1], device=blocks.device), blocks, indexing="ij")
    )
    found = scratch.read(store, torch.full_like(h, sequence), h, block, side)
    return found.view(store.shape[1], len(blocks), *store.shape[3:])
