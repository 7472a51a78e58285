"""Measure on a GPU what theorem ``kernel_arithmetic`` assumes of it: exp2, and the dot unit of 16-bit operands.

    python benchmarks/kernel_constants.py        # torch and triton, a quarter of a minute on an H200

exp2 is tried at every binary32 number from -126 to 1/2. The dot unit is compared, bit by bit, with the model "so many
products and the accumulator are aligned to the largest exponent, cut off to so many fraction bits, added, and cut off
to binary32", for every width and number of bits, on random operands that spread over many exponents, zeros and
subnormal numbers included. An addend's exponent may be that of its value, or the sum of its operands' exponent fields
(a subnormal operand has the field of the smallest normal number), zeros left out or not.
"""

from __future__ import annotations

import sys

import torch
import triton
import triton.language as tl

CHUNK = 1 << 26
WIDTHS, BITS = (4, 8, 16), tuple(range(22, 29))


@triton.jit
def exp2_kernel(x, y, ASM: tl.constexpr, BLOCK: tl.constexpr):
    """Write 2^x, by the instruction itself or by Triton's function."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    a = tl.load(x + i)
    if ASM:
        b = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [a], dtype=tl.float32, is_pure=True, pack=1)
    else:
        b = tl.exp2(a)
    tl.store(y + i, b)


@triton.jit
def dot_kernel(a, b, c, out, M: tl.constexpr, K: tl.constexpr):
    """Multiply [M, K] by [K, 64], one pair per program: 64 rows take wgmma, 16 take mma.sync."""
    p, i, j, k = tl.program_id(0), tl.arange(0, M), tl.arange(0, 64), tl.arange(0, K)
    left = tl.load(a + p * M * K + i[:, None] * K + k[None, :])
    right = tl.load(b + p * 64 * K + k[:, None] * 64 + j[None, :])
    at = p * M * 64 + i[:, None] * 64 + j[None, :]
    tl.store(out + at, tl.dot(left, right, tl.load(c + at)))


def say(text: str) -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def exp2_error(asm: bool) -> None:
    """Largest relative error over every number from -126 to 0 and from 0 to 1/2."""
    worst = 0.0
    for sign, last in ((0x80000000, 0x42FC0000), (0, 0x3F000000)):
        for first in range(0, last + 1, CHUNK):
            n = min(CHUNK, last + 1 - first)
            bits = torch.arange(first, first + CHUNK, device="cuda").clamp(max=first + n - 1) + sign
            x = torch.where(bits >= 2**31, bits - 2**32, bits).to(torch.int32).view(torch.float32)
            y = torch.empty_like(x)
            exp2_kernel[(CHUNK // 1024,)](x, y, ASM=asm, BLOCK=1024)
            worst = max(worst, float((y.double() / torch.exp2(x.double()) - 1).abs().max()))
    zero = torch.tensor([0.0, -0.0] * 512, device="cuda")
    at_zero = torch.empty_like(zero)
    exp2_kernel[(1,)](zero, at_zero, ASM=asm, BLOCK=1024)
    say(
        f"exp2 {'ex2.approx.ftz' if asm else 'tl.exp2'}: largest relative error {worst:.4g} = "
        f"2^{torch.tensor(worst).log2():.3f}, 2^+-0 = 1: {bool((at_zero == 1).all())}"
    )


def cut(x: torch.Tensor, unit: torch.Tensor) -> torch.Tensor:
    """Cut off to a multiple of the unit, towards zero."""
    return torch.trunc(x / unit) * unit


def exponent(x: torch.Tensor) -> torch.Tensor:
    """Floor of log2 |x|; -10000 for 0."""
    return torch.where(x == 0, -10000, torch.frexp(x)[1] - 1)


def power(e: torch.Tensor) -> torch.Tensor:
    """Two to the e, or 2^-1000."""
    return torch.ldexp(torch.ones_like(e, dtype=torch.float64), e.clamp(min=-1000))


def model(products: torch.Tensor, exponents: torch.Tensor, c: torch.Tensor, width: int, bits: int) -> torch.Tensor:
    """Return what such a unit computes, in float64."""
    total = c.double()
    for first in range(0, products.shape[-1], width):
        part = torch.cat([total[..., None], products[..., first : first + width]], -1)
        top = torch.cat([exponent(total)[..., None], exponents[..., first : first + width]], -1).amax(-1)
        exact = cut(part, power(top - bits)[..., None]).sum(-1)
        total = cut(exact, power(exponent(exact) - 23))
    return total


def operands(shape: tuple[int, ...], spread: int, dtype: torch.dtype, low: int, zeros: float) -> torch.Tensor:
    """Random signs and significands, exponents from low to low + spread, a share of zeros."""
    significand = 1 + torch.rand(shape, device="cuda")
    powers = torch.randint(low, low + spread + 1, shape, device="cuda")
    sign = torch.randint(0, 2, shape, device="cuda") * 2 - 1
    kept = torch.rand(shape, device="cuda") >= zeros
    return (significand * sign * kept * torch.exp2(powers.float())).to(dtype)


def dots(dtype: torch.dtype, rows: int, spread: int, low: int, zeros: float) -> None:
    """Compare the unit with every model on 262,144 dot products of 16 terms."""
    programs = 4096 // rows
    a = operands((programs, rows, 16), spread, dtype, low, zeros)
    b = operands((programs, 16, 64), spread, dtype, low, zeros)
    c = operands((programs, rows, 64), 2 * spread, torch.float32, 2 * low, zeros)
    out = torch.empty_like(c)
    dot_kernel[(programs,)](a, b, c, out, M=rows, K=16)
    left, right = a.double()[:, :, None, :], b.double().transpose(1, 2)[:, None, :, :]
    products = left * right
    size = c.double().abs() + products.abs().sum(-1)
    apart = (out.double() - c.double() - products.sum(-1)).abs()
    least = -14 if dtype is torch.float16 else -126
    fields = exponent(left).clamp(min=least) + exponent(right).clamp(min=least)
    kinds = {
        "value": exponent(products),
        "fields": torch.where(products == 0, -10000, fields),
        "fields, zeros too": fields,
    }
    equal = {
        f"{name}, {width}, {bits}": float((model(products, exponents, c, width, bits).float() == out).double().mean())
        for name, exponents in kinds.items()
        for width in WIDTHS
        for bits in BITS
    }
    best = sorted(equal.items(), key=lambda item: -item[1])[:3]
    say(
        f"{dtype}, {rows} rows, exponents {low}..{low + spread}, zeros {zeros:.0%}: error/(|c| + sum |ab|) up to "
        f"{float((apart / size.clamp(min=1e-300)).max()) * 2**23:.2f} * 2^-23; equal: "
        + "; ".join(f"({name}): {share:.6f}" for name, share in best)
    )


def main() -> None:
    """Print one line per measurement."""
    torch.manual_seed(1)
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, triton {triton.__version__}")
    for rows in (16, 64):
        for dtype in (torch.float16, torch.bfloat16):
            for spread, low, zeros in ((3, -2, 0.0), (8, -4, 0.0), (14, -12, 0.0), (14, -12, 0.6)):
                dots(dtype, rows, spread, low, zeros)
        dots(torch.float16, rows, 16, -24, 0.0)  # half of it subnormal
        dots(torch.float16, rows, 30, -24, 0.6)
    for asm in (True, False):
        exp2_error(asm)


if __name__ == "__main__":
    main()
