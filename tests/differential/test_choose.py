"""The choice against the reference's: same terms, same blocks, same actions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from certkv.fast.choose import ACCEPT, EXACT_HEAD, KEYS, REFINE, VALUES, Choice
from certkv.fast.totals import Totals
from certkv.reference.ladder import Action
from certkv.reference.steps.attend import attend
from certkv.reference.steps.budget import choose as reference_choose
from certkv.reference.steps.budget import decide as reference_decide
from certkv.reference.steps.certify import Certified, certify
from certkv.reference.steps.group import Levels

from ..fast.test_choose import CHOOSE, FREE, terms_of
from .bridge import INTERPRETED_KERNELS
from .certify_scene import make_scene

pytestmark = INTERPRETED_KERNELS

NAMES = {ACCEPT: Action.ACCEPT, REFINE: Action.REFINE, EXACT_HEAD: Action.EXACT_HEAD}
AWAY = 2.0**-8
"""Limits are moved by this share both ways: where the reference's choice stays, it is away from a tie. The fast path
raises what is needed by 2^-10 of the limit, and leaves rounding out of what promoting keys takes off."""


@pytest.mark.parametrize("seed", range(6))
def test_same_blocks_as_the_reference(seed: int) -> None:
    scene = make_scene(seed, lengths=(160,), peak=(1.0, 2.0, 4.0)[seed % 3], values=("int4-g32", "int8")[seed % 2])
    compared = refined = 0
    for kv in range(scene.kv_heads):
        group = scene.group(0, kv)
        rows, n = np.arange(len(group.q)), group.view.blocks
        levels = Levels.coded(len(rows), n)
        levels.keys[:, 1], levels.values[:, 2] = True, True
        seen = attend(group, levels, rows)
        done = certify(group, levels, rows, seen, np.dtype(np.float64))
        for share in (0.2, 0.5, 0.8, 1.1):
            # theorem block_bound's quotient, without what couples numerator and denominator
            numerator = done.bound.key_gain.sum(-1) + done.bound.value_gain.sum(-1)
            plain = numerator / done.bound.denominator
            limits = [share * plain * (1 + move) for move in (0.0, -AWAY, AWAY)]
            marks = [np.stack(reference_choose(levels, seen, done, limit)) for limit in limits]
            steady = np.array([all((m[:, r] == marks[0][:, r]).all() for m in marks) for r in rows])
            useful = marks[0].any(axis=(0, 2))
            actions = reference_decide(plain, limits[0], np.where(useful, 1, 0))
            for how in CHOOSE:
                for r in rows.tolist():
                    got, chosen = decide_alone(how, done, levels, seen.mass, r, float(limits[0][r]))
                    if not steady[r] or marks[0][:, r].sum() == (~np.stack([levels.keys, levels.values]))[:, r].sum():
                        # a tie; or everything, which here is rung 3's business
                        continue
                    assert NAMES[got] is actions[r], (how, share, r)
                    np.testing.assert_array_equal(chosen & KEYS != 0, marks[0][0, r])
                    np.testing.assert_array_equal(chosen & VALUES != 0, marks[0][1, r])
                    compared += 1
                    refined += got == REFINE
    assert compared >= 16
    assert refined >= 8


def decide_alone(
    how: str, done: Certified, levels: Levels, mass: np.ndarray, row: int, limit: float
) -> tuple[int, np.ndarray]:
    """Decide for one head from the reference's terms; the tail is the last entry of partial sums."""
    bound = done.bound
    n = levels.keys.shape[1]
    key, value, weight = (x[row, :n][None, None] for x in (bound.key_gain, bound.value_gain, bound.weight))
    terms = terms_of(key, value, weight, mass[row, :n][None, None])
    terms.partial[0, 0, -1, 0] = float(bound.key_gain[row, n])
    terms.partial[0, 0, -1, 3] = float(bound.weight[row, n])
    bits = torch.from_numpy((levels.keys[row] * KEYS + levels.values[row] * VALUES).astype(np.uint8))[None, None]
    found, choice = Totals.empty(1, 1), Choice.empty(1, 1, 1, n)
    CHOOSE[how](terms, bits, torch.zeros(1, 1, 8), FREE, "absolute", limit, 1, 2 * n, found, choice)
    return int(choice.action), choice.chosen[0, 0].numpy()
