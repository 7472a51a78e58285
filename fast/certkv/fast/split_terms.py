"""What the blocks of a split add to the bound of a head: sums and maxima of theorem ``spectral``, one number per block.

Where every distance ``n_t`` and residual ``eta_t`` of a block is replaced by the block's largest, n and eta, a block's
terms depend on three sums over its executed weights P, which attend has at hand: with ``l1 = sum P``, ``l2 = ||P||``,
``top`` the weight of a token with the largest score, rest the norm of all but that, ``any`` a bound of every weight
(`ANY_UP`), and the errors Delta, Omega of its scores,

    first   =  min( Delta l1, Omega l2, top Delta + rest Omega )
    second  =  (2 + e^Delta)/6  min( Delta^2 l1, Omega^2 any, Delta Omega l2 )
    A = n ( min( first, omega min( any Omega, Delta l2 ) ) + second )     G = first + second
    U = eta min( l1, epsilon l2, top + epsilon rest )

All are of first degree in the weights, so that a split s adds them up in the unit of its own state, m: ``sum_b
2^(reference_b - m) A_b``. Whoever merges the states multiplies sums with the factor of the state, ``2^(m - M)``, which
is the number that the split's output is multiplied with ("In the weights' own unit", docs/derivations/spectral.md).

Scores of codes: ``Delta = |scale| y ||s o q||``, ``Omega = |scale| x ||s o q||``, rounding as in `score_error` with the
sum over channels of ``|q_c| (|minimum_c| + 256 s_c)`` bounded by the product of two norms, one of which is stored.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from certkv.fast.certify import chunked, group_factor, not_negative
from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE, ScoreCharge
from certkv.fast.coded import Coded, by_head, grouped
from certkv.fast.outward_fp32 import SIXTH, above, exp_ub, inflate, known, root_of_squares
from certkv.fast.scaled_query import query_power
from certkv.fast.spectral import Errors
from certkv.fast.workspace import Workspace

if TYPE_CHECKING:
    from certkv.fast.rounding import Rounding

COLUMNS = (
    "about", "of", "values", "scales", "size", "l", "worst", "largest", "farthest", "lossy", "query_squares",
    "query_largest",
)  # fmt: skip
"""Meaning of the last axis of ``Workspace.part_terms``: sums of A, G, U, of masses times mean norms of values, and of
masses times sizes of values; l; the largest Delta, size, n and eta of any block; the sum of squares of the query times
the power of two of `scaled_query`, and its largest number. What is behind them is not written."""

SUMS, TERMS = 6, 10
"""Columns that are sums, to be multiplied with the factor of a state; those and maxima."""

ANY_UP, ANY_LOST = 1.0 + 2.0**-9, 2.0**-23
"""Cover what the weight of any token of a block may be above that of one with the largest score: exponents are in
order, but 2^ of them is within 2 ulp, and rounded to binary16. Either costs at most one step of binary16."""

LOOPS = 32
"""Sums of a kernel's lane that are added up from zero."""

THIRD = 1.0 / 3.0

PRODUCT = 1.0 + 2.0**-10
"""Covers a product ``s q`` that was rounded to binary16."""

PRODUCT_LOST = 2.0**-24
"""And twice what it may lose where it is subnormal, in units of the scaled query."""


def operator_root(block: int) -> float:
    """``sqrt(B)``, rounded up."""
    return above(math.sqrt(block))


def squares_up(block: int) -> float:
    """Factor that covers the rounding of a sum of as many squares as a padded block has tokens."""
    return above(1.0 + (max(16, 1 << (block - 1).bit_length()) + 4) * 2.0**-23)


def costs(q: torch.Tensor, coded: Coded, scale: float, rounding: Rounding) -> tuple[float, ...]:
    """Return ``|scale|``, what a small operand counts as, what rounding costs scores, and what belongs to a format."""
    charges, head_dim = rounding.first, q.shape[-1]
    return (
        above(abs(scale)),
        above(charges.floor * math.sqrt(head_dim)),
        rounding.lost,
        above(PRODUCT_LOST * math.sqrt(head_dim)) if q.dtype == torch.float16 else 0.0,
        charges.coded.relative,
        charges.coded.constant,
        operator_root(coded.block),
        group_factor(coded.value_group) if coded.value_group else 0.0,
    )


def split_terms(q: torch.Tensor, coded: Coded, scale: float, rounding: Rounding, out: Workspace) -> None:
    """Write ``part_terms`` from what else a pass has written; twin of the end of attend.

    Parameters
    ----------
    q : T [batch, Hq, d]
    coded : Coded
    scale : float
    rounding : Rounding
    out : Workspace
        With the ``statistics`` of blocks, their references, and the states of splits.
    """
    magnitude, floor, query_lost, product_lost, _, _, root_block, size_factor = costs(q, coded, scale, rounding)
    kv_heads, block, head_dim, splits = coded.anchor.shape[1], coded.block, q.shape[-1], out.splits
    power = query_power(q)
    scaled, size = torch.ldexp(q.to(torch.float32), power[..., None]), q.to(torch.float32).abs()
    parts = grouped(out.part_terms, kv_heads)
    numbers = {"query_squares": scaled.square().sum(-1)[..., None], "query_largest": size.amax(-1)[..., None]}
    out.part_terms[..., :TERMS] = 0.0
    for name, number in (numbers | {"l": out.part_l[..., :-1]}).items():
        out.part_terms[..., COLUMNS.index(name)] = number
    norm_q, largest_q = (grouped(x, kv_heads)[..., None] for x in query_numbers(out, head_dim, power))
    norm_q = torch.where(largest_q <= LARGEST_OPERAND, norm_q, torch.inf)

    total, squares, top, steps = by_head(out.statistics).unbind(-1)
    pool = coded.pool
    keys = not_negative(coded.gather(pool.key_notes).to(torch.float32))[:, :, None]
    relative, operator = keys[..., 1], keys[..., 2]
    notes = not_negative(coded.gather(pool.value_notes).to(torch.float32))[:, :, None]
    residual, anchored, decoded, residual_operator, anchored_operator, mean = (
        notes[..., i] for i in (0, 2, 3, 4, 5, 6)
    )
    operand, used = not_negative(coded.gather(pool.sizes))[:, :, None].unbind(-1)
    if coded.value_group:
        used = inflate(decoded * size_factor)
    down = torch.ldexp(torch.ones_like(largest_q), -grouped(power, kv_heads)[..., None])
    error = magnitude * down * (root_of_squares(steps, head_dim) * PRODUCT + product_lost)
    operand = torch.where(operand <= LARGEST_OPERAND, operand, torch.inf)
    offset = inflate(magnitude * ((norm_q + floor) * floor + query_lost * largest_q))
    eps = rounded_score(rounding.first.coded, inflate(magnitude * (norm_q + floor)) * operand + offset)
    delta = known(inflate(error * relative + eps))
    omega = known(inflate(error * operator + root_block * eps))
    about, of, values = block_terms(
        total, squares, top, Errors(delta, omega), anchored, anchored_operator, residual, residual_operator, block
    )
    mean = torch.where(mean < torch.inf, mean, 0.0)
    of_blocks = (about, of, values, total * mean, total * used, delta, used, anchored, residual)
    names = (name for name in COLUMNS[:TERMS] if name != "l")
    terms = {COLUMNS.index(name): x.expand_as(delta) for name, x in zip(names, of_blocks, strict=True)}
    reference, m = by_head(out.reference), grouped(out.part_m, kv_heads)
    for s, tokens in enumerate(coded.lengths.tolist()):
        blocks = max(0, tokens // block - coded.first)
        for split in range(splits):
            chosen = slice(*(coded.first + blocks * i // splits for i in (split, split + 1)))
            if chosen.start == chosen.stop:
                continue
            weight = torch.exp2(reference[s, :, :, chosen] - m[s, :, :, split, None])
            for i, x in terms.items():
                here = x[s, :, :, chosen]
                parts[s, :, :, split, i] = chunked(weight * here, "sum").sum(-1) if i < SUMS else here.amax(-1)


def query_numbers(out: Workspace, head_dim: int, power: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Upper bound of ``||q||``, infinite where q is not finite, and the largest number of q, float32 [batch, Hq]."""
    squares, largest = (out.part_terms[:, :, 0, COLUMNS.index(f"query_{name}")] for name in ("squares", "largest"))
    return known(inflate(torch.ldexp(root_of_squares(squares, head_dim), -power))), largest


def block_terms(
    total: torch.Tensor,
    squares: torch.Tensor,
    top: torch.Tensor,
    e: Errors,
    anchored: torch.Tensor,
    anchored_operator: torch.Tensor,
    residual: torch.Tensor,
    residual_operator: torch.Tensor,
    block: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return A, G and U of blocks, in the unit of their weights; nothing is inflated.

    What is undefined is NaN, which ``fmin`` with what is defined drops.
    """
    squares = squares * squares_up(block)
    # a sum of squares, raised by its rounding, is at least the largest of them
    l2, rest = root_of_squares(squares, block), root_of_squares((squares - top * top).clamp(min=0.0), block)
    delta, omega = torch.fmin(e.delta, e.omega), e.omega
    by_sum, by_norm, by_top = delta * total, delta * l2, omega * (top * ANY_UP + ANY_LOST)
    first = torch.fmin(torch.fmin(by_sum, omega * l2), delta * top + omega * rest)
    both = torch.fmin(by_top, by_norm)
    second = (exp_ub(delta) * SIXTH + THIRD) * torch.fmin(delta * by_sum, omega * both)
    values = torch.fmin(torch.fmin(total, residual_operator * l2), top + residual_operator * rest)
    return anchored * (torch.fmin(first, anchored_operator * both) + second), first + second, residual * values


def rounded_score(charge: ScoreCharge, size: torch.Tensor) -> torch.Tensor:
    """Bound what rounding changes in the scores of a block, in nats; not inflated."""
    return torch.where(size <= LARGEST_SIZE, charge.relative * size + charge.constant, torch.inf)
