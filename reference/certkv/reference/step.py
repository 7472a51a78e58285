"""One decode step: attention of one new query per head over the cache, every output with its certificate."""

from __future__ import annotations

import math
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from certkv.reference.cache import Cache
from certkv.reference.cache.checks import (
    real_number,
    require_dtype,
    require_finite,
    require_plain,
    require_shape,
    whole_number,
)
from certkv.reference.certificate import Certificate
from certkv.reference.errors import CorruptionError, SettingError, ShapeError
from certkv.reference.numbers.types import AnyArray, FloatArray
from certkv.reference.policies import Budget, Naive, PaperPolicy, Policy
from certkv.reference.steps import budget, naive, paper
from certkv.reference.steps.group import Group
from certkv.reference.steps.originals import attend_originals
from certkv.reference.steps.result import Result

QUERY_DTYPES = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16), np.dtype(np.float32))
OUT_DTYPES = (np.dtype(np.float64), *QUERY_DTYPES)
SCALE_LIMIT = 2.0**128
"""Scales between ``1 / SCALE_LIMIT`` and ``SCALE_LIMIT`` keep every score in float64's normal range."""


@dataclass(frozen=True, eq=False)
class Step:
    """Result of :func:`decode`; every array is the caller's own.

    Attributes
    ----------
    output : [q_heads, head_dim]
        In ``out_dtype``. Its final rounding is inside the bound.
    lse : float64 [q_heads]
        Natural logarithm of the sum of exponentiated scores, as executed.
    certificate : Certificate
    paper_bound : float64 [q_heads]
        What the formula of arXiv 2605.20868 claims for the quantized pass; not a proof.
    moved_bytes : int
        Bytes really moved from the host tier by this step (what was in scratch is not moved again).
    """

    output: AnyArray
    lse: FloatArray
    certificate: Certificate
    paper_bound: FloatArray
    moved_bytes: int


def decode(
    q: AnyArray,
    cache: Cache,
    policy: Policy,
    *,
    scale: float | None = None,
    position: int | None = None,
    out_dtype: object = "float64",
    index: int = 0,
) -> Step:
    """Attend to the cache, one query per head, and certify each output against exact attention of the originals.

    Parameters
    ----------
    q : float16, bfloat16 or float32 [q_heads, head_dim]
        Post-RoPE queries; ``q_heads`` is a multiple of the cache's ``kv_heads``. Query head h reads KV head
        ``h // (q_heads // kv_heads)``.
    cache : Cache
    policy : Naive, PaperPolicy or Budget
    scale : float or None
        Softmax scale, this very float64 number; None for what ``1.0 / math.sqrt(head_dim)`` gives in float64.
    position : int or None
        Position of a causal query, which sees tokens 0 to ``position``, in the state the cache had then; None to see
        all.
    out_dtype : "float64", "float32", "float16", "bfloat16" or dtype
    index : int
        Number of this step; it enters the exploration draw of ``PaperPolicy`` and nothing else.

    Returns
    -------
    Step
        ``||output - exact||_2 <= certificate.bound`` for every head. Under ``Budget``, ``bound <= tolerance`` or the
        rung is 3.

    Raises
    ------
    ShapeError, DTypeError, SettingError
        An argument does not fit.
    NonFiniteError
        A NaN or infinity in ``q``.
    InputError
        The cache is empty, or ``position`` is outside of it.
    HostMissingError
        An original that is needed is missing (precondition P4). The cache stays usable.
    CorruptionError
        What is stored no longer means a number (precondition P1).
    """
    require_plain("q", q)
    require_dtype("q", q, QUERY_DTYPES)
    require_shape("q", q, ("q_heads", cache.head_dim))
    require_finite("q", q)
    heads = len(q)
    if heads == 0 or heads % cache.kv_heads:
        raise ShapeError(f"q has {heads} heads; give a positive multiple of the cache's {cache.kv_heads} KV heads")
    scale = checked_scale(scale, cache.head_dim)
    out = output_dtype(out_dtype)
    index = whole_number("index", index)

    size = heads // cache.kv_heads
    pinned = 1 if isinstance(policy, Budget) else 0
    before = cache.moved_bytes
    groups = []
    for kv_head in range(cache.kv_heads):
        mine = np.arange(kv_head * size, (kv_head + 1) * size)
        view = cache.view(kv_head, position)
        groups.append(Group(q[mine].astype(np.float64), mine, scale, view, min(pinned, view.blocks)))

    whole = Result.blank(heads, cache.head_dim, cache.level_count)
    results = [run_policy(group, policy, out, index) for group in groups]
    for group, result in zip(groups, results, strict=True):
        if any(r.dense for r in results):  # rung 4 is for the whole layer
            rows = np.arange(len(group.q))
            unlimited = np.full(len(rows), np.inf)
            result = attend_originals(group, rows, 4, unlimited, result.paper_bound, out)
        whole.put(group.heads, result)
    require_numbers(whole.output)
    moved = cache.moved_bytes - before
    # exact: the numbers were rounded to out_dtype before they were certified
    return Step(whole.output.astype(out), whole.lse, whole.certificate, whole.paper_bound, moved)


def require_numbers(output: FloatArray) -> None:
    """Refuse to return a NaN, whatever bound stands beside it. An infinity can be right: a cast may overflow.

    Raises
    ------
    CorruptionError
    """
    bad = np.isnan(output).any(axis=-1)
    if bad.any():
        raise CorruptionError(int(bad.argmax()))


def run_policy(group: Group, policy: Policy, out: np.dtype[np.generic], index: int) -> Result:
    """Run one group of heads under a policy."""
    match policy:
        case Naive():
            return naive.run(group, out)
        case PaperPolicy():
            return paper.run(group, policy, out, index)
        case Budget():
            return budget.run(group, policy, out)
    raise SettingError(f"policy is {policy!r}; give Naive(), PaperPolicy(...) or Budget(...)")


def checked_scale(scale: float | None, head_dim: int) -> float:
    """Return the softmax scale as a float64.

    Raises
    ------
    SettingError
        Not a finite number whose magnitude is between 2**-128 and 2**128.
    """
    value = 1.0 / math.sqrt(head_dim) if scale is None else real_number("scale", scale)
    if not 1.0 / SCALE_LIMIT <= abs(value) <= SCALE_LIMIT:
        raise SettingError(f"scale is {value}; give a finite number whose magnitude is between 2**-128 and 2**128")
    return value


def output_dtype(name: object) -> np.dtype[np.generic]:
    """Return the dtype of the output.

    Raises
    ------
    SettingError
    """
    for dtype in OUT_DTYPES:
        if name in (dtype, dtype.name, dtype.type):
            return dtype
    raise SettingError(f"out_dtype is {name!r}; give one of {', '.join(dtype.name for dtype in OUT_DTYPES)}")
