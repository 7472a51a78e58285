"""What is stored of encoded blocks: one page per block, all KV heads of a layer, tensors on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from certkv.fast.errors import SettingError
from certkv.fast.formats.planar import planes_of
from certkv.fast.formats.registry import key_format, value_format

KEY_NOTES = ("relative_max_ub", "relative_norm_ub", "relative_operator_ub", "decoded_norm_ub")
"""Scalars of a block's keys, in the order of the last axis of ``Pool.key_notes``."""

VALUE_NOTES = (
    "residual_norm_ub",
    "norm_ub",
    "anchored_norm_ub",
    "decoded_norm_ub",
    "residual_operator_ub",
    "anchored_operator_ub",
    "mean_norm_lb",
)
"""Scalars of a block's values, in the order of the last axis of ``Pool.value_notes``."""

FINER_VALUE_NOTES = ("residual_norm_ub", "decoded_norm_ub", "residual_operator_ub")
"""Scalars of a level of values above the base, in the order of the last axis of ``Pool.finer_value_notes``."""


KEYS, VALUES = 0, 1
"""Sides, in the order of the last axis of ``Pool.sizes``."""

_POISON_CODE = 0xAA
_ANNOTATIONS = (
    "key_notes",
    "value_notes",
    "residual_codes",
    "anchored_codes",
    "sizes",
    "finer_key_notes",
    "finer_value_notes",
    "finer_residual_codes",
)


@dataclass(frozen=True, eq=False)
class Pool:
    """Codes, metadata and annotations of P pages; H KV heads, B tokens, d channels, T the originals' type.

    Attributes
    ----------
    key_codes : uint8 [P, H, rows, d]
        ``rows = ceil(B bits / 8)``; byte row t holds tokens t, t + rows, ... from the lowest bits up.
    key_step, key_minimum : T [P, H, d] or [P, H, groups of tokens, d]
    key_norm : float32 [P, Hn, B]
        Norms of tokens: Hn is 1 where all KV heads share them, H where each has its own, and 0 where there are none.
    value_codes : uint8 [P, H, rows, d]
    value_step, value_minimum : T [P, H, d] or [P, H, B, groups of channels]
    key_notes : bfloat16 [P, H, 4]
    value_notes : bfloat16 [P, H, 7]
    residual_codes, anchored_codes : uint8 [P, H, B]
    sizes : float32 [P, H, 2]
        Upper bounds of what a pass adds up, for its rounding: the largest ``norm_t ||(|minimum_c| + (levels + 1)
        step_c)_c||`` of keys (norm 1 where there is none, levels the largest code) and ``||(|minimum_c| + levels
        step_c)_c||`` of values; the second is 0 where values have groups.
    finer_key_notes : bfloat16 [P, H, levels of keys above the base, 4]
    finer_value_notes : bfloat16 [P, H, levels of values above the base, 3]
    finer_residual_codes : uint8 [P, H, levels of values above the base, B]
        Of each level of formats that have `Planes`; none elsewhere.
    """

    key_codes: torch.Tensor
    key_step: torch.Tensor
    key_minimum: torch.Tensor
    key_norm: torch.Tensor
    value_codes: torch.Tensor
    value_step: torch.Tensor
    value_minimum: torch.Tensor
    key_notes: torch.Tensor
    value_notes: torch.Tensor
    residual_codes: torch.Tensor
    anchored_codes: torch.Tensor
    sizes: torch.Tensor
    finer_key_notes: torch.Tensor
    finer_value_notes: torch.Tensor
    finer_residual_codes: torch.Tensor

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def note_bytes(self) -> int:
        """Bytes of the annotations among them."""
        return sum(tensor.nbytes for name, tensor in self.tensors().items() if name in _ANNOTATIONS)

    def poison(self, pages: Sequence[int]) -> None:
        """Make pages unreadable: 0xAA in codes, NaN in floats."""
        for tensor in self.tensors().values():
            # a slice at a time: nothing is allocated, so this works where memory has run out
            for page in pages:
                tensor[page].fill_(_POISON_CODE if tensor.dtype == torch.uint8 else float("nan"))


def allocate(
    pages: int,
    kv_heads: int,
    block: int,
    head_dim: int,
    dtype: torch.dtype,
    values: str,
    device: torch.device | str = "cpu",
    keys: str = "int8",
) -> Pool:
    """Allocate a pool whose pages hold nothing yet: bytes 0xAA in codes, NaN in floats, so that a stray read shows.

    Raises
    ------
    SettingError
        An unknown format, or blocks that do not hold the groups which its name promises.
    """
    of_values, of_keys = value_format(values), key_format(keys)
    if block < of_keys.least_block:
        raise SettingError(f"keys {keys} have groups of {of_keys.group} tokens, and blocks of {block} hold none")
    per_head = (pages, kv_heads)
    of_key = (*per_head, *of_keys.metadata(block, head_dim))
    of_value = (*per_head, *of_values.metadata(block, head_dim))

    def codes(*shape: int) -> torch.Tensor:
        return torch.full(shape, _POISON_CODE, dtype=torch.uint8, device=device)

    def floats(shape: tuple[int, ...], of: torch.dtype) -> torch.Tensor:
        return torch.full(shape, float("nan"), dtype=of, device=device)

    return Pool(
        key_codes=codes(*per_head, of_keys.rows(block), head_dim),
        key_step=floats(of_key, dtype),
        key_minimum=floats(of_key, dtype),
        key_norm=floats((pages, of_keys.norm_heads(kv_heads), block), torch.float32),
        value_codes=codes(*per_head, of_values.rows(block), head_dim),
        value_step=floats(of_value, dtype),
        value_minimum=floats(of_value, dtype),
        key_notes=floats((*per_head, len(KEY_NOTES)), torch.bfloat16),
        value_notes=floats((*per_head, len(VALUE_NOTES)), torch.bfloat16),
        residual_codes=codes(*per_head, block),
        anchored_codes=codes(*per_head, block),
        sizes=floats((*per_head, 2), torch.float32),
        finer_key_notes=floats((*per_head, len(planes_of(of_keys)), len(KEY_NOTES)), torch.bfloat16),
        finer_value_notes=floats((*per_head, len(planes_of(of_values)), len(FINER_VALUE_NOTES)), torch.bfloat16),
        finer_residual_codes=codes(*per_head, len(planes_of(of_values)), block),
    )
