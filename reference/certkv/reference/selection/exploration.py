"""Which blocks outside the choice are also scored exactly, drawn by a hash so that a run repeats itself."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from certkv.reference.numbers.types import BoolArray, IntArray

Words = npt.NDArray[np.uint64]

_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: Words) -> Words:
    """SplitMix64's finaliser: a bijection of 64-bit words that scatters close inputs."""
    x = (x ^ (x >> np.uint64(30))) * _MIX[0]
    x = (x ^ (x >> np.uint64(27))) * _MIX[1]
    return x ^ (x >> np.uint64(31))


def explore(share: float, seed: int, step: int, heads: IntArray, blocks: int) -> BoolArray:
    """Draw each (head, block) with probability ``share``, as a function of (seed, step, head, block) alone.

    Parameters
    ----------
    share : float
        Between 0 and 1.
    seed, step : int
        Seed of the policy; number of the decode step.
    heads : int64 [heads]
        Global indices of the query heads.
    blocks : int
        Number of coded blocks.

    Returns
    -------
    bool [heads, blocks]
    """
    word: Words = np.full((len(heads), blocks), np.uint64(seed % 2**64))
    parts = (np.uint64(step % 2**64), heads.astype(np.uint64)[:, None], np.arange(blocks, dtype=np.uint64)[None, :])
    for part in parts:  # unsigned arithmetic wraps around, by definition of the hash
        word = _mix((word + _GOLDEN) ^ part)
    return np.asarray((word >> np.uint64(11)) * 2.0**-53 < share)
