"""What a format is: encode, an exact meaning, a byte count."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from certkv.reference.errors import DTypeError, NonFiniteError, ShapeError
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType, float_type
from certkv.reference.numbers.types import AnyArray, FloatArray

KEYS = "keys"
VALUES = "values"


class Format(Protocol):
    """A quantizer with a fixed floating-point meaning.

    ``encode`` is a total function of finite float16 or bfloat16 blocks.  What the stored bits *mean* is the real number
    ``minimum + step * code``, exactly; every annotation and every certificate refers to that number.
    """

    @property
    def name(self) -> str:
        """Name in settings and reports."""

    @property
    def kind(self) -> frozenset[str]:
        """What it can store: a subset of ``{"keys", "values"}``."""

    @property
    def default_block(self) -> int:
        """Tokens per block unless told otherwise."""

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks of originals.

        Parameters
        ----------
        x : ndarray of float16 or bfloat16, [..., B, d]

        Raises
        ------
        DTypeError, ShapeError, NonFiniteError
        """

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return the meaning in float64, [..., B, d]: exact, or rounded once, ``|decode - exact| <= u |decode|``.

        u = 2**-53; since rounding to nearest is meant, ``<= u |exact|`` holds as well. A format that is rotated
        (`rotated.is_rotated`) is off by at most ``gamma_{1+r}`` of a token's norm, r its `rotated.extra_roundings`.
        """

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Upper bound of ``|decode - exact|`` per element, [..., B, d].

        ``U * abs(decode(encoded))`` is one unless the format is rotated.
        """

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Bytes of codes and metadata of one block of 16-bit originals, annotations not included."""


def check_originals(x: AnyArray, kind: frozenset[str]) -> FloatType:
    """Check blocks of originals and return their type.

    Raises
    ------
    DTypeError
        If x is neither float16 nor bfloat16.
    ShapeError
        If x has no token or no channel axis, or no token or channel.
    NonFiniteError
        With the position of the first NaN or infinity; it names the tensor ``k``, ``v``, or ``x`` when the format
        takes both.
    """
    ft = float_type(x.dtype)
    if ft not in (FLOAT16, BFLOAT16):
        raise DTypeError(f"originals are {ft.name}, but a cache stores float16 or bfloat16; round them first")
    if x.ndim < 2 or x.shape[-1] < 1 or x.shape[-2] < 1:
        raise ShapeError(f"originals have shape {x.shape}, but blocks are [..., B, d] with B >= 1 and d >= 1")
    with np.errstate(invalid="ignore"):  # looking at a signalling NaN
        finite = np.isfinite(x)
    if not finite.all():
        position = tuple(int(i) for i in np.argwhere(~finite)[0])
        tensor = {frozenset({KEYS}): "k", frozenset({VALUES}): "v"}.get(kind, "x")
        raise NonFiniteError(tensor, position, float(x[position]))
    return ft
