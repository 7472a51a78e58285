"""One decode step: attention of one new query per head, every output with its certificate; and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from certkv.fast import dense
from certkv.fast.append_one import refusal
from certkv.fast.cache import TieredCache
from certkv.fast.certificate import Certificate, Status
from certkv.fast.checks import Reasons, check_tensor
from certkv.fast.errors import CertkvError, CorruptionError, HostMissingError, NeedsDenseError, NonFiniteError
from certkv.fast.finish import Result
from certkv.fast.memory import in_memory
from certkv.fast.ops import Decoded
from certkv.fast.policies import Policy
from certkv.fast.verify import Verify, offence

if TYPE_CHECKING:
    from certkv.fast.plan import Plan


@dataclass(eq=False)
class Step:
    """Result of `decode`, or of `Plan.run`; every tensor is the caller's own.

    ``||output - exact||_2 <= certificate.bound`` for every head, ``exact`` being real-number attention of the stored
    originals. A sequence without an output has NaN, a bound of ``+inf`` and a status that says why.

    Attributes
    ----------
    output : T or float32 [batch, q_heads, head_dim]
        Its final rounding is inside the bound.
    lse : float32 [batch, q_heads]
        Natural logarithm of the sum of exponentiated scores, as executed.
    certificate : Certificate
    position : int64 [batch]
        First element of ``q[sequence]``, or of a key or value that was refused, flattened, that is not finite; where
        checksums are compared, the first that is wrong (`certkv.fast.verify`); -1 where there is none.
    moved_bytes : int64 [batch]
        Bytes that the step really moved from the host, for all heads of a sequence together: each block once per round
        that reads it, less what scratch held. `Certificate.host_bytes` is what a head needed.
    """

    output: torch.Tensor
    lse: torch.Tensor
    certificate: Certificate
    position: torch.Tensor
    moved_bytes: torch.Tensor
    _last: tuple[Plan, torch.Tensor] | None = field(default=None, repr=False)

    @classmethod
    def blank(
        cls,
        batch: int,
        q_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        planes: int = 0,
    ) -> Step:
        """Return a step that promises nothing, to be filled by a run."""
        nan = torch.nan
        return cls(
            torch.full((batch, q_heads, head_dim), nan, dtype=dtype, device=device),
            torch.full((batch, q_heads), nan, dtype=torch.float32, device=device),
            Certificate.blank(batch, q_heads, device, planes),
            torch.full((batch,), -1, dtype=torch.int64, device=device),
            torch.zeros(batch, dtype=torch.int64, device=device),
        )

    @classmethod
    def of(cls, tensors: Decoded, plan: Plan | None = None, q: torch.Tensor | None = None) -> Step:
        """Return the step that an operator's tensors are; with its plan and queries, `resolve` can do its work."""
        certificate = Certificate(*tensors[2:-2])
        step = cls(tensors.output, tensors.lse, certificate, tensors.position, tensors.moved_bytes)
        if plan is not None and q is not None:
            step.ran(plan, q)
        return step

    @property
    def result(self) -> Result:
        """The tensors alone."""
        return Result(self.output, self.lse, self.certificate, self.position)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that a run writes, by name."""
        own = {name: getattr(self, name) for name in ("output", "lse", "position", "moved_bytes")}
        return own | {f"certificate.{name}": x for name, x in vars(self.certificate).items()}

    def of_plan(self, plan: Plan) -> bool:
        """Whether it was this plan that filled the step last."""
        return self._last is not None and self._last[0] is plan

    def ran(self, plan: Plan, q: torch.Tensor) -> None:
        """Remember what filled this step; a replayed graph reads and writes the same tensors."""
        self._last = (plan, q)

    def check(self) -> None:
        """Raise where a sequence has no output. Synchronises.

        Raises
        ------
        NonFiniteError
            A NaN or infinity in ``q``, or in what `TieredCache.append_one` was to append.
        CapacityError
            No room for a token that `TieredCache.append_one` was to append.
        HostMissingError
            An original that is needed is missing.
        NeedsDenseError
            A monitor asks for rung 4, or numbers are so large that sums overflowed, and `resolve` was not called.
        CorruptionError
            What is stored is not what was written: a checksum is wrong, or an output is no number where none of what
            it is made of is large.
        """
        statuses = self.certificate.status[:, 0].tolist()
        for sequence, status in enumerate(statuses):
            if status == Status.NONFINITE_QUERY:
                head, channel = divmod(int(self.position[sequence]), self.output.shape[-1])
                raise NonFiniteError("q", (sequence, head, channel))
            if status in (Status.NONFINITE_KEY, Status.NONFINITE_VALUE, Status.CAPACITY):
                raise refusal(sequence, status, int(self.position[sequence]), self.output.shape[-1])
            if status == Status.HOST_MISSING:
                raise HostMissingError(sequence)
            if status == Status.NEEDS_DENSE:
                raise NeedsDenseError(sequence)
            if status != Status.OK:
                offender = int(self.position[sequence])
                if self._last is None or offender < 0:
                    raise CorruptionError(sequence)
                cache = self._last[0].cache
                raise offence(sequence, offender, cache.kv_heads, cache.max_blocks)

    @in_memory("rung 4")
    @torch.no_grad()
    def resolve(self) -> None:
        """Compute the sequences that need it by rung 4: torch's attention of the originals. Synchronises, allocates.

        Those are the sequences of which a monitor asks for it, those whose sums overflowed, and those whose codes,
        metadata, annotations or tables are damaged; originals and tail are compared with their checksums as they are
        read. The cache stays as it is: `TieredCache.repair` restores it.

        Raises
        ------
        HostMissingError, CorruptionError
            Originals are not all there, or are damaged, the first such sequence; all others are resolved.
        OutOfMemoryError
            No room for the staging buffer; what is not resolved keeps its status.
        """
        status = self.certificate.status[:, 0].tolist()
        failed: list[CertkvError] = []
        for sequence, code in enumerate(status):
            if self._last is None or code not in (Status.NEEDS_DENSE, Status.CHECKSUM):
                continue
            plan, q = self._last
            try:
                self._put(sequence, plan.cache, dense.dense(q, plan.cache, sequence, plan.scale, plan.staging()))
            except (HostMissingError, CorruptionError) as error:
                failed.append(error)
        if failed:
            raise failed[0]

    def _put(self, sequence: int, cache: TieredCache, found: dense.Dense) -> None:
        """Write rung 4's result; a type with more bits than that of the originals holds it exactly."""
        made, blocks = self.certificate, cache.blocks(sequence)
        self.output[sequence] = found.output.to(self.output.dtype)
        self.lse[sequence] = found.lse
        for part in (made.key, made.value):
            part[sequence] = 0.0
        made.bound[sequence], made.arithmetic[sequence] = found.bound, found.bound
        made.tolerance[sequence] = torch.inf
        made.rung[sequence], made.status[sequence], made.promoted[sequence] = 4, int(Status.OK), blocks
        self.position[sequence] = -1
        made.host_bytes[sequence] = 2 * blocks * cache.originals.block_bytes
        made.finer[sequence], made.plane_bytes[sequence] = 0, 0
        self.moved_bytes[sequence] += 2 * blocks * cache.kv_heads * cache.originals.host_block_bytes


@torch.no_grad()
def decode(
    q: torch.Tensor,
    cache: TieredCache,
    policy: Policy,
    scale: float | None = None,
    out_dtype: torch.dtype | None = None,
    verify: Verify = "off",
) -> Step:
    """Attend to the cache, one query per head, and certify each output. Plans, allocates and synchronises every time.

    Parameters
    ----------
    q : T [batch, q_heads, head_dim]
        Post-RoPE queries of the originals' type; ``q_heads`` is a multiple of the cache's ``kv_heads``. Query head h
        reads KV head ``h // (q_heads // kv_heads)``.
    cache : TieredCache
    policy : Naive, PaperPolicy or Budget
    scale : float or None
        Softmax scale; None for ``1 / sqrt(head_dim)``.
    out_dtype : torch.dtype or None
        float32, or the originals' type, which None stands for.
    verify : {"off", "step"}
        Whether to compare the checksums of all that is read; see `plan`.

    Returns
    -------
    Step
        Under `Budget`, ``bound <= tolerance`` or the rung is 3, or 4 where codes were found to be damaged.

    Raises
    ------
    ShapeError, DTypeError
        ``q`` does not fit the cache.
    PlanError
        Something else does not fit; every reason is listed.
    InputError
        A sequence is empty.
    NonFiniteError, HostMissingError, CorruptionError
        See `Step.check`. The cache stays usable.
    """
    from certkv.fast.plan import plan

    heads = 1  # what is no cache a plan refuses, whatever q is
    if isinstance(cache, TieredCache):
        reasons = Reasons()
        check_tensor(reasons, "q", q, (cache.batch, "q_heads", cache.head_dim), cache.dtype, cache.device)
        reasons.raise_all()
        heads = q.shape[1]
    planned = plan(cache, heads, policy, scale=scale, out_dtype=out_dtype, verify=verify)
    step = planned.run(q, out=planned.step())
    step.resolve()
    step.check()
    return step
