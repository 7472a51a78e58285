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
    original_norms_ub,
    residual_magnitude,
    residual_norms_ub,
    store_ub,
    token_max,
)
from certkv.reference.formats.base import Format
from certkv.reference.formats.encoded import Encoded, step_per_channel
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import Float32Array, FloatArray


@dataclass(frozen=True, eq=False)
class KeyAnnotations(Blockwise):
    """Upper bounds over the tokens t (and channels c) of each block, FP32, rounded up; shape: leading axes.

    Attributes
    ----------
    relative_max_ub : ndarray of float32
        ``max_{t,c} |k - k_hat| / step_c``, without unit, 0/0 = 0; about 1/2.
    residual_norm_ub : ndarray of float32
        ``max_t ||k_t - k_hat_t||``, absolute, in the units of K.
    decoded_norm_ub : ndarray of float32
        ``max_t ||k_hat_t||``.
    norm_ub : ndarray of float32
        ``max_t ||k_t||``.
    """

    relative_max_ub: Float32Array
    residual_norm_ub: Float32Array
    decoded_norm_ub: Float32Array
    norm_ub: Float32Array


def relative_max(magnitude: FloatArray, step: FloatArray) -> FloatArray:
    """Upper bound of ``max_{t,c} |k - k_hat| / step_c``, [..., B, d] and [..., d] -> [...].

    ``|k - k_hat| <= magnitude (1 + u)/(1 - u)`` and the quotient rounds once more: ``outward(2)``.  Where a channel
    has step 0 the ratio is 0 if the residual is 0 (a constant channel, originals), and infinite otherwise.
    """
    per_channel = np.max(magnitude, axis=-2)
    ratio = per_channel / np.where(step > 0, step, 1.0) * outward(2)
    ratio = np.where(step > 0, ratio, np.where(per_channel == 0, 0.0, np.inf))
    return np.asarray(np.max(ratio, axis=-1))


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
        Never NaN; a norm beyond the FP32 range is ``+inf``.

    Raises
    ------
    ShapeError
        If `original` and `encoded` do not fit.
    SettingError
        If the format's step is not per channel.
    """
    check_fit(original, encoded)
    magnitude = residual_magnitude(original, encoded, fmt)
    return KeyAnnotations(
        relative_max_ub=store_ub(relative_max(magnitude, step_per_channel(encoded))),
        residual_norm_ub=store_ub(token_max(residual_norms_ub(original, encoded, fmt))),
        decoded_norm_ub=store_ub(token_max(decoded_norms_ub(encoded, fmt))),
        norm_ub=store_ub(token_max(original_norms_ub(original))),
    )
