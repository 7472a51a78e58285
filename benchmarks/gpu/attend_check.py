"""Attend and merge on a GPU: right first, against float64 attention of the decoded cache, then timed.

    python benchmarks/gpu/attend_check.py [--quick] [--check-only]

Without a GPU, small shapes are checked under TRITON_INTERPRET=1, and nothing is timed.

Times are medians of CUDA-graph replays. Beside them, in the same run: torch's dense SDPA of the originals, and a copy
of as many bytes as the pass reads. Every setting is checked in the run that times it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "fast"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cli"))

from benchmarks.gpu.graphs import DEVICE, captured, say
from benchmarks.gpu.graphs import timed as replayed

from certkv.fast.arithmetic import H200, INTERPRETED, Sums, charges, query_loss
from certkv.fast.coded import Coded, by_head
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, Format
from certkv.fast.formats.base import Encoded
from certkv.fast.kernels import attend as kernel
from certkv.fast.kernels.merge import launch as launch_merge
from certkv.fast.kernels.shape import Shape
from certkv.fast.pool import VALUE_NOTES, Pool, allocate
from certkv.fast.resident import Resident
from certkv.fast.workspace import Workspace, plan_workspace


def fill(pool: Pool, values: str, head_dim: int) -> None:
    """Random codes, steps and minima of Gaussian size, and what a pass reads of the notes, straight into the pool."""
    for codes in (pool.key_codes, pool.value_codes):
        codes.copy_(torch.randint(0, 256, codes.shape, dtype=torch.uint8, device=DEVICE))
    for step, minimum, levels in (
        (pool.key_step, pool.key_minimum, 255.0),
        (pool.value_step, pool.value_minimum, 2.0 ** VALUE_FORMATS[values].bits - 1.0),
    ):
        low = -2.0 - torch.rand(minimum.shape, device=DEVICE)
        minimum.copy_(low)
        step.copy_((4.0 + 2.0 * torch.rand(step.shape, device=DEVICE)) / levels)
    # weights of grouped values are scaled by it; |minimum| + levels step is below 9
    pool.value_notes[..., VALUE_NOTES.index("decoded_norm_ub")] = 9.0 * head_dim**0.5


def decode(pool: Pool, side: str, fmt: Format, block: int) -> torch.Tensor:
    """Meaning of all pages of the one head of a pool, float64 [tokens, d]."""
    parts = (getattr(pool, f"{side}_{part}")[:, 0] for part in ("codes", "step", "minimum"))
    chunks = zip(*(x.split(256) for x in parts), strict=True)
    return torch.cat([fmt.decode(Encoded(*chunk), block)[0].flatten(0, 1) for chunk in chunks])


class Case:
    """One layer of random data, in pages in a random order."""

    def __init__(
        self, batch: int, tokens: int, q_heads: int, kv_heads: int, d: int, block: int, values: str, t: torch.dtype
    ) -> None:
        self.block, self.tokens, self.heads, self.kv_heads, self.d, self.batch = (
            block, tokens, q_heads, kv_heads, d, batch
        )  # fmt: skip
        blocks = tokens // block
        pages = batch * blocks
        self.pool = allocate(pages + 1, kv_heads, block, d, t, values, DEVICE)
        fill(self.pool, values, d)
        table = torch.randperm(pages, device=DEVICE).to(torch.int32).reshape(batch, blocks)
        lengths = torch.full((batch,), tokens, dtype=torch.int32, device=DEVICE)
        anchor = torch.zeros(batch, kv_heads, d, device=DEVICE)
        self.coded = Coded(self.pool, table, lengths, anchor, values, 0)
        self.resident = Resident.empty(batch, kv_heads, block, d, t, DEVICE)
        tail = tokens % block
        for x in (self.resident.keys, self.resident.values):
            x[:, :, 1, :tail] = torch.randn(batch, kv_heads, tail, d, device=DEVICE).to(t)
        self.q = (1.5 * torch.randn(batch, q_heads, d, device=DEVICE)).to(t)
        self.scale = d**-0.5

    def workspace(self, splits: int) -> Workspace:
        """Plan for this case."""
        blocks = self.coded.page_table.shape[1]
        return plan_workspace(self.batch, self.heads, self.kv_heads, self.d, self.block, blocks, splits, DEVICE)

    def run(self, out: Workspace) -> None:
        """One pass."""
        kernel.launch(self.q, self.coded, self.resident, self.scale, out)
        launch_merge(out, None)

    def bytes_read(self) -> int:
        """Codes and metadata."""
        p, pages = self.pool, self.pool.key_codes.shape[0] - 1
        parts = (p.key_codes, p.key_step, p.key_minimum, p.value_codes, p.value_step, p.value_minimum)
        return sum(x[:pages].nbytes for x in parts)

    def truth(
        self, sequence: int, head: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the decoded cache in float64: output, log-sum-exp, shares, values; and the largest size of a score."""
        group = self.heads // self.kv_heads
        pages = self.coded.page_table[sequence].to(torch.int64)
        some = Coded(
            Pool(*(x[pages, head : head + 1] for x in self.pool.tensors().values())),
            torch.arange(len(pages), device=DEVICE, dtype=torch.int32)[None],
            self.coded.lengths[sequence : sequence + 1],
            self.coded.anchor[:1, :1],
            self.coded.values,
        )
        tail = self.tokens % self.block
        rows = [decode(some.pool, "key", KEY_FORMATS["int8"], self.block)]
        rows.append(self.resident.keys[sequence, head, 1, :tail].double())
        columns = [decode(some.pool, "value", VALUE_FORMATS[some.values], self.block)]
        columns.append(self.resident.values[sequence, head, 1, :tail].double())
        q = self.q[sequence, head * group : (head + 1) * group].double()
        scores = q @ torch.cat(rows).T * self.scale
        shares = torch.softmax(scores, -1)
        values = torch.cat(columns)
        step, minimum = (x[pages, head].double() for x in (self.pool.key_step, self.pool.key_minimum))
        size = (q.abs() @ (minimum.abs() + 255.0 * step).T).amax(-1) * self.scale
        size = torch.maximum(size, (q.abs() @ rows[1].abs().T).amax(-1) * self.scale) if tail else size
        return shares @ values, torch.logsumexp(scores, -1), shares, values, size


def check(case: Case, out: Workspace, name: str) -> None:
    """Compare output, lse and executed shares with float64, by the terms of the arithmetic model."""
    case.run(out)
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    group = case.heads // case.kv_heads
    worst = [0.0, 0.0, 0.0]
    fmt, bfloat16 = VALUE_FORMATS[case.coded.values], case.q.dtype == torch.bfloat16
    sums = Sums(case.tokens, case.d, case.block, out.splits, fmt.bits, fmt.group, bfloat16)
    model = H200 if DEVICE.type == "cuda" else INTERPRETED
    allowed, lost = charges(model, sums), query_loss(model, sums)
    for sequence, head in itertools.product(range(min(2, case.batch)), range(case.kv_heads)):
        output, lse, shares, values, size = case.truth(sequence, head)
        rows = slice(head * group, (head + 1) * group)
        mine = out.output[sequence, rows].double()
        largest_q = case.q[sequence, rows].double().abs().amax(-1)
        eps = allowed.coded.relative * size + allowed.coded.constant + lost * case.scale * largest_q
        away = torch.stack([shares[i] @ (values - output[i]).norm(dim=-1) for i in range(group)])
        # a value's size, |minimum| + levels step per channel, is below 9 here; the numerator's rest by theorem
        sizes = 9.0 * case.d**0.5
        rest = (allowed.of_mean + allowed.of_largest) * sizes + allowed.of_output * output.norm(dim=-1) * 1.01
        bound = (torch.expm1(eps) * away + rest + allowed.absolute) * torch.exp(eps)
        worst[0] = max(worst[0], float(((mine - output).norm(dim=-1) / bound).max().nan_to_num(torch.inf)))
        off = (out.lse[sequence, rows].double() - lse).abs()
        far = eps + 2.0 * allowed.of_output + 2.0**-20 * (1.0 + lse.abs())
        worst[1] = max(worst[1], float((off / far).max().nan_to_num(torch.inf)))
        reference, weights = (by_head(x)[sequence, head] for x in (out.reference, out.weights))
        factor = torch.exp2(reference.double() - out.m[sequence, rows, None].double())
        executed = weights.double() * (factor / out.l[sequence, rows, None].double())[..., None]
        known = shares[:, : executed[0].numel()].reshape(executed.shape)
        normal = weights > 2.0**-14
        logs = torch.log(executed / known).abs() / (2.0 * eps + allowed.of_output)[:, None, None]
        worst[2] = max(worst[2], float(logs[normal].max().nan_to_num(torch.inf)))
    good = max(worst) <= 1.0
    said = ", ".join(f"{what} {x:.3f}" for what, x in zip(("output", "lse", "weights"), worst, strict=True))
    say(f"{'ok  ' if good else 'FAIL'} {name}: error over what the arithmetic model allows: {said}")
    if not good:
        raise SystemExit(1)


def timed(step: Callable[[], object]) -> float:
    """Median time of a replayed graph, in microseconds, with nothing of it left in the cache."""
    return replayed(captured(step), 60)


SIZED = Shape.sized.__func__  # type: ignore[attr-defined]


def tune(warps: int) -> None:
    """Force a number of warps; 0 for what the library chooses."""

    def sized(cls: type[Shape], *sizes: object) -> Shape:
        shape: Shape = SIZED(cls, *sizes)
        return shape._replace(warps=warps) if warps else shape

    Shape.sized = classmethod(sized)  # type: ignore[method-assign, assignment]


def main() -> None:
    """Check, then time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--check-only", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(1)
    if DEVICE.type == "cpu":
        for values, t in (("int4", torch.float16), ("int8-g64", torch.bfloat16)):
            case = Case(2, 150, 4, 1, 64, 64, values, t)
            check(case, case.workspace(2), f"interpreted, {values}, {t}")
        return
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    f16, bf16 = torch.float16, torch.bfloat16
    shapes = [(1, 8192 + 17, 32, 8, 128, 64, "int4", f16), (1, 8192, 32, 8, 128, 64, "int8", f16)]
    if not args.quick:
        shapes += [
            (2, 1000, 32, 8, 128, 64, "int4", bf16),
            (2, 1000, 32, 8, 128, 64, "int4-g32", f16),
            (2, 1000, 32, 8, 128, 64, "int8-g64", bf16),
            (2, 1000, 8, 8, 64, 64, "int4", f16),
            (2, 1000, 24, 8, 96, 64, "int8", f16),
            (2, 1000, 8, 4, 80, 16, "int4", f16),
            (2, 1000, 8, 4, 192, 64, "int4", f16),
            (2, 1000, 8, 4, 256, 64, "int8", f16),
        ]
    for shape in shapes:
        case = Case(*shape)
        check(case, case.workspace(7), f"batch, tokens, heads, kv, d, block, values, type = {shape}")
    rows = []
    multiprocessors = torch.cuda.get_device_properties(0).multi_processor_count
    for tokens in (8192, 32768, 131072):
        k = torch.randn(1, 8, tokens, 128, device=DEVICE, dtype=f16)
        v = torch.randn_like(k)
        q = torch.randn(1, 32, 1, 128, device=DEVICE, dtype=f16)
        dense = timed(lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, enable_gqa=True))  # noqa: B023
        for values in ("int4", "int8"):
            case = Case(1, tokens, 32, 8, 128, 64, values, f16)
            check(case, case.workspace(132), f"{tokens} tokens, int8/{values}")
            if args.check_only:
                continue
            count = case.bytes_read()
            source = torch.empty(count // 2, dtype=torch.uint8, device=DEVICE)
            target = torch.empty_like(source)
            floor = timed(lambda: target.copy_(source))  # noqa: B023
            per_wave = multiprocessors // case.kv_heads
            best, sweep = (0.0, 0, 0, 0.0), []
            for warps in (1, 2, 4):
                tune(warps)
                found = []
                for splits in sorted({per_wave * n for n in (1, 2, 4, 6, 8, 10, 12, 16)} | {tokens // 64}):
                    if splits > tokens // 64 or splits > 300:
                        continue
                    out = case.workspace(splits)
                    whole = timed(lambda: case.run(out))  # noqa: B023
                    alone = timed(lambda: kernel.launch(case.q, case.coded, case.resident, case.scale, out))  # noqa: B023
                    found.append((whole, splits, warps, alone))
                sweep.append(f"{warps} warps: " + ", ".join(
                    f"{f[1]}: {f[0]:.1f} ({f[3]:.1f})" for f in found
                ))  # fmt: skip
                best = min([*found, *([best] if best[1] else [])])
            tune(0)
            say(f"  {values} {tokens}; splits: attend+merge (attend)\n    " + "\n    ".join(sweep))
            whole, splits, warps, alone = best
            rows.append((tokens, f"int8/{values}", f"{splits}/{warps}", whole, alone, dense, floor, count))
    say("tokens    format     splits/warps  attend+merge (attend) us  dense us  ratio  copy of bytes us  MB")
    for tokens, name, how, whole, alone, dense, floor, count in rows:
        say(
            f"{tokens:7d}   {name:9s}  {how:12s}   {whole:8.1f} ({alone:.1f})          {dense:7.1f}  "
            f"{dense / whole:5.2f}  {floor:8.1f}              {count / 1e6:.0f}"
        )


if __name__ == "__main__":
    main()
