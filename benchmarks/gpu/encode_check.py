"""Encoding on a GPU: first that kernels equal their twins and the reference, then what encoding costs.

``python benchmarks/gpu/encode_check.py`` needs ``fast`` on the path, and for the comparison with the reference
``reference``, ml_dtypes and python-flint; without, it says so. It exits with 1 where a check fails, before anything is
timed. ``--device cpu --quick`` tries the checks under TRITON_INTERPRET=1 without a GPU, ``--sweep`` times other tiles.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
import torch

from certkv.fast.encode import encode_keys_twin, encode_values_twin
from certkv.fast.formats import VALUE_FORMATS
from certkv.fast.kernels import operator_norm
from certkv.fast.kernels.encode_keys import encode_keys
from certkv.fast.kernels.encode_values import encode_values
from certkv.fast.pool import Pool, allocate

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
SHAPES = ((16, 8), (64, 64), (32, 80), (16, 96), (64, 128), (32, 192), (128, 256), (128, 128), (1, 80), (33, 20))
STORED = ("key_codes", "key_step", "key_minimum", "value_codes", "value_step", "value_minimum")
NOTES = ("key_notes", "value_notes")
TOKENS = ("residual_codes", "anchored_codes")
SEED = 20605


def blocks(dtype: torch.dtype, block: int, head_dim: int) -> torch.Tensor:
    """Finite blocks [kinds, 2, B, d]: everyday, far offsets, ties, subnormals, extremes, constants, any bits."""
    generator = torch.Generator().manual_seed(SEED + 1000 * block + head_dim)
    shape = (2, block, head_dim)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    whole = torch.randint(-300, 300, shape, generator=generator).to(torch.float64)
    tiny = 2.0**-24 if dtype == torch.float16 else 2.0**-133
    big = float(torch.finfo(dtype).max)
    constant = normal.clone()
    constant[..., : head_dim // 3] = 1.5
    constant[:, 0] = -2.0
    constant[..., -1] = -0.0
    kinds = [
        normal,
        1000.0 + normal,
        whole,
        whole * tiny,
        (whole.sign() * big).clamp(-big, big),
        torch.where(whole > 200, big, whole * tiny),
        constant,
        torch.where(whole.abs() > 280, 300.0, 0.01) * normal,
    ]
    stacked = torch.stack(kinds).to(dtype)
    patterns = torch.randint(-(2**15), 2**15, (2, *shape), generator=generator).to(torch.int16).view(dtype)
    return torch.cat([stacked, torch.where(patterns.isfinite(), patterns, torch.ones((), dtype=dtype))])


def raw(t: torch.Tensor) -> torch.Tensor:
    """Return bytes or 16-bit patterns as int32, on the CPU."""
    t = t.cpu().contiguous()
    return t.to(torch.int32) if t.dtype == torch.uint8 else t.view(torch.int16).to(torch.int32)


def compare_reference(pool: Pool, x: torch.Tensor, values: str) -> int:
    """Count the stored arrays that differ from the reference in any bit."""
    import ml_dtypes

    from certkv.reference.formats import key_format, value_format

    numpy_type = np.float16 if x.dtype == torch.float16 else ml_dtypes.bfloat16
    array = x.view(torch.int16).numpy().view(numpy_type)
    bad = 0
    for side, encoded in (("key", key_format("int8").encode(array)), ("value", value_format(values).encode(array))):
        for name in ("codes", "step", "minimum"):
            stored = getattr(encoded, name)
            theirs = stored if name == "codes" else stored.view(np.int16)
            bad += not np.array_equal(raw(getattr(pool, f"{side}_{name}")).numpy(), theirs.astype(np.int32))
    return bad


def have_reference() -> bool:
    """Whether the reference can be imported here."""
    try:
        import ml_dtypes  # noqa: F401

        import certkv.reference.formats  # noqa: F401
    except ImportError:
        return False
    return True


def check(case: tuple[str, str, int, int, str]) -> tuple[str, list[str], int, int]:
    """Return the case, what is wrong with it, how many scalars differ by a last bit, and of how many."""
    kind, values, block, head_dim, device = case
    name = f"{kind} {values} B={block} d={head_dim}"
    x, fmt = blocks(TYPES[kind], block, head_dim), VALUE_FORMATS[values]
    n, heads = x.shape[:2]
    anchor = x.to(torch.float64).mean(2).to(torch.float32)
    twin = allocate(n, heads, block, head_dim, x.dtype, values)
    pages = torch.arange(n, dtype=torch.int32).flip(0)
    encode_keys_twin(x, pages, twin)
    encode_values_twin(x, pages, twin, anchor, fmt)
    kernel = allocate(n + 1, heads, block, head_dim, x.dtype, values, device)
    around = torch.full((n, heads, block + 2, head_dim + 2), float("nan"), dtype=x.dtype, device=device)
    around[:, :, 1:-1, 1:-1] = x.to(device)
    inside = around[:, :, 1:-1, 1:-1]
    encode_keys(inside, pages.to(device), kernel)
    encode_values(inside, pages.to(device), kernel, anchor.to(device), fmt)
    wrong: list[str] = []
    bits_apart = scalars = 0
    for field in (*STORED, *NOTES, *TOKENS):
        mine, theirs = raw(getattr(kernel, field))[:n], raw(getattr(twin, field))
        apart = int((mine - theirs).abs().max())
        allowed = (
            0 if field in STORED else 1
        )  # sums in another order: a last bit where a rounding boundary lies between
        if apart > allowed:
            wrong.append(f"{name}: {field} differs from the twin by {apart}")
        if field not in STORED:
            bits_apart += int((mine != theirs).sum())
            scalars += mine.numel()
        poison = raw(getattr(kernel, field))[n:]
        empty = raw(getattr(allocate(1, heads, block, head_dim, x.dtype, values), field))
        if not torch.equal(poison, empty):
            wrong.append(f"{name}: {field} was written in a page of no block")
    if have_reference() and (bad := compare_reference(twin, x.flip(0), values)):
        wrong.append(f"{name}: {bad} arrays of the twin differ from the reference")
    return name, wrong, bits_apart, scalars


def median_us(work: Callable[[], None], repeats: int) -> float:
    """Return the median time of some work on the device, in microseconds."""
    for _ in range(3):
        work()
    times: list[float] = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000.0)
    return statistics.median(times)


def time_encoding(values: str, dtype: torch.dtype, tokens: int, repeats: int) -> tuple[float, float]:
    """Microseconds for the keys and for the values of 8 KV heads with d = 128, B = 64."""
    n = max(1, tokens // 64)
    x = torch.randn(n, 8, 64, 128, device="cuda").to(dtype)
    pool = allocate(n, 8, 64, 128, dtype, values, "cuda")
    pages = torch.arange(n, dtype=torch.int32, device="cuda")
    anchor = torch.zeros(1, 8, 128, device="cuda").expand(n, -1, -1)
    fmt = VALUE_FORMATS[values]
    return (
        median_us(lambda: encode_keys(x, pages, pool), repeats),
        median_us(lambda: encode_values(x, pages, pool, anchor, fmt), repeats),
    )


def time_table(repeats: int) -> None:
    """Time both operations, from one block to 128K tokens."""
    print(f"{'format':10} {'type':5} {'tokens':>7} {'keys us':>9} {'values us':>10} {'GB/s of originals':>18}")
    for values, kind in (("int4-g32", "fp16"), ("int4-g32", "bf16"), ("int8", "fp16"), ("int8-g64", "fp16")):
        for tokens in (64, 8192, 32768, 131072) if (values, kind) == ("int4-g32", "fp16") else (131072,):
            keys, vals = time_encoding(values, TYPES[kind], tokens, repeats)
            rate = 2 * tokens * 8 * 128 * 2 / (keys + vals) / 1e3
            print(f"{values:10} {kind:5} {tokens:7d} {keys:9.1f} {vals:10.1f} {rate:18.1f}", flush=True)


def sweep(repeats: int) -> None:
    """Other tiles of the operator norm, most of the time: at 32K tokens, keys only."""
    print(f"{'panel':>5} {'warps':>5} {'programs/SM':>11} {'channels':>8} {'keys us at 32K':>14}")
    for panel, warps, programs, channels in (
        (32, 4, 2, 16),
        (32, 4, 1, 16),
        (32, 4, 4, 16),
        (32, 4, 2, 32),
        (64, 4, 1, 16),
        (64, 8, 1, 16),
        (64, 8, 2, 16),
        (16, 4, 4, 16),
    ):
        operator_norm.PANEL, operator_norm.CHANNELS = panel, channels
        operator_norm.WARPS[64], operator_norm.PROGRAMS_PER_MULTIPROCESSOR = warps, programs
        keys, _ = time_encoding("int4-g32", torch.float16, 32768, repeats)
        print(f"{panel:5d} {warps:5d} {programs:11d} {channels:8d} {keys:14.1f}", flush=True)


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="three shapes only")
    parser.add_argument("--sweep", action="store_true", help="time other tile sizes of the operator norm")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile and check")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    shapes = ((16, 8), (33, 20), (32, 80)) if args.quick else SHAPES
    cases = [(kind, values, *shape, args.device) for shape, values, kind in product(shapes, VALUE_FORMATS, TYPES)]
    if not args.quick:  # both types at the usual size, one at the others: most of the time is compilation
        cases = [c for i, c in enumerate(cases) if c[2:4] == (64, 128) or (i + i // 8) % 2 == 0]
    started = time.perf_counter()
    with ProcessPoolExecutor(args.workers, mp_context=multiprocessing.get_context("spawn")) as executor:
        results = list(executor.map(check, cases))
    wrong = [line for _, lines, _, _ in results for line in lines]
    last, scalars = sum(r[2] for r in results), sum(r[3] for r in results)
    print(f"reference: {'compared' if have_reference() else 'not importable, not compared'}")
    print(f"{len(cases)} cases, {len(wrong)} wrong, {time.perf_counter() - started:.0f} s")
    print(f"annotations that differ from the twin's by a last bit: {last} of {scalars}")
    for line in wrong[:40]:
        print("WRONG", line)
    if wrong:
        sys.exit(1)
    if args.device == "cuda":
        time_table(args.repeats)
        if args.sweep:
            sweep(args.repeats)


if __name__ == "__main__":
    main()
