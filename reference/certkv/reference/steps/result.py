"""What a group of heads returns from a step, filled row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds.quotient import BlockBound
from certkv.reference.certificate import Certificate, Status
from certkv.reference.numbers.types import FloatArray, IntArray
from certkv.reference.steps.group import Group, Levels


@dataclass(frozen=True, eq=False)
class Result:
    """Outputs and certificates of some heads of one group.

    Attributes
    ----------
    output : float64 [heads, head_dim]
    lse : float64 [heads]
    certificate : Certificate
    paper_bound : float64 [heads]
        What the paper's own formula claims for the quantized pass; ``+inf`` where it was not evaluated.
    dense : bool
        True where a monitor asks for rung 4: this result must be replaced for every head.
    """

    output: FloatArray
    lse: FloatArray
    certificate: Certificate
    paper_bound: FloatArray
    dense: bool = False

    @classmethod
    def blank(cls, heads: int, head_dim: int) -> Result:
        """Return NaN outputs with bounds ``+inf``: nothing has been computed."""
        nan = np.full((heads, head_dim), np.nan)
        return cls(nan, np.full(heads, np.nan), Certificate.blank(heads), np.full(heads, np.inf))

    def put(self, where: slice | IntArray, other: Result) -> None:
        """Write ``other`` into the rows ``where``."""
        self.output[where], self.lse[where] = other.output, other.lse
        self.paper_bound[where] = other.paper_bound
        self.certificate.put(where, other.certificate)


def host_bytes(group: Group, levels: Levels) -> tuple[IntArray, IntArray]:
    """Count promoted blocks and their bytes; what is pinned is neither.

    Returns
    -------
    promoted : int64 [rows, 2]
        Key blocks, value blocks.
    bytes : int64 [rows]
    """
    counts = [side[:, group.pinned :].sum(axis=-1, dtype=np.int64) for side in (levels.keys, levels.values)]
    promoted = np.stack(counts, axis=-1)
    return promoted, promoted.sum(axis=-1) * group.block_bytes


def certificate_of(
    group: Group, levels: Levels, bound: BlockBound, tolerance: FloatArray, rung: IntArray
) -> Certificate:
    """Assemble the certificate of a quantized pass."""
    promoted, moved = host_bytes(group, levels)
    return Certificate(
        bound=bound.bound,
        key=bound.key,
        value=bound.value,
        arithmetic=bound.arithmetic,
        tolerance=tolerance,
        rung=rung,
        status=np.full(len(rung), int(Status.OK), np.int64),
        promoted=promoted,
        host_bytes=moved,
    )
