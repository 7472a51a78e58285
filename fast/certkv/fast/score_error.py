"""Score errors of coded keys, theorem ``score_error``, in binary32; they depend on the query alone, not on the pass.

    Delta = |scale| min( z sum_c |q_c| s_c,  y ||s o q|| )     Omega = |scale| x ||s o q||
    size  = |scale| sum_c max(|q_c|, floor) max( |minimum_c| + (255 + z) s_c, floor )

s: stored steps; z, y, x: the block's `relative_max_ub`, `relative_norm_ub`, `relative_operator_ub`. ``size`` bounds
the sum of the sizes (`ScoreCharge`) of what a score is summed from, for codes and, as ``|k| <= |k_hat| + z s``, for
original keys.

Keys with a step per channel and group of tokens have residuals in the units of K, and the same forms with 1 for every
s_c. They may be rotated, so that a score is summed from other channels than those of q, of the same norm. With K the
block's `Pool.sizes`, ``||k|| <= ||k_hat|| + y``, and f the floor times the root of d::

    size = |scale| (||q|| + f) (K + y + f)
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from certkv.fast.charges import LARGEST_OPERAND
from certkv.fast.coded import Coded, grouped
from certkv.fast.outward_fp32 import LOST, above, inflate, known, root_of_squares
from certkv.fast.pool import KEYS

LARGEST_CODE = 255.0


class ScoreErrors(NamedTuple):
    """Upper bounds, float32 [batch, Hq, max_blocks]; ``+inf`` where nothing is known, and beyond the coded blocks."""

    delta: torch.Tensor
    omega: torch.Tensor
    size: torch.Tensor


def score_error(q: torch.Tensor, coded: Coded, scale: float, floor: float, out: ScoreErrors, lost: float = 0.0) -> None:
    """Bound the score errors of every coded block.

    Parameters
    ----------
    q : float16, bfloat16 or float32 [batch, Hq, d]
    coded : Coded
    scale : float
    floor : float
        `Charges.floor`.
    out : ScoreErrors
        Written.
    lost : float
        What a score from codes may lose beside its relative error, as a size: ``|scale| max_c |q_c|`` times this.
    """
    kv_heads = coded.anchor.shape[1]
    magnitude = above(abs(scale))
    size_q = grouped(q.to(torch.float32).abs(), kv_heads)[:, :, :, None, :]
    notes = known(coded.gather(coded.pool.key_notes).to(torch.float32))[:, :, None]
    relative_max, relative_norm, relative_operator = notes[..., 0], notes[..., 1], notes[..., 2]
    fits = (size_q <= LARGEST_OPERAND).all(-1)
    if coded.key_group:
        products, some = size_q, (size_q != 0.0).any(-1)
        small = root_floor(floor, q.shape[-1])
        operand = coded.gather(coded.pool.sizes)[:, :, None, :, KEYS] + relative_norm
        norm = inflate(root_of_squares((size_q * size_q).sum(-1), q.shape[-1]))
        sizes = (norm + small) * (operand + small)
        fits = fits & (operand <= LARGEST_OPERAND)
    else:
        step = coded.gather(coded.pool.key_step).to(torch.float32)[:, :, None]
        offset = coded.gather(coded.pool.key_minimum).to(torch.float32).abs()[:, :, None]
        products, some = size_q * step, ((size_q != 0.0) & (step != 0.0)).any(-1)
        # a divided format's numbers are within its largest code and one more
        largest = 2.0**coded.key_bits if coded.key_offset else LARGEST_CODE
        operands = offset + (largest + relative_max[..., None]) * step
        sizes = (size_q.clamp(min=floor) * operands.clamp(min=floor)).sum(-1) + lost * size_q.amax(-1)
        fits = fits & (operands <= LARGEST_OPERAND).all(-1)
    l1 = products.sum(-1)
    l2 = root_of_squares((products * products).sum(-1), q.shape[-1])
    # products may have been flushed where they are not 0
    l1, l2 = torch.where(some, l1 + LOST, l1), torch.where(some, l2, 0.0)
    found = (
        torch.minimum(known(magnitude * (l1 * relative_max)), known(magnitude * (l2 * relative_norm))),
        known(magnitude * (l2 * relative_operator)),
        torch.where(fits, known(magnitude * sizes), torch.inf),
    )
    # exactly 0 stays 0: such keys have no error
    bounds = [torch.where(x == 0.0, torch.where(some, LOST, 0.0), inflate(x)) for x in found[:2]]
    for target, bound in zip(out, (*bounds, inflate(found[2])), strict=True):
        grouped(target, kv_heads).copy_(torch.where(coded.valid(), bound, torch.inf))


def root_floor(floor: float, head_dim: int) -> float:
    """Return what norms grow by at most where each of so many elements counts as at least the floor, rounded up."""
    return above(floor * math.sqrt(head_dim))
