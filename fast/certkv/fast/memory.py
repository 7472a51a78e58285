"""How many bytes a cache holds, where, and for what; and one error for memory that runs out, whatever torch says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, ParamSpec, TypeVar

import torch

from certkv.fast.errors import CertkvError, OutOfMemoryError

P = ParamSpec("P")
T = TypeVar("T")

RAN_OUT = (
    "out of memory",
    "can't allocate",
    "cannot allocate",
    "not enough memory",
    "size calculation overflow",
    "multiplication overflow",
)
"""How torch says, in a RuntimeError, that memory ran out, or that no number of bytes is so large."""


def in_memory(what: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Make a function raise `OutOfMemoryError` where ``what`` it makes does not fit into memory."""

    def wrapped(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def called(*arguments: P.args, **named: P.kwargs) -> T:
            try:
                return function(*arguments, **named)
            except CertkvError:
                raise
            except (MemoryError, RuntimeError) as error:
                said = str(error).splitlines()[:1]
                known = isinstance(error, MemoryError | torch.OutOfMemoryError)
                if known or any(sign in str(error).lower() for sign in RAN_OUT):
                    raise OutOfMemoryError(what, said[0] if said else "no memory") from error
                raise

        return called

    return wrapped


@dataclass(frozen=True)
class Row:
    """Bytes of one part, on the device or on the host."""

    part: str
    where: Literal["device", "host"]
    nbytes: int


@dataclass(frozen=True)
class MemoryTable:
    """Planned bytes to the byte, and what was measured.

    Attributes
    ----------
    rows : tuple of Row
    tokens : int
        Tokens the parts have room for, over all sequences.
    dense : int
        Bytes of 16-bit keys and values of as many tokens.
    peak : int or None
        Most bytes that torch ever had allocated on the device, other tensors included; None on a CPU.
    later : tuple of Row
        What is allocated where it is needed, and given back; in no sum.
    """

    rows: tuple[Row, ...]
    tokens: int
    dense: int
    peak: int | None
    later: tuple[Row, ...] = ()

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return sum(row.nbytes for row in self.rows if row.where == "device")

    @property
    def host(self) -> int:
        """Bytes in host memory."""
        return sum(row.nbytes for row in self.rows if row.where == "host")

    def __str__(self) -> str:
        """Return a table of parts, bytes, and their share of 16-bit keys and values."""
        totals = (Row("all on the device", "device", self.device), Row("all on the host", "host", self.host))
        lines = [f"{'part':32} {'where':6} {'bytes':>16} {'of dense':>9}"]
        later = (Row(f"{row.part}, on demand", row.where, row.nbytes) for row in self.later)
        for row in (*self.rows, *totals, *later):
            lines.append(f"{row.part:32} {row.where:6} {row.nbytes:16,} {row.nbytes / self.dense:9.2%}")
        lines.append(f"{'16-bit keys and values':32} {'':6} {self.dense:16,} {1:9.2%}")
        if self.peak is not None:
            lines.append(
                f"{'peak allocated, all tensors':32} {'device':6} {self.peak:16,} {self.peak / self.dense:9.2%}"
            )
        return "\n".join(lines)


def measured_peak(device: torch.device) -> int | None:
    """Return the peak of bytes that torch had allocated on a GPU since its counter was last reset."""
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
