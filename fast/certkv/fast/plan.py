"""Plan a step once, run it often: all memory it needs, every reason why it cannot be run, and the order of its parts.

attend -> first tier, or merge -> ladder

The ladder certifies, promotes and finishes (`certkv.fast.rounds`); `Budget` goes round as often as it has rounds,
`Naive` certifies once. What a part has nothing to do for, it leaves alone: the parts are predicated by flags on the
device, so that one captured graph serves every step of a shape. Under `Budget` kernels do everything behind the first
tier in one launch (`certkv.fast.kernels.ladder`).
"""

from __future__ import annotations

import math

import torch

from certkv.fast import dense, ops
from certkv.fast.arithmetic import H200, TWIN, Arithmetic
from certkv.fast.cache import TieredCache
from certkv.fast.certify import CHUNK, Finer
from certkv.fast.checks import Reasons, check_tensor, require_tensor, type_name, whole_number
from certkv.fast.choose import DEVICE_COST, Prices
from certkv.fast.coded import Coded
from certkv.fast.errors import DTypeError, InputError, PlanError, SettingError
from certkv.fast.finish import Flags
from certkv.fast.formats.planar import Planar, base_of
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.handles import Handled
from certkv.fast.ladder import Ladder, Levels, programs_on, warps_of
from certkv.fast.memory import MemoryTable, Row, in_memory, measured_peak
from certkv.fast.outward_fp32 import above, check_roundings
from certkv.fast.parts import Parts
from certkv.fast.passes import Passes, passes_for
from certkv.fast.plan_checks import Listed, checked_scale, device_reasons
from certkv.fast.policies import MAX_ROUNDS, Budget, Naive, PaperPolicy, Policy
from certkv.fast.refine import SPLITS, Check, FinerRead, State
from certkv.fast.rounding import rounding
from certkv.fast.rounds import in_parts
from certkv.fast.splits import multiprocessors_of, splits_of, splits_on
from certkv.fast.step import Step
from certkv.fast.totals import Unit
from certkv.fast.verify import VERIFY, Verifier, Verify
from certkv.fast.workspace import plan_workspace


class Plan(Handled):
    """A step of one shape, under one policy; make it with `plan`.

    Attributes
    ----------
    cache : TieredCache
        Appends and resets between runs are seen by the next run; captured graphs see them too.
    q_heads : int
    policy : Policy
    scale : float
    out_dtype : torch.dtype
    verifier : Verifier or None
        What compares checksums in every step; None where nothing does.
    splits : int
        Programs of a pass per KV head of a sequence, but for the residents'.
    programs : int
        What runs the ladder at once.
    index : int64 []
        Number of the step, for the exploration draw of `PaperPolicy`; to be advanced by the caller.
    """

    def __init__(
        self,
        cache: TieredCache,
        q_heads: int,
        policy: Policy,
        scale: float,
        out_dtype: torch.dtype,
        splits: int | None = None,
        multiprocessors: int | None = None,
        implementation: tuple[Passes, Arithmetic] | None = None,
        verify: Verify = "off",
    ) -> None:
        model = H200 if cache.device.type == "cuda" else TWIN
        self.passes, model = (passes_for(cache.device), model) if implementation is None else implementation
        self.cache, self.q_heads, self.policy, self.scale, self.out_dtype = cache, q_heads, policy, scale, out_dtype
        batch, device, max_blocks, head_dim = cache.batch, cache.device, cache.max_blocks, cache.head_dim
        pinned = 1 if isinstance(policy, Budget) else 0
        # a step that verifies reads copies of the tables, made harmless
        self.verifier = Verifier.planned(cache) if verify == "step" else None
        tables = (cache.pages.table, cache.lengths) if self.verifier is None else self.verifier.tables
        formats = key_format(cache.keys), value_format(cache.values)
        planar = [fmt if isinstance(fmt, Planar) else None for fmt in formats]
        keys, values = (base_of(fmt).name for fmt in formats)
        self.coded = Coded(
            cache.pool, *tables, cache.anchor, values, min(pinned, max_blocks), keys, (planar[0], planar[1])
        )
        if splits is None:
            splits = splits_of(cache) if multiprocessors is None else splits_on(cache, multiprocessors)
        self.splits = splits
        found = multiprocessors_of(device) if multiprocessors is None else multiprocessors
        self.programs = programs_on(found, warps_of(max_blocks, q_heads // cache.kv_heads, head_dim))
        self.rounding = rounding(model, cache, self.splits, self.rounds, out_dtype)
        self.ws = plan_workspace(batch, q_heads, cache.kv_heads, head_dim, cache.block, max_blocks, self.splits, device)

        # a program whose number is beyond the places of a round brings nothing
        places = batch * cache.kv_heads * SPLITS
        brings = isinstance(policy, Budget) and cache.originals.place == "host"
        readers = min(self.programs, places) if brings else 0
        self.parts = Parts.empty(cache, q_heads, isinstance(policy, PaperPolicy), readers)
        price = 1.0 if cache.planes.place == "host" else DEVICE_COST
        of_planes = [
            tuple(price * size / cache.originals.block_bytes for size in side) for side in cache.planes.block_bytes
        ]
        self.prices = Prices(of_planes[0], of_planes[1], self.parts.foreseen)
        self.index = torch.zeros((), dtype=torch.int64, device=device)
        self._staging: torch.Tensor | None = dense.staging(cache) if isinstance(policy, PaperPolicy) else None
        self._blank = self.step("meta")
        self.take_handle()

    @property
    def rounds(self) -> int:
        """Rounds of promotion; none where the tolerance is 0, which no quantized output meets.

        A plane of the key format adds one: what a block is worth at its next level is known once it was read.
        """
        if isinstance(self.policy, PaperPolicy):
            return 1
        if not isinstance(self.policy, Budget) or self.policy.tolerance == 0.0 or self.policy.rounds == 0:
            return 0
        return min(self.policy.rounds + self.cache.planes.counts[0], MAX_ROUNDS)

    def step(self, device: torch.device | str | None = None) -> Step:
        """Allocate what a run writes, on the cache's device."""
        cache = self.cache
        where = cache.device if device is None else device
        return Step.blank(cache.batch, self.q_heads, cache.head_dim, self.out_dtype, where, max(cache.planes.counts))

    def staging(self) -> torch.Tensor:
        """Return the buffer of rung 4; policies that are unlikely to need it allocate it on demand."""
        return dense.staging(self.cache) if self._staging is None else self._staging

    def memory(self) -> MemoryTable:
        """Return what cache and plan take, to the byte; and rung 4's staging buffer, which some plans do not hold."""
        held = self.cache.memory()
        staging = Row(
            "staging of rung 4", "device", math.prod(dense.staging_shape(self.cache)) * self.cache.dtype.itemsize
        )
        planned, later = ((staging,), ()) if self._staging is not None else ((), (staging,))
        checked = () if self.verifier is None else (Row("tables of steps that verify", "device", self.verifier.nbytes),)
        rows = (
            *held.rows,
            Row("weights and states of a step", "device", self.ws.nbytes + self.parts.nbytes),
            *checked,
            *planned,
        )
        return MemoryTable(rows, held.tokens, held.dense, measured_peak(self.cache.device), later)

    @torch.no_grad()
    def run(self, q: torch.Tensor, out: Step) -> Step:
        """Run a step. On a GPU it neither allocates nor synchronises, so that it may be captured.

        Parameters
        ----------
        q : T [batch, q_heads, head_dim]
            Contiguous, on the cache's device.
        out : Step
            From `step`, or of the same shapes and types; written.

        Returns
        -------
        Step
            ``out``. What its status says is raised by `Step.check`, and rung 4 is `Step.resolve`.

        Raises
        ------
        ShapeError, DTypeError, InputError
            ``q`` or ``out`` does not fit, or a sequence is empty.
        """
        reasons = Reasons()
        cache, ws, parts, policy, use = self.cache, self.ws, self.parts, self.policy, self.passes
        check_tensor(reasons, "q", q, (cache.batch, self.q_heads, cache.head_dim), cache.dtype, cache.device)
        if not isinstance(out, Step):
            reasons.add(DTypeError(f"out is a {type(out).__name__}; give the plan's own step()"))
        elif not out.of_plan(self):
            for name, like in self._blank.tensors().items():
                tensor = out.tensors()[name]
                check_tensor(reasons, f"out.{name}", tensor, like.shape, like.dtype, cache.device)
                if isinstance(tensor, torch.Tensor) and not tensor.is_contiguous():
                    reasons.add(InputError(f"out.{name} is not contiguous; give the plan's own step()"))
        reasons.raise_all()
        if not q.is_contiguous():
            raise InputError("q is not contiguous; give q.contiguous()")
        empty = cache.empty()
        if empty:
            raise InputError(f"sequences {empty} are empty; append keys and values before decoding")
        flags = Flags(parts.missing, parts.dense, cache.refusals.status, cache.refusals.position)
        if self.verifier is not None:
            self.verifier.before(cache, ws)
        unit: Unit = policy.relative_to if isinstance(policy, Budget) else "none"
        tolerance = policy.tolerance if isinstance(policy, Budget) else 0.0
        if cache.planes.some:
            # a step that ends early writes nothing of levels
            out.certificate.finer.zero_()
            out.certificate.plane_bytes.zero_()
        tiered = isinstance(policy, Budget)
        use.attend(q, self.coded, cache.resident, self.scale, ws, self.rounding if tiered else None)
        if not tiered:
            use.merge(ws, None)
        else:
            use.first_tier(
                q,
                self.coded,
                cache.resident,
                self.scale,
                self.rounding,
                unit,
                tolerance,
                ws,
                parts.found,
                parts.opened,
                flags.refused,
                out.moved_bytes,
                out.result,
            )
        given = self._given(q, flags, unit, tolerance, out)
        if tiered and use.ladder is not None:
            use.ladder(given)
        else:
            in_parts(given, use, policy, self.index)
        if self.verifier is not None:
            self.verifier.after(cache, self.coded, ws, parts.choice, not isinstance(policy, Naive), out.result)
        out.ran(self, q)
        return out

    def _given(self, q: torch.Tensor, flags: Flags, unit: Unit, tolerance: float, out: Step) -> Ladder:
        """Return what the ladder works on."""
        cache = self.cache
        return Ladder(
            q,
            self.coded,
            cache.resident,
            cache.originals,
            cache.scratch,
            self.scale,
            self.rounding,
            unit,
            tolerance,
            self.rounds,
            self.ws,
            self.parts,
            self._state(),
            self._check(),
            flags,
            out.moved_bytes,
            self.programs,
            # what is compared after a step is what its levels say was read: they must be this step's
            self.verifier is not None,
            out.result,
            self._levels(),
        )

    def _levels(self) -> Levels | None:
        """Return what levels need; None where the formats have one, or the policy reads no others."""
        cache, parts = self.cache, self.parts
        if not cache.planes.some or not isinstance(self.policy, Budget):
            return None
        finer = Finer(parts.finer, parts.foreseen)
        return Levels(finer, FinerRead(cache.planes, parts.finer.delta), self.prices)

    def op(self, q: torch.Tensor) -> ops.Decoded:
        """Run a step as the operator ``certkv::decode``: for ``torch.compile``, which does not look inside it.

        Returns
        -------
        Decoded
            Tensors of its own; `Step.of` makes a step of them.
        """
        require_tensor("q", q)
        return ops.Decoded(*ops.decode(q, self.cache.order, self.handle, self.out_dtype, max(self.cache.planes.counts)))

    def op_out(self, q: torch.Tensor, out: ops.Decoded) -> None:
        """Run a step into the caller's tensors as the operator ``certkv::decode_out``."""
        require_tensor("q", q)
        ops.decode_out(q, self.cache.order, self.handle, *out)

    def run_into(self, q: torch.Tensor, out: ops.Decoded) -> None:
        """Run a step into tensors; the implementation of both operators."""
        if not self.cache.planes.some:
            out.plane_bytes.zero_()  # no kernel has anything to say of it
        self.run(q, out=Step.of(out))

    def _check(self) -> Check:
        guard = self.policy.guard if isinstance(self.policy, PaperPolicy) else 0.0
        # decoding rounds once more than reading does, a rotated query ten times, a norm once, and both scores are
        # within 4 u more of their sums
        relative = above(2.0 * self.rounding.first.original.relative + 2.0**-19)
        return Check(guard, relative, self.parts.errors.size, self.parts.dense)

    def _state(self) -> State:
        ws = self.ws
        return State(
            ws.weights,
            ws.reference,
            ws.levels,
            ws.m,
            ws.l,
            self.parts.largest,
            self.parts.lost,
            self.rounding.losses,
            ws.o,
            ws.output,
            ws.lse,
        )


@in_memory("the plan of a step")
def plan(
    cache: TieredCache,
    q_heads: int,
    policy: Policy,
    scale: float | None = None,
    out_dtype: torch.dtype | None = None,
    verify: Verify = "off",
) -> Plan:
    """Check everything about a step that does not change from run to run, and allocate what it needs.

    Parameters
    ----------
    cache : TieredCache
    q_heads : int
        A multiple of the cache's KV heads.
    policy : Naive, PaperPolicy or Budget
    scale : float or None
        Softmax scale; None for ``1 / sqrt(head_dim)``.
    out_dtype : torch.dtype or None
        float32, or the originals' type, which None stands for.
    verify : {"off", "step"}
        Whether every step compares the checksums of all that it reads; `TieredCache.verify` does so on demand.

    Raises
    ------
    PlanError
        With every reason.
    OutOfMemoryError
    """
    if not isinstance(cache, TieredCache):
        raise PlanError([f"cache is a {type(cache).__name__}; give a TieredCache"])
    reasons = Listed()
    heads = reasons.catch(whole_number, "q_heads", q_heads)
    if heads is not None and (heads < 1 or heads % cache.kv_heads):
        wanted = f"give a positive multiple of the cache's {cache.kv_heads} KV heads"
        reasons.add(SettingError(f"q_heads is {heads}; {wanted}"))
    if not isinstance(policy, Naive | PaperPolicy | Budget):
        reasons.add(SettingError(f"policy is {policy!r}; give Naive(), PaperPolicy(...) or Budget(...)"))
    factor = reasons.catch(checked_scale, scale, cache.head_dim)
    kind = cache.dtype if out_dtype is None else out_dtype
    if kind not in (cache.dtype, torch.float32):
        allowed = f"float32 or {type_name(cache.dtype)}"
        reasons.add(DTypeError(f"out_dtype is {type_name(kind)}; give {allowed}, the type of the originals"))
    if verify not in VERIFY:
        reasons.add(SettingError(f"verify is {verify!r}; give one of {', '.join(VERIFY)}"))
    reasons.catch(check_roundings, cache.block, -(-cache.max_blocks // CHUNK) + 2)
    if cache.device.type not in ("cpu", "cuda"):
        reasons.add(SettingError(f"the cache is on {cache.device}; steps run on CUDA devices and on the CPU"))
    if cache.device.type == "cuda":
        for reason in device_reasons(cache):
            reasons.add(SettingError(reason))
    if reasons.strings() or heads is None or factor is None:
        raise PlanError(reasons.strings())
    return Plan(cache, heads, policy, factor, kind, verify=verify)
