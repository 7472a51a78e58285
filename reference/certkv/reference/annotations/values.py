"""What is measured when a block of values is encoded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from certkv.reference.annotations import log_codes
from certkv.reference.annotations.blockwise import Blockwise
from certkv.reference.annotations.measure import (
    check_fit,
    decoded_norms_ub,
    inexact_norm_ub,
    original_norms_lb,
    original_norms_ub,
    residual,
    residual_magnitude,
    rows_norm_ub,
    store_lb,
    store_ub,
    token_max,
)
from certkv.reference.errors import ShapeError
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True, eq=False)
class ValueAnnotations(Blockwise):
    """Bounds over the tokens t of each block, in the units of V but for operator norms; shape: leading axes.

    Scalars are bfloat16; the numbers of single tokens are log codes relative to a block scalar, uint8 [..., B].

    Attributes
    ----------
    residual_norm_ub : ndarray of bfloat16
        eta_b: ``max_t ||V_t - V_hat_t||``, absolute (never relative to ``||V_t||``), rounded up.
    norm_ub : ndarray of bfloat16
        nu_b: ``max_t ||V_t||``, rounded up.
    anchored_norm_ub : ndarray of bfloat16
        ``max_t ||V_t - mu||``, mu the anchor, rounded up.
    decoded_norm_ub : ndarray of bfloat16
        ``max_t ||V_hat_t||``, rounded up.
    residual_operator_ub : ndarray of bfloat16
        Operator norm of the matrix with rows ``(V_t - V_hat_t) / eta_t``, eta_t as stored, 0/0 = 0; rounded up.
    anchored_operator_ub : ndarray of bfloat16
        Operator norm of the matrix with rows ``(V_t - mu) / n_t``, n_t as stored, 0/0 = 0; rounded up.
    mean_norm_lb : ndarray of bfloat16
        vbar_b: ``(1/B) sum_t ||V_t||``, rounded down.
    residual_codes, anchored_codes : ndarray of uint8 [..., B]
        eta_t >= ``||V_t - V_hat_t||`` and n_t >= ``||V_t - mu||``, relative to residual_norm_ub and anchored_norm_ub.
    """

    residual_norm_ub: AnyArray
    norm_ub: AnyArray
    anchored_norm_ub: AnyArray
    decoded_norm_ub: AnyArray
    residual_operator_ub: AnyArray
    anchored_operator_ub: AnyArray
    mean_norm_lb: AnyArray
    residual_codes: AnyArray
    anchored_codes: AnyArray

    def token_residuals_ub(self) -> FloatArray:
        """Return eta_t, float64 [..., B]."""
        return log_codes.decode(self.residual_codes, self.residual_norm_ub)

    def token_distances_ub(self) -> FloatArray:
        """Return n_t, float64 [..., B]: bounds of the distances from the anchor."""
        return log_codes.decode(self.anchored_codes, self.anchored_norm_ub)


def token_annotation(difference: FloatArray, magnitude: FloatArray) -> tuple[AnyArray, AnyArray, AnyArray]:
    """Measure the rows of a block: their largest norm, log codes of all, and the operator norm relative to these.

    Parameters
    ----------
    difference, magnitude : float64 [..., B, d]
        As in `relative_rows`.

    Returns
    -------
    maximum : bfloat16 [...]
    codes : uint8 [..., B]
    operator : bfloat16 [...]
    """
    norms = inexact_norm_ub(magnitude)
    maximum = store_ub(token_max(norms))
    codes = log_codes.encode(norms, maximum)
    unit = log_codes.decode(codes, maximum)[..., None]
    return maximum, codes, store_ub(rows_norm_ub(difference, magnitude, unit))


def token_mean_lb(per_token_lb: FloatArray) -> FloatArray:
    """Lower bound of the mean over the tokens of a block, [..., B] -> [...].

    The computed sum of B nonnegative numbers over B has B roundings: ``outward(B)`` covers them and its own.
    """
    tokens = per_token_lb.shape[-1]
    return np.asarray(np.sum(per_token_lb, axis=-1) / tokens / outward(tokens))


def annotate_level(
    base: ValueAnnotations, original: npt.NDArray[Any], encoded: Encoded, fmt: Format
) -> ValueAnnotations:
    """Measure the same values at another level: residuals and decoded norms; the rest is about the originals.

    Parameters
    ----------
    base : ValueAnnotations
        Of these originals at any level.
    original, encoded, fmt
        As in `annotate_values`.
    """
    check_fit(original, encoded)
    maximum, codes, operator = token_annotation(
        residual(original, encoded, fmt), residual_magnitude(original, encoded, fmt)
    )
    return replace(
        base,
        residual_norm_ub=maximum,
        decoded_norm_ub=store_ub(token_max(decoded_norms_ub(encoded, fmt))),
        residual_operator_ub=operator,
        residual_codes=codes,
    )


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
        Never NaN; an upper bound beyond the bfloat16 range is ``+inf``, the lower bound stays finite.

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
    residual_max, residual_codes, residual_operator = token_annotation(
        residual(original, encoded, fmt), residual_magnitude(original, encoded, fmt)
    )
    # off by u of its magnitude, as every float64 difference
    from_anchor = original.astype(np.float64) - mu[..., None, :]
    anchored_max, anchored_codes, anchored_operator = token_annotation(from_anchor, np.abs(from_anchor))
    return ValueAnnotations(
        residual_norm_ub=residual_max,
        norm_ub=store_ub(token_max(original_norms_ub(original))),
        anchored_norm_ub=anchored_max,
        decoded_norm_ub=store_ub(token_max(decoded_norms_ub(encoded, fmt))),
        residual_operator_ub=residual_operator,
        anchored_operator_ub=anchored_operator,
        mean_norm_lb=store_lb(token_mean_lb(original_norms_lb(original))),
        residual_codes=residual_codes,
        anchored_codes=anchored_codes,
    )
