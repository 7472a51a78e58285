"""What encoders of keys and of values share: where a block comes from and goes, and the notes on what was measured.

The notes on a token, whose largest are stored rounded up to bfloat16, are roots of sums of squares over channels, which
the encoders form: of what codes miss, of the distance from the anchor, of the original, of what codes mean; the first
two for every token too, as log codes; and the mean of the third, rounded down.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from certkv.fast.formats.base import Format, KeyFormat
from certkv.fast.kernels.log_codes import encode as encode_log_codes
from certkv.fast.kernels.operator_norm import ANCHORED, RELATIVE, RESIDUAL, operator_norms
from certkv.fast.kernels.rounding import down_bfloat16, up, up_single, widen
from certkv.fast.log_codes import ratios
from certkv.fast.pool import KEYS, VALUES, Pool

KEY_SIDE = tl.constexpr(KEYS)
VALUE_SIDE = tl.constexpr(VALUES)


@triton.jit
def store_size(sizes, place, SIDE: tl.constexpr, size):
    """Store the size of a block's keys or values, raised; float64."""
    tl.store(sizes + place * 2 + SIDE, up_single(size))


@triton.jit
def store_key_notes(notes, place, relative_max, relative_squares, decoded_squares, NORM: tl.constexpr):
    """Store the notes on a block's keys; the operator norm comes later."""
    to = notes + place * 4
    tl.store(to, up(tl.max(relative_max, 0), True))
    tl.store(to + 1, up(tl.sqrt(tl.max(relative_squares, 0)) * NORM, True))
    tl.store(to + 3, up(tl.sqrt(tl.max(decoded_squares, 0)) * NORM, True))


@triton.jit
def store_value_notes(
    notes,
    residual_codes,
    anchored_codes,
    ratios,
    place,
    token,
    exists,
    residual_squares,
    anchored_squares,
    squares,
    decoded_squares,
    B: tl.constexpr,
    NORM: tl.constexpr,
    MEAN: tl.constexpr,
):
    """Store the notes on a block's values, and log codes; operator norms come later.

    Sums of squares are those of the tokens that ``token`` names; those that are none repeat one, or are 0.
    """
    to = notes + place * 7
    residual = tl.sqrt(residual_squares) * NORM
    residual_bits = up(tl.max(residual, 0), True)
    tl.store(to, residual_bits)
    tl.store(to + 1, up(tl.sqrt(tl.max(squares, 0)) * NORM, True))
    anchored = tl.sqrt(anchored_squares) * NORM
    anchored_bits = up(tl.max(anchored, 0), True)
    tl.store(to + 2, anchored_bits)
    tl.store(to + 3, up(tl.sqrt(tl.max(decoded_squares, 0)) * NORM, True))
    mean_norm = tl.sum(tl.where(exists, tl.sqrt(squares), 0.0), 0) / B / MEAN
    tl.store(to + 6, down_bfloat16(mean_norm))
    to_token = place * B + token
    code = encode_log_codes(residual, widen(residual_bits, True), ratios)
    tl.store(residual_codes + to_token, code.to(tl.uint8), mask=exists)
    code = encode_log_codes(anchored, widen(anchored_bits, True), ratios)
    tl.store(anchored_codes + to_token, code.to(tl.uint8), mask=exists)


def key_stores(pool: Pool) -> tuple[torch.Tensor, ...]:
    """Return what an encoder of keys writes: codes, steps, minima, notes, sizes."""
    step, minimum, notes = (x.view(torch.int16) for x in (pool.key_step, pool.key_minimum, pool.key_notes))
    return pool.key_codes, step, minimum, notes, pool.sizes


def value_stores(pool: Pool, anchor: torch.Tensor) -> tuple[Any, ...]:
    """Return the anchor and what an encoder of values writes: codes, steps, minima, notes, log codes, sizes."""
    step, minimum, notes = (x.view(torch.int16) for x in (pool.value_step, pool.value_minimum, pool.value_notes))
    log_codes = pool.residual_codes, pool.anchored_codes, ratios(anchor.device)
    return anchor, *anchor.stride(), pool.value_codes, step, minimum, notes, *log_codes, pool.sizes


def key_operator_norms(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    fmt: KeyFormat,
    scratch: torch.Tensor | None,
    norms: torch.Tensor | None = None,
) -> None:
    """Launch what notes the operator norm of a block's keys; ``norms`` are those of their tokens, if they have any."""
    stored = (pool.key_codes, pool.key_step, pool.key_minimum)
    operator_norms(RELATIVE, originals, pages, stored, pool.key_notes, 2, fmt, scratch=scratch, norms=norms)


def value_operator_norms(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    anchor: torch.Tensor,
    fmt: Format,
    scratch: torch.Tensor | None,
) -> None:
    """Launch what notes both operator norms of a block's values."""
    stored, notes = (pool.value_codes, pool.value_step, pool.value_minimum), pool.value_notes
    operator_norms(RESIDUAL, originals, pages, stored, notes, 4, fmt, pool.residual_codes, 0, scratch=scratch)
    operator_norms(ANCHORED, originals, pages, stored, notes, 5, fmt, pool.anchored_codes, 2, anchor, scratch)
