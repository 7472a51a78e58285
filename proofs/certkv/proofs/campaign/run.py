"""Run one case: make its data, fill a cache, decode under several policies, check, judge, count."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np

from certkv.proofs.campaign import contract
from certkv.proofs.campaign.generators import GENERATORS, Data
from certkv.proofs.campaign.plan import SIZES, Job
from certkv.proofs.campaign.policies import draw_out_dtype, draw_policies
from certkv.proofs.campaign.setting import Setting, draw, to_dtype
from certkv.proofs.campaign.settle import is_open, settle
from certkv.proofs.campaign.tally import Tally
from certkv.reference import Cache, CertkvError, Policy, Step, decode
from certkv.reference.exact import Enclosure, Verdict, judge
from certkv.reference.numbers import norm_ub
from certkv.reference.numbers.types import AnyArray, FloatArray

REPEATED = 0.05
"""Share of the steps that are taken twice."""


@dataclass(frozen=True)
class Taken:
    """A step that was taken, and what it looked at."""

    policy: Policy
    out_dtype: str
    step: Step


def run_job(job: Job, seed: int) -> Tally:
    """Run one case; an exception of the reference is a broken contract, not the end of the campaign."""
    start = time.process_time()
    tally = Tally(cases=1)
    rng = job.rng(seed)
    generator, size = GENERATORS[job.generator], SIZES[job.size]
    setting = generator.adjust(rng, draw(rng, size))
    data = generator.make(rng, setting)
    k, v = to_dtype(data.k, setting.dtype), to_dtype(data.v, setting.dtype)
    case = Case(job, seed, setting, fill(rng, setting, k, v), k, v, size.enclosed, tally)
    queries = data.queries(rng, setting, case.cache)
    index, q = 0, next(queries, None)
    while q is not None:
        ratios = case.step(rng, to_dtype(q, setting.query_dtype), data, index)
        index += 1
        try:
            q = queries.send(ratios)
        except StopIteration:
            q = None
    tally.seconds = time.process_time() - start
    return tally


def fill(rng: np.random.Generator, setting: Setting, k: AnyArray, v: AnyArray) -> Cache:
    """Append the tokens in a few portions, as prefill and decoding would."""
    block_bytes = setting.block * setting.head_dim * 2
    cache = Cache(
        kv_heads=setting.kv_heads,
        head_dim=setting.head_dim,
        dtype=setting.dtype,
        keys=setting.keys,
        values=setting.values,
        block=setting.block,
        scratch_bytes=setting.scratch_blocks * block_bytes,
    )
    cuts = np.sort(rng.integers(0, len(k) + 1, size=int(rng.integers(0, 4))))
    for k_part, v_part in zip(np.split(k, cuts), np.split(v, cuts), strict=True):
        cache.append(k_part, v_part)
    return cache


@dataclass
class Case:
    """A filled cache, and where to count what its steps do."""

    job: Job
    seed: int
    setting: Setting
    cache: Cache
    k: AnyArray
    v: AnyArray
    enclosed: bool
    tally: Tally

    def step(self, rng: np.random.Generator, q: AnyArray, data: Data, index: int) -> FloatArray:
        """Decode one set of queries under every policy; return the attained error/bound of Naive, [q_heads]."""
        setting = self.setting
        position = None
        if setting.causal and index % 2:
            position = int(rng.integers(setting.tokens))
        taken = []
        for policy in draw_policies(rng, self.enclosed):
            out_dtype = data.out_dtype or draw_out_dtype(rng)
            step = self.decode(q, policy, position, out_dtype, index)
            if step is not None:
                taken.append(Taken(policy, out_dtype, step))
                if rng.random() < REPEATED:
                    self.repeat(q, taken[-1], position, index)
        if not taken:
            return np.zeros(setting.q_heads)
        visible = setting.tokens if position is None else position + 1
        verdicts = self.judge(q, taken, visible)
        lower = np.array([[verdict.error_lb for verdict in row] for row in verdicts])
        upper = np.array([[verdict.error_ub for verdict in row] for row in verdicts])
        for entry, row, lb, ub in zip(taken, verdicts, lower, upper, strict=True):
            self.check(entry, visible, index, lb, ub)
            self.count(entry, row, visible, index)
        return attained(lower[0], taken[0].step.certificate.bound)

    def repeat(self, q: AnyArray, entry: Taken, position: int | None, index: int) -> None:
        """Take a step once more, with whatever scratch holds by now: only what is moved may differ."""
        again = self.decode(q, entry.policy, position, entry.out_dtype, index)
        for finding in contract.check_same(entry.step, again) if again else []:
            self.broke(finding, entry.policy, index)

    def decode(self, q: AnyArray, policy: Policy, position: int | None, out_dtype: str, index: int) -> Step | None:
        """Take one step; what it raises or warns about is written down."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                step = decode(
                    q,
                    self.cache,
                    policy,
                    scale=self.setting.scale,
                    position=position,
                    out_dtype=out_dtype,
                    index=index,
                )
            except (CertkvError, ArithmeticError, ValueError, IndexError) as error:
                self.broke(f"{type(error).__name__}: {error}", policy, index)
                return None
        for text in sorted({str(warning.message) for warning in caught}):
            self.tally.warnings.append(f"{self.job.command(self.seed)}  # step {index}, {policy}: {text}")
        return step

    def judge(self, q: AnyArray, taken: list[Taken], visible: int) -> list[list[Verdict]]:
        """Judge every head of every step, [steps][q_heads]; one call per KV head."""
        ratio = self.setting.ratio
        verdicts: list[list[Verdict]] = [[] for _ in taken]
        for kv_head in range(self.setting.kv_heads):
            mine = slice(kv_head * ratio, (kv_head + 1) * ratio)
            k, v = self.k[:visible, kv_head], self.v[:visible, kv_head]
            outputs = [entry.step.output[mine].astype(np.float64) for entry in taken]
            bounds = [entry.step.certificate.bound[mine] for entry in taken]
            found = judge(
                np.concatenate(outputs),
                np.concatenate(bounds),
                np.concatenate([q[mine]] * len(taken)),
                k,
                v,
                self.setting.effective_scale,
                enclosures="always" if self.enclosed else "doubtful",
            )
            enclosure: Enclosure | None = None
            for row, output, bound, start in zip(verdicts, outputs, bounds, range(0, len(found), ratio), strict=True):
                for head, verdict in enumerate(found[start : start + ratio]):
                    if is_open(verdict, float(bound[head])):
                        enclosure = enclosure or Enclosure(k, v)
                        verdict = settle(
                            output[head],
                            float(bound[head]),
                            q[mine][head],
                            enclosure,
                            v.astype(np.float64),
                            self.setting.effective_scale,
                        )
                    row.append(verdict)
        return verdicts

    def check(self, entry: Taken, visible: int, index: int, error_lb: FloatArray, error_ub: FloatArray) -> None:
        """Check everything a step promises besides its bound."""
        step, policy = entry.step, entry.policy
        norms = norm_ub(step.output.astype(np.float64))  # outputs down to e^-745, whose squares underflow
        findings = [
            *contract.check_numbers(step),
            *contract.check_tolerance(step, policy, self.v[:visible], self.setting.ratio),
            *contract.check_promotion(step, policy, self.cache, visible // self.cache.block),
            *contract.check_relative(step, policy, error_lb, norms + error_ub),
        ]
        for finding in findings:
            self.broke(finding, policy, index)

    def broke(self, what: str, policy: Policy, index: int) -> None:
        """Write down a broken contract."""
        self.tally.breaks.append(f"{self.job.command(self.seed)}  # step {index}, {policy}: {what}")

    def count(self, entry: Taken, verdicts: list[Verdict], visible: int, index: int) -> None:
        """Count the head-steps of one step."""
        tally, c = self.tally, entry.step.certificate
        heads = len(verdicts)
        tally.head_steps += heads
        tally.long_steps += heads * (visible >= 1024 and self.setting.head_dim >= 64)
        tally.very_long_steps += heads * (visible >= 16384)
        tally.least_tokens = min(tally.least_tokens, visible)
        tally.most_tokens = max(tally.most_tokens, visible)
        quantized = c.key + c.value >= 0.5 * c.bound
        ratios = attained(np.array([verdict.error_lb for verdict in verdicts]), c.bound)
        for head, verdict in enumerate(verdicts):
            bound = float(c.bound[head])
            tally.rungs[int(c.rung[head])] += 1
            tally.promoted[int(c.promoted[head, 0] > 0) + 2 * int(c.promoted[head, 1] > 0)] += 1
            tally.enclosed += verdict.judged_by == "enclosure"
            if np.isinf(bound):
                tally.infinite += 1
                continue
            where = f"{self.job.command(self.seed)}  # step {index}, {entry.policy}, head {head}"
            if verdict.violated:
                text = f"{where}, out_dtype {entry.out_dtype}: error >= {verdict.error_lb!r} > bound {bound!r}"
                tally.violations.append(text)
            elif is_open(verdict, bound):
                tally.undecided.append(f"{where}: {verdict.error_lb!r} <= error <= {verdict.error_ub!r}, {bound!r}")
            kind = "cast" if entry.out_dtype != "float64" else "quantized" if quantized[head] else "rounding"
            tally.ratios[kind].add(float(ratios[head]), where)


def attained(error_lb: FloatArray, bound: FloatArray) -> FloatArray:
    """Lower limits of error/bound, 0 where the bound is infinite or 0/0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = error_lb / bound
    return np.where(np.isfinite(bound) & ~np.isnan(ratio), ratio, 0.0)
