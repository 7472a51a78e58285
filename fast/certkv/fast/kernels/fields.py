"""Codes as operands without arithmetic: a few bits of a word are a subnormal binary16 number, exactly.

A byte holds ``8 / bits`` fields, codes of one channel and as many tokens; a word is four channels. With field j of a
byte in place, the bit pattern ``code 2^(bits j)`` *is* the binary16 number ``code 2^(bits j) 2^-24`` (below 2^-14: 255
is less than 1024), and tensor cores multiply it exactly. What it is too large by is a power of two per token, which
goes into the other operand or onto the result. So one LOP3 makes two operands:

    keys      w & 0x00030003 << 2 j           channels 0 and 2 of one token        (of w >> 8: 1 and 3)
    values    prmt(w, w', i) & the same       channel i of two tokens, in rows of words w and w'

(lemmas of ``packing``). The order in which operands are joined is that of `certkv.fast.kernels.operands`.
"""
# ruff: noqa: RUF005 (Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import triton
import triton.language as tl


def _mask(bits: int, field: int) -> str:
    low = ((1 << bits) - 1) << (bits * field)
    return f"0x{low << 16 | low:08X}"


def _key_word(bits: int) -> str:
    """Word to 4 halves per field: channels 0, 2, 1, 3."""
    fields, word = 8 // bits, f"${32 // bits}"
    text = f"{{ .reg .b32 a, b; shr.u32 b, {word}, 8; "
    for j in range(fields):
        for k, source in enumerate((word, "b")):
            first = 4 * j + 2 * k
            text += f"and.b32 a, {source}, {_mask(bits, j)}; mov.b32 {{${first}, ${first + 1}}}, a; "
    return text + "}"


def _value_words(bits: int) -> str:
    """Two words to 2 halves, one of each, per channel and field."""
    fields = 8 // bits
    words = f"${8 * fields}, ${8 * fields + 1}"
    text = "{ .reg .b32 a, b; "
    for i in range(4):
        text += f"prmt.b32 a, {words}, 0x{4 + i}{4 + i}{i}{i}; "
        for j in range(fields):
            first = 2 * (i * fields + j)
            text += f"and.b32 b, a, {_mask(bits, j)}; mov.b32 {{${first}, ${first + 1}}}, b; "
    return text + "}"


def _constraints(outputs: int, inputs: int) -> str:
    return ",".join(["=h"] * outputs + ["r"] * inputs)


KEY_2: tl.constexpr = tl.constexpr(_key_word(2))
KEY_4: tl.constexpr = tl.constexpr(_key_word(4))
KEY_8: tl.constexpr = tl.constexpr(_key_word(8))
VALUE_2: tl.constexpr = tl.constexpr(_value_words(2))
VALUE_4: tl.constexpr = tl.constexpr(_value_words(4))
VALUE_8: tl.constexpr = tl.constexpr(_value_words(8))
H4_1: tl.constexpr = tl.constexpr(_constraints(4, 1))
H8_1: tl.constexpr = tl.constexpr(_constraints(8, 1))
H16_1: tl.constexpr = tl.constexpr(_constraints(16, 1))
H8_2: tl.constexpr = tl.constexpr(_constraints(8, 2))
H16_2: tl.constexpr = tl.constexpr(_constraints(16, 2))
H32_2: tl.constexpr = tl.constexpr(_constraints(32, 2))
TYPES_4: tl.constexpr = tl.constexpr((tl.float16,) * 4)
TYPES_8: tl.constexpr = tl.constexpr((tl.float16,) * 8)
TYPES_16: tl.constexpr = tl.constexpr((tl.float16,) * 16)
TYPES_32: tl.constexpr = tl.constexpr((tl.float16,) * 32)


@triton.jit
def field(word, CHANNEL: tl.constexpr, FIELD: tl.constexpr, BITS: tl.constexpr):
    """Bits of one field of one channel, in place in its byte, as a binary16 number."""
    LOW: tl.constexpr = ((1 << BITS) - 1) << (BITS * FIELD)
    return ((word >> (8 * CHANNEL)) & LOW).to(tl.int16).to(tl.float16, bitcast=True)


@triton.jit
def _key_halves(word, BITS: tl.constexpr, INTERPRET: tl.constexpr):
    if INTERPRET:
        x = ()
        for j in tl.static_range(8 // BITS):
            x = x + (field(word, 0, j, BITS), field(word, 2, j, BITS), field(word, 1, j, BITS), field(word, 3, j, BITS))
    elif BITS == 2:
        x = tl.inline_asm_elementwise(KEY_2, H16_1, [word], dtype=TYPES_16, is_pure=True, pack=1)
    elif BITS == 4:
        x = tl.inline_asm_elementwise(KEY_4, H8_1, [word], dtype=TYPES_8, is_pure=True, pack=1)
    else:
        x = tl.inline_asm_elementwise(KEY_8, H4_1, [word], dtype=TYPES_4, is_pure=True, pack=1)
    return x


@triton.jit
def key_fields(word, BITS: tl.constexpr, INTERPRET: tl.constexpr):
    """Codes of keys, words [rows, W] -> per field an operand [rows, 4 W], channels in `query_order`."""
    ROWS: tl.constexpr = word.shape[0]
    W: tl.constexpr = word.shape[1]
    x = _key_halves(word, BITS, INTERPRET)
    fields = ()
    for j in tl.static_range(8 // BITS):
        # index bits of k: of the word, those that lanes hold after the others; of the channel, the low one first
        y = tl.join(tl.join(x[4 * j], x[4 * j + 2]), tl.join(x[4 * j + 1], x[4 * j + 3]))
        y = tl.permute(tl.reshape(y, [ROWS, 4, W // 4, 4]), (0, 2, 1, 3))
        fields = fields + (tl.reshape(y, [ROWS, 4 * W]),)
    return fields


@triton.jit
def query_order(x, W: tl.constexpr, COLUMNS: tl.constexpr):
    """Bring rows, 4 W channels in natural order, into the order of `key_fields`."""
    y = tl.reshape(x, [4, W // 4, 2, 2, COLUMNS])
    return tl.reshape(tl.permute(y, (1, 0, 3, 2, 4)), [4 * W, COLUMNS])


@triton.jit
def _value_halves(first, second, BITS: tl.constexpr, INTERPRET: tl.constexpr):
    if INTERPRET:
        x = ()
        for i in tl.static_range(4):
            for j in tl.static_range(8 // BITS):
                x = x + (field(first, i, j, BITS), field(second, i, j, BITS))
    elif BITS == 2:
        x = tl.inline_asm_elementwise(VALUE_2, H32_2, [first, second], dtype=TYPES_32, is_pure=True, pack=1)
    elif BITS == 4:
        x = tl.inline_asm_elementwise(VALUE_4, H16_2, [first, second], dtype=TYPES_16, is_pure=True, pack=1)
    else:
        x = tl.inline_asm_elementwise(VALUE_8, H8_2, [first, second], dtype=TYPES_8, is_pure=True, pack=1)
    return x


@triton.jit
def _of_fields(x, CHANNEL: tl.constexpr, ROW: tl.constexpr, F: tl.constexpr):
    """Join the fields of one channel and row, [...] -> [..., F]."""
    AT: tl.constexpr = 2 * CHANNEL * F + ROW
    if F == 4:
        y = tl.join(tl.join(x[AT], x[AT + 4]), tl.join(x[AT + 2], x[AT + 6]))
        y = tl.reshape(y, [x[0].shape[0], x[0].shape[1], 4])
    elif F == 2:
        y = tl.join(x[AT], x[AT + 2])
    else:
        y = x[AT][:, :, None]
    return y


@triton.jit
def value_fields(words, BITS: tl.constexpr, INTERPRET: tl.constexpr):
    """Codes of values, words [rows, W] -> an operand [4 W, F rows]: channel ``4 w + i`` in row ``i W + w``.

    Columns are in the order of `weight_order`: index bits are, from below, a row's, a field's, and two more of rows,
    which lanes hold; a thread has all fields of its rows.
    """
    RT: tl.constexpr = words.shape[0]
    W: tl.constexpr = words.shape[1]
    F: tl.constexpr = 8 // BITS
    even, odd = tl.split(tl.permute(tl.reshape(words, [RT // 2, 2, W]), (0, 2, 1)))
    x = _value_halves(even, odd, BITS, INTERPRET)
    c0 = tl.join(_of_fields(x, 0, 0, F), _of_fields(x, 0, 1, F))
    c1 = tl.join(_of_fields(x, 1, 0, F), _of_fields(x, 1, 1, F))
    c2 = tl.join(_of_fields(x, 2, 0, F), _of_fields(x, 2, 1, F))
    c3 = tl.join(_of_fields(x, 3, 0, F), _of_fields(x, 3, 1, F))
    y = tl.join(tl.join(c0, c2), tl.join(c1, c3))
    FL: tl.constexpr = min(F, 2)
    y = tl.reshape(y, [RT // 2, W, F // FL, FL, 2, 4])
    return tl.reshape(tl.permute(y, (5, 1, 2, 0, 3, 4)), [4 * W, F * RT])


@triton.jit
def weight_order(x, F: tl.constexpr, RT: tl.constexpr, C: tl.constexpr):
    """Bring rows, ``RT field + row``, into the order of columns of `value_fields`."""
    FL: tl.constexpr = min(F, 2)
    y = tl.reshape(x, [F // FL, FL, RT // 2, 2, C])
    return tl.reshape(tl.permute(y, (0, 2, 1, 3, 4)), [F * RT, C])


@triton.jit
def unstack(x, N: tl.constexpr):
    """Tensor [A, C, N] -> N tensors [A, C]."""
    A: tl.constexpr = x.shape[0]
    C: tl.constexpr = x.shape[1]
    if N == 1:
        parts = (tl.reshape(x, [A, C]),)
    else:
        low, high = tl.split(tl.permute(tl.reshape(x, [A, C, 2, N // 2]), (0, 1, 3, 2)))
        parts = unstack(low, N // 2) + unstack(high, N // 2)
    return parts


@triton.jit
def stack(x, N: tl.constexpr):
    """Tensors [A, C], N of them -> [N A, C]: ``A n + a``."""
    A: tl.constexpr = x[0].shape[0]
    C: tl.constexpr = x[0].shape[1]
    if N == 4:
        y = tl.permute(tl.join(tl.join(x[0], x[2]), tl.join(x[1], x[3])), (2, 3, 0, 1))
    elif N == 2:
        y = tl.permute(tl.join(x[0], x[1]), (2, 0, 1))
    else:
        y = x[0]
    return tl.reshape(y, [N * A, C])


@triton.jit
def first_columns(x, ROWS: tl.constexpr, GP: tl.constexpr, C: tl.constexpr):
    """Of C columns, C/GP side by side of every head, the first: [ROWS, C] -> [ROWS, GP].

    A tile of a dot product has eight columns at least; with fewer heads they are all there twice.
    """
    if C == 2 * GP:
        x, _ = tl.split(tl.reshape(x, [ROWS, GP, 2]))
    return x
