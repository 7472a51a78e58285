"""The host's side of `append_one`: pages that are reserved, lengths that the device knows first, errors that wait.

The host keeps a mirror of the lengths. `append_one` moves the device ahead of it, and so does every replay of a graph
that `append_one` was captured in, without the host taking part. So whoever asks for the mirror reads the device first,
once after an eager `append_one`, and always once a graph was captured.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from certkv.fast import ops
from certkv.fast.append_one import Held, Refusals, Work, append_one, refusal
from certkv.fast.certificate import Status
from certkv.fast.checks import Reasons, check_tensor, require_tensor, size
from certkv.fast.checksum import Checksums
from certkv.fast.errors import CapacityError, CaptureError, SettingError, ShapeError
from certkv.fast.handles import Handled
from certkv.fast.host import Originals
from certkv.fast.memory import in_memory
from certkv.fast.pages import PageTable
from certkv.fast.planes import Planes
from certkv.fast.pool import Pool
from certkv.fast.resident import Resident


class OneTokenAppends(Handled):
    """What `TieredCache` can do about one token per sequence; its attributes are documented there."""

    batch: int
    kv_heads: int
    head_dim: int
    capacity: int
    block: int
    keys: str
    values: str
    dtype: torch.dtype
    device: torch.device
    pool: Pool
    pages: PageTable
    lengths: torch.Tensor
    anchor: torch.Tensor
    resident: Resident
    originals: Originals
    checksums: Checksums
    planes: Planes

    def _begin_appends(self) -> None:
        """Start with no tokens, and with nothing reserved."""
        self._tokens = [0] * self.batch
        self.refusals = Refusals.none(self.batch, self.device)
        self._work: Work | None = None
        self._ahead = self._captured = False
        self.order = torch.zeros(1, dtype=torch.uint8, device=self.device)
        self.take_handle()

    @property
    def tokens(self) -> tuple[int, ...]:
        """Tokens of each sequence: full blocks and tail. Synchronises where `append_one` was used since.

        Raises
        ------
        CaptureError
            While a graph is captured, the host cannot know.
        """
        self._catch_up()
        return tuple(self._tokens)

    def blocks(self, sequence: int) -> int:
        """Full blocks of a sequence; synchronises as `tokens` does."""
        return self.tokens[sequence] // self.block

    def empty(self) -> list[int]:
        """Sequences known to hold nothing; where the device is ahead of the host, none is known to."""
        return [] if self._ahead else [s for s, tokens in enumerate(self._tokens) if tokens == 0]

    @in_memory("what append_one needs")
    @torch.no_grad()
    def reserve(self, tokens: int | Sequence[int] | None = None) -> None:
        """Take pages for sequences of so many tokens, and the memory that `append_one` needs. Synchronises.

        On a GPU the kernels are compiled, too, so that the next `append_one` may be captured.

        Parameters
        ----------
        tokens : int, or sequence of int [batch], or None
            Tokens of every sequence, those that it has included; None for the capacity. Pages that are held already
            stay held. `reset` gives all pages of its sequence back: reserve again.

        Raises
        ------
        SettingError, ShapeError
            Not such numbers.
        CapacityError
            More tokens than a sequence, or more blocks than the pool, has room for; nothing is reserved.
        OutOfMemoryError
        """
        self._catch_up()
        listed = [self.capacity if tokens is None else tokens] * self.batch if _single(tokens) else list(tokens)  # type: ignore[arg-type]
        if len(listed) != self.batch:
            raise ShapeError(f"tokens has {len(listed)} numbers, but there are {self.batch} sequences")
        wanted = [size(f"tokens[{s}]", number, 0) for s, number in enumerate(listed)]
        if max(wanted) > self.capacity:
            raise CapacityError(
                f"the cache holds {self.capacity} tokens per sequence, not {max(wanted)}; make it larger"
            )
        self.pages.reserve([count // self.block for count in wanted])
        if self._work is None:
            self._work = Work.empty(self.batch, self.kv_heads, self.block, self.head_dim, self.device)
            if self.device.type == "cuda":
                nothing = torch.zeros_like(self.resident.keys[:, :, 0, 0])
                append_one(nothing, nothing, torch.zeros_like(self._work.everyone), self._held(), self._work)

    def append_one(self, k: torch.Tensor, v: torch.Tensor, active: torch.Tensor | None = None) -> None:
        """Append a token to every sequence, on the device alone: no allocation, no synchronisation, may be captured.

        The same bits as `append`. Needs `reserve`. What cannot be appended (a NaN or infinity, no room, no page) leaves
        its sequence as it was, and so is all that follows for that sequence: its steps have no output and say why, and
        `sync` raises the error. Works under ``torch.compile`` as the operator ``certkv::append_one``.

        Parameters
        ----------
        k, v : T [batch, kv_heads, head_dim]
            Post-RoPE key and value of the next token.
        active : bool or uint8 [batch], or None
            Where it is 0, the sequence gets no token, and what stands there is never looked at. None for all.

        Raises
        ------
        ShapeError, DTypeError, SettingError
            Arguments do not fit, or nothing was reserved.
        """
        require_tensor("k", k)
        require_tensor("v", v)
        if active is not None:
            require_tensor("active", active)
        ops.append_one(k, v, active, self.order, self.handle)

    @torch.no_grad()
    def append_one_now(self, k: torch.Tensor, v: torch.Tensor, active: torch.Tensor | None) -> None:
        """Do what `append_one` promises; the operator's implementation."""
        reasons = Reasons()
        for name, tensor in (("k", k), ("v", v)):
            check_tensor(reasons, name, tensor, (self.batch, self.kv_heads, self.head_dim), self.dtype, self.device)
        if active is not None:
            kind = active.dtype if active.dtype == torch.bool else torch.uint8
            check_tensor(reasons, "active", active, (self.batch,), kind, self.device)
        if self._work is None:
            reasons.add(SettingError("no pages are reserved; call cache.reserve() before append_one"))
        reasons.raise_all()
        if self._work is None:
            raise SettingError("no pages are reserved; call cache.reserve() before append_one")
        self._ahead = True
        self._captured |= self._capturing()
        chosen = self._work.everyone if active is None else active.contiguous().view(torch.uint8)
        append_one(k, v, chosen, self._held(), self._work)

    def sync(self) -> None:
        """Learn what `append_one` has appended, replayed graphs included, and raise what it could not. Synchronises.

        Raises
        ------
        NonFiniteError
            A NaN or infinity, with its position in ``k`` or ``v``.
        CapacityError
            No room, or no page reserved, for a token.
        CaptureError
            A graph is being captured.

        Notes
        -----
        An error is raised once, for one sequence: others are raised by the calls that follow. A sequence whose error
        was raised is as it was before the token that failed, and takes tokens again.
        """
        self._catch_up()
        if self._work is None:
            return
        for s, status in enumerate(self.refusals.status.tolist()):
            if status != Status.OK:
                position = int(self.refusals.position[s])
                self.refusals.forget(s)
                raise refusal(s, status, position, self.head_dim)

    def learn(self, sequence: int, tokens: int) -> None:
        """Correct the mirror of a sequence's length."""
        self._tokens[sequence] = tokens
        self.pages.advance(sequence, tokens // self.block)

    def _held(self) -> Held:
        return Held(
            self.pool,
            self.keys,
            self.values,
            self.pages.table,
            self.lengths,
            self.anchor,
            self.resident,
            self.originals,
            self.refusals,
            self.checksums,
            self.planes,
            self.capacity,
        )

    def _capturing(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()

    def _catch_up(self) -> None:
        """Read lengths from the device if it may be ahead, which a graph that was captured may make it at any time.

        Raises
        ------
        CaptureError
        """
        if self._capturing():
            raise CaptureError(
                "a CUDA graph is being captured, and the host does not know how many tokens there are; append with "
                "append_one, and ask for lengths and errors after the replay (cache.sync())"
            )
        if self._ahead:
            self._tokens = self.lengths.tolist()
            for s, tokens in enumerate(self._tokens):
                self.pages.advance(s, tokens // self.block)
            self._ahead = self._captured


def _single(tokens: object) -> bool:
    """Whether one number, or None, stands for all sequences."""
    return tokens is None or not hasattr(tokens, "__len__")
