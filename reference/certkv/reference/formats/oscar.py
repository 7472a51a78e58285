"""`oscar` and its kin (keys): rotate, then scale tokens to norm 1, then quantize channels over groups of tokens.

OScaR (arXiv 2605.19660): a group of tokens shares one range per channel, and the range is wasted where the tokens'
norms differ; rotation alone cannot change that, and scaling alone makes outlier channels worse. Rotation and norm are
switches, so that what each is worth can be measured at equal bytes. See docs/formats/oscar.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import numpy as np

from certkv.reference.errors import SettingError
from certkv.reference.formats.affine import quantize
from certkv.reference.formats.base import KEYS, Format, check_originals
from certkv.reference.formats.cells import places
from certkv.reference.formats.encoded import Encoded
from certkv.reference.formats.planes import divide as planes_of
from certkv.reference.formats.planes import pack_plane, plane_rows
from certkv.reference.formats.rotated import Meaning, originals_as_stored, to_type
from certkv.reference.formats.settings import require_codes
from certkv.reference.formats.token_norm import Scope, divide, token_norm, unscaled
from certkv.reference.formats.zero_point import quantize_zero_point
from certkv.reference.numbers import FloatType
from certkv.reference.numbers.types import AnyArray, Float32Array, FloatArray

NORM_BYTES = 4


@dataclass(frozen=True)
class OscarKeys(Meaning):
    """Codes of `bits` bits per channel and group of tokens, of keys that are rotated and scaled, or not.

    Groups begin with the block, and a block that is no multiple of the group ends in a shorter one. Codes are packed
    along tokens (`planes.pack_plane`); step and minimum are [..., ceil(B/group), d] in E, the type of the originals.

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
        What a token's norm is taken over; None to leave tokens as long as they are. In the joint scope the axis before
        the tokens is that of the KV heads, and each of them holds a copy of the norms.
    zero_point : bool
        An integer zero point, as OScaR's code has it, instead of the exact minimum.
    plane_bits : tuple of int
        Refinement planes, at most 16 bits with the codes.
    short_groups : bool
        Whether a cache may have blocks shorter than a group, which are then groups themselves.

    Raises
    ------
    SettingError
        Bits, a group, a scope or planes that it cannot have; see `settings.require_codes`.
    """

    name: str
    bits: int = 2
    group: int = 32
    rotated: bool = True
    scope: Scope | None = "joint"
    zero_point: bool = False
    plane_bits: tuple[int, ...] = ()
    default_block: int = 64
    short_groups: bool = False
    kind: frozenset[str] = frozenset({KEYS})

    def __post_init__(self) -> None:
        require_codes(self.name, self.bits, self.group, self.plane_bits)
        if self.scope is not None and self.scope not in get_args(Scope):
            known = ", ".join(map(repr, get_args(Scope)))
            raise SettingError(f"format {self.name!r} has scope {self.scope!r}; give one of {known}, or None")

    def prepare(self, x: AnyArray, ft: FloatType) -> tuple[AnyArray, Float32Array]:
        """Rotate and scale as the switches say.

        Returns
        -------
        u : ndarray of ft.dtype, [..., B, d]
            What is quantized.
        norm : float32 [..., B] or [..., 0]
            As stored.
        """
        y = originals_as_stored(x, self.rotated)
        if self.scope is None:
            return to_type(y, ft), np.zeros((*x.shape[:-2], 0), np.float32)
        norm = token_norm(y, self.scope)
        return divide(y, norm).astype(ft.dtype), unscaled(norm)

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        ft = check_originals(x, self.kind)
        block, head_dim = x.shape[-2:]
        u, norm = self.prepare(x, ft)
        # repeating the last token fills the last group without changing its extremes
        groups = self.groups(block)
        padded = u[..., np.minimum(np.arange(groups * self.group), block - 1), :]
        grouped = padded.reshape(*x.shape[:-2], groups, self.group, head_dim)
        rule = quantize_zero_point if self.zero_point else quantize
        codes, step, minimum = rule(grouped, -2, 2**self.bits - 1, ft)
        codes = codes.reshape(padded.shape)[..., :block, :]
        finer = sum(self.plane_bits)
        place = places(u, codes, self._of_tokens(step, block), self._of_tokens(minimum, block), finer)
        planes = planes_of(place, self.plane_bits)[1]
        stored = pack_plane(codes, self.bits)
        return Encoded(self.name, stored, step, minimum, block, head_dim, ft, planes, norm)

    def groups(self, block: int) -> int:
        """Return ``ceil(B/group)``."""
        return -(-block // self.group)

    def _of_tokens(self, x: AnyArray, block: int) -> AnyArray:
        """Repeat what belongs to a group for each of its tokens, [..., groups, d] -> [..., B, d]."""
        return x[..., np.arange(block) // self.group, :]

    def _affine(self, encoded: Encoded) -> tuple[FloatArray, FloatArray]:
        """Return norm times step and norm times minimum: 24 bits times 11, so exactly; 17 are left for code_l."""
        step, minimum = (self._of_tokens(x.astype(np.float64), encoded.block) for x in (encoded.step, encoded.minimum))
        if self.scope is None or encoded.norm is None:
            return step, minimum
        norm = encoded.norm.astype(np.float64)[..., None]
        return norm * step, norm * minimum

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return the bytes of codes, steps, minima and norms, as one KV head holds them."""
        metadata = 2 * 2 * self.groups(block) * head_dim
        norms = 0 if self.scope is None else NORM_BYTES * block
        return plane_rows(block, self.bits) * head_dim + metadata + norms

    def shared_bytes_per_block(self, block: int) -> int:
        """Return the bytes among them that all KV heads of a layer hold in common: joint norms."""
        return NORM_BYTES * block if self.scope == "joint" else 0


def least_block(fmt: Format) -> int:
    """Return the fewest tokens per block with which a cache has the groups that a key format speaks of."""
    return fmt.group if isinstance(fmt, OscarKeys) and not fmt.short_groups else 1
