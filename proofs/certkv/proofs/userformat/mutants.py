"""The user's format with a planted mistake, each of which a check must notice.

A mistake that changes nothing for a format (a lossless one has no residual to understate) is not applicable to it, and
is shown as such; that is decided by looking, not by the check itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from certkv.proofs.mutants.model import patched
from certkv.proofs.userformat.adapter import held_bytes
from certkv.proofs.userformat.subject import Subject
from certkv.reference import Cache
from certkv.reference.annotations import KeyAnnotations, ValueAnnotations
from certkv.reference.annotations.keys import residual_unit
from certkv.reference.cache import cache as cache_module
from certkv.reference.cache.view import View
from certkv.reference.numbers import BFLOAT16, round_up
from certkv.reference.numbers.types import AnyArray, FloatArray

Plant = Callable[[Subject], tuple[Subject, AbstractContextManager[None]]]


@dataclass(frozen=True)
class FormatMutant:
    """A planted mistake.

    Attributes
    ----------
    id : str
    what : str
    plant : callable
        From the subject to one whose format has the mistake, and a context that has it in place around the format.
    check : str
        Id of the check that must fail.
    applies : callable
        Whether the mistake changes anything for this format.
    """

    id: str
    what: str
    plant: Plant
    check: str
    applies: Callable[[Subject], bool] = lambda _: True


class Wrapped:
    """A user's object with some methods replaced."""

    def __init__(self, inner: Any, name: str, methods: dict[str, Callable[..., Any]]) -> None:
        self.name = name
        self._inner = inner
        self._methods = methods

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        methods = self.__dict__.get("_methods", {})
        return methods[name] if name in methods else getattr(self.__dict__["_inner"], name)


def _wrap(change: Callable[[Any], dict[str, Callable[..., Any]]]) -> Plant:
    """Make a plant that replaces methods of every fresh object."""

    def plant(subject: Subject) -> tuple[Subject, AbstractContextManager[None]]:
        def make() -> Any:
            inner = subject.make()
            name = getattr(inner, "name", type(inner).__name__)
            return Wrapped(inner, str(name), change(inner))

        return replace(subject, make=make), nullcontext()

    return plant


def _nan_for_constants(inner: Any) -> dict[str, Callable[..., Any]]:
    def decode(stored: Any) -> FloatArray:
        x = inner.decode(stored)
        return np.where(np.ptp(x, axis=0) == 0, np.nan, x)

    return {"decode": decode}


def _single(inner: Any) -> dict[str, Callable[..., Any]]:
    return {"decode": lambda stored: inner.decode(stored).astype(np.float32)}


def _overwrites(inner: Any) -> dict[str, Callable[..., Any]]:
    def encode(x: AnyArray) -> Any:
        stored = inner.encode(x)
        x[...] = 1
        return stored

    return {"encode": encode}


def _alternates(inner: Any) -> dict[str, Callable[..., Any]]:
    """Encode every second block with its tokens in reverse."""
    turn = itertools.count()

    def encode(x: AnyArray) -> Any:
        return inner.encode(x if next(turn) % 2 == 0 else x[::-1] * x.dtype.type(0.5))

    return {"encode": encode}


def _remembers(inner: Any) -> dict[str, Callable[..., Any]]:
    """Decode what was encoded last, whatever is asked for."""
    last: list[Any] = []

    def encode(x: AnyArray) -> Any:
        last[:] = [inner.encode(x)]
        return last[0]

    return {"encode": encode, "decode": lambda stored: inner.decode(last[0] if last else stored)}


def _wears_out(inner: Any) -> dict[str, Callable[..., Any]]:
    """Decode to other numbers from the second time on."""
    turn = itertools.count()
    return {"decode": lambda stored: inner.decode(stored) * (1.0 if next(turn) == 0 else 1.0 + 2.0**-30) + 0.0}


def _rounds_in_silence(inner: Any) -> dict[str, Callable[..., Any]]:
    """Round to float32 while decoding, with the same claims as before."""

    def decode(stored: Any) -> FloatArray:
        with np.errstate(all="ignore"):
            x: FloatArray = inner.decode(stored) * (1.0 + 2.0**-40)
        return x.astype(np.float32).astype(np.float64)

    return {"decode": decode}


def _understates_bytes(inner: Any) -> dict[str, Callable[..., Any]]:
    return {"bytes_per_block": lambda b, d: held_bytes(inner.encode(np.zeros((b, d), np.float16))) - 1}


Notes = KeyAnnotations | ValueAnnotations
RESIDUALS = ("residual_norm_ub", "relative_max_ub", "relative_norm_ub", "relative_operator_ub")
"""The log codes of single values follow their block's maximum."""


def _noted(change: Callable[[Notes, AnyArray, Any, Any], Notes]) -> Plant:
    """Make a plant that changes annotations after they are measured: (notes, originals, encoded, format) -> notes."""

    def plant(subject: Subject) -> tuple[Subject, AbstractContextManager[None]]:
        keys, values = (vars(cache_module)[name] for name in ("annotate_keys", "annotate_values"))

        def annotate_keys(x: AnyArray, encoded: Any, fmt: Any) -> Notes:
            return change(keys(x, encoded, fmt), x, encoded, fmt)

        def annotate_values(x: AnyArray, encoded: Any, fmt: Any, anchor: Any) -> Notes:
            return change(values(x, encoded, fmt, anchor), x, encoded, fmt)

        changes = ((cache_module, "annotate_keys", annotate_keys), (cache_module, "annotate_values", annotate_values))
        return subject, patched(*changes)

    return plant


def _with(notes: Notes, changed: dict[str, AnyArray]) -> Notes:
    return type(notes)(**{**notes.arrays(), **changed})


def _scaled(factor: float) -> Plant:
    """Multiply residuals."""

    def change(notes: Notes, *_: Any) -> Notes:
        return _with(notes, {n: stored(factor * a.astype(np.float64)) for n, a in _residuals(notes).items()})

    return _noted(change)


def _below(notes: Notes, *_: Any) -> Notes:
    """Move every residual two bfloat16 numbers down: below the truth, which is at most one below what is stored."""

    def down(a: AnyArray) -> AnyArray:
        bits = a.view(np.uint16)
        return np.where(bits > 2, bits - 2, 0).astype(np.uint16).view(a.dtype)

    return _with(notes, {n: down(a) for n, a in _residuals(notes).items()})


def _mean(notes: Notes, x: AnyArray, encoded: Any, fmt: Any) -> Notes:
    """Take the mean residual of a block for its largest."""
    residual = x.astype(np.float64) - fmt.decode(encoded)
    if isinstance(notes, KeyAnnotations):
        unit = residual_unit(encoded)[..., None, :]
        residual = np.divide(residual, unit, out=np.zeros_like(residual), where=unit > 0)
    mean = stored(np.linalg.norm(residual, axis=-1).mean(axis=-1) * (1.0 + 2.0**-40))
    return _with(notes, {_norm(notes): mean, **_without_step(notes)})


def _relative(notes: Notes, *_: Any) -> Notes:
    """Store residuals relative to the largest norm."""
    norm = notes.decoded_norm_ub.astype(np.float64)
    found = getattr(notes, _norm(notes)).astype(np.float64) / np.where(norm > 0, norm, 1.0)
    return _with(notes, {_norm(notes): stored(found), **_without_step(notes)})


def _norm(notes: Notes) -> str:
    """Name of the largest norm of a residual."""
    return "relative_norm_ub" if isinstance(notes, KeyAnnotations) else "residual_norm_ub"


def _residuals(notes: Notes) -> dict[str, AnyArray]:
    return {n: a for n, a in notes.arrays().items() if n in RESIDUALS}


def stored(x: FloatArray) -> AnyArray:
    """Round up to what annotations are stored in."""
    return round_up(x, BFLOAT16)


def _without_step(notes: Notes) -> dict[str, AnyArray]:
    """Leave the L2 form of the key error alone: the L1 form is another road to the same number."""
    if isinstance(notes, KeyAnnotations):
        return {"relative_max_ub": np.full_like(notes.relative_max_ub, np.inf)}
    return {}


def _neighbours(notes: Notes, *_: Any) -> Notes:
    """Give every block the annotations of the one before."""
    return type(notes)(**{n: np.roll(a, 1, axis=0) for n, a in notes.arrays().items()})


def _encoded_again(subject: Subject) -> tuple[Subject, AbstractContextManager[None]]:
    """Decode what is stored and encode it again whenever a block fills."""
    encode = Cache._encode

    def again(self: Cache, k: AnyArray, v: AnyArray) -> None:
        for side in ("keys", "values") if self.blocks else ():
            decoded = self.format(side).decode(self.encoded(side)).astype(self.dtype)
            self._encoded[side] = self.format(side).encode(decoded)
        encode(self, k, v)

    return subject, patched((Cache, "_encode", again))


def _other_block(subject: Subject) -> tuple[Subject, AbstractContextManager[None]]:
    """Weight the values of the block before the one that is meant."""
    decoded = View.decoded

    def rolled(self: View, side: Any) -> FloatArray:
        found = decoded(self, side)
        # both sides rolled would be the same tokens in another order
        return np.roll(found, 1, axis=0) if side == "values" else found

    return subject, patched((View, "decoded", rolled))


def _lossy(subject: Subject) -> bool:
    """Whether any corner of ordinary size loses anything."""
    fmt = subject.adapted()
    with np.errstate(all="ignore"):
        return any(
            (fmt.decode(fmt.encode(corner.block)) != corner.block.astype(np.float64)).any()
            for corner in subject.corners
        )


def _uneven(subject: Subject) -> bool:
    """Whether some block has tokens of which one loses more than the mean."""
    fmt = subject.adapted()
    with np.errstate(all="ignore"):
        for corner in subject.corners:
            lost = np.linalg.norm(corner.block.astype(np.float64) - fmt.decode(fmt.encode(corner.block)), axis=-1)
            if np.isfinite(lost).all() and lost.max() > lost.mean() * 1.001:
                return True
    return False


def _has_exact(subject: Subject) -> bool:
    return subject.adapted().has_exact


def _counts_bytes(subject: Subject) -> bool:
    return callable(getattr(subject.make(), "bytes_per_block", None))


@contextmanager
def planted(mutant: FormatMutant, subject: Subject) -> Iterator[Subject]:
    """Put a mistake in place; gives the subject that has it."""
    changed, context = mutant.plant(subject)
    with context:
        yield changed


MUTANTS: tuple[FormatMutant, ...] = (
    FormatMutant("nan-for-constants", "constant channels decode to NaN", _wrap(_nan_for_constants), "total"),
    FormatMutant("decodes-to-float32", "decode returns float32", _wrap(_single), "total"),
    FormatMutant("overwrites-input", "encode writes into its argument", _wrap(_overwrites), "input-kept"),
    FormatMutant("alternates", "every second encoding differs", _wrap(_alternates), "deterministic"),
    FormatMutant("remembers", "decodes what was encoded last", _wrap(_remembers), "self-contained"),
    FormatMutant("wears-out", "decodes differently from the second time on", _wrap(_wears_out), "stable"),
    FormatMutant(
        "rounds-in-silence",
        "decode rounds to float32, its claimed error stays",
        _wrap(_rounds_in_silence),
        "meaning",
        _has_exact,
    ),
    FormatMutant(
        "understates-bytes", "claims one byte less than it holds", _wrap(_understates_bytes), "bytes", _counts_bytes
    ),
    FormatMutant("residual-halved", "residuals stored at half their size", _scaled(0.5), "annotations", _lossy),
    FormatMutant("residual-below", "residuals two bfloat16 numbers too low", _noted(_below), "annotations", _lossy),
    FormatMutant("residual-mean", "the mean of the residuals, not the largest", _noted(_mean), "annotations", _uneven),
    FormatMutant("residual-relative", "residuals relative to the norm", _noted(_relative), "annotations", _lossy),
    FormatMutant("notes-of-neighbour", "another block's annotations", _noted(_neighbours), "annotations"),
    FormatMutant("encoded-again", "stored blocks decoded and encoded again", _encoded_again, "encoded-once"),
    FormatMutant("residual-claimed-zero", "residuals claimed to be 0", _scaled(0.0), "naive", _lossy),
    FormatMutant("residual-claimed-zero-budget", "the same, under a tolerance", _scaled(0.0), "budget", _lossy),
    FormatMutant("other-block", "the values of the block before the one that is meant", _other_block, "naive"),
)
