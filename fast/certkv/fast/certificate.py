"""What a step says about its own error: one number that is a proof, and the parts it is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields

import torch


class Status(enum.IntEnum):
    """Why a head has a usable output, or none."""

    OK = 0
    NONFINITE_KEY = 1
    NONFINITE_VALUE = 2
    NONFINITE_QUERY = 3
    HOST_MISSING = 4
    CHECKSUM = 5
    NEEDS_DENSE = 6
    CAPACITY = 7
    """A token that a graph was to append had no room; an eager append raises instead."""


@dataclass(frozen=True, eq=False)
class Certificate:
    """Per query head: how far the output can be from the exact attention of the stored originals.

    Attributes
    ----------
    bound : float32 [batch, q_heads]
        Upper bound of ``||output - exact||_2``, in the units of V. A NaN never occurs; "unknown" is ``+inf``.
    key, value, arithmetic : float32 [batch, q_heads]
        The parts of ``bound``: quantized keys, quantized values, rounding. Their FP32 sum is at least ``bound``.
    tolerance : float32 [batch, q_heads]
        The absolute number that was enforced; ``+inf`` for policies that enforce none.
    rung : int32 [batch, q_heads]
        Highest rung taken, 0 to 4.
    status : int32 [batch, q_heads]
        A :class:`Status`.
    promoted : int32 [batch, q_heads, 2]
        Number of key blocks and of value blocks read as originals.
    host_bytes : int64 [batch, q_heads]
        Bytes the head needed from originals, whatever scratch held, and from refinement planes in host memory.
    finer : int32 [batch, q_heads, 2, planes]
        Key blocks, and value blocks, used at each refined level; empty for formats of one level.
    plane_bytes : int64 [batch, q_heads]
        Bytes of refinement planes that the head read, wherever they lie, also where originals have replaced them.
    """

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

    @property
    def levels(self) -> torch.Tensor:
        """Key blocks, and value blocks, used at each level above the base, originals last: int32 [.., 2, levels]."""
        return torch.cat([self.finer, self.promoted[..., None]], -1)

    @classmethod
    def blank(cls, batch: int, q_heads: int, device: torch.device | str = "cpu", planes: int = 0) -> Certificate:
        """Return a certificate that promises nothing (bound ``+inf``), to be filled by a step.

        ``planes`` is how many refined levels blocks of either side have at most.
        """

        def made(dtype: torch.dtype, *more: int) -> torch.Tensor:
            return torch.empty(batch, q_heads, *more, dtype=dtype, device=device)

        certificate = cls(
            bound=made(torch.float32),
            key=made(torch.float32),
            value=made(torch.float32),
            arithmetic=made(torch.float32),
            tolerance=made(torch.float32),
            rung=made(torch.int32),
            status=made(torch.int32),
            promoted=made(torch.int32, 2),
            host_bytes=made(torch.int64),
            finer=made(torch.int32, 2, planes),
            plane_bytes=made(torch.int64),
        )
        certificate.clear()
        return certificate

    def clear(self) -> None:
        """Promise nothing, in place: bounds ``+inf``, counts 0, status OK. Graph-safe."""
        for field in fields(self):
            tensor = getattr(self, field.name)
            tensor.fill_(float("inf") if tensor.dtype == torch.float32 else 0)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))
