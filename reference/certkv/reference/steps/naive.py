"""The step of `Naive`: the quantized pass as it is, with its certificate."""

from __future__ import annotations

import numpy as np

from certkv.reference.steps.attend import attend
from certkv.reference.steps.certify import certify
from certkv.reference.steps.claim import paper_claim
from certkv.reference.steps.group import Group, Levels
from certkv.reference.steps.result import Result, certificate_of


def run(group: Group, out_dtype: np.dtype[np.generic]) -> Result:
    """Attend to coded blocks and tail; promote nothing.

    Parameters
    ----------
    group : Group
    out_dtype : numpy dtype

    Returns
    -------
    Result
    """
    heads = len(group.q)
    rows = np.arange(heads)
    levels = Levels.coded(heads, group.view.blocks)
    seen = attend(group, levels, rows)
    done = certify(group, levels, rows, seen, out_dtype)
    certificate = certificate_of(group, levels, done.bound, np.full(heads, np.inf), np.zeros(heads, np.int64))
    return Result(done.output, seen.lse, certificate, paper_claim(group, levels, seen))
