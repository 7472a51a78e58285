"""Small words for real-arithmetic goals, so that a lemma reads like its formula."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import z3

from certkv.proofs.smt.lemma import Goal


def reals(names: str) -> Any:
    """Real constants, one per name; a list even for a single one."""
    return [z3.Real(name) for name in names.split()]


def real(conclusion: z3.BoolRef, *hypotheses: z3.BoolRef) -> Goal:
    """``hypotheses ==> conclusion`` over the reals, polynomial."""
    return Goal("QF_NRA", _flat(hypotheses), conclusion)


def at_most(x: Any, bound: Any) -> z3.BoolRef:
    """``|x| <= bound``."""
    return z3.And(-bound <= x, x <= bound)


def between(low: Any, *rest: Any) -> z3.BoolRef:
    """``low <= x <= y <= ...``."""
    chain = [low, *rest]
    return z3.And([a <= b for a, b in itertools.pairwise(chain)])


def inverse(E: Any, F: Any) -> z3.BoolRef:
    """``E = e^Delta`` and ``F = e^-Delta`` for some ``Delta >= 0``: all that the lemmas use of the exponential."""
    return z3.And(E >= 1, F > 0, E * F == 1)


def norm_at_most(vector: Sequence[Any], bound: Any) -> z3.BoolRef:
    """``||vector|| <= bound`` for the Euclidean norm, without a root."""
    return z3.And(bound >= 0, z3.Sum([x * x for x in vector]) <= bound * bound)


def _flat(hypotheses: Sequence[z3.BoolRef]) -> list[z3.BoolRef]:
    """Split conjunctions, so that a text has one assertion per fact."""
    flat: list[z3.BoolRef] = []
    for fact in hypotheses:
        flat.extend(_flat(fact.children()) if z3.is_and(fact) else [fact])
    return flat
