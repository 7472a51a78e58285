"""What is being verified: how to make the user's format afresh, and the sizes to try it at."""

from __future__ import annotations

import copy
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from certkv.proofs.mutants.model import CheckFailed
from certkv.proofs.userformat.adapter import Adapted
from certkv.proofs.userformat.corners import Corner, corners
from certkv.reference.errors import SettingError
from certkv.reference.formats import Encoded
from certkv.reference.numbers.types import AnyArray, FloatArray

SMALL_BLOCKS = (1, 4, 7)
SMALL_HEAD_DIMS = (1, 8, 20)
REAL_BLOCK = 64
"""What a cache takes where neither it nor the format says."""
REAL_HEAD_DIM = 64

FEW = ("normal", "outliers", "any bits")
"""Corners that are compared in rational arithmetic where a block has more than `MANY` numbers."""
MANY = 256


@dataclass(frozen=True)
class Subject:
    """A user's format and the sizes it is tried at.

    Attributes
    ----------
    make : callable
        Returns the user's object in the state in which it was handed over.
    blocks, head_dims : tuple of int
        Tokens per block, channels; every pair is tried.
    real : tuple of (int, int)
        More pairs (tokens per block, channels): what the format meets in use.
    """

    make: Callable[[], Any]
    blocks: tuple[int, ...]
    head_dims: tuple[int, ...]
    real: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, given: Any, blocks: Sequence[int] | None = None, head_dims: Sequence[int] | None = None) -> Subject:
        """Take a class, which is called without arguments, or an object, which is copied.

        The format's ``default_block`` is tried whatever is asked for: it is what a cache takes that is not told.

        Raises
        ------
        SettingError
            The class cannot be called without arguments, or is no format, or a size is below 1.
        """
        make = cls._maker(given)
        for name, sizes in (("blocks", blocks), ("head_dims", head_dims)):
            if sizes is not None and (not sizes or min(sizes) < 1):
                raise SettingError(f"{name} is {tuple(sizes)}; give sizes of at least 1")
        asked = tuple(dict.fromkeys(SMALL_BLOCKS if blocks is None else blocks))
        dims = tuple(dict.fromkeys(SMALL_HEAD_DIMS if head_dims is None else head_dims))
        more = [Adapted(make()).default_block, *([REAL_BLOCK] if blocks is None else [])]
        widest = REAL_HEAD_DIM if head_dims is None else max(dims)
        if head_dims is None:
            more.append(max(asked))
        pairs = {(b, widest) for b in more} - {(b, d) for b in asked for d in dims}
        return cls(make, asked, dims, tuple(sorted(pairs)))

    @staticmethod
    def _maker(given: Any) -> Callable[[], Any]:
        if isinstance(given, type):
            try:
                given()
            except Exception as error:
                message = f"{given.__name__}() raised {type(error).__name__}: {error}; pass an object instead"
                raise SettingError(message) from error
            return given
        pristine = copy.deepcopy(given)
        return lambda: copy.deepcopy(pristine)

    def adapted(self, suffix: str = "") -> Adapted:
        """Return a fresh adapter of a fresh object; a suffix keeps its name apart from registered ones."""
        inner = self.make()
        plain = Adapted(inner)
        return Adapted(inner, f"{plain.name}{suffix}") if suffix else plain

    @cached_property
    def corners(self) -> list[Corner]:
        """Every corner at every size, small sizes first."""
        return corners(self.shapes)

    @cached_property
    def compared(self) -> list[Corner]:
        """Corners to be compared in rational arithmetic: all of small blocks, `FEW` of large ones."""
        return [c for c in self.corners if c.block.size <= MANY or c.name.partition(" (")[0] in FEW]

    @property
    def shapes(self) -> tuple[tuple[int, int], ...]:
        """Every size that is tried: (tokens per block, channels)."""
        return (*((b, d) for b in self.blocks for d in self.head_dims), *self.real)

    @property
    def tried(self) -> str:
        """The sizes, for people."""
        grid = " x ".join(", ".join(map(str, sizes)) for sizes in (self.blocks, self.head_dims))
        return "; ".join([grid, *(f"{b} x {d}" for b, d in self.real)])


@contextmanager
def blaming(what: str) -> Iterator[None]:
    """Turn whatever the user's code raises, an exit included, into a failed check that says on what."""
    try:
        with np.errstate(all="ignore"):
            yield
    except CheckFailed:
        raise
    except (Exception, SystemExit) as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        raise CheckFailed(f"{what}: {type(error).__name__}: {error} ({place})") from error


def encode_decode(fmt: Adapted, x: AnyArray, what: str) -> tuple[Encoded, FloatArray]:
    """Encode and decode blocks; any error is a failed check."""
    with blaming(f"encode of {what}"):
        encoded = fmt.encode(x)
    with blaming(f"decode of {what}"):
        return encoded, fmt.decode(encoded)
