"""An upper bound of the operator norm of a small matrix: the trace of a power of its Gram matrix.

``||X|| <= (tr (X X^T)^8)^(1/16)``, at most ``min(B, d)^(1/16)`` times too large. In float64 every product of matrices
is off by at most ``gamma_n`` times the product of Frobenius norms, which is added before each root; derivation:
docs/derivations/operator_norm.md.
"""

from __future__ import annotations

import torch

from certkv.fast.numbers import gamma, norm_factor, outward


def operator_norm_ub(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of ``||X||_op``, float64 [..., B, d] -> [...]; infinite where an element is NaN or infinite.

    The elements that are not 0 are from 2**-400 to 2**400 in magnitude, as for `row_norms`.
    """
    largest = x.abs().amax((-2, -1))
    good = torch.isfinite(largest)
    # scaled by a power of two, so exactly, to below 1; what underflows then in a square is less than 2**-1074, which is
    # less than the last rounding of the sum
    exponent = torch.where(good & (largest > 0), (largest.view(torch.int64) >> 52) - 1022, 0)
    scaled = torch.where(good[..., None, None], x * power_of_two(-exponent)[..., None, None], 0.0)
    if scaled.shape[-2] > scaled.shape[-1]:
        scaled = scaled.mT
    n, inner = scaled.shape[-2:]
    gram = scaled @ scaled.mT
    second = gram @ gram.mT
    fourth = second @ second.mT
    norm = _root(_frobenius(fourth), _frobenius(second), n)
    norm = _root(norm, _frobenius(gram), n)
    norm = _root(norm, _frobenius(scaled), inner)
    bound = torch.minimum(norm, _frobenius(scaled)) * power_of_two(exponent)
    return torch.where(good, bound, torch.inf)


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """Return ``2**exponent`` in float64, exactly, for int64 exponents from -1022 to 1023."""
    return ((exponent + 1023) << 52).view(torch.float64)


def _root(product_norm_ub: torch.Tensor, frobenius_ub: torch.Tensor, inner: int) -> torch.Tensor:
    """``||H||`` from a bound of the norm of the computed ``fl(H H^T)``: its rounding is added, then the root taken."""
    lost = gamma(inner + 2) * frobenius_ub * frobenius_ub
    return torch.sqrt((product_norm_ub + lost) * outward(4)) * outward(1)


def _frobenius(x: torch.Tensor) -> torch.Tensor:
    """Upper bound of the Frobenius norm, [..., n, m] -> [...]."""
    n = x.shape[-2] * x.shape[-1]
    return torch.sqrt((x * x).sum((-2, -1))) * norm_factor(n)
