"""What the checks on a GPU share: they print at once, stop at what does not hold, capture, and time replays.

Without a GPU what would be captured is called as it is, and nothing is timed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache

import torch

from certkv.cli.bench.timing import GraphClock, nothing
from certkv.fast import PaperPolicy, Plan, Step

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")

Replay = Callable[[], None]


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def require(condition: object, what: str) -> None:
    """Stop where something does not hold.

    Raises
    ------
    SystemExit
    """
    if not bool(condition):
        say(f"FAIL {what}")
        raise SystemExit(1)


@cache
def _clock() -> GraphClock:
    return GraphClock(DEVICE, 0)


def captured(run: Callable[[], object]) -> Replay:
    """Run once, which compiles, and capture; return what replays it."""
    if GPU:
        return _clock().ready(run)

    def again() -> None:
        run()

    return again


def capture(made: Plan, q: torch.Tensor, step: Step) -> Replay:
    """Capture a step."""
    return captured(lambda: made.run(q, out=step))


def timed(replay: Replay, replays: int = 40, before: Replay = nothing) -> float:
    """Return the median time of replays in microseconds, with nothing of what they read left in the L2."""
    clock = _clock()
    clock.replays = replays
    return clock.time(replay, before)


def quiet(made: Plan, q: torch.Tensor, step: Step) -> None:
    """Check that a run neither synchronises nor allocates.

    Raises
    ------
    SystemExit
    """
    if not GPU:
        return
    made.run(q, out=step)
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.run(q, out=step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    allocated = torch.cuda.memory_stats()["allocation.all.allocated"] - before
    # selection by the paper's rules sorts, which takes memory of the graph's pool
    require(allocated == 0 or isinstance(made.policy, PaperPolicy), f"a run of {made.policy} allocated {allocated}x")
