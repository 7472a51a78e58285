"""Numbers that stand for plans and caches where only tensors and numbers may go: in operators of ``torch.library``."""

from __future__ import annotations

import itertools
from weakref import WeakValueDictionary

from certkv.fast.errors import ReleasedError

_NUMBERS = itertools.count(1)
_OBJECTS: WeakValueDictionary[int, object] = WeakValueDictionary()


class Handled:
    """An object with a handle, a number that no other object of the process ever gets.

    Attributes
    ----------
    handle : int
        Holds for as long as something refers to the object; then it is a `ReleasedError`.
    """

    handle: int

    def take_handle(self) -> None:
        """Get a handle."""
        self.handle = next(_NUMBERS)
        _OBJECTS[self.handle] = self

    def __setstate__(self, state: dict[str, object]) -> None:
        """Give a copy a handle of its own: operators must not take it for what it was copied from."""
        self.__dict__.update(state)
        self.take_handle()


def look_up(handle: int, kind: str) -> Handled:
    """Return the object of a handle.

    Raises
    ------
    ReleasedError
        It is gone, or is no object of the class ``kind``.
    """
    found = _OBJECTS.get(handle)
    if not isinstance(found, Handled) or all(base.__name__ != kind for base in type(found).__mro__):
        raise ReleasedError(handle, kind)
    return found
