"""`oscar` and its kin (keys): rotate, then scale tokens to norm 1, then quantize channels over groups of tokens.

Every line is one FP32 operation unless it says otherwise; T is the type of the originals::

    y     = butterflies(x 2^-8) fl(1/sqrt(n))     no rotation: y = x 2^-8
    n     = fl32(sqrt(S))                         S: `token_norm`, in float64
    u     = rne_T(y / n)                          0 where n = 0; without norm: u = rne_T(y 2^8)
    norm  = n 2^8                                 exact

u is quantized by `affine` or `zero_point` per channel over groups of tokens that begin with the block; bit for bit that
of docs/formats/oscar.md. The meaning of what is stored is ``H norm (minimum + step code)``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from certkv.fast.formats.affine import quantize, reconstruct
from certkv.fast.formats.base import Encoded
from certkv.fast.formats.packing import pack_plane, plane_rows, unpack_plane
from certkv.fast.formats.rotated import originals_as_stored, to_type, turned_back
from certkv.fast.formats.token_norm import Scope, divide, token_norm, unscaled
from certkv.fast.formats.zero_point import quantize_zero_point


def scaled(step: torch.Tensor, minimum: torch.Tensor, norm: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return steps and minima times the norms of tokens, [..., B], where there are any, in float64.

    Exactly: 24 bits times 11, and 17 are left for a code and its planes.
    """
    a, b = step.to(torch.float64), minimum.to(torch.float64)
    if norm is None:
        return a, b
    factor = norm.to(torch.float64)[..., None]
    return factor * a, factor * b


@dataclass(frozen=True)
class OscarKeys:
    """Codes of `bits` bits per channel and `group` tokens, of keys that are rotated and scaled, or not.

    A block that is no multiple of the group ends in a shorter one.

    Attributes
    ----------
    name : str
    bits : int
        2 or 4.
    group : int
        Tokens that share a step.
    rotated : bool
        Whether tokens are rotated.
    scope : {"joint", "head"} or None
        What a token's norm is taken over; None to leave tokens as long as they are.
    zero_point : bool
        An integer zero point, as OScaR's code has it, instead of the exact minimum.
    short_groups : bool
        Whether blocks may be shorter than a group, and are groups themselves then.
    """

    name: str
    bits: int = 2
    group: int = 32
    rotated: bool = True
    scope: Scope | None = "joint"
    zero_point: bool = False
    short_groups: bool = False

    @property
    def levels(self) -> int:
        """Largest code."""
        return int(2**self.bits) - 1

    @property
    def least_block(self) -> int:
        """See `KeyFormat`."""
        return 1 if self.short_groups else self.group

    def rows(self, block: int) -> int:
        """Return ``ceil(B bits / 8)``."""
        return plane_rows(block, self.bits)

    def groups(self, block: int) -> int:
        """Return ``ceil(B/group)``."""
        return -(-block // self.group)

    def metadata(self, block: int, head_dim: int) -> tuple[int, ...]:
        """Return the shape of a block's steps: groups and channels."""
        return self.groups(block), head_dim

    def norm_heads(self, kv_heads: int) -> int:
        """Return how many norms a token has."""
        return {None: 0, "joint": 1, "head": kv_heads}[self.scope]

    def prepare(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return u, T [..., H, B, d], which is what is quantized, and norms as they are stored, [..., 1 or H, B]."""
        y = originals_as_stored(x, self.rotated)
        if self.scope is None:
            return to_type(y, x.dtype), None
        norm = token_norm(y, self.scope)
        # an FP32 number is rounded to 16 bits once
        return divide(y, norm).to(torch.float32).to(x.dtype), unscaled(norm)

    def encode(self, x: torch.Tensor) -> Encoded:
        """Encode blocks [..., H, B, d]; see `Format.encode`."""
        block, head_dim = x.shape[-2:]
        u, norm = self.prepare(x)
        # repeating the last token fills the last group without changing its extremes
        groups = self.groups(block)
        token = torch.arange(groups * self.group, device=x.device).clamp(max=block - 1)
        grouped = u[..., token, :].reshape(*x.shape[:-2], groups, self.group, head_dim)
        rule = quantize_zero_point if self.zero_point else quantize
        codes, step, minimum = rule(grouped, -2, self.levels)
        codes = codes.flatten(-3, -2)[..., :block, :]
        return Encoded(pack_plane(codes, self.bits), step, minimum, norm)

    def quantized(self, x: torch.Tensor) -> torch.Tensor:
        """Return u, which is what is quantized; see `prepare`."""
        return self.prepare(x)[0]

    def parts(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return codes, and steps and minima without norms, each [..., B, d]."""
        codes = unpack_plane(encoded.codes, self.bits, block)
        group_of_token = torch.arange(block, device=codes.device) // self.group
        return codes, encoded.step[..., group_of_token, :], encoded.minimum[..., group_of_token, :]

    def decode_rotated(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``norm (minimum + step code)`` rounded once, and what it is off by; see `Format.decode_rotated`."""
        codes, step, minimum = self.parts(encoded, block)
        return reconstruct(codes, *scaled(step, minimum, encoded.norm))

    def decode(self, encoded: Encoded, block: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return D in the basis of the originals, and a bound of what it is off by; see `Format.decode`."""
        return turned_back(*self.decode_rotated(encoded, block), self.rotated)
