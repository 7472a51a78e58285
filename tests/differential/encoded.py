"""Encode with twin and kernel, and compare the codes and metadata with the reference."""

from __future__ import annotations

import numpy as np
import torch

from certkv.fast.encode import encode_keys_twin, encode_values_twin
from certkv.fast.formats import VALUE_FORMATS as FAST_VALUES
from certkv.fast.kernels.encode_keys import encode_keys
from certkv.fast.kernels.encode_values import encode_values
from certkv.fast.pool import Pool
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.reference.numbers import FloatType

from .bridge import DEVICE, AnyArray, bits, guarded, to_torch, two_pools

PAGE = 1
"""First page that is written, of n + 2: the page before and the page behind stay poisoned."""

KEYS_WITH = "int8"
"""The value format with which keys are encoded as well; once is enough."""


def as_blocks(x: AnyArray) -> AnyArray:
    """[leading, B, d] -> [1, H, B, d]."""
    return x.reshape(1, -1, *x.shape[-2:])


def encode_with_twin(x: AnyArray, ft: FloatType, values: str, anchor: torch.Tensor) -> Pool:
    """Encode blocks [n, H, B, d] as values, and with `KEYS_WITH` as keys too."""
    original = to_torch(x, ft)
    pool, _ = two_pools(original, values, len(x) + 2)
    pages = torch.arange(PAGE, PAGE + len(x))
    if values == KEYS_WITH:
        encode_keys_twin(original, pages, pool)
    encode_values_twin(original, pages, pool, anchor, FAST_VALUES[values])
    return pool


def encode_with_kernel(x: AnyArray, ft: FloatType, values: str, anchor: torch.Tensor) -> Pool:
    """As `encode_with_twin`, from views whose surroundings are NaN."""
    original = guarded(to_torch(x, ft).to(DEVICE))
    _, pool = two_pools(original, values, len(x) + 2, DEVICE)
    pages = torch.arange(PAGE, PAGE + len(x), device=DEVICE, dtype=torch.int32)
    if values == KEYS_WITH:
        encode_keys(original, pages, pool)
    encode_values(original, pages, pool, guarded(anchor.to(DEVICE)), FAST_VALUES[values])
    return pool


def assert_stored_is_reference(pool: Pool, x: AnyArray, values: str) -> None:
    """Codes, steps and minima of all n pages equal the reference bit for bit; the pages around are untouched."""
    inside = slice(PAGE, PAGE + len(x))
    sides = {"value": VALUE_FORMATS[values].encode(x)}
    if values == KEYS_WITH:
        sides["key"] = KEY_FORMATS["int8"].encode(x)
    for side, encoded in sides.items():
        for name, array in (("codes", encoded.codes), ("step", encoded.step), ("minimum", encoded.minimum)):
            stored = bits(getattr(pool, f"{side}_{name}"))
            expected = array if name == "codes" else array.view(np.uint16)
            np.testing.assert_array_equal(stored[inside], expected, err_msg=f"{side}_{name}")
    for name in ("key_codes", "value_codes", "residual_codes", "anchored_codes"):
        outside = np.delete(bits(getattr(pool, name)), inside, axis=0)
        assert (outside == 0xAA).all(), name
    for name in ("key_step", "key_minimum", "value_step", "value_minimum", "key_notes", "value_notes"):
        outside = np.delete(getattr(pool, name).cpu().to(torch.float32).numpy(), inside, axis=0)
        assert np.isnan(outside).all(), name


def anchor_of(x: AnyArray) -> torch.Tensor:
    """Float32 mean of each block's tokens, [n, H, d]: near the data, so that distances from it cancel."""
    with np.errstate(over="ignore"):
        mean = x.astype(np.float64).mean(axis=-2).astype(np.float32)
    return torch.from_numpy(mean)
