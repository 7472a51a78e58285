"""Run every query of a capture under a policy and judge every head against exact attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from certkv.cli.backends.base import Backend, CacheSettings, Formats, Held, Storage
from certkv.cli.backends.reference import ReferenceBackend
from certkv.cli.capture import Capture, Layer
from certkv.reference import Budget, Policy, Status, Step
from certkv.reference.exact import Verdict, judge
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray

Tick = Callable[[str, int], None]
"""Called with what is running and how many head-steps were just done."""


@dataclass(frozen=True)
class HeadStep:
    """One query head at one step: its certificate, and the truth beside it.

    Attributes
    ----------
    policy : str
    layer, query, head : int
    error : float
        The true error, in the units of V: a proved upper limit of it where that is within the bound, else the proved
        lower limit. So ``error > bound`` is a violation, and only that.
    bound, key, value, arithmetic, tolerance, rung, status, promoted, host_bytes, plane_bytes, levels
        As in `certkv.reference.certificate.Certificate`.
    paper_bound : float
        What the formula of arXiv 2605.20868 claims for the same step.
    judged_by : str
        ``"float64"``, ``"enclosure"``, ``"nothing to judge"`` (the output is not finite) or ``"undecided"``.
    violated, paper_violated : bool
        Whether the error provably exceeds the bound; the paper's claim by more than our bound of the rounding, of which
        that claim says nothing.
    output_norm : float
        L2 norm of the output.
    blocks : int
        Coded blocks this query saw.
    dense_bytes : int
        Bytes of all the originals it saw.
    """

    policy: str
    layer: int
    query: int
    head: int
    error: float
    bound: float
    key: float
    value: float
    arithmetic: float
    tolerance: float
    rung: int
    status: str
    promoted: tuple[int, int]
    host_bytes: int
    paper_bound: float
    judged_by: str
    violated: bool
    paper_violated: bool
    output_norm: float
    blocks: int
    dense_bytes: int
    plane_bytes: int
    levels: tuple[tuple[int, ...], tuple[int, ...]]

    @property
    def quantized(self) -> bool:
        """Whether coded keys or values took part: otherwise rounding is all there is to bound."""
        pinned = min(1, self.blocks) if self.policy == Budget.name else 0
        coded = self.blocks - pinned
        return self.rung < 3 and self.promoted != (coded, coded)


@dataclass
class PolicyRun:
    """Everything one policy did on a capture.

    Attributes
    ----------
    policy : Policy
    storage : list of Storage
        One per layer.
    steps : list of HeadStep
    outputs, bounds : dict
        Per layer, float64 [queries, q_heads, head_dim] and [queries, q_heads].
    """

    policy: Policy
    storage: list[Storage] = field(default_factory=list)
    steps: list[HeadStep] = field(default_factory=list)
    outputs: dict[int, FloatArray] = field(default_factory=dict)
    bounds: dict[int, FloatArray] = field(default_factory=dict)


def measure(
    capture: Capture,
    policies: Sequence[Policy],
    formats: Formats,
    tick: Tick = lambda what, steps: None,
    backend: Backend | None = None,
) -> list[PolicyRun]:
    """Run and judge every query under every policy.

    Parameters
    ----------
    capture : Capture
    policies : sequence of Policy
    formats : Formats
    tick : callable
        Progress.
    backend : Backend or None
        What computes; None for the reference.

    Returns
    -------
    list of PolicyRun
        In the order of ``policies``.
    """
    chosen = ReferenceBackend() if backend is None else backend
    runs = [PolicyRun(policy) for policy in policies]
    alike: dict[CacheSettings, list[PolicyRun]] = {}  # policies with equal formats share the encoding
    for run in runs:
        alike.setdefault(chosen.formats(run.policy, formats), []).append(run)
    for layer in capture.layers:
        for wanted, those in alike.items():
            tick(f"layer {layer.index}, encoding", 0)
            _run_layer(those, layer, chosen.hold(layer, wanted), tick)
    return runs


def head_steps(capture: Capture) -> int:
    """Return how many head-steps one policy takes: queries times query heads, over all layers."""
    return sum(layer.queries * int(layer.q.shape[1]) for layer in capture.layers)


def _run_layer(runs: Sequence[PolicyRun], layer: Layer, held: Held, tick: Tick) -> None:
    rows: dict[tuple[int, int], list[HeadStep]] = {}
    for run in runs:
        run.outputs[layer.index], run.bounds[layer.index] = np.empty(layer.q.shape), np.empty(layer.q.shape[:2])
    for which, query, step in held.steps([run.policy for run in runs]):
        run = runs[which]
        tick(f"layer {layer.index}, {run.policy.name}", 0)
        run.outputs[layer.index][query] = step.output
        run.bounds[layer.index][query] = step.certificate.bound
        seen = layer.visible(query)
        where = (run.policy.name, layer.index, query)
        k, v = layer.k[:seen], layer.v[:seen]
        rows[which, query] = judged(where, step, layer.q[query], k, v, layer.scale, held.blocks(seen))
        tick(f"layer {layer.index}, {run.policy.name}", layer.q.shape[1])
    for which, run in enumerate(runs):
        run.steps += [row for query in range(layer.queries) for row in rows[which, query]]
        run.storage.append(held.storage(run.policy))


def judged(
    where: tuple[str, int, int], step: Step, q: AnyArray, k: AnyArray, v: AnyArray, scale: float, blocks: int
) -> list[HeadStep]:
    """Put the truth beside every head of a step.

    Parameters
    ----------
    where : policy's name, layer, query
    step : Step
    q : [q_heads, head_dim]
    k, v : [tokens, kv_heads, head_dim]
        The originals that this step saw.
    scale : float
    blocks : int
        Coded blocks that it saw.

    Returns
    -------
    list of HeadStep
        One per query head.
    """
    policy, layer, query = where
    certificate, rows = step.certificate, []
    for head, verdict in enumerate(_verdicts(step, q, k, v, scale)):
        bound, claim = float(certificate.bound[head]), float(step.paper_bound[head])
        rows.append(
            HeadStep(
                policy=policy,
                layer=layer,
                query=query,
                head=head,
                error=(verdict.error_lb if verdict.error_ub > bound else verdict.error_ub) + 0.0,  # no -0.0
                bound=bound,
                key=float(certificate.key[head]),
                value=float(certificate.value[head]),
                arithmetic=float(certificate.arithmetic[head]),
                tolerance=float(certificate.tolerance[head]),
                rung=int(certificate.rung[head]),
                status=Status(int(certificate.status[head])).name,
                promoted=(int(certificate.promoted[head, 0]), int(certificate.promoted[head, 1])),
                host_bytes=int(certificate.host_bytes[head]),
                paper_bound=claim,
                judged_by=verdict.judged_by,
                violated=verdict.violated,
                paper_violated=verdict.error_lb > claim + float(certificate.arithmetic[head]),
                output_norm=float(np.linalg.norm(step.output[head].astype(np.float64))),
                blocks=blocks,
                dense_bytes=2 * len(k) * k.shape[2] * k.dtype.itemsize,
                plane_bytes=int(certificate.plane_bytes[head]),
                levels=(tuple(certificate.levels[head, 0].tolist()), tuple(certificate.levels[head, 1].tolist())),
            )
        )
    return rows


def _verdicts(step: Step, q: AnyArray, k: AnyArray, v: AnyArray, scale: float) -> list[Verdict]:
    """Judge the query heads of each KV head against its originals.

    Float64 may show that an error is within its bound and still know it no better than "below 1e-12". Where quantized
    blocks took part, bound over error is a figure that we print, so such an error is enclosed again, tightly. Of heads
    that came from originals alone, only the bound is printed, and the many enclosures are spared.
    """
    kv_heads = k.shape[1]
    group = len(q) // kv_heads
    certificate = step.certificate
    quantized = certificate.key + certificate.value > 0
    verdicts: dict[int, Verdict] = {}
    asked: tuple[tuple[BoolArray, Literal["vague", "doubtful"]], ...] = ((quantized, "vague"), (~quantized, "doubtful"))
    for kv_head in range(kv_heads):
        mine = np.arange(len(q)) // group == kv_head
        for which, enclosures in asked:
            heads = np.flatnonzero(mine & which)
            if heads.size:
                output, bound = step.output[heads], certificate.bound[heads]
                found = judge(output, bound, q[heads], k[:, kv_head], v[:, kv_head], scale, enclosures)
                verdicts |= dict(zip(heads.tolist(), found, strict=True))
    return [verdicts[head] for head in range(len(q))]
