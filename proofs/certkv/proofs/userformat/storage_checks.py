"""What an encoder and a decoder must be by themselves: total, repeatable, without memory of anything but the block."""

from __future__ import annotations

import copy
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np

from certkv.proofs.mutants.model import CheckFailed, require
from certkv.proofs.userformat.adapter import Adapted, held_bytes
from certkv.proofs.userformat.subject import Subject, blaming, encode_decode
from certkv.reference.formats import Encoded
from certkv.reference.numbers.types import AnyArray, FloatArray


def same(one: FloatArray, other: FloatArray) -> bool:
    """Whether two decoded blocks are equal bit for bit, signs of zero included."""
    return one.tobytes() == other.tobytes()


def total(subject: Subject) -> str:
    """Encode and decode every corner; what is decoded must be finite."""
    fmt = subject.adapted()
    for corner in subject.corners:
        _, decoded = encode_decode(fmt, corner.block, corner.name)
        bad = np.argwhere(~np.isfinite(decoded))
        if bad.size:
            at = tuple(int(i) for i in bad[0])
            raise CheckFailed(f"{corner.name}: decoded {decoded[at]} at {list(at)}, original {corner.block[at]}")
    return f"{len(subject.corners)} blocks"


def input_kept(subject: Subject) -> str:
    """Compare the argument of ``encode`` before and after."""
    inner = subject.make()
    for corner in subject.corners:
        x = corner.block.copy()
        with blaming(f"encode of {corner.name}"):
            inner.encode(x)
        require(x.tobytes() == corner.block.tobytes(), f"{corner.name}: encode changed its argument")
    return f"{len(subject.corners)} blocks"


def deterministic(subject: Subject) -> str:
    """Encode every corner twice, and once more with a fresh object."""
    fmt, other = subject.adapted(), subject.adapted()
    for corner in subject.corners:
        first, again, fresh = (encode_decode(f, corner.block, corner.name)[1] for f in (fmt, fmt, other))
        require(same(first, again), f"{corner.name}: encoded twice, decoded to different numbers")
        require(same(first, fresh), f"{corner.name}: another object of the class encodes it differently")
    return f"{len(subject.corners)} blocks, 3 times each"


def self_contained(subject: Subject) -> str:
    """Decode every block at once, again after all others were encoded, and by an object that has encoded nothing."""
    fmt = subject.adapted()
    kept: list[tuple[str, Encoded, FloatArray]] = []
    for corner in subject.corners:
        encoded, decoded = encode_decode(fmt, corner.block, corner.name)
        kept.append((corner.name, encoded, decoded.copy()))
    for name, encoded, decoded in kept:
        with blaming(f"decode of {name}, later"):
            require(same(fmt.decode(encoded), decoded), f"{name}: decodes differently after other blocks were encoded")
        with blaming(f"decode of {name} by a fresh object"):
            fresh = subject.adapted().decode(copy.deepcopy(encoded))
        require(same(fresh, decoded), f"{name}: an object that did not encode it decodes it differently")
    return f"{len(kept)} blocks"


def stable(subject: Subject) -> str:
    """Decode three times, and overwrite what was returned each time."""
    fmt = subject.adapted()
    for corner in subject.corners:
        encoded, first = encode_decode(fmt, corner.block, corner.name)
        kept = first.copy()
        first[...] = -7.0
        for stored in encoded.codes.flat:
            with blaming(f"decode of {corner.name}, again"):
                second = fmt.inner.decode(stored)
                require(same(second, kept), f"{corner.name}: decoded again, it is different")
                second[...] = -7.0
                require(same(fmt.inner.decode(stored), kept), f"{corner.name}: decode returns an array that it keeps")
    return f"{len(subject.corners)} blocks, 3 times each"


def meaning(subject: Subject) -> str | None:
    """Compare ``decode`` with ``exact`` in rational arithmetic, against the claimed error and against one rounding.

    None with neither ``exact`` nor ``decode_error_ub``: then ``decode`` is the meaning. With the latter alone, any
    error that is claimed only loosens bounds, but it must be a number.
    """
    fmt = subject.adapted()
    if not fmt.has_exact and not callable(getattr(fmt.inner, "decode_error_ub", None)):
        return None
    elements = 0
    for corner in subject.compared:
        encoded, decoded = encode_decode(fmt, corner.block, corner.name)
        with blaming(f"decode_error_ub of {corner.name}"):
            claimed = fmt.decode_error_ub(encoded)
        shapes = f"{claimed.shape} for a block {decoded.shape}"
        require(claimed.shape == decoded.shape, f"{corner.name}: decode_error_ub returned {shapes}")
        for what, numbers, good in (
            ("decode returned", decoded, np.isfinite(decoded)),
            ("decode_error_ub says", claimed, np.isfinite(claimed) & (claimed >= 0)),
        ):
            if not good.all():
                at = tuple(int(i) for i in np.argwhere(~good)[0])
                wanted = "a finite number" if numbers is decoded else "a finite number, 0 or more"
                raise CheckFailed(f"{corner.name} at {list(at)}: {what} {numbers[at]}, which is not {wanted}")
        with blaming(f"exact of {corner.name}"):
            exact = exact_of(fmt, encoded)
        for at in np.ndindex(decoded.shape):
            found = Fraction(float(decoded[at]))
            error = abs(found - exact[at])
            if error == 0:
                continue
            where = f"{corner.name} at {list(at)}: decode is off by {_number(error)}"
            require(error <= Fraction(float(claimed[at])), f"{where}, decode_error_ub says {claimed[at]:.3e}")
            require(error <= abs(found) / 2**53, f"{where}, more than one rounding of {decoded[at]}")
        elements += decoded.size
    return f"{elements} numbers"


def _number(x: Fraction) -> str:
    """Format a fraction, which may be too large for a float."""
    try:
        return f"{float(x):.3e}"
    except OverflowError:
        return "more than the largest float64"


def exact_of(fmt: Adapted, encoded: Encoded) -> AnyArray:
    """Return the meaning as an object array of fractions, [B, d]: of ``exact``, else of ``decode``.

    Raises
    ------
    ShapeError, DTypeError
        From ``decode``.
    CheckFailed
        ``exact`` returns another shape, or something that is no rational number.
    """
    decoded = fmt.decode(encoded)
    source = fmt.inner.exact(encoded.codes[0, 0]) if fmt.has_exact else decoded
    given = np.asarray(source, dtype=object)
    require(given.shape == decoded.shape, f"exact returned {given.shape} for a block {decoded.shape}")
    out = np.empty(decoded.shape, object)
    for at in np.ndindex(decoded.shape):
        value: Any = given[at]
        try:
            out[at] = Fraction(value)
        except (TypeError, ValueError, ArithmeticError) as error:
            what = "exact" if fmt.has_exact else "decode"
            raise CheckFailed(f"{what} returned {value!r:.40} at {list(at)}, which is no rational number") from error
    return out


def bytes_counted(subject: Subject) -> str | None:
    """Compare ``bytes_per_block`` with what is held of every corner.

    None where it is not given: then it is counted.
    """
    fmt = subject.adapted()
    if not callable(getattr(fmt.inner, "bytes_per_block", None)):
        return None
    for corner in subject.corners:
        with blaming(f"bytes_per_block of {corner.name}"):
            claimed = fmt.inner.bytes_per_block(*corner.block.shape)
            held = held_bytes(fmt.inner.encode(corner.block.copy()))
        require(
            isinstance(claimed, Integral), f"{corner.name}: bytes_per_block is {claimed!r:.40}, which is no integer"
        )
        require(claimed >= held, f"{corner.name}: {held} bytes held, {claimed} claimed")
    return f"{len(subject.corners)} blocks"
