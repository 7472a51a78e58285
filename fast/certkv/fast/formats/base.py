"""What a format is: encode, and the exact meaning of what is stored."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from certkv.fast.formats.token_norm import Scope


class Encoded(NamedTuple):
    """Encoded blocks as the pool stores them; T is the type of the originals.

    Attributes
    ----------
    codes : uint8 [..., rows, d]
        `rows` is ``ceil(B bits / 8)``.
    step, minimum : T, [..., d], or [..., groups of tokens, d], or [..., B, groups of channels]
    norm : float32 [..., H, 1, B] or None
        Norms of tokens, for keys that have them: of shape [..., Hn, B], Hn = 1 or H in place of the KV heads.
    """

    codes: torch.Tensor
    step: torch.Tensor
    minimum: torch.Tensor
    norm: torch.Tensor | None = None


class Format(Protocol):
    """A quantizer; what the stored bits mean is the real vector ``H (minimum + step code)``, exactly.

    H is the rotation of `certkv.fast.formats.rotation`, or nothing where the format is not rotated.
    """

    @property
    def name(self) -> str:
        """Name in settings and reports."""

    @property
    def bits(self) -> int:
        """Bits of a code, 2, 4 or 8."""

    @property
    def group(self) -> int:
        """Of keys: tokens that share a channel's step. Of values: channels that share a token's.

        0 where all tokens of a block share a channel's step.
        """

    @property
    def rotated(self) -> bool:
        """Whether codes, steps and minima are in the rotated basis."""

    def rows(self, block: int) -> int:
        """Return the byte rows of a block's codes."""

    def metadata(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return the shape of a block's steps, and of its minima."""

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks of finite originals, float16 or bfloat16 [..., B, d]."""

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return D, which is near the meaning, and a bound of ``|D - meaning|``, both float64 [..., B, d].

        Where nothing is rotated D is the meaning rounded once, and the bound is what it is off by.
        """

    def decode_rotated(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what stands inside H, rounded once to float64, and what it is off by, both [..., B, d]."""


class KeyFormat(Format, Protocol):
    """A format of keys: what is stored means ``H norm (minimum + step code)``, norm 1 where there is none.

    With a joint norm, ``encode`` takes all KV heads of a layer, [..., H, B, d].
    """

    @property
    def scope(self) -> Scope | None:
        """What the norm of a token is taken over; None where there is none."""

    @property
    def least_block(self) -> int:
        """Fewest tokens of a block that hold the groups which the name promises."""

    def norm_heads(self, kv_heads: int) -> int:
        """Return how many norms a token has: 0, 1, or one for each KV head."""
