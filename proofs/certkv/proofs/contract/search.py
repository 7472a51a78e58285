"""Explicit-state search: every reachable state of a finite machine, or the shortest path to one that breaks a rule."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from certkv.proofs.mutants.model import CheckFailed

S = TypeVar("S", bound=Hashable)

Successors = Callable[[S], Iterable[tuple[str, S]]]
"""From a state to (event, next state); an event that breaks a rule raises `CheckFailed`."""


@dataclass(frozen=True)
class Space(Generic[S]):
    """What a search found.

    Attributes
    ----------
    successors : dict
        Every reachable state with its next states.
    transitions : int
        Number of (state, event) pairs.
    """

    successors: dict[S, tuple[S, ...]]
    transitions: int


def explore(initial: Iterable[S], successors: Successors[S], check: Callable[[S], None]) -> Space[S]:
    """Visit every state that can be reached, breadth first.

    Parameters
    ----------
    initial : iterable of states
    successors : callable
    check : callable
        Called with every state; raises `CheckFailed` where it must not be reachable.

    Returns
    -------
    Space

    Raises
    ------
    CheckFailed
        With the shortest sequence of events from an initial state.
    """
    came_from: dict[S, tuple[S, str] | None] = dict.fromkeys(initial)
    queue = deque(came_from)
    found: dict[S, tuple[S, ...]] = {}
    transitions = 0
    while queue:
        state = queue.popleft()
        following: list[S] = []
        try:
            check(state)
            for event, target in successors(state):
                transitions += 1
                following.append(target)
                if target not in came_from:
                    came_from[target] = (state, event)
                    queue.append(target)
        except CheckFailed as failure:
            raise CheckFailed(f"{failure}; after {' > '.join(_path(came_from, state)) or 'nothing'}: {state}") from None
        found[state] = tuple(dict.fromkeys(following))
    return Space(found, transitions)


def longest_path(space: Space[S]) -> int:
    """Return the number of transitions of the longest path.

    Raises
    ------
    CheckFailed
        There is a cycle, so that some path never ends.
    """
    # states leave in an order in which every successor has left before; what cannot leave lies on a cycle or before one
    waiting = {state: len(following) for state, following in space.successors.items()}
    before: dict[S, list[S]] = {state: [] for state in space.successors}
    for state, following in space.successors.items():
        for target in following:
            before[target].append(state)
    length = dict.fromkeys(space.successors, 0)
    ready = [state for state, count in waiting.items() if count == 0]
    left = 0
    while ready:
        state = ready.pop()
        left += 1
        for source in before[state]:
            length[source] = max(length[source], length[state] + 1)
            waiting[source] -= 1
            if waiting[source] == 0:
                ready.append(source)
    if left < len(waiting):
        stuck = next(state for state, count in waiting.items() if count)
        raise CheckFailed(f"a path need not end: {stuck} can be left for ever")
    return max(length.values(), default=0)


def _path(came_from: dict[S, tuple[S, str] | None], state: S) -> list[str]:
    events: list[str] = []
    step = came_from[state]
    while step is not None:
        events.append(step[1])
        step = came_from[step[0]]
    return events[::-1]
