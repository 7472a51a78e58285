"""The fallback ladder as a pure function: from what was observed of a head to what happens next.

The order of the questions is the order of severity: an error beats rung 4, which beats rung 3, which beats refinement.
Every check is asked in the form "did it hold?", so that an unknown (NaN) counts as "no".
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

MAX_ROUNDS = 255
"""Most rounds of promotion that a policy may ask for: `ladder` is proved for as many, in a counter of 8 bits."""


class Action(enum.Enum):
    """What happens to a head next."""

    ERROR = "error"
    """No output: an input is not finite, or an original that is needed is missing."""
    DENSE = "dense"
    """Rung 4: all heads of this sequence and layer from the originals."""
    EXACT_HEAD = "exact head"
    """Rung 3: this head from the originals."""
    REFINE = "refine"
    """Rungs 1 and 2: promote the blocks that contribute most to the bound, then look again."""
    ACCEPT = "accept"
    """Return the output with its certificate."""


@dataclass(frozen=True)
class Observation:
    """What one head's step has shown so far.

    Attributes
    ----------
    finite : bool
        Queries, keys and values are finite.
    originals_present : bool
        Every original the head has needed so far could be read.
    consistent, ranked, bounded : bool
        Outcomes of the score-consistency, ranking and boundary checks (True where a policy does not ask for them).
    bound : float
        The certificate.
    tolerance : float
        What must be enforced; ``+inf`` where nothing is.
    rounds_left : int
        Rounds of promotion that may still be tried, at most ``MAX_ROUNDS``; 0 too where nothing is left to promote.
    """

    finite: bool = True
    originals_present: bool = True
    consistent: bool = True
    ranked: bool = True
    bounded: bool = True
    bound: float = float("inf")
    tolerance: float = float("inf")
    rounds_left: int = 0


def next_action(seen: Observation) -> Action:
    """Decide what happens to a head.

    Parameters
    ----------
    seen : Observation

    Returns
    -------
    Action
        ``ACCEPT`` only if every check held and ``bound <= tolerance``; a NaN in either is not acceptance. A tolerance
        of 0 is never met by quantized data, whatever the bound says, so it always ends in rung 3.
    """
    if not seen.finite or not seen.originals_present:
        return Action.ERROR
    if not seen.consistent:
        return Action.DENSE
    if not seen.ranked or not seen.bounded:
        return Action.EXACT_HEAD
    if seen.tolerance > 0 and seen.bound <= seen.tolerance:
        return Action.ACCEPT
    if seen.tolerance > 0 and seen.rounds_left > 0:
        return Action.REFINE
    return Action.EXACT_HEAD
