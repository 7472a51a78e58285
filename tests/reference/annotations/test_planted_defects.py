"""Annotations as others got them wrong: each planted variant must break a bound that ours keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest

from certkv.reference.annotations import annotate_keys, annotate_values, measure
from certkv.reference.annotations import keys as key_annotations
from certkv.reference.annotations import values as value_annotations
from certkv.reference.formats import Encoded, Format, key_format, value_format
from certkv.reference.numbers import BFLOAT16, round_nearest

from .exact import exact_blocks, exact_meaning, is_upper, mean_norm, squared_norms

AnyArray = npt.NDArray[Any]


def needle_head(seed: int = 7) -> AnyArray:
    """Values of norm about 22 in 12 blocks, one token of each much larger than the others; [12, 16, 64]."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((12, 16, 64)) * 0.3
    x[:, 5] *= 22.0 / np.linalg.norm(x[:, 5], axis=-1, keepdims=True)
    return x.astype(np.float16)


def eta_violations(x: AnyArray, fmt: Format, measured_with: Format | None = None) -> int:
    """Count blocks whose residual_norm_ub is below the exact largest residual norm."""
    encoded = fmt.encode(x)
    eta = annotate_values(x, encoded, measured_with or fmt, np.zeros(x.shape[-1])).residual_norm_ub
    exact = [max(squared_norms(exact_blocks(x[i]) - exact_meaning(encoded.take(i))[0])) for i in range(len(x))]
    return sum(not is_upper(eta[i], exact[i]) for i in range(len(x)))


@pytest.mark.parametrize("name", ["int4-g16", "int4", "int8"])
def test_eta_holds(name: str) -> None:
    assert eta_violations(needle_head(), value_format(name)) == 0


def test_a1_relative_eta_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def relative(original: AnyArray, encoded: Encoded, fmt: Format) -> npt.NDArray[np.float64]:
        norms = measure.original_norms_ub(original)[..., None]
        return np.asarray(measure.residual_magnitude(original, encoded, fmt) / norms)

    monkeypatch.setattr(value_annotations, "residual_magnitude", relative)
    assert eta_violations(needle_head(), value_format("int4-g16")) > 0


@dataclass(frozen=True)
class UnroundedStep:
    """Measures as if the step were stored as computed, before it was rounded to 16 bits."""

    inner: Any
    original: AnyArray
    name: str = "unrounded"

    def decode(self, encoded: Encoded) -> npt.NDArray[np.float64]:
        x = self.original.astype(np.float64)
        step = (x.max(axis=-2) - x.min(axis=-2)) / (2**self.inner.bits - 1)
        codes = self.inner.decode(encoded) - encoded.minimum[..., None, :].astype(np.float64)
        codes = np.rint(codes / encoded.step[..., None, :].astype(np.float64))
        return np.asarray(encoded.minimum[..., None, :].astype(np.float64) + step[..., None, :] * codes)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_a2_eta_measured_before_the_step_is_rounded_is_caught(name: str) -> None:
    x, fmt = needle_head(), value_format(name)
    planted: Any = UnroundedStep(fmt, x)
    assert eta_violations(x, fmt, measured_with=planted) > 0


def test_a4_mean_instead_of_maximum_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_annotations, "token_max", lambda norms: np.mean(norms, axis=-1))
    assert eta_violations(needle_head(), value_format("int4-g16")) > 0


def relative_violations(x: AnyArray) -> int:
    """Count blocks whose relative_max_ub is below an exact |k - k_hat| / step."""
    fmt = key_format("int8-paper")
    encoded = fmt.encode(x)
    relative = annotate_keys(x, encoded, fmt).relative_max_ub
    count = 0
    for i in range(len(x)):
        meaning, steps = exact_meaning(encoded.take(i))
        ratios = np.abs(exact_blocks(x[i]) - meaning) / steps
        count += not is_upper(relative[i], np.max(ratios) ** 2)
    return count


def test_a5_half_a_step_taken_for_granted_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(1).standard_normal((12, 16, 64)).astype(np.float16)
    assert relative_violations(x) == 0
    # a hair below, so that it is stored as 1/2
    half = 0.5 - 2.0**-40
    monkeypatch.setattr(key_annotations, "relative_magnitude", lambda magnitude, unit: np.full(magnitude.shape, half))
    assert relative_violations(x) > 0


def test_annotations_rounded_to_nearest_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(value_annotations, "store_ub", lambda x: round_nearest(x, BFLOAT16))
    assert eta_violations(needle_head(), value_format("int8")) > 0


def test_residuals_not_charged_for_decoding_are_caught() -> None:
    """Where decoding rounds away the whole residual, only `decode_error_ub` knows of it."""
    x, fmt = wide_block(), value_format("int4")
    assert np.array_equal(fmt.decode(fmt.encode(x)), x.astype(np.float64))
    assert eta_violations(x, fmt) == 0
    assert eta_violations(x, fmt, measured_with=NeverCharged(fmt)) > 0


@dataclass(frozen=True)
class NeverCharged:
    inner: Any

    def decode_error_ub(self, encoded: Encoded) -> npt.NDArray[np.float64]:
        return np.zeros((*encoded.leading, encoded.block, encoded.head_dim))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def wide_block() -> AnyArray:
    """One channel from 2**-60 to 15: 2**-60 + 15 decodes to 15, the original, although it means 15 + 2**-60."""
    return np.array([[[2.0**-60], [15.0]]]).astype(ml_dtypes.bfloat16)


def mean_violations(x: AnyArray) -> int:
    fmt = value_format("int8")
    stored = annotate_values(x, fmt.encode(x), fmt, np.zeros(x.shape[-1])).mean_norm_lb
    return sum(exact_blocks(stored[i : i + 1])[0] > mean_norm(exact_blocks(x[i]))[0] for i in range(len(x)))


def test_mean_norm_rounded_up_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    x = needle_head()
    assert mean_violations(x) == 0
    monkeypatch.setattr(value_annotations, "store_lb", measure.store_ub)
    assert mean_violations(x) > 0
