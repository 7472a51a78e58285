"""The attacks, one file per kind of input."""

from __future__ import annotations

from functools import cache

from certkv.proofs.adversary.attack import Attack
from certkv.proofs.adversary.attacks import (
    annotated,
    heads,
    kernels,
    numbers,
    outward,
    rotated,
    rounding,
    scores,
    sharp,
    spectral,
    states,
    steps,
    values,
    variation,
)


@cache
def all_attacks() -> tuple[Attack, ...]:
    """Every attack, in the order of the theorems."""
    bounds = (variation, values, scores, heads, sharp, spectral, states, outward)
    files = (*bounds, kernels, rounding, numbers, rotated, annotated, steps)
    return tuple(attack for file in files for attack in file.attacks())


def attack_by_id(name: str) -> Attack:
    """Return the attack of that id.

    Raises
    ------
    KeyError
        Naming the ids that exist.
    """
    for attack in all_attacks():
        if attack.id == name:
            return attack
    raise KeyError(f"no attack {name!r}; there are {', '.join(attack.id for attack in all_attacks())}")
