"""The life of a cache as a finite machine: tokens, tail, blocks that are encoded once, host tier, scratch.

Data are names: the original of one block is (generation, side, kv head, block), so that reading the wrong block, the
other side, another head or what was there before a reset is seen. The same machine is searched to its last reachable
state, and driven beside the code with the code's own sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Side = Literal["keys", "values"]
SIDES: tuple[Side, Side] = ("keys", "values")

Key = tuple[Side, int, int]
"""Side, KV head, block."""

Content = tuple[int, Side, int, int]
"""The original of a block: generation (how many resets came before), side, KV head, block."""


@dataclass(frozen=True)
class Rules:
    """The transitions; each field that is True is a planted mistake."""

    serves_slot_zero: bool = False
    skips_missing: bool = False
    encodes_again: bool = False
    recodes_stored: bool = False
    drops_tail: bool = False
    keeps_scratch_at_reset: bool = False
    tags_without_side: bool = False
    evicts_without_clearing: bool = False
    finds_lost: bool = False


RIGHT = Rules()
BROKEN: dict[str, Rules] = {name: Rules(**{name: True}) for name in Rules.__dataclass_fields__}


@dataclass(frozen=True)
class Life:
    """State of one layer of one sequence.

    Attributes
    ----------
    heads, block, slots : int
        KV heads; tokens per block; blocks (of one side and head) that scratch holds. Fixed.
    generation : int
        Number of resets.
    appended, tail : int
        Tokens received since the last reset; tokens that are in the tail.
    encoded : tuple of int
        How often each full block has been encoded.
    codes : tuple of int
        Version of each block's codes; 0 as first encoded.
    lost : frozenset of (kv head, block)
        Originals that the host tier has lost.
    scratch : tuple of (key, content)
        What is resident, the least recently used first.
    """

    heads: int
    block: int
    slots: int
    generation: int = 0
    appended: int = 0
    tail: int = 0
    encoded: tuple[int, ...] = ()
    codes: tuple[int, ...] = ()
    lost: frozenset[tuple[int, int]] = frozenset()
    scratch: tuple[tuple[Key, Content], ...] = ()

    @property
    def blocks(self) -> int:
        """Number of full blocks."""
        return len(self.encoded)

    @property
    def tokens(self) -> int:
        """Number of tokens that can be attended to."""
        return self.blocks * self.block + self.tail

    def original(self, key: Key) -> Content:
        """Return what a block's original is."""
        return (self.generation, *key)


@dataclass(frozen=True)
class Missing:
    """A read that found an original missing."""

    kv_head: int
    block: int


@dataclass(frozen=True)
class Got:
    """A read that succeeded: its contents, and how many blocks came from the host tier."""

    contents: tuple[Content, ...]
    moved: int


Read = Got | Missing


def append(life: Life, tokens: int, rules: Rules = RIGHT) -> Life:
    """Add tokens: full blocks are encoded, the rest is the tail."""
    full, tail = divmod(life.tail + tokens, life.block)
    encoded, codes = life.encoded, life.codes
    if full and rules.encodes_again:
        encoded = tuple(count + 1 for count in encoded)
    if full and rules.recodes_stored:
        codes = tuple(version + 1 for version in codes)
    return replace(
        life,
        appended=life.appended + tokens,
        tail=0 if full and rules.drops_tail else tail,
        encoded=encoded + (1,) * full,
        codes=codes + (0,) * full,
    )


def reset(life: Life, rules: Rules = RIGHT) -> Life:
    """Forget everything."""
    kept = life.scratch if rules.keeps_scratch_at_reset else ()
    return Life(life.heads, life.block, life.slots, generation=life.generation + 1, scratch=kept)


def lose(life: Life, kv_head: int | None = None, block: int | None = None) -> Life:
    """Lose originals of the host tier, of both sides: of one KV head, of one block, or (None) of all."""
    heads = range(life.heads) if kv_head is None else (kv_head,)
    blocks = range(life.blocks) if block is None else (block,)
    return replace(life, lost=life.lost | {(h, b) for h in heads for b in blocks})


def read_host(life: Life, side: Side, kv_head: int, blocks: Sequence[int], rules: Rules = RIGHT) -> Read:
    """Read from the host tier; the first block that is missing is the error."""
    found: list[Content] = []
    for b in blocks:
        if ((kv_head, b) not in life.lost and 0 <= b < life.blocks) or rules.finds_lost:
            found.append(life.original((side, kv_head, b)))
        elif rules.serves_slot_zero:
            found.append(life.original((side, kv_head, 0)))
        elif not rules.skips_missing:
            return Missing(kv_head, b)
    return Got(tuple(found), len(found))


def fetch(life: Life, side: Side, kv_head: int, blocks: Sequence[int], rules: Rules = RIGHT) -> tuple[Life, Read]:
    """Read through scratch: what is resident is not read again; what is read becomes resident.

    A resident block counts as used even where another one turns out to be missing.
    """
    table = dict(life.scratch)
    keys = {b: _tag((side, kv_head, b), rules) for b in blocks}
    resident = {b: table[key] for b, key in keys.items() if key in table}
    for b in resident:
        table[keys[b]] = table.pop(keys[b])
    read = read_host(life, side, kv_head, [b for b in blocks if b not in resident], rules)
    if isinstance(read, Missing):
        return replace(life, scratch=tuple(table.items())), read
    fresh = dict(zip((b for b in blocks if b not in resident), read.contents, strict=False))
    contents = tuple((resident | fresh)[b] for b in blocks if b in resident or b in fresh)
    for b, content in fresh.items() if life.slots else ():
        if len(table) == life.slots:
            oldest = next(iter(table))
            left = table.pop(oldest)
            content = left if rules.evicts_without_clearing else content
        table[keys[b]] = content
    return replace(life, scratch=tuple(table.items())), Got(contents, read.moved)


def _tag(key: Key, rules: Rules) -> Key:
    return ("keys", key[1], key[2]) if rules.tags_without_side else key
