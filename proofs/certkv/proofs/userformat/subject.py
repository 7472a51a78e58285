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


@dataclass(frozen=True)
class Subject:
    """A user's format and the sizes it is tried at.

    Attributes
    ----------
    make : callable
        Returns the user's object in the state in which it was handed over.
    blocks, head_dims : sequence of int
        Tokens per block, channels.
    """

    make: Callable[[], Any]
    blocks: Sequence[int] = (1, 4, 7)
    head_dims: Sequence[int] = (1, 8, 20)

    @classmethod
    def of(cls, given: Any, blocks: Sequence[int], head_dims: Sequence[int]) -> Subject:
        """Take a class, which is called without arguments, or an object, which is copied.

        Raises
        ------
        SettingError
            The class cannot be called without arguments.
        """
        if isinstance(given, type):
            try:
                given()
            except Exception as error:
                message = f"{given.__name__}() raised {type(error).__name__}: {error}; pass an object instead"
                raise SettingError(message) from error
            return cls(given, tuple(blocks), tuple(head_dims))
        pristine = copy.deepcopy(given)
        return cls(lambda: copy.deepcopy(pristine), tuple(blocks), tuple(head_dims))

    def adapted(self, suffix: str = "") -> Adapted:
        """Return a fresh adapter of a fresh object; a suffix keeps its name apart from registered ones."""
        inner = self.make()
        plain = Adapted(inner)
        return Adapted(inner, f"{plain.name}{suffix}") if suffix else plain

    @cached_property
    def corners(self) -> list[Corner]:
        """Every corner at every size."""
        return corners(self.blocks, self.head_dims)


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
