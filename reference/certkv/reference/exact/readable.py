"""Exact attention as its definition, in mpmath: for reading and for checking the other two, not for judging."""

from __future__ import annotations

import mpmath
import numpy as np

from certkv.reference.numbers.types import AnyArray


def attention_mp(q: AnyArray, k: AnyArray, v: AnyArray, scale: float, digits: int = 50) -> list[mpmath.mpf]:
    """Evaluate ``softmax(scale * q k^T) v`` for one query with ``digits`` decimal digits.

    mpmath rounds every operation to nearest but encloses nothing: soundness claims use `Enclosure`.

    Parameters
    ----------
    q, k, v : array [d_k], [N, d_k], [N, d]
        Finite numbers of any floating type.
    scale : float
        The softmax scale.
    digits : int
        Decimal digits; scores of size 1e77 (bfloat16) need some 80 more than usual.

    Returns
    -------
    list of mpf, length d
    """
    with mpmath.workdps(digits):
        query, keys, values = (np.asarray(x, dtype=np.float64).tolist() for x in (q, k, v))
        scores = [scale * mpmath.fdot(query, key) for key in keys]
        top = max(scores)
        weights = [mpmath.exp(score - top) for score in scores]
        denominator = mpmath.fsum(weights)
        return [mpmath.fdot(weights, channel) / denominator for channel in zip(*values, strict=True)]
