"""What coded blocks mean, in float64: for twins, and for those who look at a cache."""

from __future__ import annotations

import torch

from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, Encoded
from certkv.fast.pool import Pool


def stored_keys(pool: Pool, page: torch.Tensor, head: torch.Tensor) -> Encoded:
    """Read what is stored of keys; int64 pages and KV heads that broadcast to [...].

    Returns
    -------
    Encoded
        [..., rows, d], [..., groups, d] or [..., d], and norms [..., B].
    """
    norms = pool.key_norm.shape[1]
    norm = pool.key_norm[page, head if norms > 1 else torch.zeros_like(head)] if norms else None
    return Encoded(pool.key_codes[page, head], pool.key_step[page, head], pool.key_minimum[page, head], norm)


def decoded_keys(pool: Pool, keys: str, page: torch.Tensor, head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return keys in the basis of the originals, and bounds of what they are off by, float64 [..., B, d].

    Parameters
    ----------
    keys : str
        Name of the format.
    page, head : int64, broadcast to [...]
    """
    return KEY_FORMATS[keys].decode(stored_keys(pool, page, head), pool.residual_codes.shape[-1])


def decoded_values(
    pool: Pool, values: str, page: torch.Tensor, head: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values as `decoded_keys` does keys."""
    stored = Encoded(pool.value_codes[page, head], pool.value_step[page, head], pool.value_minimum[page, head])
    return VALUE_FORMATS[values].decode(stored, pool.residual_codes.shape[-1])
