"""Typed errors. Each message says what was wrong, where, and what to do."""

from __future__ import annotations


class CertkvError(Exception):
    """Base class of every error that certkv raises on purpose."""


class InputError(CertkvError, ValueError):
    """An argument or a file that cannot be used as it is."""


class ShapeError(InputError):
    """An array whose shape does not fit the others."""


class DTypeError(InputError, TypeError):
    """An array of a type that the operation does not take."""


class SettingError(InputError):
    """An unknown or contradictory setting (format, block size, policy, tolerance)."""


class NonFiniteError(InputError):
    """A NaN or an infinity in q, k or v.

    Attributes
    ----------
    tensor : str
        Name of the offending tensor: ``"q"``, ``"k"`` or ``"v"``.
    position : tuple of int
        Index of the first offending element in that tensor.
    """

    def __init__(self, tensor: str, position: tuple[int, ...], value: float) -> None:
        index = ", ".join(str(i) for i in position)
        super().__init__(f"{tensor}[{index}] is {value}; {tensor} must be finite, so remove or mask it upstream")
        self.tensor = tensor
        self.position = position


class HostMissingError(CertkvError, LookupError):
    """Originals or planes that a step needs are not where they should lie; no output is returned (precondition P4).

    Attributes
    ----------
    kv_head, block : int
        The original that was asked for, or the refinement plane.
    """

    def __init__(self, kv_head: int, block: int, what: str = "the original", where: str = "the host tier") -> None:
        super().__init__(
            f"{what} of block {block}, KV head {kv_head}, is not in {where}; "
            "append its tokens again (cache.reset() first) before decoding"
        )
        self.kv_head = kv_head
        self.block = block


class CorruptionError(CertkvError):
    """Stored data no longer mean numbers: an output came out as NaN though every input was finite (precondition P1).

    Attributes
    ----------
    head : int
        The first query head whose output is NaN.
    """

    def __init__(self, head: int) -> None:
        super().__init__(
            f"the output of query head {head} is NaN although q, k and v were finite: codes, metadata or annotations "
            "in the cache were damaged after they were written; cache.reset() and append the tokens again"
        )
        self.head = head
