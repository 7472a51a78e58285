"""What a format may be made of: refused where what it stores would no longer mean what it says, or be decoded so."""

from __future__ import annotations

from collections.abc import Sequence

from certkv.reference.errors import SettingError

PLANE_BITS = (1, 2, 4, 8)
FINER_BITS = 24
"""Most bits of all planes: places in a cell are computed in FP32, whose integers go so far."""
CODE_BITS = (2, 4)
NORMED_BITS = 16
"""Most bits of a code and its planes: norm (24), step (11) and the middle of a cell (one more) fit 53 bits."""


def require_planes(name: str, plane_bits: Sequence[int]) -> None:
    """Check refinement planes.

    Raises
    ------
    SettingError
        A width that does not divide a byte, or more than 24 bits in all.
    """
    for bits in plane_bits:
        if not _whole(bits) or bits not in PLANE_BITS:
            raise SettingError(f"format {name!r} has a plane of {bits!r} bits; give planes of 1, 2, 4 or 8")
    if sum(plane_bits) > FINER_BITS:
        raise SettingError(f"format {name!r} has planes of {sum(plane_bits)} bits in all; give at most {FINER_BITS}")


def require_codes(name: str, bits: int, group: int, plane_bits: Sequence[int]) -> None:
    """Check a format of two or four bits, whose step may be multiplied by a token's norm.

    Raises
    ------
    SettingError
        Codes of another width, groups of no token, planes as in `require_planes`, or too many bits for a decoded
        number to be rounded once.
    """
    if not _whole(bits) or bits not in CODE_BITS:
        raise SettingError(f"format {name!r} has codes of {bits!r} bits; give 2 or 4")
    if not _whole(group) or group < 1:
        raise SettingError(f"format {name!r} has groups of {group!r}; give a whole number of at least 1")
    require_planes(name, plane_bits)
    if (total := bits + sum(plane_bits)) > NORMED_BITS:
        raise SettingError(
            f"format {name!r} has {total} bits, planes and codes together; give at most {NORMED_BITS}, so that "
            "decoding rounds once"
        )


def _whole(x: object) -> bool:
    return isinstance(x, int) and not isinstance(x, bool)
