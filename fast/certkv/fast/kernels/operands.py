"""Operands of tensor cores from codes, without converting a number: code bits go into a binary16 mantissa, exactly.

    byte | 0x6400        = 1024 + byte                  minus 1152: byte - 128
    nibble | 0x6400      = 1024 + nibble                minus 1032: nibble - 8
    (nibble << 4) | 0x6400 = 1024 + 16 nibble           over 16, minus 72: nibble - 8

Every operation is exact (lemmas of ``packing``). Codes are read as words of four channels, in registers, in the order
in which ``mma.m16n8k16`` takes them with four consecutive k per thread: index bits of k are then, from below, two in a
thread, two over lanes, the rest over registers. Another order is as right, and slower: the compiler moves words.
"""
# ruff: noqa: SIM108 (Triton branches on constants)

from __future__ import annotations

import triton
import triton.language as tl


def _unpack_nibbles(i: int) -> str:
    """Byte i of the word to (low - 8, high - 8), for two tokens of one channel."""
    return (
        f"prmt.b32 a, $8, 0, 0x4{i}4{i}; lop3.b32 a, a, m, e, 0xEA; fma.rn.f16x2 a, a, f, g; "
        f"mov.b32 {{${2 * i}, ${2 * i + 1}}}, a;"
    )


def _pair_bytes(i: int) -> str:
    """Byte i of two words, of two tokens, to (first - 128, second - 128)."""
    return (
        f"prmt.b32 a, $8, $9, 0x{4 + i}{4 + i}{i}{i}; lop3.b32 a, a, m, e, 0xEA; sub.rn.f16x2 a, a, g; "
        f"mov.b32 {{${2 * i}, ${2 * i + 1}}}, a;"
    )


KEY_WORD: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a, b, c; mov.b32 c, 0x64806480; "
    "prmt.b32 a, $4, 0x64646464, 0x4140; prmt.b32 b, $4, 0x64646464, 0x4342; "
    "sub.rn.f16x2 a, a, c; sub.rn.f16x2 b, b, c; mov.b32 {$0, $1}, a; mov.b32 {$2, $3}, b; }"
)
NIBBLE_WORD: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a, m, e, f, g; mov.b32 m, 0x00F0000F; mov.b32 e, 0x64006400; mov.b32 f, 0x2C003C00; "
    "mov.b32 g, 0xD480E408; " + "".join(_unpack_nibbles(i) for i in range(4)) + " }"
)
BYTE_WORDS: tl.constexpr = tl.constexpr(
    "{ .reg .b32 a, m, e, g; mov.b32 m, 0x00FF00FF; mov.b32 e, 0x64006400; mov.b32 g, 0x64806480; "
    + "".join(_pair_bytes(i) for i in range(4))
    + " }"
)
FOUR_HALVES: tl.constexpr = tl.constexpr("=h,=h,=h,=h,r")
EIGHT_HALVES: tl.constexpr = tl.constexpr("=h,=h,=h,=h,=h,=h,=h,=h,r")
EIGHT_HALVES_OF_TWO: tl.constexpr = tl.constexpr("=h,=h,=h,=h,=h,=h,=h,=h,r,r")


@triton.jit
def half(bits, LESS: tl.constexpr):
    """Return small integers minus a constant, in binary16, exactly."""
    return (bits.to(tl.int16) | 0x6400).to(tl.float16, bitcast=True) - LESS


@triton.jit
def key_operand(words, ROWS: tl.constexpr, INTERPRET: tl.constexpr):
    """Centred codes of 64 channels, [rows, 16 words] -> binary16 [rows, 64], channels in natural order."""
    if INTERPRET:
        a = half(words & 0xFF, 1152.0)
        b = half((words >> 8) & 0xFF, 1152.0)
        c = half((words >> 16) & 0xFF, 1152.0)
        d = half((words >> 24) & 0xFF, 1152.0)
    else:
        a, b, c, d = tl.inline_asm_elementwise(
            KEY_WORD, FOUR_HALVES, [words], dtype=(tl.float16, tl.float16, tl.float16, tl.float16), is_pure=True, pack=1
        )
    # k is (w1, w0, w3, w2, i): bits of the word that lanes hold follow those of the word's own channels
    codes = tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), [ROWS, 4, 4, 4])
    return tl.reshape(tl.permute(codes, (0, 2, 1, 3)), [ROWS, 64])


@triton.jit
def key_order(x, COLUMNS: tl.constexpr):
    """Bring rows, 64 channels in natural order, into the order of `key_operand`."""
    return tl.reshape(tl.permute(tl.reshape(x, [4, 4, 4, COLUMNS]), (1, 0, 2, 3)), [64, COLUMNS])


@triton.jit
def value_codes(first, second, BITS: tl.constexpr, INTERPRET: tl.constexpr):
    """Centred codes of two tokens and four channels per word: eight binary16 tensors, at index ``2 channel + token``.

    With 4 bits both tokens are in ``first``; with 8 bits, one in each.
    """
    if INTERPRET:
        if BITS == 4:
            x0, x2 = half(first & 0xF, 1032.0), half((first >> 8) & 0xF, 1032.0)
            x4, x6 = half((first >> 16) & 0xF, 1032.0), half((first >> 24) & 0xF, 1032.0)
            x1, x3 = half((first >> 4) & 0xF, 1032.0), half((first >> 12) & 0xF, 1032.0)
            x5, x7 = half((first >> 20) & 0xF, 1032.0), half((first >> 28) & 0xF, 1032.0)
        else:
            x0, x2 = half(first & 0xFF, 1152.0), half((first >> 8) & 0xFF, 1152.0)
            x4, x6 = half((first >> 16) & 0xFF, 1152.0), half((first >> 24) & 0xFF, 1152.0)
            x1, x3 = half(second & 0xFF, 1152.0), half((second >> 8) & 0xFF, 1152.0)
            x5, x7 = half((second >> 16) & 0xFF, 1152.0), half((second >> 24) & 0xFF, 1152.0)
    else:
        halves: tl.constexpr = (
            tl.float16,
            tl.float16,
            tl.float16,
            tl.float16,
            tl.float16,
            tl.float16,
            tl.float16,
            tl.float16,
        )
        if BITS == 4:
            x0, x1, x2, x3, x4, x5, x6, x7 = tl.inline_asm_elementwise(
                NIBBLE_WORD, EIGHT_HALVES, [first], dtype=halves, is_pure=True, pack=1
            )
        else:
            x0, x1, x2, x3, x4, x5, x6, x7 = tl.inline_asm_elementwise(
                BYTE_WORDS, EIGHT_HALVES_OF_TWO, [first, second], dtype=halves, is_pure=True, pack=1
            )
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def value_operand(x, RP: tl.constexpr, VC: tl.constexpr):
    """Join what `value_codes` returned, tensors [RP/4, 8, 4, VC/32], to [VC, 2 RP]: channels by tokens.

    Rows are in `channel_order`, columns in `token_order`.
    """
    even = tl.join(tl.join(x[0], x[4]), tl.join(x[2], x[6]))
    odd = tl.join(tl.join(x[1], x[5]), tl.join(x[3], x[7]))
    joined = tl.reshape(tl.join(even, odd), [RP // 8, 2, 8, 4, VC // 32, 4, 2])
    return tl.reshape(tl.permute(joined, (4, 5, 2, 0, 3, 1, 6)), [VC, 2 * RP])


@triton.jit
def channel_order(x, VC: tl.constexpr):
    """Bring VC channels, in natural order, into the order of rows of `value_operand`."""
    return tl.reshape(tl.permute(tl.reshape(x, [8, VC // 8]), (1, 0)), [VC])


@triton.jit
def channel_order_rows(x, VC: tl.constexpr, COLUMNS: tl.constexpr):
    """As `channel_order`, for rows of a matrix."""
    return tl.reshape(tl.permute(tl.reshape(x, [8, VC // 8, COLUMNS]), (1, 0, 2)), [VC, COLUMNS])


@triton.jit
def token_order(p, RP: tl.constexpr, COLUMNS: tl.constexpr):
    """Bring rows, tokens ``RP nibble + row``, into the order of columns of `value_operand`."""
    split = tl.reshape(p, [2, RP // 8, 2, 4, COLUMNS])
    return tl.reshape(tl.permute(split, (1, 3, 2, 0, 4)), [2 * RP, COLUMNS])


@triton.jit
def widen(bits, BFLOAT: tl.constexpr):
    """Return bfloat16 numbers, given as int16 bit patterns, or binary16 numbers, in binary32, exactly."""
    if BFLOAT:
        x = (bits.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    else:
        x = bits.to(tl.float32)
    return x


@triton.jit
def bfloat(x):
    """Round binary32 to the nearest bfloat16, kept in binary32. Not for NaN."""
    bits = x.to(tl.int32, bitcast=True)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def pair(x, BFLOAT: tl.constexpr, INTERPRET: tl.constexpr):
    """Split binary32 numbers [n, m] into two operands of 16 bits, side by side: [n, 2 m], first the rounded number.

    What is left is below 2^-22 of the number in binary16, and absolutely below 2^-25, and 2^-16 of it in bfloat16.
    """
    if BFLOAT:
        first = bfloat(x)
        second = bfloat(x - first)
        both = tl.join(first, second)
        if not INTERPRET:
            both = both.to(tl.bfloat16)
    else:
        first = x.to(tl.float16)
        both = tl.join(first, (x - first.to(tl.float32)).to(tl.float16))
    return tl.reshape(both, [x.shape[0], 2 * x.shape[1]])


@triton.jit
def operand(bits, BFLOAT: tl.constexpr, INTERPRET: tl.constexpr):
    """Originals as an operand: bit patterns of bfloat16 become such numbers, binary32 where kernels are interpreted."""
    if BFLOAT:
        if INTERPRET:
            x = widen(bits, True)
        else:
            x = bits.to(tl.bfloat16, bitcast=True)
    else:
        x = bits
    return x
