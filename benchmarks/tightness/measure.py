"""One case: some queries on one cache, under every policy; truth beside every head-step."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from benchmarks.tightness.block_terms import block_terms_bound

from certkv.reference.cache import Cache
from certkv.reference.exact.judge import judge
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.policies import RELATIVE_TO, Budget, Naive, Policy
from certkv.reference.step import Step, decode

PINNED_ONLY = Budget(sys.float_info.max, "absolute")
"""Reads the first block as original and accepts whatever bound that gives."""

TOLERANCES = (0.02, 0.05)
Unit = Literal["-", "values", "output", "absolute"]


@dataclass(frozen=True)
class Setup:
    """A policy as the table names it.

    Attributes
    ----------
    name : str
        ``naive``, ``pinned`` or ``budget``.
    share : float
        The tolerance; "absolute" ones are this share of the median value norm of what was seen.
    unit : str
        "-" where nothing is enforced.
    """

    name: str
    share: float = float("inf")
    unit: Unit = "-"

    def policy(self, median_norm: float) -> Policy:
        """Return the policy, for values of that median norm."""
        if self.unit == "-":
            return Naive() if self.name == "naive" else PINNED_ONLY
        if self.unit == "absolute":
            return Budget(self.share * median_norm, "absolute")
        return Budget(self.share, self.unit)


SETUPS = (
    Setup("naive"),
    Setup("pinned"),
    *(Setup("budget", share, unit) for share in TOLERANCES for unit in RELATIVE_TO),
)


@dataclass(frozen=True)
class Query:
    """Queries of one step, [q_heads, d], and the position they stand at (None: they see everything)."""

    q: AnyArray
    position: int | None


@dataclass(frozen=True)
class HeadStep:
    """One query head at one step.

    Attributes
    ----------
    error_lb, error, bound : float
        Proved limits of the true error; the certificate. Units of V.
    paper, block_terms : float
        The paper's formula and theorem ``block_bound`` for the same pass; NaN where something was promoted.
    key_share, value_share : float
        Parts of the bound.
    keys, values : float
        Promoted shares of the coded blocks.
    read : float
        Bytes read from the originals, as a share of the 16-bit keys and values that were seen.
    rounds : int
        Rounds of promotion until it was accepted; -1 for rung 3.
    norm_share : float
        Bound over the median value norm.
    quantized : bool
        Whether anything coded took part.
    violated : bool
    """

    error_lb: float
    error: float
    bound: float
    paper: float
    block_terms: float
    key_share: float
    value_share: float
    keys: float
    values: float
    read: float
    rounds: int
    norm_share: float
    quantized: bool
    violated: bool


@dataclass(frozen=True, eq=False)
class Beside:
    """What is known of a step but its certificate: see `HeadStep`; arrays [q_heads]."""

    median_norm: float
    rounds: FloatArray
    paper: FloatArray
    block_terms: FloatArray


def head_steps(
    cache: Cache,
    k: AnyArray,
    v: AnyArray,
    queries: list[Query],
    scale: float,
    setups: Sequence[Setup] = SETUPS,
) -> Iterator[tuple[Setup, HeadStep]]:
    """Run every query under every set-up and judge it.

    Parameters
    ----------
    cache : Cache
        Holding k and v.
    k, v : [tokens, kv_heads, d]
    queries : list of Query
    scale : float
    setups : sequence of Setup

    Yields
    ------
    Setup, HeadStep
    """
    for query in queries:
        seen = len(k) if query.position is None else query.position + 1
        median = float(np.median(np.linalg.norm(v[:seen].astype(np.float64), axis=-1)))
        for setup in setups:
            policy = setup.policy(median)
            step = decode(query.q, cache, policy, scale=scale, position=query.position)
            nan = np.full(len(query.q), np.nan)
            beside = Beside(
                median_norm=median,
                rounds=count_rounds(query, cache, policy, scale, step),
                paper=step.paper_bound if setup.unit == "-" else nan,
                block_terms=block_terms_bound(query.q, cache, scale, query.position, setup.name != "naive")
                if setup.unit == "-"
                else nan,
            )
            for row in judged(step, query.q, k[:seen], v[:seen], scale, cache.block, beside):
                yield setup, row


def count_rounds(query: Query, cache: Cache, policy: Policy, scale: float, step: Step) -> FloatArray:
    """Count the rounds of promotion each head took: with fewer rounds allowed it ends in rung 3."""
    if not isinstance(policy, Budget):
        return np.zeros(len(query.q))
    rounds = np.where(step.certificate.promoted.any(axis=-1), float(policy.rounds), 0.0)
    for allowed in range(1, policy.rounds):
        if not (rounds == policy.rounds).any():
            break
        fewer = Budget(policy.tolerance, policy.relative_to, rounds=allowed)
        again = decode(query.q, cache, fewer, scale=scale, position=query.position)
        rounds = np.where((again.certificate.rung < 3) & (rounds == policy.rounds), float(allowed), rounds)
    return np.where(step.certificate.rung >= 3, -1.0, rounds)


def judged(
    step: Step, q: AnyArray, k: AnyArray, v: AnyArray, scale: float, block: int, beside: Beside
) -> Iterator[HeadStep]:
    """Put the truth beside every head of a step."""
    certificate, group = step.certificate, len(q) // k.shape[1]
    blocks = max(len(k) // block, 1)
    dense = 2 * len(k) * k.shape[2] * k.dtype.itemsize
    for kv_head in range(k.shape[1]):
        heads = np.arange(kv_head * group, (kv_head + 1) * group)
        verdicts = judge(step.output[heads], certificate.bound[heads], q[heads], k[:, kv_head], v[:, kv_head], scale)
        for head, verdict in zip(heads.tolist(), verdicts, strict=True):
            bound = float(certificate.bound[head])
            keys, values = (certificate.promoted[head] / blocks).tolist()
            yield HeadStep(
                error_lb=verdict.error_lb,
                error=verdict.error_ub,
                bound=bound,
                paper=float(beside.paper[head]),
                block_terms=float(beside.block_terms[head]),
                key_share=float(certificate.key[head]) / bound,
                value_share=float(certificate.value[head]) / bound,
                keys=keys,
                values=values,
                read=int(certificate.host_bytes[head]) / dense,
                rounds=int(beside.rounds[head]),
                norm_share=bound / beside.median_norm,
                quantized=bool(certificate.key[head] + certificate.value[head] > 0),
                violated=verdict.violated,
            )
