"""`int8-paper` (keys): the layout of runtime-certified attention (arXiv 2605.20868, Section 2.3).

Signed 8-bit codes with a binary32 step s and offset z per channel and block; `Encoded.minimum` holds z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.formats.affine import HALF, extremes, reconstruct, reconstruction_error
from certkv.reference.formats.base import KEYS, check_originals
from certkv.reference.formats.encoded import Encoded
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True)
class Int8Paper:
    """The paper's key quantizer, in binary32 operations of a written order.

    ::

        s    = (hi/2 - lo/2) / 127.5           the paper's (hi - lo)/255, safe from overflow
        z    = 2 (lo/2 + 64 s)                 the paper's lo + 128 s, safe from overflow
        code = clamp(rne((k - z) / s), -128, 127)

    Where hi == lo: s = 0, z = lo, code 0, which is exact.  Only ``k - z`` can overflow, to -inf at the lower end of the
    bfloat16 range, and clamping then gives -128, the right code.
    """

    name: str = "int8-paper"
    kind: frozenset[str] = frozenset({KEYS})
    default_block: int = 16

    def encode(self, x: AnyArray) -> Encoded:
        """Encode blocks [..., B, d]; see `Format.encode`."""
        ft = check_originals(x, self.kind)
        x32, lo, hi = extremes(x, -2)
        s = (HALF * hi - HALF * lo) / np.float32(127.5)
        z = np.float32(2.0) * (HALF * lo + np.float32(64.0) * s)
        divisor = np.where(s > 0, s, np.float32(1.0))
        with np.errstate(over="ignore"):  # see the class docstring
            quotient = (x32 - z) / divisor
        codes = np.clip(np.rint(quotient), -128, 127).astype(np.int8)
        return Encoded(self.name, codes, s[..., 0, :], z[..., 0, :], x.shape[-2], x.shape[-1], ft)

    def decode(self, encoded: Encoded) -> FloatArray:
        """Return the meaning ``z + s * code`` in float64, [..., B, d]; see `Format.decode`."""
        return reconstruct(encoded.codes, encoded.step[..., None, :], encoded.minimum[..., None, :])

    def decode_error_ub(self, encoded: Encoded) -> FloatArray:
        """Return ``|decode - exact|``, [..., B, d]; see `Format.decode_error_ub`."""
        return reconstruction_error(encoded.codes, encoded.step[..., None, :], encoded.minimum[..., None, :])

    def bytes_per_block(self, block: int, head_dim: int) -> int:
        """Return ``(B + 8) d``: codes, and 4 bytes each for step and offset."""
        return (block + 2 * 4) * head_dim


INT8_PAPER = Int8Paper()
