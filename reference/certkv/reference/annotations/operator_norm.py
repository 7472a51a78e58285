"""An upper bound of the operator norm of a small matrix: the trace of a power of its Gram matrix.

For G = X X^T (or X^T X, whichever is smaller) and any matrix H, ``||H||^2 = ||H H^T|| <= ||H H^T||_F``, so

    ||X||^2 = ||G||,   ||G||^2 = ||G G^T||,   ||G G^T||^2 = ||(G G^T)(G G^T)^T|| <= its Frobenius norm,

that is ``||X|| <= (tr G^8)^(1/16)``, which is at most ``min(B, d)^(1/16)`` times too large (1.3 for B = 64) and about
1.05 times on residuals. Power iteration would give a *lower* bound.

In float64 every product of matrices is off by at most ``gamma_n`` times the product of Frobenius norms (Higham, Section
3.5: ``|fl(A B) - A B| <= gamma_n |A| |B|``), which is added before each root. No symmetry of the computed matrices is
used. Derivation: docs/derivations/operator_norm.md.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.numbers import gamma, norm_ub, outward
from certkv.reference.numbers.types import FloatArray

SMALLEST_NORMAL = float(np.finfo(np.float64).smallest_normal)


def operator_norm_ub(x: FloatArray) -> FloatArray:
    """Upper bound of ``||X||_op``, [..., B, d] -> [...].

    Parameters
    ----------
    x : float64 [..., B, d]

    Returns
    -------
    float64 [...]
        At most ``min(B, d)**(1/16)`` times the norm and at most the Frobenius norm, up to rounding; infinite where an
        element is NaN or infinite.
    """
    largest = np.max(np.abs(x), axis=(-2, -1), initial=0.0)
    bad = ~np.isfinite(largest)
    exponent = np.where(bad | (largest == 0), 0, np.clip(np.frexp(largest)[1], -1000, 1000))
    # scaled by a power of two, so exactly: the largest element is in [1/2, 1) and no square overflows; one that
    # underflows is below 2**-1074, which is less than the last rounding of the sum
    scaled = np.where(bad[..., None, None], 0.0, x * np.ldexp(1.0, -exponent)[..., None, None])
    if scaled.shape[-2] > scaled.shape[-1]:
        scaled = np.swapaxes(scaled, -1, -2)
    n, inner = scaled.shape[-2:]
    gram = np.matmul(scaled, np.swapaxes(scaled, -1, -2))
    second = np.matmul(gram, np.swapaxes(gram, -1, -2))
    fourth = np.matmul(second, np.swapaxes(second, -1, -2))
    norm = _frobenius(fourth)
    norm = _root(norm, _frobenius(second), n)
    norm = _root(norm, _frobenius(gram), n)
    norm = _root(norm, _frobenius(scaled), inner)
    with np.errstate(over="ignore", under="ignore"):
        bound = np.minimum(norm, _frobenius(scaled)) * np.ldexp(1.0, exponent)
    # exact but in the subnormal range, where a product rounds by less than one spacing
    bound = np.where((bound < SMALLEST_NORMAL) & (largest > 0), np.nextafter(bound, np.inf), bound)
    return np.asarray(np.where(bad, np.inf, bound))


def _root(product_norm_ub: FloatArray, frobenius_ub: FloatArray, inner: int) -> FloatArray:
    """``||H||`` from a bound of the norm of the computed ``fl(H H^T)``: its rounding is added, then the root taken."""
    lost = gamma(inner + 2) * frobenius_ub * frobenius_ub
    return np.sqrt((product_norm_ub + lost) * outward(4)) * outward(1)


def _frobenius(x: FloatArray) -> FloatArray:
    """Upper bound of the Frobenius norm, [..., n, m] -> [...]."""
    return norm_ub(x.reshape(*x.shape[:-2], x.shape[-2] * x.shape[-1]))
