"""Operators of ``torch.library``: what a compiler may put into a graph without looking inside.

==================  ================================================================================================
certkv::decode      `Plan.op`: a step, into tensors of its own
certkv::decode_out  `Plan.op_out`: a step, into the caller's tensors
certkv::append_one  `TieredCache.append_one`
certkv::attend      the first pass of a step alone, over tensors alone; without a certificate it promises nothing
==================  ================================================================================================

Plans and caches go into operators by their handles (`handles`). Since what a cache holds is no argument, a compiler
would not know that a step must follow an append: every operator on a cache takes ``TieredCache.order``, one byte that
is declared to be written, which keeps all of them in the order of the program. Its value means nothing. Nothing here is
differentiable.
"""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch.library import custom_op

from certkv.fast.attend import attend as first_pass
from certkv.fast.checks import Reasons, check_tensor
from certkv.fast.coded import Coded
from certkv.fast.errors import InputError, SettingError
from certkv.fast.formats import VALUE_FORMATS, OscarValues
from certkv.fast.handles import look_up
from certkv.fast.merge import merge
from certkv.fast.pool import Pool
from certkv.fast.resident import Resident
from certkv.fast.workspace import plan_workspace

if TYPE_CHECKING:
    from certkv.fast.append_one_host import OneTokenAppends
    from certkv.fast.plan import Plan


class Decoded(NamedTuple):
    """A step as tensors alone: what `Step` and `Certificate` hold, in their order.

    Attributes
    ----------
    output : T or float32 [batch, q_heads, head_dim]
    lse, bound, key, value, arithmetic, tolerance : float32 [batch, q_heads]
    rung, status : int32 [batch, q_heads]
    promoted : int32 [batch, q_heads, 2]
    host_bytes : int64 [batch, q_heads]
    finer : int32 [batch, q_heads, 2, planes]
    plane_bytes : int64 [batch, q_heads]
    position, moved_bytes : int64 [batch]
    """

    output: torch.Tensor
    lse: torch.Tensor
    bound: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    arithmetic: torch.Tensor
    tolerance: torch.Tensor
    rung: torch.Tensor
    status: torch.Tensor
    promoted: torch.Tensor
    host_bytes: torch.Tensor
    finer: torch.Tensor
    plane_bytes: torch.Tensor
    position: torch.Tensor
    moved_bytes: torch.Tensor

    @classmethod
    def empty(cls, q: torch.Tensor, out_dtype: torch.dtype, planes: int = 0) -> Decoded:
        """Allocate what a step of such queries writes; ``planes`` as for `Certificate.blank`."""
        batch, heads = q.shape[0], q.shape[1]

        def made(dtype: torch.dtype, *more: int) -> torch.Tensor:
            return q.new_empty((batch, heads, *more), dtype=dtype)

        lse, bound, key, value, arithmetic, tolerance = (made(torch.float32) for _ in range(6))
        return cls(
            q.new_empty(q.shape, dtype=out_dtype),
            lse,
            bound,
            key,
            value,
            arithmetic,
            tolerance,
            rung=made(torch.int32),
            status=made(torch.int32),
            promoted=made(torch.int32, 2),
            host_bytes=made(torch.int64),
            finer=made(torch.int32, 2, planes),
            plane_bytes=q.new_zeros((batch, heads), dtype=torch.int64),
            position=q.new_empty((batch,), dtype=torch.int64),
            moved_bytes=q.new_zeros((batch,), dtype=torch.int64),
        )


@custom_op("certkv::decode", mutates_args=("order",))
def decode(
    q: torch.Tensor, order: torch.Tensor, plan: int, out_dtype: torch.dtype, planes: int = 0
) -> tuple[
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
    torch.Tensor,
]:
    """Run a step.

    Parameters
    ----------
    q : T [batch, q_heads, head_dim]
    order : uint8 [1]
        Of the plan's cache.
    plan : int
        Handle.
    out_dtype : torch.dtype
        Of the plan; given so that shapes and types follow from the arguments alone.
    planes : int
        Most refined levels of a side of the plan's cache; given likewise.

    Returns
    -------
    The tensors of `Decoded`.

    Raises
    ------
    ReleasedError, SettingError, and those of `Plan.run`
    """
    found = cast("Plan", look_up(plan, "Plan"))
    if found.out_dtype != out_dtype:
        raise SettingError(f"out_dtype is {out_dtype}, but the plan has {found.out_dtype}; give that of the plan")
    if max(found.cache.planes.counts) != planes:
        raise SettingError(f"planes is {planes}, but the plan's cache has {max(found.cache.planes.counts)}")
    made = Decoded.empty(q, out_dtype, planes)
    found.run_into(q.contiguous(), made)
    return tuple(made)  # type: ignore[return-value]  # a plain tuple of fifteen, as the schema says


@decode.register_fake
def _(
    q: torch.Tensor, order: torch.Tensor, plan: int, out_dtype: torch.dtype, planes: int = 0
) -> tuple[torch.Tensor, ...]:
    return tuple(Decoded.empty(q, out_dtype, planes))


@custom_op("certkv::decode_out", mutates_args=("order", *Decoded._fields))
def decode_out(
    q: torch.Tensor,
    order: torch.Tensor,
    plan: int,
    output: torch.Tensor,
    lse: torch.Tensor,
    bound: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    arithmetic: torch.Tensor,
    tolerance: torch.Tensor,
    rung: torch.Tensor,
    status: torch.Tensor,
    promoted: torch.Tensor,
    host_bytes: torch.Tensor,
    finer: torch.Tensor,
    plane_bytes: torch.Tensor,
    position: torch.Tensor,
    moved_bytes: torch.Tensor,
) -> None:
    """Run a step into the caller's tensors, which are those of `Decoded`; see `decode`.

    Raises
    ------
    ReleasedError, ShapeError, DTypeError, InputError
    """
    found = cast("Plan", look_up(plan, "Plan"))
    given = Decoded(
        output,
        lse,
        bound,
        key,
        value,
        arithmetic,
        tolerance,
        rung,
        status,
        promoted,
        host_bytes,
        finer,
        plane_bytes,
        position,
        moved_bytes,
    )
    reasons = Reasons()
    wanted = Decoded.empty(torch.empty(q.shape, device="meta"), found.out_dtype, max(found.cache.planes.counts))
    for name, have, want in zip(Decoded._fields, given, wanted, strict=True):
        check_tensor(reasons, name, have, tuple(want.shape), want.dtype, found.cache.device)
        if not have.is_contiguous():
            reasons.add(InputError(f"{name} is not contiguous; give a contiguous tensor"))
    reasons.raise_all()
    found.run_into(q.contiguous(), given)


@custom_op("certkv::append_one", mutates_args=("order",))
def append_one(k: torch.Tensor, v: torch.Tensor, active: torch.Tensor | None, order: torch.Tensor, cache: int) -> None:
    """Append a token to every sequence of a cache; see `TieredCache.append_one`.

    Raises
    ------
    ReleasedError, ShapeError, DTypeError, SettingError
    """
    cast("OneTokenAppends", look_up(cache, "TieredCache")).append_one_now(k, v, active)


@custom_op("certkv::attend", mutates_args=())
def attend(
    q: torch.Tensor,
    key_codes: torch.Tensor,
    key_step: torch.Tensor,
    key_minimum: torch.Tensor,
    value_codes: torch.Tensor,
    value_step: torch.Tensor,
    value_minimum: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    resident_keys: torch.Tensor,
    resident_values: torch.Tensor,
    values: str,
    scale: float,
    first: int,
    splits: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Attend to coded blocks and resident originals, and merge: one pass, no certificate.

    Parameters
    ----------
    q : T [batch, q_heads, head_dim], finite
    key_codes, key_step, key_minimum, value_codes, value_step, value_minimum
        As in `Pool`.
    page_table : int32 [batch, max_blocks]
        Pages within the pool wherever a sequence has a block; not looked at before they are used.
    lengths : int32 [batch]
        Tokens; at least one each.
    resident_keys, resident_values : T [batch, kv_heads, 2, block, head_dim]
        First block, and tail.
    values : str
        Name of the value format.
    scale : float
    first : int
        1 where the first block is taken from the resident ones, otherwise 0.
    splits : int
        Programs per sequence and KV head, 1 to max_blocks.

    Returns
    -------
    output : float32 [batch, q_heads, head_dim]
    lse : float32 [batch, q_heads]
    weights, reference, resident_weights, resident_reference
        Executed weights, as in `Workspace`; 0 in blocks that are not covered, whose reference is ``-inf``.

    Raises
    ------
    ShapeError, DTypeError, SettingError, InputError
    """
    given = (key_codes, key_step, key_minimum, value_codes, value_step, value_minimum)
    names = ("key_codes", "key_step", "key_minimum", "value_codes", "value_step", "value_minimum")
    stored = dict(zip(names, given, strict=True))
    held = {"page_table": page_table, "lengths": lengths, "keys": resident_keys, "values": resident_values}
    _check_attend(q, stored, held, values, first, splits)
    nothing = q.new_empty(0)
    batch, heads, head_dim = q.shape
    _, kv_heads, block, _ = key_codes.shape
    tokens = key_codes.new_empty((0, kv_heads, block))  # what says how many tokens a block has
    norms = q.new_empty((0, 0, block), dtype=torch.float32)  # these formats have none
    told = {"residual_codes": tokens, "key_norm": norms}
    pool = Pool(**({field.name: nothing for field in fields(Pool)} | stored | told))
    anchor = q.new_empty((batch, kv_heads, head_dim), dtype=torch.float32)  # attend wants its shape, and no more
    coded = Coded(pool, page_table, lengths, anchor, values, first)
    resident = Resident(resident_keys, resident_values, nothing)
    ws = plan_workspace(batch, heads, kv_heads, head_dim, block, page_table.shape[1], splits, q.device)
    ws.reference.fill_(-torch.inf)
    first_pass(q.contiguous(), coded, resident, scale, ws)
    merge(ws)
    return ws.output, ws.lse, ws.weights, ws.reference, ws.resident_weights, ws.resident_reference


@attend.register_fake
def _(
    q: torch.Tensor,
    key_codes: torch.Tensor,
    key_step: torch.Tensor,
    key_minimum: torch.Tensor,
    value_codes: torch.Tensor,
    value_step: torch.Tensor,
    value_minimum: torch.Tensor,
    page_table: torch.Tensor,
    lengths: torch.Tensor,
    resident_keys: torch.Tensor,
    resident_values: torch.Tensor,
    values: str,
    scale: float,
    first: int,
    splits: int,
) -> tuple[torch.Tensor, ...]:
    (batch, heads, _), (_, kv_heads, block, _) = q.shape, key_codes.shape

    def floats(*shape: int) -> torch.Tensor:
        return q.new_empty(shape, dtype=torch.float32)

    held = (batch, kv_heads, page_table.shape[1], heads // kv_heads), (batch, heads, 2)
    weights = ((q.new_empty((*shape, block), dtype=torch.float16), floats(*shape)) for shape in held)
    return (floats(*q.shape), floats(batch, heads), *(x for pair in weights for x in pair))


def _check_attend(
    q: torch.Tensor,
    stored: dict[str, torch.Tensor],
    held: dict[str, torch.Tensor],
    values: str,
    first: int,
    splits: int,
) -> None:
    """Look at shapes and types, and at nothing that would synchronise.

    Raises
    ------
    ShapeError, DTypeError, SettingError, InputError
    """
    reasons = Reasons()
    known = [name for name, fmt in VALUE_FORMATS.items() if not isinstance(fmt, OscarValues)]
    if values not in known:
        raise SettingError(f"unknown value format {values!r}; choose one of {', '.join(known)}")
    if q.ndim != 3 or stored["key_codes"].ndim != 4 or held["page_table"].ndim != 2:
        raise InputError("q must have 3 axes, key_codes 4 and page_table 2; see certkv::attend for what they are")
    (batch, heads, head_dim), (pages, kv_heads, block, _) = q.shape, stored["key_codes"].shape
    max_blocks = held["page_table"].shape[1]
    rows, metadata = VALUE_FORMATS[values].rows(block), VALUE_FORMATS[values].metadata(block, head_dim)
    byte, half, whole = torch.uint8, q.dtype, torch.int32
    slots = (batch, kv_heads, 2, block, head_dim)
    expected: dict[str, tuple[torch.Tensor, tuple[int, ...], torch.dtype]] = {
        "key_codes": (stored["key_codes"], (pages, kv_heads, block, head_dim), byte),
        "key_step": (stored["key_step"], (pages, kv_heads, head_dim), half),
        "key_minimum": (stored["key_minimum"], (pages, kv_heads, head_dim), half),
        "value_codes": (stored["value_codes"], (pages, kv_heads, rows, head_dim), byte),
        "value_step": (stored["value_step"], (pages, kv_heads, *metadata), half),
        "value_minimum": (stored["value_minimum"], (pages, kv_heads, *metadata), half),
        "page_table": (held["page_table"], (batch, max_blocks), whole),
        "lengths": (held["lengths"], (batch,), whole),
        "resident_keys": (held["keys"], slots, half),
        "resident_values": (held["values"], slots, half),
    }
    for name, (tensor, shape, dtype) in expected.items():
        check_tensor(reasons, name, tensor, shape, dtype, q.device)
        if not tensor.is_contiguous():
            reasons.add(InputError(f"{name} is not contiguous; give a contiguous tensor"))
    if q.dtype not in (torch.float16, torch.bfloat16):
        reasons.add(SettingError(f"q is {q.dtype}; give float16 or bfloat16"))
    if heads % kv_heads:
        reasons.add(SettingError(f"{heads} query heads are no multiple of {kv_heads} KV heads"))
    if first not in (0, 1) or not 1 <= splits <= max_blocks:
        reasons.add(SettingError(f"first is {first}, splits are {splits}; give 0 or 1, and 1 to {max_blocks}"))
    reasons.raise_all()
