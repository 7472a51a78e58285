"""The searches as data: what each shows, and the planted mistakes that it must find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from certkv.proofs.contract import ladder_model, life_model, life_search

ROUNDS = 2
"""Rounds of promotion in the searched steps; the lemmas hold for up to 255."""


@dataclass(frozen=True, eq=False)
class Model:
    """A machine with a search that visits every reachable state.

    Attributes
    ----------
    id : str
        ``stem.name``.
    statement : str
    run : callable
        Returns (states, transitions); raises `certkv.proofs.mutants.model.CheckFailed` with the shortest path to a
        state or an event that breaks the statement.
    broken : mapping from a planted mistake to a callable
        The same search of a machine with that mistake; each must raise `CheckFailed`.
    """

    id: str
    statement: str
    run: Callable[[], tuple[int, int]]
    broken: Mapping[str, Callable[[], tuple[int, int]]]

    @property
    def stem(self) -> str:
        """The theorem that the model serves."""
        return self.id.partition(".")[0]


def _step(rules: ladder_model.Rules, rounds: int = ROUNDS) -> tuple[int, int]:
    space, _ = ladder_model.search(rounds, rules)
    return len(space.successors), space.transitions


def _life(rules: life_model.Rules, heads: int, block: int, tokens: int, slots: int) -> tuple[int, int]:
    space = life_search.search(heads, block, tokens, slots, rules)
    return len(space.successors), space.transitions


def _life_model(name: str, what: str, heads: int, block: int, tokens: int, slots: int) -> Model:
    run = partial(_life, heads=heads, block=block, tokens=tokens, slots=slots)
    # without slots there is nothing that could be tagged, kept or evicted wrongly
    about_scratch = ("keeps_scratch_at_reset", "tags_without_side", "evicts_without_clearing")
    planted = {name: rules for name, rules in life_model.BROKEN.items() if slots or name not in about_scratch}
    return Model(
        f"cache_life.{name}",
        f"{what}: tokens are kept, blocks encoded once, codes kept, every read the block asked for or an error",
        partial(run, life_model.RIGHT),
        {mistake: partial(run, rules) for mistake, rules in planted.items()},
    )


MODELS: tuple[Model, ...] = (
    Model(
        "ladder.search",
        f"from every state of a step with up to {ROUNDS} rounds: a backed output or an error, in at most rounds + 3 "
        "transitions; no NaN accepted, nothing missing skipped",
        partial(_step, ladder_model.RIGHT),
        {mistake: partial(_step, rules) for mistake, rules in ladder_model.BROKEN.items()},
    ),
    _life_model("search_without_scratch", "1 KV head, 3 blocks of 2, no scratch", 1, 2, 7, 0),
    _life_model("search_with_scratch", "1 KV head, 3 blocks of 2, 2 slots", 1, 2, 7, 2),
    _life_model("search_two_heads", "2 KV heads, 2 blocks of 2, 1 slot", 2, 2, 5, 1),
)
