"""What a step says about its own error: one number that is a proof, and the parts it is made of."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

import numpy as np

from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray


class Status(enum.IntEnum):
    """Why a head has no usable output. Eager calls raise a typed error instead, so here every head is ``OK``."""

    OK = 0
    NONFINITE_KEY = 1
    NONFINITE_VALUE = 2
    NONFINITE_QUERY = 3
    HOST_MISSING = 4
    CHECKSUM = 5
    NEEDS_DENSE = 6


def _none() -> IntArray:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Certificate:
    """Per query head: how far the output can be from the exact attention of the stored originals.

    Attributes
    ----------
    bound : float64 [q_heads]
        Upper bound of ``||output - exact||_2``, in the units of V. A NaN never occurs; "unknown" is ``+inf``.
    key, value, arithmetic : float64 [q_heads]
        The parts of ``bound``: quantized keys, quantized values, rounding. Their sum is at least ``bound``.
    tolerance : float64 [q_heads]
        The absolute number that was enforced; ``+inf`` for policies that enforce none.
    rung : int64 [q_heads]
        Highest rung taken, 0 to 4.
    status : int64 [q_heads]
        A :class:`Status`.
    promoted : int64 [q_heads, 2]
        Number of key blocks and of value blocks read as originals.
    host_bytes : int64 [q_heads]
        Bytes the head needed from host memory, originals and planes, whatever scratch held.
    plane_bytes : int64 [q_heads]
        Bytes of refinement planes the head read, wherever they lie; in ``host_bytes`` as well where that is the host.
    levels : int64 [q_heads, 2, levels]
        Number of key blocks and of value blocks used at each level above the base plane, originals (``promoted``) last.
        A side that has fewer levels than the other has zeros before the last.
    """

    bound: FloatArray
    key: FloatArray
    value: FloatArray
    arithmetic: FloatArray
    tolerance: FloatArray
    rung: IntArray
    status: IntArray
    promoted: IntArray
    host_bytes: IntArray
    plane_bytes: IntArray = field(default_factory=_none)
    levels: IntArray = field(default_factory=_none)

    def __post_init__(self) -> None:
        if not self.levels.size:  # formats of one level: there are no planes
            object.__setattr__(self, "plane_bytes", np.zeros(len(self.bound), np.int64))
            object.__setattr__(self, "levels", self.promoted[..., None].copy())

    @classmethod
    def blank(cls, heads: int, levels: int = 1) -> Certificate:
        """Return a certificate that promises nothing (bound ``+inf``), to be filled head by head.

        Parameters
        ----------
        heads : int
        levels : int
            Levels above the base plane that a block may have, the original counted.
        """
        infinite = np.full(heads, np.inf)
        return cls(
            bound=infinite,
            key=infinite.copy(),
            value=infinite.copy(),
            arithmetic=infinite.copy(),
            tolerance=infinite.copy(),
            rung=np.zeros(heads, np.int64),
            status=np.full(heads, int(Status.OK), np.int64),
            promoted=np.zeros((heads, 2), np.int64),
            host_bytes=np.zeros(heads, np.int64),
            plane_bytes=np.zeros(heads, np.int64),
            levels=np.zeros((heads, 2, levels), np.int64),
        )

    def put(self, where: slice | IntArray | BoolArray, other: Certificate) -> None:
        """Write ``other`` into the rows ``where`` of this certificate."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[where] = getattr(other, name)
