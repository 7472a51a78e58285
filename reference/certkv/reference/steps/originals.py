"""Rungs 3 and 4 of the reference: float64 attention of the originals, with the bound of that computation."""

from __future__ import annotations

import numpy as np

from certkv.reference.certificate import Certificate, Status
from certkv.reference.exact import float64
from certkv.reference.numbers.types import FloatArray, IntArray
from certkv.reference.steps.certify import round_output
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import Levels
from certkv.reference.steps.result import Result, host_bytes, plane_bytes


def attend_originals(
    group: Group,
    rows: IntArray,
    rung: int,
    tolerance: FloatArray,
    paper_bound: FloatArray,
    out_dtype: np.dtype[np.generic],
    read: Levels | None = None,
) -> Result:
    """Compute some heads from all originals, tail included.

    Parameters
    ----------
    group : Group
    rows : int64 [rows]
        Heads of the group.
    rung : int
        3 or 4.
    tolerance, paper_bound : float64 [rows]
        Passed on to the result.
    out_dtype : numpy dtype
    read : Levels or None
        What these heads have read before, arrays [rows, blocks]: planes that were read in vain have cost their bytes.

    Returns
    -------
    Result
        The certificate has no key and no value part; its bound is the arithmetic of this computation.

    Raises
    ------
    HostMissingError
    """
    view = group.view
    exact = float64.attention(group.q[rows], view.all_originals("keys"), view.all_originals("values"), group.scale)
    output, cast = round_output(exact.output, out_dtype)
    bound = np.where(cast > 0, (exact.error_ub + cast) * (1.0 + 2.0**-51), exact.error_ub)
    heads = len(rows)
    fetched = view.blocks - group.pinned
    counts = np.zeros((heads, 2, view.cache.level_count), np.int64)
    counts[..., -1] = fetched
    planes = np.zeros(heads, np.int64) if read is None else plane_bytes(group, read)
    return Result(
        output,
        exact.lse,
        Certificate(
            bound=bound,
            key=np.zeros(heads),
            value=np.zeros(heads),
            arithmetic=bound.copy(),
            tolerance=tolerance,
            rung=np.full(heads, rung, np.int64),
            status=np.full(heads, int(Status.OK), np.int64),
            promoted=np.full((heads, 2), fetched, np.int64),
            host_bytes=host_bytes(group, counts[..., -1], planes),
            plane_bytes=planes,
            levels=counts,
        ),
        paper_bound,
    )
