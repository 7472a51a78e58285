"""What is measured when a block of keys is encoded."""

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
    residual,
    residual_magnitude,
    rows_norm_ub,
    store_ub,
    token_max,
)
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded, step_per_channel
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True, eq=False)
class KeyAnnotations(Blockwise):
    """Upper bounds over the tokens t (and channels c) of each block, bfloat16, rounded up; shape: leading axes.

    With ``X = (k - k_hat) / sigma`` the block's residuals in units of `residual_unit`, 0/0 = 0:

    Attributes
    ----------
    relative_max_ub : ndarray of bfloat16
        ``max_{t,c} |X_tc|``, without unit; about 1/2.
    relative_norm_ub : ndarray of bfloat16
        ``max_t ||X_t||``.
    relative_operator_ub : ndarray of bfloat16
        The operator norm ``||X||`` of the B x d matrix.
    decoded_norm_ub : ndarray of bfloat16
        ``max_t ||k_hat_t||``, in the units of K.
    """

    relative_max_ub: AnyArray
    relative_norm_ub: AnyArray
    relative_operator_ub: AnyArray
    decoded_norm_ub: AnyArray


def residual_unit(encoded: Encoded) -> FloatArray:
    """Return what residuals are measured in, sigma, [..., d]: the stored steps, or 1 where no channel has its own.

    That is where the format stores originals, or where steps belong to groups of tokens (`Encoded.norm`).
    """
    if encoded.step.shape[-1] == 0 or encoded.norm is not None:
        return np.ones((*encoded.leading, encoded.head_dim))
    return step_per_channel(encoded)


def relative_magnitude(magnitude: FloatArray, unit: FloatArray) -> FloatArray:
    """``|k - k_hat| / sigma_c`` up to `inexact_norm_ub`'s factor and one rounding, [..., B, d] and [..., d].

    Where a channel has unit 0 the ratio is 0 if the residual is 0 (a constant channel), and infinite otherwise.
    """
    u = unit[..., None, :]
    return np.where(u > 0, magnitude / np.where(u > 0, u, 1.0), np.where(magnitude == 0, 0.0, np.inf))


def annotate_keys(original: npt.NDArray[Any], encoded: Encoded, fmt: Format) -> KeyAnnotations:
    """Measure encoded keys against their originals.

    Parameters
    ----------
    original : ndarray of float16 or bfloat16, [..., B, d]
        What was encoded; finite.
    encoded : Encoded
        What is stored.
    fmt : Format
        Its format, with a step per channel or none at all.

    Returns
    -------
    KeyAnnotations
        Never NaN; a number beyond the bfloat16 range is ``+inf``.

    Raises
    ------
    ShapeError
        If `original` and `encoded` do not fit.
    SettingError
        If the format has steps, but not one per channel.
    """
    check_fit(original, encoded)
    magnitude = residual_magnitude(original, encoded, fmt)
    unit = residual_unit(encoded)
    relative = relative_magnitude(magnitude, unit) * outward(2)
    return KeyAnnotations(
        relative_max_ub=store_ub(np.max(relative, axis=(-2, -1))),
        relative_norm_ub=store_ub(token_max(inexact_norm_ub(relative))),
        relative_operator_ub=store_ub(rows_norm_ub(residual(original, encoded, fmt), magnitude, unit[..., None, :])),
        decoded_norm_ub=store_ub(token_max(decoded_norms_ub(encoded, fmt))),
    )
