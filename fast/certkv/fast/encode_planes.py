"""Encode the refinement planes of full blocks, and measure every level against its own meaning.

Like `certkv.fast.encode`, for formats of several levels, after their base: each operation has a twin in torch, and a
kernel of the same signature (`certkv.fast.kernels.encode_planes`) where originals are on a CUDA device. Planes are the
same bit for bit; annotations may differ in their last bit, each on its safe side.
"""

from __future__ import annotations

import torch

from certkv.fast.annotate import key_notes, value_level_notes
from certkv.fast.formats.planar import Planar
from certkv.fast.formats.rotated import turned_back
from certkv.fast.planes import Planes
from certkv.fast.pool import Pool


def encode_key_planes(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    planes: Planes,
    fmt: Planar,
    scratch: torch.Tensor | None = None,
) -> None:
    """Write the planes of blocks of keys, and what is measured of their levels, to their pages.

    Parameters
    ----------
    originals : float16 or bfloat16 [n, H, B, d], finite
        What their base was encoded from, any strides.
    pages : int32 or int64 [n]
        A negative page skips its block.
    pool : Pool
        With the base; ``finer_key_notes`` is written.
    planes : Planes
        ``keys`` is written.
    fmt : Planar
    scratch : float64 [n] or None
        As for `encode.encode_keys`.
    """
    if originals.is_cuda:
        from certkv.fast.kernels import encode_planes as kernels

        if kernels.takes(fmt):
            kernels.encode_key_planes(originals, pages, pool, planes, fmt, scratch)
            return
    encode_key_planes_twin(originals, pages, pool, planes, fmt)


def encode_value_planes(
    originals: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    planes: Planes,
    fmt: Planar,
    scratch: torch.Tensor | None = None,
) -> None:
    """Write the planes of blocks of values, and what is measured of their levels; arguments as for keys.

    ``finer_value_notes`` and ``finer_residual_codes`` of the pool are written.
    """
    if originals.is_cuda:
        from certkv.fast.kernels import encode_planes as kernels

        if kernels.takes(fmt):
            kernels.encode_value_planes(originals, pages, pool, planes, fmt, scratch)
            return
    encode_value_planes_twin(originals, pages, pool, planes, fmt)


def encode_key_planes_twin(
    originals: torch.Tensor, pages: torch.Tensor, pool: Pool, planes: Planes, fmt: Planar
) -> None:
    """Twin of the kernel; see `encode_key_planes`."""
    kept = pages >= 0
    x, to = originals[kept], pages[kept].to(torch.int64)
    encoded, found = fmt.encode_all(x)
    for level, (store, plane) in enumerate(zip(planes.keys, found, strict=True), 1):
        store[to.to(store.device)] = plane.to(store.device)
        inside, err = fmt.decode_level_rotated(encoded, found[:level], x.shape[-2])
        decoded, err = turned_back(inside, err, fmt.rotated)
        # steps that belong to groups of tokens are no unit of a block
        unit = torch.ones_like(encoded.step[..., 0, :]) if fmt.group else encoded.step
        pool.finer_key_notes[to, :, level - 1] = key_notes(x, decoded, err, unit, inside)


def encode_value_planes_twin(
    originals: torch.Tensor, pages: torch.Tensor, pool: Pool, planes: Planes, fmt: Planar
) -> None:
    """Twin of the kernel; see `encode_value_planes`."""
    kept = pages >= 0
    x, to = originals[kept], pages[kept].to(torch.int64)
    encoded, found = fmt.encode_all(x)
    for level, (store, plane) in enumerate(zip(planes.values, found, strict=True), 1):
        store[to.to(store.device)] = plane.to(store.device)
        inside, err = fmt.decode_level_rotated(encoded, found[:level], x.shape[-2])
        decoded, err = turned_back(inside, err, fmt.rotated)
        notes, codes = value_level_notes(x, decoded, err, inside)
        pool.finer_value_notes[to, :, level - 1] = notes
        pool.finer_residual_codes[to, :, level - 1] = codes


def encode_planes(
    keys: torch.Tensor,
    values: torch.Tensor,
    pages: torch.Tensor,
    pool: Pool,
    planes: Planes,
    key_fmt: object,
    value_fmt: object,
    scratch: torch.Tensor | None = None,
) -> None:
    """Encode the planes of both sides where their formats have any, and say that they are there.

    Parameters
    ----------
    keys, values : T [n, H, B, d]
    pages : int32 or int64 [n]
    key_fmt, value_fmt : Format
    """
    if not planes.some:
        return
    if isinstance(key_fmt, Planar):
        encode_key_planes(keys, pages, pool, planes, key_fmt, scratch)
    if isinstance(value_fmt, Planar):
        encode_value_planes(values, pages, pool, planes, value_fmt, scratch)
    planes.mark(pages)
