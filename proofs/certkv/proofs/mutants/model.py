"""What a mutant and a check are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from unittest import mock

from certkv.reference import CertkvError


class CheckFailed(Exception):  # noqa: N818 (the verdict on a mutant, no fault of the program)
    """A check found what it looks for: the behaviour is not the one that is promised."""


@dataclass(frozen=True)
class Check:
    """A statement about public behaviour.

    Attributes
    ----------
    id : str
    what : str
        The statement, as a sentence about correct code.
    run : callable
        Returns where the statement holds and raises `CheckFailed` where it does not.
    """

    id: str
    what: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Mutant:
    """A planted defect.

    Attributes
    ----------
    id : str
    defect : str
        Row of docs/DEFECTS.md, ``"A1"`` to ``"B9"``; ``"-"`` for a defect that was not met elsewhere.
    what : str
        What the planted code does wrong.
    plant : callable
        Returns a context manager; the defect is in place inside it.
    check : str
        Id of the check that must fail on it.
    """

    id: str
    defect: str
    what: str
    plant: Callable[[], AbstractContextManager[None]]
    check: str


Change = tuple[object, str, object]


@contextmanager
def patched(*changes: Change) -> Iterator[None]:
    """Replace attributes (owner, name, new value) and put the old ones back.

    Raises
    ------
    AttributeError
        The owner has no such attribute: the code was renamed under the mutant, which must not pass unseen.
    """
    with ExitStack() as stack:
        for owner, name, value in changes:
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def require(condition: bool, message: str) -> None:
    """Raise `CheckFailed` unless the condition holds."""
    if not condition:
        raise CheckFailed(message)


def require_raises(expected: type[Exception], call: Callable[[], object], what: str) -> Exception:
    """Return the error that ``call`` raises; raise `CheckFailed` where it returns, or raises another of ours."""
    try:
        call()
    except expected as error:
        return error
    except CertkvError as error:
        raise CheckFailed(f"{what}: {type(error).__name__} instead of {expected.__name__}") from error
    raise CheckFailed(f"{what}: no {expected.__name__} was raised")
