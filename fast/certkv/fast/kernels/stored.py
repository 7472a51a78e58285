"""What refine reads of encoded blocks: codes, and the numbers they stand for, one rounding each."""

from __future__ import annotations

import triton
import triton.language as tl

from certkv.fast.kernels.outward_fp32 import load16


@triton.jit
def stored_codes(codes, place, token, channel, mask, R: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr):
    """Return codes, binary32 [tokens, channels]; byte row t holds tokens t, t + R, ... from the lowest bits up."""
    code = tl.load(codes + (place * R + token % R)[:, None] * D + channel[None, :], mask=mask, other=0).to(tl.int32)
    if BITS < 8:
        code = (code >> ((token // R) * BITS)[:, None]) & ((1 << BITS) - 1)
    return code.to(tl.float32)


@triton.jit
def coded_keys(
    codes, steps, minima, place, token, channel, mask, R: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, BFLOAT: tl.constexpr,
):  # fmt: skip
    """Return ``minimum + step code``, [tokens, channels]; the product is exact, the sum rounds once."""
    if GROUP > 0:
        at = (place * ((B + GROUP - 1) // GROUP) + token // GROUP)[:, None] * D + channel[None, :]
        at_mask = mask
    else:
        at = place * D + channel[None, :]
        at_mask = (channel < D)[None, :]
    code = stored_codes(codes, place, token, channel, mask, R, D, BITS)
    return load16(minima + at, at_mask, BFLOAT) + load16(steps + at, at_mask, BFLOAT) * code


@triton.jit
def coded_values(
    codes, steps, minima, place, token, channel, mask, R: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BITS: tl.constexpr, GROUP: tl.constexpr, BFLOAT: tl.constexpr,
):  # fmt: skip
    """As `coded_keys`; groups are of channels."""
    if GROUP > 0:
        at = (place * B + token)[:, None] * ((D + GROUP - 1) // GROUP) + (channel // GROUP)[None, :]
        at_mask = mask
    else:
        at = place * D + channel[None, :]
        at_mask = (channel < D)[None, :]
    code = stored_codes(codes, place, token, channel, mask, R, D, BITS)
    return load16(minima + at, at_mask, BFLOAT) + load16(steps + at, at_mask, BFLOAT) * code


@triton.jit
def refined_number(
    codes, planes, steps, minima, at, at_mask, place, token, channel, mask, R: tl.constexpr, BITS: tl.constexpr,
    PR: tl.constexpr, PLANE: tl.constexpr, D: tl.constexpr, BFLOAT: tl.constexpr,
):  # fmt: skip
    """Return ``minimum + step code_1`` of a refined format, [tokens, channels]; the product is exact, the sum rounds.

    ``code_1 = code + plane 2^-b + (2^-b - 1) / 2``, an exact number of 13 bits at most.
    """
    code = stored_codes(codes, place, token, channel, mask, R, D, BITS)
    code += stored_codes(planes, place, token, channel, mask, PR, D, PLANE) * (1.0 / (1 << PLANE))
    code += (1.0 / (1 << PLANE) - 1.0) * 0.5
    return load16(minima + at, at_mask, BFLOAT) + load16(steps + at, at_mask, BFLOAT) * code
