"""Score errors of keys at the levels above their base: theorem ``score_error`` with the notes of each level.

    Delta_l = |scale| min( z_l sum_c |q_c| s_c,  y_l ||s o q|| )     Omega_l = |scale| x_l ||s o q||

in binary32, as `certkv.fast.score_error` has it: all levels of a block share its steps, and 1 stands for them where
these belong to groups of tokens. This is the torch twin of
``kernels.score_error``, which takes the notes of a level as well.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from certkv.fast.coded import Coded, grouped
from certkv.fast.outward_fp32 import LOST, above, inflate, known, root_of_squares


class FinerErrors(NamedTuple):
    """Upper bounds, float32 [levels above the base, batch, Hq, max_blocks]; ``+inf`` beyond the coded blocks.

    ``spare`` is where kernels write sizes, which are those of the base.
    """

    delta: torch.Tensor
    omega: torch.Tensor
    spare: torch.Tensor

    @classmethod
    def empty(cls, levels: int, batch: int, heads: int, max_blocks: int, device: torch.device | str) -> FinerErrors:
        """Allocate; everything is NaN."""
        shape = (levels, batch, heads, max_blocks)
        return cls(*(torch.full(shape, torch.nan, device=device) for _ in range(3)))


def finer_score_error(q: torch.Tensor, coded: Coded, scale: float, out: FinerErrors) -> None:
    """Bound the score errors of every coded block at every level above the base.

    Parameters
    ----------
    q : float16, bfloat16 or float32 [batch, Hq, d]
    coded : Coded
    scale : float
    out : FinerErrors
        Written.
    """
    if len(out.delta) == 0:  # keys of one level, whatever values have
        return
    kv_heads = coded.anchor.shape[1]
    magnitude = above(abs(scale))
    size_q = grouped(q.to(torch.float32).abs(), kv_heads)[:, :, :, None, :]
    step = torch.ones(())
    if not coded.key_group:
        step = coded.gather(coded.pool.key_step).to(torch.float32)[:, :, None]
    notes = known(coded.gather(coded.pool.finer_key_notes).to(torch.float32))[:, :, None]
    products = size_q * step
    some = ((size_q != 0.0) & (step != 0.0)).any(-1)
    # products may have been flushed where they are not 0
    l1 = torch.where(some, products.sum(-1) + LOST, 0.0)
    l2 = torch.where(some, root_of_squares((products * products).sum(-1), q.shape[-1]), 0.0)
    for level in range(len(out.delta)):
        largest, norm, operator = notes[..., level, :3].unbind(-1)
        found = (
            torch.minimum(known(magnitude * (l1 * largest)), known(magnitude * (l2 * norm))),
            known(magnitude * (l2 * operator)),
        )
        for target, x in zip(out[:2], found, strict=True):
            # exactly 0 stays 0: such keys have no error
            bound = torch.where(x == 0.0, torch.where(some, LOST, 0.0), inflate(x))
            grouped(target[level], kv_heads).copy_(torch.where(coded.valid(), bound, torch.inf))
