"""What is measured when a block of values is encoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from certkv.reference.annotations.blockwise import Blockwise
from certkv.reference.annotations.measure import (
    check_fit,
    decoded_norms_ub,
    inexact_norm_ub,
    original_norms_lb,
    original_norms_ub,
    residual_norms_ub,
    store_lb,
    store_ub,
    token_max,
)
from certkv.reference.errors import ShapeError
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import Float32Array, FloatArray


@dataclass(frozen=True, eq=False)
class ValueAnnotations(Blockwise):
    """Bounds over the tokens t of each block, FP32, in the units of V; shape: leading axes.

    Attributes
    ----------
    residual_norm_ub : ndarray of float32
        eta_b: ``max_t ||V_t - V_hat_t||``, absolute (never relative to ``||V_t||``), rounded up.
    norm_ub : ndarray of float32
        nu_b: ``max_t ||V_t||``, rounded up.
    anchored_norm_ub : ndarray of float32
        ``max_t ||V_t - mu||``, mu the anchor, rounded up.
    decoded_norm_ub : ndarray of float32
        ``max_t ||V_hat_t||``, rounded up.
    mean_norm_lb : ndarray of float32
        vbar_b: ``(1/B) sum_t ||V_t||``, rounded down.
    """

    residual_norm_ub: Float32Array
    norm_ub: Float32Array
    anchored_norm_ub: Float32Array
    decoded_norm_ub: Float32Array
    mean_norm_lb: Float32Array


def anchored_norms_ub(original: npt.NDArray[Any], anchor: FloatArray) -> FloatArray:
    """Upper bound of every token's ``||V_t - mu||``, [..., B, d] and [..., d] -> [..., B].

    The float64 difference is off by at most u of its magnitude, which `inexact_norm_ub` covers.
    """
    return inexact_norm_ub(original.astype(np.float64) - anchor[..., None, :])


def token_mean_lb(per_token_lb: FloatArray) -> FloatArray:
    """Lower bound of the mean over the tokens of a block, [..., B] -> [...].

    The computed sum of B nonnegative numbers over B has B roundings: ``outward(B)`` covers them and its own.
    """
    tokens = per_token_lb.shape[-1]
    return np.asarray(np.sum(per_token_lb, axis=-1) / tokens / outward(tokens))


def annotate_values(
    original: npt.NDArray[Any], encoded: Encoded, fmt: Format, anchor: npt.ArrayLike
) -> ValueAnnotations:
    """Measure encoded values against their originals.

    Parameters
    ----------
    original : ndarray of float16 or bfloat16, [..., B, d]
        What was encoded; finite.
    encoded : Encoded
        What is stored.
    fmt : Format
        Its format.
    anchor : array_like of float64, [..., d]
        The anchor mu, exactly as given; broadcasts over leading axes. Finite, at most 2**1000 in magnitude.

    Returns
    -------
    ValueAnnotations
        Never NaN; an upper bound beyond the FP32 range is ``+inf``, the lower bound stays finite.

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    """
    check_fit(original, encoded)
    mu = np.asarray(anchor, dtype=np.float64)
    target = (*encoded.leading, encoded.head_dim)
    fits = 1 <= mu.ndim <= len(target) and mu.shape[-1] == encoded.head_dim
    if not fits or any(m not in (1, n) for m, n in zip(mu.shape[::-1], target[::-1], strict=False)):
        raise ShapeError(f"anchor has shape {mu.shape}, which does not broadcast to {target}")
    return ValueAnnotations(
        residual_norm_ub=store_ub(token_max(residual_norms_ub(original, encoded, fmt))),
        norm_ub=store_ub(token_max(original_norms_ub(original))),
        anchored_norm_ub=store_ub(token_max(anchored_norms_ub(original, mu))),
        decoded_norm_ub=store_ub(token_max(decoded_norms_ub(encoded, fmt))),
        mean_norm_lb=store_lb(token_mean_lb(original_norms_lb(original))),
    )
