"""Certify rung 3: what rounding alone does to attention of the originals; theorem ``block_bound`` for all tokens alike.

With ``eps = relative * size + constant`` the largest error of a weight's logarithm (`ScoreCharge`), R the largest
radius ``max ||V_t|| + ||c||``, and ``eps_acc`` what summing costs (`Charges`), where every value counts as the largest:

    bound  =  min( ( (e^eps - 1) R + eps_acc ) e^eps,  R )  +  cast

Whether the originals are there is looked up here, too, and what may be said of an output that is no number: where
scores or values are beyond what charges hold for, sums may have overflowed; elsewhere something was damaged. The torch
twin of ``kernels.exact_terms``.
"""

from __future__ import annotations

import torch

from certkv.fast.certify import distance_ub, not_negative
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_QUERY, LARGEST_SIZE, LARGEST_STEP, Charges, ScoreCharge
from certkv.fast.coded import Coded, grouped
from certkv.fast.outward_fp32 import FACTOR, above, exp_minus_lb, expm1_ub, inflate, known
from certkv.fast.resident import Resident
from certkv.fast.resident_terms import live_tokens
from certkv.fast.totals import over

NORM = 1
"""Where the largest norm of a block's values is among its notes."""


def exact_terms_twin(
    q: torch.Tensor,
    coded: Coded,
    resident: Resident,
    present: torch.Tensor,
    size: torch.Tensor,
    scale: float,
    charge: ScoreCharge,
    charges: Charges,
    flags: torch.Tensor,
    output: torch.Tensor,
    bound: torch.Tensor,
    missing: torch.Tensor | None,
    dense: torch.Tensor,
) -> None:
    """Bound the errors of heads computed by rung 3, in binary32.

    Parameters
    ----------
    q : T [batch, Hq, d]
    coded : Coded
        For lengths and the notes of values.
    resident : Resident
    present : uint8 [batch, H, max_blocks]
        Whether originals are there.
    size : float32 [batch, Hq, max_blocks]
        `ScoreErrors.size`, which covers originals; read where blocks are coded.
    scale : float
    charge : ScoreCharge
        Of original keys in rung 3, in binary32.
    charges : Charges
        Of its sums and of rounding its output, in binary32.
    flags : uint8 [batch, Hq]
        Heads computed by rung 3; nothing is done for others.
    output : float32 [batch, Hq, d]
    bound : float32 [batch, Hq]
        Written for these heads.
    missing : uint8 [batch] or None
        Set to 1 for a sequence with such a head whose originals, but for a pinned block, are not all there.
    dense : uint8 [batch]
        Set to 1 for a sequence with such a head whose output is not finite, and whose scores or values are so large
        that sums may have overflowed; without ``missing``, where outputs are those of a pass over codes, also where
        a query, or steps of keys of few bits, are so large that their products may have.
    """
    kv_heads, block = coded.anchor.shape[1], coded.block
    wanted = grouped(flags, kv_heads) != 0
    coded_blocks = coded.valid()
    if missing is not None:
        # a pinned block is read where it lies on the device
        lost = (coded_blocks & (present == 0)[:, :, None]).any(-1) & wanted
        missing.copy_(torch.where(lost.flatten(1).any(-1), 1, missing))

    notes = not_negative(coded.gather(coded.pool.value_notes)[..., NORM].to(torch.float32))[:, :, None]
    largest_size = torch.where(coded_blocks, known(grouped(size, kv_heads)), 0.0).amax(-1)
    largest = torch.where(coded_blocks, notes, 0.0).amax(-1)
    # what is resident is not certified as a block: the tail, and the first block where it is pinned
    tokens = live_tokens(coded.lengths, block, coded.first)
    live = (torch.arange(block, device=q.device) < tokens[..., None])[:, None, None]  # [batch, 1, 1, 2, B]
    keys = torch.where(live[..., None], resident.keys[:, :, None].to(torch.float32).abs(), 0.0)
    query = grouped(q, kv_heads).to(torch.float32).abs()[:, :, :, None, None]
    dots = (keys.clamp(min=charges.floor) * query.clamp(min=charges.floor)).sum(-1)
    fits = (query <= LARGEST_OPERAND).all(-1) & (keys <= LARGEST_OPERAND).all(-1)
    dots = torch.where(live, torch.where(fits, dots, torch.inf), 0.0).amax((-2, -1))
    largest_size = torch.maximum(largest_size, known(inflate(above(abs(scale)) * dots)))
    norms = torch.where(tokens[:, None] > 0, resident.norms[..., 0], 0.0).amax(-1)
    largest = torch.maximum(largest, norms[:, :, None])

    eps = inflate(charge.relative * largest_size + charge.constant)
    eps = torch.where(largest_size <= LARGEST_SIZE, eps, torch.inf)
    c = grouped(output, kv_heads)
    beyond = (largest_size > LARGEST_SIZE) | (largest > LARGEST_OPERAND)
    if missing is None and q.dtype == torch.float16:
        numbers = query[..., 0, 0, :]
        beyond = beyond | (numbers.amax(-1) > LARGEST_QUERY)
        if coded.key_bits < 8:
            norm_q = numbers.square().sum(-1).sqrt()
            beyond = beyond | (largest_size > LARGEST_STEP * above(abs(scale)) * norm_q)
    beyond = beyond & ~torch.isfinite(c).all(-1) & wanted
    dense.copy_(torch.where(beyond.flatten(1).any(-1), 1, dense))
    norm = distance_ub(c, torch.zeros_like(c))
    radius = largest + norm
    mean = charges.of_mean + charges.of_largest
    accumulation = mean * largest + charges.of_output * norm + charges.absolute
    theorem = over(inflate(known(expm1_ub(eps) * radius) + accumulation), exp_minus_lb(eps))
    cast = (charges.cast_relative * norm + charges.cast_absolute) * FACTOR
    found = known((torch.minimum(theorem, known(inflate(radius))) + cast) * FACTOR)
    target = grouped(bound, kv_heads)
    target.copy_(torch.where(wanted, found, target))
