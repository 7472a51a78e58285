"""Typed errors. Each message says what was wrong, where, and what to do."""

from __future__ import annotations

import torch


class CertkvError(Exception):
    """Base class of every error that certkv.fast raises on purpose."""


class InputError(CertkvError, ValueError):
    """An argument that cannot be used as it is."""


class ShapeError(InputError):
    """A tensor whose shape does not fit the others."""


class DTypeError(InputError, TypeError):
    """A tensor of a type, or on a device, that the operation does not take."""


class SettingError(InputError):
    """An unknown or contradictory setting (format, block size, policy, tolerance)."""


class PlanError(InputError):
    """A plan that cannot be made; the message lists every reason, one per line."""

    def __init__(self, reasons: list[str]) -> None:
        super().__init__("cannot plan:\n" + "\n".join(f"- {reason}" for reason in reasons))
        self.reasons = reasons


class NonFiniteError(InputError):
    """A NaN or an infinity in q, k or v.

    Attributes
    ----------
    tensor : str
        Name of the offending tensor: ``"q"``, ``"k"`` or ``"v"``.
    position : tuple of int
        Index of the first offending element in that tensor.
    """

    def __init__(self, tensor: str, position: tuple[int, ...]) -> None:
        index = ", ".join(str(i) for i in position)
        super().__init__(f"{tensor}[{index}] is not finite; {tensor} must be finite, so remove or mask it upstream")
        self.tensor = tensor
        self.position = position


class CapacityError(CertkvError, MemoryError):
    """More tokens than the cache was planned for; nothing was appended."""


class OutOfMemoryError(CertkvError, torch.OutOfMemoryError, MemoryError):
    """Memory of the device or the host ran out; what there was before is as it was."""

    def __init__(self, what: str, said: str) -> None:
        super().__init__(
            f"{what} does not fit into memory ({said}); give fewer tokens, sequences or pages, or free memory: "
            "cache.memory() and `certkv memory` say what takes how much, and where"
        )


class CaptureError(CertkvError, RuntimeError):
    """Something was asked of the host that it does not know while a CUDA graph is captured."""


class ReleasedError(CertkvError, LookupError):
    """An operator was called with the handle of a plan or cache that is gone."""

    def __init__(self, handle: int, kind: str) -> None:
        super().__init__(
            f"there is no {kind} with handle {handle}: it was freed, or belongs to another process; keep a reference "
            "to it for as long as what was compiled or captured with it is used"
        )
        self.handle = handle


class HostMissingError(CertkvError, LookupError):
    """Originals or planes that a step needs are not in their tier; no output is returned for that sequence."""

    def __init__(self, sequence: int) -> None:
        super().__init__(
            f"originals or planes that sequence {sequence} needs are missing; cache.repair() cuts planes again where "
            f"their originals are there, else cache.reset({sequence}) and append its tokens again before decoding"
        )
        self.sequence = sequence


class CorruptionError(CertkvError):
    """Stored data no longer mean what was written: codes, metadata, annotations, tables or originals were damaged.

    Attributes
    ----------
    sequence : int
    kv_head, block : int or None
        Where, if that is known and the thing has one.
    """

    def __init__(
        self,
        sequence: int,
        kv_head: int | None = None,
        block: int | None = None,
        part: str = "codes, metadata or annotations",
    ) -> None:
        at = f"sequence {sequence}"
        at += "" if block is None else f", block {block}"
        at += "" if kv_head is None else f", KV head {kv_head}"
        super().__init__(
            f"{at}: damaged after it was written: {part}; step.resolve() computes the output from the originals, and "
            f"cache.repair() restores the cache from them; else cache.reset({sequence}) and append its tokens again"
        )
        self.sequence, self.kv_head, self.block = sequence, kv_head, block


class NeedsDenseError(CertkvError):
    """A monitor asked for rung 4, or sums overflowed; `Step.resolve` computes it, and until then there is no output."""

    def __init__(self, sequence: int) -> None:
        super().__init__(f"sequence {sequence} must be computed from its originals; call step.resolve() first")
        self.sequence = sequence
