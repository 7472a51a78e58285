"""Run every query of a capture under a policy and judge every head against exact attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from certkv.cli.capture import Capture, Layer
from certkv.reference import Budget, Cache, InputError, Policy, Status, Step, decode
from certkv.reference.exact import Verdict, judge
from certkv.reference.formats import bytes_per_token
from certkv.reference.numbers.types import AnyArray, BoolArray, FloatArray
from certkv.reference.policies import FormatDefaults

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
    bound, key, value, arithmetic, tolerance, rung, status, promoted, host_bytes
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

    @property
    def quantized(self) -> bool:
        """Whether coded keys or values took part: otherwise rounding is all there is to bound."""
        pinned = min(1, self.blocks) if self.policy == Budget.name else 0
        coded = self.blocks - pinned
        return self.rung < 3 and self.promoted != (coded, coded)


@dataclass(frozen=True)
class Storage:
    """What one layer's cache was, read back from the cache that ran. Bytes are per KV head.

    Attributes
    ----------
    layer : int
    keys, values : str
        Names of the formats.
    block : int
        Tokens per block.
    blocks, tail : int
        Coded blocks, and tokens that remain original.
    coded_bytes_per_token : float
        Codes and metadata of a coded token.
    device_bytes : int
        Codes, metadata, annotations, tail and (under a budget) the first block's originals.
    dense_bytes : int
        All tokens as 16-bit keys and values.
    """

    layer: int
    keys: str
    values: str
    block: int
    blocks: int
    tail: int
    coded_bytes_per_token: float
    device_bytes: int
    dense_bytes: int

    @property
    def tokens(self) -> int:
        """Tokens held."""
        return self.blocks * self.block + self.tail


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


@dataclass(frozen=True)
class Formats:
    """What the user asked for; None leaves it to the policy."""

    keys: str | None = None
    values: str | None = None
    block: int | None = None

    def of(self, policy: Policy) -> FormatDefaults:
        """Fill in the policy's defaults."""
        own = policy.formats
        return FormatDefaults(
            keys=self.keys or own.keys,
            values=self.values or own.values,
            block=own.block if self.block is None else self.block,
        )


def measure(
    capture: Capture, policies: Sequence[Policy], formats: Formats, tick: Tick = lambda what, steps: None
) -> list[PolicyRun]:
    """Run and judge every query under every policy.

    Parameters
    ----------
    capture : Capture
    policies : sequence of Policy
    formats : Formats
    tick : callable
        Progress.

    Returns
    -------
    list of PolicyRun
        In the order of ``policies``.
    """
    runs = [PolicyRun(policy) for policy in policies]
    for layer in capture.layers:
        caches: dict[FormatDefaults, Cache] = {}  # policies with equal formats share the encoding: steps do not write
        for run in runs:
            wanted = formats.of(run.policy)
            if wanted not in caches:
                tick(f"layer {layer.index}, encoding", 0)
                caches[wanted] = fill(layer, wanted)
            _run_layer(run, layer, caches[wanted], tick)
    return runs


def head_steps(capture: Capture) -> int:
    """Return how many head-steps one policy takes: queries times query heads, over all layers."""
    return sum(layer.queries * int(layer.q.shape[1]) for layer in capture.layers)


def fill(layer: Layer, formats: FormatDefaults) -> Cache:
    """Make a cache of a layer's keys and values."""
    _, kv_heads, head_dim = layer.k.shape
    cache = Cache(
        kv_heads=kv_heads,
        head_dim=head_dim,
        dtype=layer.k.dtype,
        keys=formats.keys,
        values=formats.values,
        block=formats.block,
    )
    cache.append(layer.k, layer.v)
    return cache


def take_step(layer: Layer, query: int, cache: Cache, policy: Policy) -> Step:
    """Run one query of a layer.

    Raises
    ------
    InputError
        It cannot be run; the message names the tensor.
    """
    position = None if layer.positions is None else int(layer.positions[query])
    try:
        return decode(layer.q[query], cache, policy, scale=layer.scale, position=position, index=query)
    except InputError as error:
        raise InputError(f"{layer.prefix}q[{query}], policy {policy.name}: {error}") from error


def _run_layer(run: PolicyRun, layer: Layer, cache: Cache, tick: Tick) -> None:
    outputs = np.empty(layer.q.shape)
    bounds = np.empty(layer.q.shape[:2])
    for query in range(layer.queries):
        tick(f"layer {layer.index}, {run.policy.name}", 0)
        step = take_step(layer, query, cache, run.policy)
        outputs[query], bounds[query] = step.output, step.certificate.bound
        seen = layer.visible(query)
        where = (run.policy.name, layer.index, query)
        run.steps += judged(where, step, layer.q[query], layer.k[:seen], layer.v[:seen], layer.scale, cache.block)
        tick(f"layer {layer.index}, {run.policy.name}", layer.q.shape[1])
    run.outputs[layer.index], run.bounds[layer.index] = outputs, bounds
    run.storage.append(storage(layer.index, cache, run.policy))


def judged(
    where: tuple[str, int, int], step: Step, q: AnyArray, k: AnyArray, v: AnyArray, scale: float, block: int
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
    block : int
        Tokens per block.

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
                blocks=len(k) // block,
                dense_bytes=2 * len(k) * k.shape[2] * k.dtype.itemsize,
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


def storage(layer: int, cache: Cache, policy: Policy) -> Storage:
    """Read back from a cache what it was, and count its bytes."""
    keys, values = cache.format("keys"), cache.format("values")
    dense = 2 * cache.head_dim * cache.dtype.itemsize
    coded = bytes_per_token(keys, cache.block, cache.head_dim) + bytes_per_token(values, cache.block, cache.head_dim)
    tail = cache.tokens - cache.blocks * cache.block
    annotations = 0
    if cache.blocks:
        for notes in (cache.key_annotations(), cache.value_annotations()):
            annotations += sum(array.nbytes for array in vars(notes).values()) // cache.kv_heads
    pinned = cache.block if isinstance(policy, Budget) and cache.blocks else 0
    return Storage(
        layer=layer,
        keys=keys.name,
        values=values.name,
        block=cache.block,
        blocks=cache.blocks,
        tail=tail,
        coded_bytes_per_token=float(coded),
        device_bytes=int(coded * cache.block * cache.blocks) + annotations + (tail + pinned) * dense,
        dense_bytes=cache.tokens * dense,
    )
