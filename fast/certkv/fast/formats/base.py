"""What a format is: encode, and the exact meaning of what is stored."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch


class Encoded(NamedTuple):
    """Encoded blocks as the pool stores them; T is the type of the originals.

    Attributes
    ----------
    codes : uint8 [..., rows, d]
        `rows` is B, or ceil(B/2) where two 4-bit codes share a byte.
    step, minimum : T, [..., d] or [..., B, groups]
    """

    codes: torch.Tensor
    step: torch.Tensor
    minimum: torch.Tensor


class Format(Protocol):
    """A quantizer; what the stored bits mean is the real number ``minimum + step * code``, exactly."""

    @property
    def name(self) -> str:
        """Name in settings and reports."""

    @property
    def bits(self) -> int:
        """Bits of a code, 4 or 8."""

    @property
    def group(self) -> int:
        """Channels that share a token's step; 0 where all tokens of a block share a channel's step."""

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks of finite originals, float16 or bfloat16 [..., B, d]."""

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return D, the meaning rounded once to float64, and ``|D - meaning|``, both float64 [..., B, d]."""
