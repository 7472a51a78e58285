"""Search the life of a small cache to its last reachable state, every event checked against what was stored."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

from certkv.proofs.contract.life_model import (
    RIGHT,
    SIDES,
    Life,
    Missing,
    Read,
    Rules,
    Side,
    append,
    fetch,
    lose,
    read_host,
    reset,
)
from certkv.proofs.contract.search import Space, explore
from certkv.proofs.mutants.model import require


def check_life(life: Life) -> None:
    """Raise `CheckFailed` in a state that must not be reachable."""
    require(life.tokens == life.appended, f"{life.tokens} tokens of {life.appended}")
    require(0 <= life.tail < life.block, "a tail that fills a block")
    require(all(count == 1 for count in life.encoded), "a block that was not encoded exactly once")
    require(not any(life.codes), "codes that changed")
    require(len(life.scratch) <= life.slots, "more in scratch than fits")
    for key, content in life.scratch:
        require(content == life.original(key), f"scratch holds {content} as {key}")


def check_read(life: Life, side: Side, kv_head: int, blocks: tuple[int, ...], read: Read, resident: set[int]) -> None:
    """Raise `CheckFailed` unless a read returned the originals asked for, or said that one is missing."""
    gone = [b for b in blocks if b not in resident and ((kv_head, b) in life.lost or not 0 <= b < life.blocks)]
    if isinstance(read, Missing):
        require(bool(gone) and read == Missing(kv_head, gone[0]), f"{read} where {gone} are missing")
        return
    require(not gone, f"{gone} are missing, and nothing was said")
    wanted = tuple(life.original((side, kv_head, b)) for b in blocks)
    require(read.contents == wanted, f"read {read.contents} for {wanted}")
    require(read.moved == len(set(blocks) - resident), f"{read.moved} blocks moved for {len(set(blocks) - resident)}")


def events(life: Life, tokens: int, rules: Rules) -> Iterator[tuple[str, Life]]:
    """Every event that a state allows, with its outcome checked."""
    for count in range(1, tokens - life.appended + 1):
        yield f"append {count}", append(life, count, rules)
    # generations differ only in whether something is from this one, so two of them are enough
    yield "reset", replace(reset(life, rules), generation=(life.generation + 1) % 2)
    for head, block in itertools.product(range(life.heads), range(life.blocks)):
        yield f"lose {head}, {block}", lose(life, head, block)
    # one block more than there is: a block that was never stored is missing
    asked = [c for n in (1, 2) for c in itertools.combinations(range(life.blocks + 1), n)]
    for side, head, blocks in itertools.product(SIDES, range(life.heads), asked):
        resident = {b for b in blocks if (side, head, b) in dict(life.scratch)}
        after, read = fetch(life, side, head, blocks, rules)
        check_read(life, side, head, blocks, read, resident)
        yield f"fetch {side} {head}, {blocks}", after
        bare = read_host(life, side, head, blocks, rules)
        check_read(life, side, head, blocks, bare, set())


def search(heads: int = 2, block: int = 2, tokens: int = 5, slots: int = 2, rules: Rules = RIGHT) -> Space[Life]:
    """Explore every history of a cache with up to so many tokens.

    Raises
    ------
    CheckFailed
        With the shortest history that breaks a rule.
    """
    return explore([Life(heads, block, slots)], lambda life: events(life, tokens, rules), check_life)
