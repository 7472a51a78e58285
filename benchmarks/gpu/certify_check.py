"""The certificate's kernels on a GPU: equal to their twins, enclosing at every exponent, and how long they take.

``python benchmarks/gpu/certify_check.py [TOKENS]``, from the top of the checkout, with ``fast`` on PYTHONPATH.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import torch
import triton
import triton.language as tl

from certkv.fast import certify as certify_twin
from certkv.fast import choose as choose_twin
from certkv.fast import resident_terms as resident_twin
from certkv.fast import score_error as score_twin
from certkv.fast.certify import Pass, Terms
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.choose import Choice
from certkv.fast.coded import Coded
from certkv.fast.kernels import certify, choose, resident_terms, score_error
from certkv.fast.kernels import outward_fp32 as device
from certkv.fast.pool import Pool, allocate
from certkv.fast.resident_terms import ResidentPass
from certkv.fast.score_error import ScoreErrors
from certkv.fast.totals import Totals

BATCH, HEADS, KV_HEADS, HEAD_DIM, BLOCK = 1, 32, 8, 128, 64
SCORE = ScoreCharge(1e-6, 6e-4)
CHARGES = Charges(2.0**-14, SCORE, SCORE, SCORE, 1.0001, 2.0**-36, 0.9999, 2.0**-30, 1e-5, 1e-6, 1e-5, 1e-9).rounded()


@triton.jit
def functions(x, psi, growth, decay, N: tl.constexpr):
    """Evaluate the three functions."""
    at = tl.program_id(0) * N + tl.arange(0, N)
    values = tl.load(x + at)
    tl.store(psi + at, device.psi_ub(values))
    tl.store(growth + at, device.expm1_ub(values))
    tl.store(decay + at, device.exp_minus_lb(values))


def check_functions() -> None:
    """All bit patterns from 2^-30 to 80 in steps of 64: psi and e^x - 1 from above, e^-x from below, within 1 %."""
    bits = torch.arange(0x30800000, 0x42A00000, 64, dtype=torch.int32, device="cuda")
    x = bits[: len(bits) // 1024 * 1024].view(torch.float32).contiguous()
    psi, growth, decay = (torch.empty_like(x) for _ in range(3))
    functions[(len(x) // 1024,)](x, psi, growth, decay, N=1024, enable_fp_fusion=False)
    t = x.double()
    series = sum(t**k / torch.exp(torch.lgamma(torch.tensor(k + 3.0, dtype=torch.float64))) for k in range(20))
    exact = torch.where(t < 1, series, (torch.expm1(t) - t) / (t * t))
    for name, ratio in (("psi", psi / exact), ("expm1", growth / torch.expm1(t)), ("exp", torch.exp(-t) / decay)):
        # float64 is right to 2^-45 here, and every function has at least 2^-21 of slack
        low, high = float(ratio.min()), float(ratio.max())
        print(f"{name:8} {low - 1:.3e} .. {high - 1:.3e}")
        if not (low >= 1.0 + 2.0**-30 and high <= 1.01):
            raise SystemExit(f"{name} does not enclose")


def inputs(tokens: int, values: str) -> tuple[Coded, Pass, ResidentPass]:
    """Random data of plausible sizes; what notes say need not hold for equality and for time."""
    g = torch.Generator().manual_seed(0)
    blocks = tokens // BLOCK
    pool = allocate(BATCH * blocks, KV_HEADS, BLOCK, HEAD_DIM, torch.float16, values)
    filled: dict[str, Any] = {}
    for field in fields(Pool):
        old = getattr(pool, field.name)
        if old.dtype == torch.uint8:
            high = 40 if field.name.endswith("d_codes") or "residual" in field.name else 256
            filled[field.name] = torch.randint(0, high, old.shape, dtype=torch.uint8, generator=g)
        else:
            filled[field.name] = (0.05 * torch.rand(old.shape, generator=g) + 0.01).to(old.dtype)
    notes = torch.tensor([0.5, 10.0, 12.0, 10.0, 3.0, 4.0, 8.0])
    filled["value_notes"] = (notes * (1 + 0.1 * torch.rand(pool.value_notes.shape, generator=g))).bfloat16()
    filled["key_notes"] = (torch.tensor([0.5, 3.5, 8.0, 12.0]) * torch.ones(pool.key_notes.shape)).bfloat16()
    coded = Coded(
        replace(pool, **filled),
        torch.randperm(BATCH * blocks, generator=g).to(torch.int32).view(BATCH, blocks),
        torch.full((BATCH,), tokens + 17, dtype=torch.int32),
        0.1 * torch.randn(BATCH, KV_HEADS, HEAD_DIM, generator=g),
        values,
        1,
    )
    heads = (BATCH, HEADS)
    weights = (2.0 ** (14 - 8 * torch.rand(*heads, blocks, BLOCK, generator=g))).half()
    reference = -20 * torch.rand(*heads, blocks, generator=g) - 14
    total = (weights.double().sum(-1) * torch.exp2(reference.double()))[..., 1:].sum(-1)
    m, below = torch.zeros(heads), total.float()
    output = 0.2 * torch.randn(*heads, HEAD_DIM, generator=g)
    kept = torch.randn(2, BATCH, KV_HEADS, 2, BLOCK, HEAD_DIM, generator=g).half()
    q = torch.randn(*heads, HEAD_DIM, generator=g).half()
    levels = torch.zeros(*heads, blocks, dtype=torch.uint8)
    resident = ResidentPass(
        q, kept[0], kept[1], weights[:, :, :2].contiguous(), reference[:, :, :2].contiguous(), m, below, output
    )
    return coded, Pass(weights, reference, m, below, output, levels), resident


def moved(x: Any) -> Any:
    """Copy to the GPU whatever a structure holds."""
    if isinstance(x, torch.Tensor):
        return x.cuda()
    if isinstance(x, tuple):
        parts = [moved(y) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    if isinstance(x, (Coded, Pool)):
        return replace(x, **{f.name: moved(getattr(x, f.name)) for f in fields(x)})
    return x


def microseconds(work: Callable[[], None]) -> float:
    """Median time of a replayed graph."""
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return float(triton.testing.do_bench(graph.replay, warmup=20, rep=100, return_mode="median")) * 1000


def main(tokens: int) -> None:
    """Check, then time, then print."""
    check_functions()
    rows = []
    for values in ("int4-g32", "int8"):
        coded, seen, resident = inputs(tokens, values)
        blocks, shape = coded.page_table.shape[1], (BATCH, HEADS)
        results, times = [], {}
        for where in ("cpu", "cuda"):
            c, s, r = (coded, seen, resident) if where == "cpu" else moved((coded, seen, resident))
            errors = ScoreErrors(*(torch.full((*shape, blocks), torch.nan, device=where) for _ in range(3)))
            terms, found = Terms.empty(*shape, blocks, where), Totals.empty(*shape, where)
            mass = torch.full((*shape, 2), torch.nan, device=where)
            choice = Choice.empty(*shape, KV_HEADS, blocks, where)
            active = torch.ones(shape, dtype=torch.uint8, device=where)
            used = (score_twin, certify_twin, resident_twin, choose_twin)
            if where == "cuda":
                used = (score_error, certify, resident_terms, choose)
            of_scores, of_blocks, of_resident, of_choice = used

            def first(c=c, r=r, errors=errors, of=of_scores) -> None:
                of.score_error(r.q, c, 0.088, CHARGES.floor, errors)

            def second(s=s, c=c, errors=errors, terms=terms, active=active, of=of_blocks) -> None:
                of.certify(s, c, errors, CHARGES, terms, active)

            def third(r=r, c=c, mass=mass, terms=terms, active=active, of=of_resident) -> None:
                of.resident_terms(r, c, 0.088, CHARGES, mass, terms, active)

            def fourth(s=s, terms=terms, found=found, choice=choice, of=of_choice) -> None:
                choice.action.fill_(1)
                of.choose(terms, s.levels, s.output, CHARGES, "absolute", 0.5, 2, 4096, found, choice)

            for name, work in (("scores", first), ("certify", second), ("resident", third), ("choose", fourth)):
                work()
                if where == "cuda":
                    times[name] = microseconds(work)
            results.append([x.cpu() for x in (*errors, *terms, mass, *found)])
            chosen = int((choice.chosen.cpu() != 0).sum())
        for a, b in zip(*results, strict=True):
            if not torch.isclose(a, b, rtol=2.0**-11, atol=2.0**-40).all():
                raise SystemExit("kernel and twin differ by more than both of their roundings")
        rows.append(f"{values:10} {tokens:7} " + " ".join(f"{times[n]:8.1f}" for n in times) + f" {chosen:7}")
    print("values      tokens   scores  certify resident   choose  blocks chosen   (microseconds, medians)")
    print("\n".join(rows))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 131_072)
