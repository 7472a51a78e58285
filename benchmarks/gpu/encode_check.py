"""Encoding on a GPU: first that kernels equal their twins and the reference, then what encoding costs.

``python benchmarks/gpu/encode_check.py`` needs ``fast`` on the path, and for the comparison with the reference
``reference``, ml_dtypes and python-flint; without, it says so. It exits with 1 where a check fails, before anything is
timed. ``--device cpu --quick`` tries the checks under TRITON_INTERPRET=1 without a GPU, ``--sweep`` times other tiles,
``--family oscar`` looks at the formats in the rotated basis only, ``--family affine`` at the others.
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
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, Format, KeyFormat, OscarKeys, OscarValues
from certkv.fast.kernels import operator_norm
from certkv.fast.kernels.encode_keys import encode_keys
from certkv.fast.kernels.encode_oscar_keys import encode_oscar_keys
from certkv.fast.kernels.encode_oscar_values import encode_oscar_values
from certkv.fast.kernels.encode_values import encode_values
from certkv.fast.pool import Pool, allocate

TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
SHAPES = ((16, 8), (64, 64), (32, 80), (16, 96), (64, 128), (32, 192), (128, 256), (128, 128), (1, 80), (33, 20))
WIDTHS, LENGTHS = (8, 20, 64, 80, 96, 128, 192, 256), (1, 16, 33, 64, 96, 128, 130)
STORED = ("key_codes", "key_step", "key_minimum", "key_norm", "value_codes", "value_step", "value_minimum")
NOTES = ("key_notes", "value_notes", "sizes")
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
        # one head far stronger than the other; tokens of zeros; a token that is all
        torch.tensor([big / 16.0, tiny]).view(2, 1, 1) * normal.sign(),
        torch.where(torch.arange(block)[:, None] % 3 == 0, 0.0, normal),
        torch.where(torch.arange(block)[:, None] == block // 2, big, 0.0) * whole.sign(),
    ]
    stacked = torch.stack(kinds).to(dtype)
    patterns = torch.randint(-(2**15), 2**15, (2, *shape), generator=generator).to(torch.int16).view(dtype)
    return torch.cat([stacked, torch.where(patterns.isfinite(), patterns, torch.ones((), dtype=dtype))])


def raw(t: torch.Tensor) -> torch.Tensor:
    """Return bytes or 16-bit patterns as int32, on the CPU."""
    t = t.cpu().contiguous()
    if t.dtype == torch.float32:
        return t.view(torch.int32)
    return t.to(torch.int32) if t.dtype == torch.uint8 else t.view(torch.int16).to(torch.int32)


def launch_keys(x: torch.Tensor, pages: torch.Tensor, pool: Pool, fmt: KeyFormat) -> None:
    """Launch the kernels of a key format, wherever tensors are."""
    if isinstance(fmt, OscarKeys):
        encode_oscar_keys(x, pages, pool, fmt)
    else:
        encode_keys(x, pages, pool, fmt)


def launch_values(x: torch.Tensor, pages: torch.Tensor, pool: Pool, anchor: torch.Tensor, fmt: Format) -> None:
    """Launch the kernels of a value format, wherever tensors are."""
    if isinstance(fmt, OscarValues):
        encode_oscar_values(x, pages, pool, anchor, fmt)
    else:
        encode_values(x, pages, pool, anchor, fmt)


def compare_reference(pool: Pool, x: torch.Tensor, keys: str, values: str) -> int:
    """Count the stored arrays that differ from the reference in any bit."""
    import ml_dtypes

    from certkv.reference.formats import key_format, value_format

    numpy_type = np.float16 if x.dtype == torch.float16 else ml_dtypes.bfloat16
    array = x.view(torch.int16).numpy().view(numpy_type)
    bad = 0
    for side, encoded in (("key", key_format(keys).encode(array)), ("value", value_format(values).encode(array))):
        for name in ("codes", "step", "minimum"):
            stored = getattr(encoded, name)
            theirs = stored if name == "codes" else stored.view(np.int16)
            bad += not np.array_equal(raw(getattr(pool, f"{side}_{name}")).numpy(), theirs.astype(np.int32))
        if side == "key" and pool.key_norm.shape[1]:
            mine = raw(pool.key_norm.expand(-1, x.shape[1], -1)).numpy()
            bad += encoded.norm is None or not np.array_equal(mine, encoded.norm.view(np.int32))
    return bad


def have_reference() -> bool:
    """Whether the reference can be imported here."""
    try:
        import ml_dtypes  # noqa: F401

        import certkv.reference.formats  # noqa: F401
    except ImportError:
        return False
    return True


Case = tuple[str, str, str, int, int, str]


def check(case: Case) -> tuple[str, list[str], int, int]:
    """Return the case, what is wrong with it, how many scalars differ by a last bit, and of how many."""
    kind, keys, values, block, head_dim, device = case
    name = f"{kind} {keys} {values} B={block} d={head_dim}"
    torch.set_num_threads(1)
    x, of_keys, fmt = blocks(TYPES[kind], block, head_dim), KEY_FORMATS[keys], VALUE_FORMATS[values]
    n, heads = x.shape[:2]
    anchor = x.to(torch.float64).mean(2).to(torch.float32)
    twin = allocate(n, heads, block, head_dim, x.dtype, values, keys=keys)
    pages = torch.arange(n, dtype=torch.int32).flip(0)
    encode_keys_twin(x, pages, twin, of_keys)
    encode_values_twin(x, pages, twin, anchor, fmt)
    kernel = allocate(n + 1, heads, block, head_dim, x.dtype, values, device, keys)
    blank = allocate(1, heads, block, head_dim, x.dtype, values, keys=keys)
    around = torch.full((n, heads, block + 2, head_dim + 2), float("nan"), dtype=x.dtype, device=device)
    around[:, :, 1:-1, 1:-1] = x.to(device)
    inside = around[:, :, 1:-1, 1:-1]
    launch_keys(inside, pages.to(device), kernel, of_keys)
    launch_values(inside, pages.to(device), kernel, anchor.to(device), fmt)
    wrong: list[str] = []
    bits_apart = scalars = 0
    for field in (*STORED, *NOTES, *TOKENS):
        mine, theirs = raw(getattr(kernel, field))[:n], raw(getattr(twin, field))
        if not mine.numel():
            continue
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
        if not torch.equal(poison, raw(getattr(blank, field))):
            wrong.append(f"{name}: {field} was written in a page of no block")
    if have_reference() and (bad := compare_reference(twin, x.flip(0), keys, values)):
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


def cases_of(family: str, quick: bool, device: str) -> list[Case]:
    """List what is checked: other formats of values at every shape, and the rotated kin at shapes of their own."""
    found: list[Case] = []
    if family != "oscar":
        names = [name for name, fmt in VALUE_FORMATS.items() if not isinstance(fmt, OscarValues)]
        shapes = SHAPES[:1] + SHAPES[-1:] if quick else SHAPES
        found = [(kind, "int8", name, *shape, device) for shape, name, kind in product(shapes, names, TYPES)]
        if not quick:  # both types at the usual size, one at the others: most of the time is compilation
            found = [c for i, c in enumerate(found) if c[3:5] == (64, 128) or (i + i // 8) % 2 == 0]
    if family != "affine":
        keys = [name for name, fmt in KEY_FORMATS.items() if isinstance(fmt, OscarKeys)]
        values = [name for name, fmt in VALUE_FORMATS.items() if isinstance(fmt, OscarValues)]
        every = [(16, 8), (33, 20)] if quick else list(product(LENGTHS, WIDTHS))
        half = [shape for i, shape in enumerate(every) if (i + i // len(WIDTHS)) % 2 == 0]
        for i, (block, head_dim) in enumerate([*half, (64, 128), (128, 128)]):
            fit = [name for name in keys if KEY_FORMATS[name].least_block <= block]
            kind = ("fp16", "bf16")[i // 2 % 2]
            found.append((kind, fit[i % len(fit)], values[i % len(values)], block, head_dim, device))
    return found


def time_encoding(keys: str, values: str, dtype: torch.dtype, tokens: int, repeats: int) -> tuple[float, float]:
    """Microseconds for the keys and for the values of 8 KV heads with d = 128, B = 64."""
    n = max(1, tokens // 64)
    x = torch.randn(n, 8, 64, 128, device="cuda").to(dtype)
    pool = allocate(n, 8, 64, 128, dtype, values, "cuda", keys)
    pages = torch.arange(n, dtype=torch.int32, device="cuda")
    anchor = torch.zeros(1, 8, 128, device="cuda").expand(n, -1, -1)
    of_keys, fmt = KEY_FORMATS[keys], VALUE_FORMATS[values]
    return (
        median_us(lambda: launch_keys(x, pages, pool, of_keys), repeats),
        median_us(lambda: launch_values(x, pages, pool, anchor, fmt), repeats),
    )


AFFINE = (
    ("int8", "int4-g32", "fp16"),
    ("int8", "int4-g32", "bf16"),
    ("int8", "int8", "fp16"),
    ("int8", "int8-g64", "fp16"),
)
KIN = (("oscar", "oscar", "fp16"), ("oscar", "oscar", "bf16"), ("kivi", "kivi", "fp16"))


def time_table(family: str, repeats: int) -> None:
    """Time both operations, from one block to 128K tokens."""
    print(
        f"{'keys':8} {'values':10} {'type':5} {'tokens':>7} {'keys us':>9} {'values us':>10} {'GB/s of originals':>18}"
    )
    rows = (() if family == "oscar" else AFFINE) + (() if family == "affine" else KIN)
    for keys, values, kind in rows:
        for tokens in (64, 8192, 32768, 131072) if (values, kind) in (AFFINE[0][1:], KIN[0][1:]) else (131072,):
            k, v = time_encoding(keys, values, TYPES[kind], tokens, repeats)
            rate = 2 * tokens * 8 * 128 * 2 / (k + v) / 1e3
            print(f"{keys:8} {values:10} {kind:5} {tokens:7d} {k:9.1f} {v:10.1f} {rate:18.1f}", flush=True)


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
        keys, _ = time_encoding("int8", "int4-g32", torch.float16, 32768, repeats)
        print(f"{panel:5d} {warps:5d} {programs:11d} {channels:8d} {keys:14.1f}", flush=True)


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="few shapes only")
    parser.add_argument("--family", choices=("affine", "oscar", "all"), default="all", help="which formats")
    parser.add_argument("--sweep", action="store_true", help="time other tile sizes of the operator norm")
    parser.add_argument("--workers", type=int, default=12, help="processes that compile and check")
    parser.add_argument("--repeats", type=int, default=10)
    args = parser.parse_args()
    cases = cases_of(args.family, args.quick, args.device)
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
        time_table(args.family, args.repeats)
        if args.sweep:
            sweep(args.repeats)


if __name__ == "__main__":
    main()
