"""Whole steps on a GPU: right first (bounds, captured graphs, failures), then audited at 128K tokens, then timed.

    python benchmarks/gpu/step_check.py [--part check|audit|time|scratch] [--tokens 131072] [--queries 200]
                                        [--scratch 268435456] [--keys oscar --values oscar]

With ``--keys`` or ``--values`` the check and the audit are of these formats alone.

It exits with 1 at the first thing that does not hold. Without a GPU the twins run on small shapes, and nothing is
captured or timed. Truth is float64 attention of the originals with a proved error; a violation is an error that is
provably above its bound.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "fast"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cli"))

from benchmarks.gpu.graphs import DEVICE, GPU, capture, captured, quiet, require, say, timed

from certkv.fast import Budget, Naive, Plan, Status, Step, TieredCache, float64, plan
from certkv.fast.errors import HostMissingError, NonFiniteError
from certkv.fast.policies import PaperPolicy, Policy


class Case:
    """A filled cache and what went into it."""

    def __init__(
        self,
        tokens: list[int],
        kv_heads: int,
        group: int,
        d: int,
        block: int,
        values: str,
        dtype: torch.dtype,
        keys: str = "int8",
        planes: str = "host",
    ) -> None:
        self.tokens, self.kv_heads, self.group, self.d, self.dtype = tokens, kv_heads, group, d, dtype
        self.planes = planes
        batch, longest = len(tokens), max(tokens)
        self.cache = self.empty(0, block, values, keys)
        k, v = torch.randn(2, batch, longest, kv_heads, d, device=DEVICE)
        # a few channels are large, as after RoPE in trained models, and a first token that attracts
        k[..., ::17] *= 4.0
        k[:, 0] *= 2.0
        self.k, self.v = k.to(dtype), v.to(dtype)
        del k, v
        self.cache.append(self.k, self.v, lengths=tokens if len(set(tokens)) > 1 else None)
        self.scale = d**-0.5

    def empty(self, scratch_bytes: int, block: int, values: str, keys: str = "int8") -> TieredCache:
        """Return a cache for these tokens, without any."""
        sizes = (len(self.tokens), self.kv_heads, self.d, max(self.tokens) + 2 * block)
        formats: dict[str, Any] = {"keys": keys, "values": values, "planes": self.planes}
        return TieredCache(*sizes, self.dtype, **formats, block=block, scratch_bytes=scratch_bytes, device=DEVICE)

    def queries(self, kind: str) -> torch.Tensor:
        """Draw queries: diffuse ones, ones that look for a token, or a mixture over heads."""
        batch, heads = len(self.tokens), self.kv_heads * self.group
        q = torch.randn(batch, heads, self.d, device=DEVICE)
        if kind != "diffuse":
            for s, n in enumerate(self.tokens):
                at = torch.randint(0, n, (heads,), device=DEVICE)
                kv = torch.arange(heads, device=DEVICE) // self.group
                needle = self.k[s, at, kv].float()
                strength = torch.rand(heads, 1, device=DEVICE) * (1.0 if kind == "mixed" else 1.6)
                q[s] += strength * needle
        return q.to(self.dtype)

    def violations(self, q: torch.Tensor, outputs: torch.Tensor, bounds: torch.Tensor) -> tuple[int, list[float]]:
        """Judge outputs of queries, both [n, batch, heads, d]; return violations, and bound over error."""
        wrong, ratios = 0, []
        for s, n in enumerate(self.tokens):
            for h in range(self.kv_heads):
                mine = slice(h * self.group, (h + 1) * self.group)
                queries, output = q[:, s, mine].flatten(0, 1), outputs[:, s, mine].flatten(0, 1)
                exact = float64.attention(queries, self.k[s, :n, h], self.v[s, :n, h], self.scale)
                error = (output.double() - exact.output).norm(dim=-1)
                bound = bounds[:, s, mine].flatten().double()
                # 2^-40 covers the rounding of this very norm
                wrong += int((~(error * (1.0 - 2.0**-40) - exact.error_ub <= bound)).sum())
                ratios += (bound / error.clamp(min=1e-30)).tolist()
        return wrong, ratios


def check(case: Case, policy: Policy, name: str) -> None:
    """Eager and captured; inputs that take different rungs, and inputs that fail."""
    made = plan(case.cache, case.kv_heads * case.group, policy)
    q, step = case.queries("diffuse"), made.step()
    quiet(made, q, step)
    replay = capture(made, q, step)
    rungs: set[int] = set()
    for kind in ("diffuse", "mixed", "needle", "diffuse"):
        q.copy_(case.queries(kind))
        replay()
        step.check()
        eager = made.run(q, out=made.step())
        require(torch.equal(step.output, eager.output), f"{name}: replay and eager run differ")
        require(torch.equal(step.certificate.bound, eager.certificate.bound), f"{name}: bounds differ")
        wrong, _ = case.violations(q[None], step.output[None], step.certificate.bound[None])
        require(wrong == 0, f"{name}, {kind}: {wrong} violations")
        bound, limit, rung = step.certificate.bound, step.certificate.tolerance, step.certificate.rung
        require(((bound <= limit) | (rung >= 3)).all(), f"{name}: a bound above its tolerance")
        rungs |= set(rung.flatten().tolist())
    good = q.clone()
    q[-1, 1, 3] = float("nan")
    replay()
    require((step.certificate.status[-1] == Status.NONFINITE_QUERY).all(), f"{name}: NaN query not noticed")
    require(step.output[-1].isnan().all() and step.certificate.bound[-1].isinf().all(), f"{name}: NaN query: output")
    require(step.output[:-1].isfinite().all(), f"{name}: a NaN query reaches other sequences")
    require(int(step.position[-1]) == case.d + 3, f"{name}: position of the NaN")
    raises(step, NonFiniteError, name)
    q.copy_(good)
    if isinstance(policy, Budget) and 3 in rungs:
        kept = case.cache.originals.present.clone()
        case.cache.originals.present[0, :, 1:] = 0
        replay()
        if bool((step.certificate.status[0] == Status.HOST_MISSING).all()):
            require(step.output[0].isnan().all(), f"{name}: missing host tier: output")
            raises(step, HostMissingError, name)
        else:
            wrong, _ = case.violations(q[None], step.output[None], step.certificate.bound[None])
            require(wrong == 0 and policy.tolerance > 0, f"{name}: missing host tier not noticed")
        case.cache.originals.present.copy_(kept)
    replay()
    step.check()
    step.certificate.status[0] = int(Status.NEEDS_DENSE)
    step.resolve()
    n = case.tokens[0]
    k, v = (x[0, :n].transpose(0, 1)[None].contiguous() for x in (case.k, case.v))
    from certkv.fast import dense

    expected = dense.attention(q[0][None, :, None], k, v, case.scale)[0, :, 0]
    require(torch.equal(step.output[0], expected), f"{name}: rung 4 is not torch's attention, bit for bit")
    wrong, _ = case.violations(q[None], step.output[None], step.certificate.bound[None])
    require(wrong == 0, f"{name}: rung 4 is beyond its bound")
    say(f"ok   {name}: rungs {sorted(rungs)}")


def raises(step: Step, kind: type[Exception], name: str) -> None:
    """Check what `Step.check` raises."""
    try:
        step.check()
    except kind:
        return
    require(False, f"{name}: check() raises no {kind.__name__}")


def audit(case: Case, policies: Iterable[Policy], queries: int) -> None:
    """Run so many queries under each policy, and judge every head."""
    say(f"audit: {case.tokens} tokens, {queries} queries, {case.kv_heads * case.group} heads")
    say("policy                       violations  bound/error (mean)  bound/tolerance  rungs 0/1/2/3 %  promoted %")
    asked = torch.stack([case.queries(("diffuse", "mixed", "needle")[i % 3]) for i in range(queries)])
    for policy in policies:
        made = plan(case.cache, case.kv_heads * case.group, policy)
        step, q = made.step(), asked[0].clone()
        replay = capture(made, q, step)
        outputs, bounds, limits, rungs, promoted = [], [], [], [], []
        for one in asked:
            q.copy_(one)
            replay()
            outputs.append(step.output.clone())
            bounds.append(step.certificate.bound.clone())
            limits.append(step.certificate.tolerance.clone())
            rungs.append(step.certificate.rung.clone())
            promoted.append(step.certificate.promoted.float().mean(-1))
        step.check()
        wrong, ratios = case.violations(asked, torch.stack(outputs), torch.stack(bounds))
        rung, share = torch.stack(rungs), torch.stack(promoted).mean() / max(1, case.cache.blocks(0))
        over = torch.where(rung >= 3, 0.0, torch.stack(bounds) / torch.stack(limits)).max()
        counts = "/".join(f"{100 * float((rung == r).float().mean()):.0f}" for r in range(4))
        mean = torch.tensor(ratios, dtype=torch.float64).log().mean().exp()
        label = f"{policy.name} {getattr(policy, 'tolerance', '')} {getattr(policy, 'relative_to', '')}"
        found = f"{label:28s} {wrong:10d}  {float(mean):18.1f}  {float(over):15.3f}"
        say(f"{found}  {counts:>15s}  {100 * float(share):9.2f}")
        require(wrong == 0 and float(over) <= 1.0, "audit")


def time_parts(made: Plan, q: torch.Tensor, step: Step) -> str:
    """Time of every part by itself, as one line; the parts run on what the step left."""
    taken: dict[str, float] = {}
    use = made.passes
    for name in use._fields:
        calls: list[tuple[tuple[object, ...], dict[str, object]]] = []
        real = getattr(use, name)

        def spy(*arguments: object, calls=calls, real=real, **named: object) -> None:  # type: ignore[no-untyped-def]
            calls.append((arguments, named))
            real(*arguments, **named)

        made.passes = use._replace(**{name: spy})
        made.run(q, out=step)
        made.passes = use
        if calls:
            arguments, named = calls[0]
            taken[name] = timed(captured(lambda: real(*arguments, **named)), 15)  # noqa: B023
    return ", ".join(f"{name} {time:.1f}" for name, time in taken.items())


def times(lengths: Iterable[int], batches: Iterable[int]) -> None:
    """Whole steps beside torch's dense attention."""
    rows = []
    for batch in batches:
        for tokens in lengths:
            for values in ("int4", "int8"):
                if batch * tokens > 8 * 32768 and batch > 1:
                    continue
                case = Case([tokens] * batch, 8, 4, 128, 64, values, torch.float16)
                q = case.queries("diffuse")
                k, v = (x.transpose(1, 2).contiguous() for x in (case.k, case.v))
                one = q[:, :, None].contiguous()
                attention = torch.nn.functional.scaled_dot_product_attention
                base = timed(captured(lambda: attention(one, k, v, enable_gqa=True)))  # noqa: B023
                made = plan(case.cache, 32, Naive())
                step = made.step()
                naive = timed(capture(made, q, step))
                if batch == 1 and values == "int4":
                    say(f"  {tokens}, parts of a step under Naive: {time_parts(made, q, step)}")
                bound = float(step.certificate.bound.max())
                for share in (0.0, 0.01):
                    # an absolute tolerance that every head meets, or that one block in a hundred stands in the way of
                    limit, promoted, taken = bound * 1.01, 1.0, 0.0
                    for _ in range(12 if share else 1):
                        made = plan(case.cache, 32, Budget(limit, "absolute"))
                        step = made.step()
                        run = capture(made, q, step)
                        run()
                        torch.cuda.synchronize()
                        promoted = float(step.certificate.promoted.float().mean()) / case.cache.blocks(0)
                        if promoted >= share:
                            break
                        limit *= 0.97
                    taken = timed(run)
                    if share == 0.0 and batch == 1 and values == "int4":
                        say(f"  {tokens}, parts under Budget: {time_parts(made, q, step)}")
                    worst = int(step.certificate.rung.max())
                    rows.append((batch, tokens, values, share, base, naive, taken, promoted, worst))
                torch.cuda.empty_cache()
    say("batch   tokens  values  dense us  naive us  ratio  budget us  ratio  promoted %  highest rung")
    for batch, tokens, values, _, base, naive, taken, promoted, worst in rows:
        say(
            f"{batch:5d}  {tokens:7d}  {values:6s}  {base:8.1f}  {naive:8.1f}  {base / naive:5.2f}  {taken:9.1f}  "
            f"{base / taken:5.2f}  {100 * promoted:10.2f}  {worst:12d}"
        )


def scratch(tokens: int, scratch_bytes: int) -> None:
    """Promote one block in a hundred without scratch, with it cold, and warm: the same bits, and times."""
    kv_heads, group, d, block = (8, 4, 128, 64) if GPU else (2, 2, 64, 16)
    case = Case([tokens], kv_heads, group, d, block, "int4", torch.float16)
    q, made = case.queries("diffuse"), plan(case.cache, kv_heads * group, Naive())
    limit, promoted = float(made.run(q, out=made.step()).certificate.bound.max()), 0.0
    while promoted < 0.01:
        limit *= 0.97
        made = plan(case.cache, kv_heads * group, Budget(limit, "absolute"))
        step = made.run(q, out=made.step())
        promoted = float(step.certificate.promoted.float().mean()) / case.cache.blocks(0)
    off = timed(capture(made, q, step)) if GPU else 0.0
    rung, few = int(step.certificate.rung.max()), 7 * case.cache.originals.block_bytes
    say(f"{tokens} tokens, {100 * promoted:.2f} % promoted, highest rung {rung}, no scratch: {off:.1f} us")
    for size in (few, scratch_bytes):
        cache = case.empty(size, block, "int4")
        cache.append(case.k, case.v)
        other = plan(cache, kv_heads * group, made.policy)
        mine = other.step()
        replay, moved = capture(other, q, mine), []
        cache.scratch.clear(0)
        for when in ("cold", "warm", "warm again"):
            replay()
            given, wanted = ((x.output, x.lse, *vars(x.certificate).values()) for x in (mine, step))
            same = all(map(torch.equal, given, wanted))
            require(same, f"scratch of {size} bytes, {when}: not the same bits")
            moved.append(int(mine.moved_bytes.sum()))
        require(moved[0] <= int(step.moved_bytes.sum()), f"scratch of {size} bytes moves more: {moved}")
        cold, warm = (timed(replay, 40, lambda: cache.scratch.clear(0)), timed(replay)) if GPU else (0.0, 0.0)  # noqa: B023
        say(f"  scratch {size:11,d} B: cold {cold:.1f} us, {moved[0]:,d} B moved; warm {warm:.1f} us, {moved[2]:,d} B")


def main() -> None:
    """Check, audit, time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=("check", "audit", "time", "scratch"))
    parser.add_argument("--tokens", type=int, default=131072 if GPU else 300)
    parser.add_argument("--queries", type=int, default=200 if GPU else 3)
    parser.add_argument("--keys", help="format of keys for the check and the audit; default int8")
    parser.add_argument("--values", help="format of values for the check and the audit; default several")
    parser.add_argument("--only", metavar="N,..", help="cases of the check, by their numbers from 0; default all")
    parser.add_argument("--scratch", type=int, default=256 << 20, help="bytes of scratch")
    args = parser.parse_args()
    torch.manual_seed(1)
    f16, bf16 = torch.float16, torch.bfloat16
    asked, keys, values = bool(args.keys or args.values), args.keys or "int8", args.values or "int4"
    if args.part in (None, "check"):
        cases: list[tuple[list[int], int, int, int, int, str, torch.dtype, str]]
        cases = [([300, 77], 2, 2, 64, 16, "int4", f16, "int8"), ([300, 77], 2, 2, 64, 32, "oscar", f16, "oscar")]
        if asked:
            cases = [([5000, 1200, 64], 8, 4, 128, 64, values, f16, keys), ([2000], 2, 8, 80, 32, values, bf16, keys)]
        elif GPU:
            say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
            cases = [
                ([5000, 1200, 64], 8, 4, 128, 64, "int4", f16, "int8"),
                ([3000], 8, 4, 128, 64, "int8", f16, "int8"),
                ([2000, 31], 4, 2, 64, 64, "int4-g32", bf16, "int8"),
                ([2000], 2, 8, 96, 32, "int8-g64", bf16, "int8"),
                ([1500, 700], 2, 1, 80, 16, "int4", bf16, "int8"),
                ([1500], 2, 3, 192, 64, "int8", f16, "int8"),
                ([1500], 2, 4, 256, 64, "int4-g32", f16, "int8"),
                ([5000, 1200, 64], 8, 4, 128, 64, "oscar", f16, "oscar"),
                ([2000, 31], 4, 2, 64, 64, "oscar-4", bf16, "oscar-4"),
                ([1500, 700], 2, 1, 80, 32, "oscar", bf16, "int8"),
                ([1500], 2, 3, 96, 64, "int4-g32", f16, "oscar-head"),
                ([3000], 8, 2, 256, 128, "kivi", f16, "oscar-g128"),
            ]
        for setting in [cases[int(n)] for n in args.only.split(",")] if args.only else cases:
            case = Case(*setting)
            for policy in (Naive(), PaperPolicy(), Budget(0.05), Budget(0.01), Budget(0.02, "output"), Budget(0.0)):
                check(case, policy, f"{setting}, {policy}")
    if args.part in (None, "audit"):
        for of_keys, of_values in [(keys, values)] if asked else [("int8", "int4"), ("int8", "int8")]:
            case = Case([args.tokens], 8 if GPU else 2, 4, 128, 64, of_values, f16, of_keys)
            say(f"keys {of_keys}, values {of_values}")
            policies = (Naive(), PaperPolicy(), Budget(0.05), Budget(0.02), Budget(0.05, "output"), Budget(0.0))
            audit(case, policies, args.queries)
            del case
    if args.part in (None, "scratch"):
        for tokens in (8192, 32768, 131072) if GPU else (args.tokens,):
            scratch(tokens, args.scratch)
    if GPU and args.part in (None, "time"):
        times((8192, 32768, 131072), (1, 8))


if __name__ == "__main__":
    main()
