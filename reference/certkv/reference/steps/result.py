"""What a group of heads returns from a step, filled row by row."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds.quotient import BlockBound
from certkv.reference.certificate import Certificate, Status
from certkv.reference.numbers.types import FloatArray, IntArray
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import SIDES, Levels


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
    def blank(cls, heads: int, head_dim: int, levels: int = 1) -> Result:
        """Return NaN outputs with bounds ``+inf``: nothing has been computed."""
        nan = np.full((heads, head_dim), np.nan)
        return cls(nan, np.full(heads, np.nan), Certificate.blank(heads, levels), np.full(heads, np.inf))

    def put(self, where: slice | IntArray, other: Result) -> None:
        """Write ``other`` into the rows ``where``."""
        self.output[where], self.lse[where] = other.output, other.lse
        self.paper_bound[where] = other.paper_bound
        self.certificate.put(where, other.certificate)


def level_counts(group: Group, levels: Levels) -> IntArray:
    """Count blocks by the level above the base plane at which they are used, originals last; not what is pinned.

    Returns
    -------
    int64 [rows, 2, levels]
        Of keys, of values.
    """
    counts = np.zeros((len(levels.keys), 2, group.view.cache.level_count), np.int64)
    for i, side in enumerate(SIDES):
        counts[:, i, -1] = levels.originals(side)[:, group.pinned :].sum(axis=-1)
        for level in range(1, group.view.cache.levels(side)):
            counts[:, i, level - 1] = levels.at(side, level)[:, group.pinned :].sum(axis=-1)
    return counts


def plane_bytes(group: Group, levels: Levels) -> IntArray:
    """Count the bytes of planes that were read, int64 [rows]: also of planes that an original has replaced since."""
    total = np.zeros(len(levels.keys), np.int64)
    for side in SIDES:
        for plane, size in enumerate(group.view.cache.plane_bytes(side)):
            total += size * (levels.planes(side)[:, group.pinned :] > plane).sum(axis=-1)
    return total


def host_bytes(group: Group, promoted: IntArray, planes: IntArray) -> IntArray:
    """Count what came from host memory, int64 [rows]: promoted originals [rows, 2], and planes where they lie there."""
    originals = promoted.sum(axis=-1) * group.block_bytes
    return np.asarray(originals + planes if group.view.cache.planes.place == "host" else originals)


def certificate_of(
    group: Group, levels: Levels, bound: BlockBound, tolerance: FloatArray, rung: IntArray
) -> Certificate:
    """Assemble the certificate of a quantized pass."""
    counts, planes = level_counts(group, levels), plane_bytes(group, levels)
    promoted = counts[:, :, -1].copy()
    return Certificate(
        bound=bound.bound,
        key=bound.key,
        value=bound.value,
        arithmetic=bound.arithmetic,
        tolerance=tolerance,
        rung=rung,
        status=np.full(len(rung), int(Status.OK), np.int64),
        promoted=promoted,
        host_bytes=host_bytes(group, promoted, planes),
        plane_bytes=planes,
        levels=counts,
    )
