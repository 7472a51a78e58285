"""Encode full blocks into pages of the pool: codes, metadata and annotations.

Two operations, for keys and for values. Each has a twin in torch, which runs anywhere, and kernels with the same
signature (`certkv.fast.kernels.encode_keys`, `encode_values`; for formats in the rotated basis `encode_oscar_keys`,
`encode_oscar_values`), which run where the originals are on a CUDA device. Codes and metadata are the same bit for bit;
annotations may differ in their last bit, each on its safe side.
"""

from __future__ import annotations

import torch

from certkv.fast.annotate import key_notes, key_size_ub, operand_size_ub, value_notes
from certkv.fast.errors import DTypeError, ShapeError
from certkv.fast.formats import INT8, KEY_FORMATS, VALUE_FORMATS, Format, KeyFormat, OscarKeys, OscarValues
from certkv.fast.formats.planar import planes_of
from certkv.fast.formats.registry import PLANAR_KEY_FORMATS, PLANAR_VALUE_FORMATS
from certkv.fast.formats.rotated import turned_back
from certkv.fast.pool import KEYS, VALUES, Pool

TYPES = (torch.float16, torch.bfloat16)


def encode_keys(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    fmt: KeyFormat = INT8,
    scratch: torch.Tensor | None = None,
) -> None:
    """Encode and measure blocks of keys, and write them to their pages.

    Parameters
    ----------
    originals : float16 or bfloat16 [n, H, B, d], finite
        Keys after RoPE, any strides.
    pages : int32 or int64 [n]
        Where each block goes, no page twice; a negative page skips its block.
    pool : Pool
        Its ``key_*`` tensors and the ``sizes`` of keys are written.
    fmt : KeyFormat
        That which the pool was allocated for.
    scratch : float64 [n] or None
        Memory of the kernels, ``operator_norm.scratch_size``; None to allocate it.

    Raises
    ------
    DTypeError, ShapeError
        Types or shapes do not fit the pool. Nothing is looked at that would synchronise: finite originals and pages
        within the pool are the caller's business.
    """
    check_keys(originals, pages, pool, fmt)
    if not originals.is_cuda:
        encode_keys_twin(originals, pages, pool, fmt)
    elif isinstance(fmt, OscarKeys):
        from certkv.fast.kernels.encode_oscar_keys import encode_oscar_keys

        encode_oscar_keys(originals, pages, pool, fmt, scratch)
    else:
        from certkv.fast.kernels.encode_keys import encode_keys as kernel

        kernel(originals, pages, pool, fmt, scratch)


def encode_values(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    anchor: torch.Tensor,
    fmt: Format,
    scratch: torch.Tensor | None = None,
) -> None:
    """Encode and measure blocks of values, and write them to their pages.

    Parameters
    ----------
    originals : float16 or bfloat16 [n, H, B, d], finite
        Any strides.
    pages : int32 or int64 [n]
        As for `encode_keys`.
    pool : Pool
        Its ``value_*``, ``residual_codes``, ``anchored_codes`` and the ``sizes`` of values are written.
    anchor : float32 [n, H, d]
        The anchor of each block's sequence; any strides, so that one anchor may be expanded.
    fmt : Format
        That which the pool was allocated for.
    scratch : float64 [n] or None
        As for `encode_keys`.

    Raises
    ------
    DTypeError, ShapeError
        As `encode_keys`.
    """
    check_values(originals, pages, pool, anchor, fmt)
    if not originals.is_cuda:
        encode_values_twin(originals, pages, pool, anchor, fmt)
    elif isinstance(fmt, OscarValues):
        from certkv.fast.kernels.encode_oscar_values import encode_oscar_values

        encode_oscar_values(originals, pages, pool, anchor, fmt, scratch)
    else:
        from certkv.fast.kernels.encode_values import encode_values as kernel

        kernel(originals, pages, pool, anchor, fmt, scratch)


def encode_keys_twin(originals: torch.Tensor, pages: torch.Tensor, pool: Pool, fmt: KeyFormat = INT8) -> None:
    """Twin of the kernel; see `encode_keys`."""
    kept = pages >= 0
    x, to = originals[kept], pages[kept].to(torch.int64)
    encoded = fmt.encode(x)
    inside, err = fmt.decode_rotated(encoded, x.shape[-2])
    decoded, err = turned_back(inside, err, fmt.rotated)
    pool.key_codes[to], pool.key_step[to], pool.key_minimum[to] = encoded[:3]
    if encoded.norm is not None:
        pool.key_norm[to] = encoded.norm
    # steps that belong to groups of tokens are no unit of a block
    unit = torch.ones_like(encoded.step[..., 0, :]) if fmt.group else encoded.step
    pool.key_notes[to] = key_notes(x, decoded, err, unit, inside)
    pool.sizes[to, :, KEYS] = key_size_ub(encoded, fmt, x.shape[-2])


def encode_values_twin(
    originals: torch.Tensor, pages: torch.Tensor, pool: Pool, anchor: torch.Tensor, fmt: Format
) -> None:
    """Twin of the kernel; see `encode_values`."""
    kept = pages >= 0
    x, to = originals[kept], pages[kept].to(torch.int64)
    encoded = fmt.encode(x)
    inside, err = fmt.decode_rotated(encoded, x.shape[-2])
    decoded, err = turned_back(inside, err, fmt.rotated)
    pool.value_codes[to], pool.value_step[to], pool.value_minimum[to] = encoded[:3]
    measured = value_notes(x, decoded, err, anchor[kept], inside)
    pool.value_notes[to], pool.residual_codes[to], pool.anchored_codes[to] = measured
    # the size of values with groups is the largest norm of a decoded token, a note
    levels = 2.0**fmt.bits - (0.0 if planes_of(fmt) else 1.0)
    size = 0.0 if fmt.group else operand_size_ub(encoded.step, encoded.minimum, levels)
    pool.sizes[to, :, VALUES] = size


def check_keys(originals: torch.Tensor, pages: torch.Tensor, pool: Pool, fmt: KeyFormat = INT8) -> None:
    """Raise DTypeError or ShapeError unless the arguments of `encode_keys` fit each other."""
    heads, block = pool.residual_codes.shape[1:]
    _check("keys", originals, pages, torch.Size((heads, block, pool.key_codes.shape[-1])), pool.key_step)
    if fmt.name not in {**KEY_FORMATS, **PLANAR_KEY_FORMATS}:
        raise ShapeError(f"format {fmt.name!r} has no pages in a pool; use one of {', '.join(sorted(KEY_FORMATS))}")
    _check_stored("key", pool.key_codes, pool.key_step, fmt, block)
    norms = fmt.norm_heads(heads)
    if pool.key_norm.shape[1:] != (norms, block):
        raise ShapeError(
            f"pages hold norms {tuple(pool.key_norm.shape[1:])}, but {(norms, block)} are those of {fmt.name!r}; "
            "allocate the pool for that format"
        )
    _check_contiguous(pool.key_codes, pool.key_step, pool.key_minimum, pool.key_norm, pool.key_notes, pool.sizes)


def check_values(originals: torch.Tensor, pages: torch.Tensor, pool: Pool, anchor: torch.Tensor, fmt: Format) -> None:
    """Raise DTypeError or ShapeError unless the arguments of `encode_values` fit each other."""
    heads, block = pool.residual_codes.shape[1:]
    head_dim = pool.value_codes.shape[-1]
    _check("values", originals, pages, torch.Size((heads, block, head_dim)), pool.value_step)
    if fmt.name not in {**VALUE_FORMATS, **PLANAR_VALUE_FORMATS}:
        raise ShapeError(f"format {fmt.name!r} has no pages in a pool; use one of {', '.join(sorted(VALUE_FORMATS))}")
    _check_stored("value", pool.value_codes, pool.value_step, fmt, block)
    _check_contiguous(pool.value_codes, pool.value_step, pool.value_minimum, pool.value_notes)
    _check_contiguous(pool.residual_codes, pool.anchored_codes, pool.sizes)
    if anchor.dtype != torch.float32:
        raise DTypeError(f"anchor is {anchor.dtype}, but must be float32")
    if tuple(anchor.shape) != (originals.shape[0], heads, head_dim):
        raise ShapeError(
            f"anchor has shape {tuple(anchor.shape)}, but {(originals.shape[0], heads, head_dim)} is needed; expand it"
        )


def _check(what: str, originals: torch.Tensor, pages: torch.Tensor, shape: torch.Size, step: torch.Tensor) -> None:
    if originals.dtype not in TYPES or originals.dtype != step.dtype:
        raise DTypeError(f"{what} are {originals.dtype}, but the pool holds {step.dtype}")
    if originals.ndim != 4 or originals.shape[1:] != shape:
        raise ShapeError(f"{what} have shape {tuple(originals.shape)}, but pages hold blocks {tuple(shape)}")
    if pages.dtype not in (torch.int32, torch.int64):
        raise DTypeError(f"pages are {pages.dtype}, but must be int32 or int64")
    if tuple(pages.shape) != (originals.shape[0],):
        raise ShapeError(f"pages have shape {tuple(pages.shape)}, but there are {originals.shape[0]} blocks")
    if not originals.device == pages.device == step.device:
        raise ShapeError(
            f"{what} are on {originals.device}, pages on {pages.device}, the pool on {step.device}; use one device"
        )


def _check_stored(side: str, codes: torch.Tensor, step: torch.Tensor, fmt: Format, block: int) -> None:
    if codes.shape[2] != fmt.rows(block) or tuple(step.shape[2:]) != fmt.metadata(block, codes.shape[-1]):
        raise ShapeError(
            f"pages hold {side} codes {tuple(codes.shape[2:])}, steps {tuple(step.shape[2:])}, which are not those of "
            f"{fmt.name!r}; allocate the pool for that format"
        )


def _check_contiguous(*tensors: torch.Tensor) -> None:
    if not all(tensor.is_contiguous() for tensor in tensors):
        raise ShapeError("a tensor of the pool is not contiguous, so its pages are not where kernels look for them")
