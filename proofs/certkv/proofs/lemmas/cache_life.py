"""`cache_life`: a block is encoded once, its codes never change, a read gives the original asked for or an error.

Each lemma is one event from an arbitrary state that satisfies the invariant, about one arbitrary block, key or token;
so it holds for every block after any number of events, for caches of any size. Counts of tokens and blocks are reals
(what holds for them holds for integers; where integrality matters it is a hypothesis), keys and data are bit vectors.
Scratch has two slots: a slot that is neither read nor written keeps what it holds, so that two stand for any number.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import z3

from certkv.proofs.smt.lemma import Goal, Lemma
from certkv.proofs.smt.terms import real, reals

LOGIC = "QF_BV"


def _tokens(all_blocks: bool) -> Goal:
    n, f, B, r, m, g, r2 = reals("n f B r m g r2")
    added = g if all_blocks else z3.RealVal(1)
    return real((f + added) * B + r2 == n + m, B >= 1, n == f * B + r, r + m == g * B + r2, r2 >= 0, r2 < B)


def _unique(shorter: bool) -> Goal:
    """Let two divisions of the same tokens into blocks and tail differ by whole blocks."""
    f, r, f2, r2, B = reals("f r f2 r2 B")
    short = [r < B, r2 < B] if shorter else [r <= B, r2 <= B]
    whole = z3.Or(f == f2, f >= f2 + 1, f2 >= f + 1)
    return real(z3.And(f == f2, r == r2), B >= 1, r >= 0, r2 >= 0, *short, whole, f * B + r == f2 * B + r2)


def _encoded_once(fresh_only: bool) -> Goal:
    """Count how often block i has been encoded; an append encodes blocks f to f + g - 1."""
    e, i, f, g = reals("e i f g")
    start = f if fresh_only else z3.RealVal(0)
    after = e + z3.If(z3.And(start <= i, i < f + g), z3.RealVal(1), z3.RealVal(0))
    once = z3.If(i < f, z3.RealVal(1), z3.RealVal(0))
    wanted = z3.If(i < f + g, z3.RealVal(1), z3.RealVal(0))
    return Goal("QF_LRA", [i >= 0, f >= 0, g >= 1, e == once], after == wanted)


def _codes(fresh_only: bool) -> Goal:
    """Follow the stored codes of block i through an append; ``new`` is what encoding gives now."""
    i, f, f2 = z3.BitVecs("i f f2", 32)
    codes, new = z3.BitVecs("codes new", 64)
    start = f if fresh_only else z3.BitVecVal(0, 32)
    after = z3.If(z3.And(z3.ULE(start, i), z3.ULT(i, f2)), new, codes)
    return Goal(LOGIC, [z3.ULT(i, f), z3.ULE(f, f2)], after == codes)


def _positions(shifted: bool) -> Goal:
    """Follow token p of the tail, at index p - f B, into block h of the new ones, place s."""
    p, f, h, s, B = reals("p f h s B")
    block = f + h if shifted else h
    return real(block * B + s == p, B >= 1, f >= 0, p - f * B == h * B + s, s >= 0, s < B)


def _view(floor: bool) -> Goal:
    """Take a causal query that sees c of n = f B + r tokens: v coded blocks, then t tokens."""
    n, f, r, c, v, t, B = reals("n f r c v t B")
    whole = z3.Or(v <= f, v >= f + 1)
    held = [n == f * B + r, r >= 0, r < B, c <= n, c == v * B + t, B >= 1, whole]
    seen = [t >= 0, t < B] if floor else [t > -B, t <= 0]
    return real(z3.And(v <= f, z3.Implies(v == f, t <= r)), *held, *seen)


@dataclass(frozen=True, eq=False)
class _Scratch:
    """Two slots, each with a tag and data; a slot is empty or full."""

    full: tuple[z3.BoolRef, z3.BoolRef]
    tag: tuple[z3.BitVecRef, z3.BitVecRef]
    data: tuple[z3.BitVecRef, z3.BitVecRef]

    @classmethod
    def any(cls, suffix: str = "") -> _Scratch:
        first, second = ("0" + suffix, "1" + suffix)
        return cls(
            (z3.Bool("full" + first), z3.Bool("full" + second)),
            (z3.BitVec("tag" + first, 16), z3.BitVec("tag" + second, 16)),
            (z3.BitVec("data" + first, 64), z3.BitVec("data" + second, 64)),
        )

    def true_to(self, key: z3.BitVecRef, original: z3.BitVecRef) -> z3.BoolRef:
        """Say that whatever is held as ``key`` is its original."""
        slots = zip(self.full, self.tag, self.data, strict=True)
        return z3.And([z3.Implies(z3.And(full, tag == key), data == original) for full, tag, data in slots])

    def hits(self, key: z3.BitVecRef) -> list[z3.BoolRef]:
        return [z3.And(full, tag == key) for full, tag in zip(self.full, self.tag, strict=True)]

    def read(self, key: z3.BitVecRef, present: z3.BoolRef, host: z3.BitVecRef) -> tuple[z3.BoolRef, z3.BitVecRef]:
        """Return whether a read succeeds, and what it gives: from a slot that holds the key, else from the host."""
        first, second = self.hits(key)
        return z3.Or(first, second, present), z3.If(first, self.data[0], z3.If(second, self.data[1], host))

    def store(self, slot: z3.BitVecRef, key: z3.BitVecRef, data: z3.BitVecRef, overwrite: bool = True) -> _Scratch:
        """Put a block into a slot, whatever was there."""
        chosen = [slot == n for n in range(2)]
        return _Scratch(
            (z3.Or(self.full[0], chosen[0]), z3.Or(self.full[1], chosen[1])),
            (z3.If(chosen[0], key, self.tag[0]), z3.If(chosen[1], key, self.tag[1])),
            (
                z3.If(chosen[0], data, self.data[0]) if overwrite else self.data[0],
                z3.If(chosen[1], data, self.data[1]) if overwrite else self.data[1],
            ),
        )


def _asked() -> tuple[z3.BitVecRef, z3.BitVecRef, z3.BoolRef]:
    """Return a key, its original, and whether the host tier has it."""
    return z3.BitVec("key", 16), z3.BitVec("original", 64), z3.Bool("present")


def _read(slot_zero: bool) -> Goal:
    scratch = _Scratch.any()
    key, original, present = _asked()
    ok, data = scratch.read(key, present, original)
    if slot_zero:  # what is not resident and not there is read from slot 0
        ok, data = z3.BoolVal(True), z3.If(ok, data, scratch.data[0])
    return Goal(LOGIC, [scratch.true_to(key, original), ok], data == original)


def _missing(slot_zero: bool) -> Goal:
    scratch = _Scratch.any()
    key, original, present = _asked()
    ok, _ = scratch.read(key, present, original)
    nowhere = [z3.Not(present), *(z3.Not(hit) for hit in scratch.hits(key))]
    return Goal(LOGIC, nowhere[: 2 if slot_zero else 3], z3.Not(ok))


def _stored(overwrite: bool) -> Goal:
    """Store any block in any slot, and ask for any key."""
    scratch = _Scratch.any()
    key, original, _ = _asked()
    other, data, slot = z3.BitVec("other", 16), z3.BitVec("fetched", 64), z3.BitVec("slot", 1)
    fetched = z3.Implies(other == key, data == original)
    after = scratch.store(slot, other, data, overwrite)
    return Goal(LOGIC, [scratch.true_to(key, original), fetched], after.true_to(key, original))


def _reset(emptied: bool) -> Goal:
    """Give every key a new original."""
    scratch = _Scratch.any()
    key, original, _ = _asked()
    before = scratch.true_to(key, z3.BitVec("original_before", 64))
    empty = [z3.Not(full) for full in scratch.full] if emptied else []
    return Goal(LOGIC, [before, *empty], scratch.true_to(key, original))


def _neutral(true_to: bool) -> Goal:
    """Read the same key through two pools, of any sizes and histories."""
    one, other = _Scratch.any("_1"), _Scratch.any("_2")
    key, original, present = _asked()
    ok_1, data_1 = one.read(key, present, original)
    ok_2, data_2 = other.read(key, present, original)
    pools = [one.true_to(key, original), *([other.true_to(key, original)] if true_to else [])]
    return Goal(LOGIC, [*pools, ok_1, ok_2], data_1 == data_2)


def _no_new_error(converse: bool) -> Goal:
    """Compare a read through scratch with one without; the converse fails: what is resident hides a loss."""
    scratch = _Scratch.any()
    key, original, present = _asked()
    ok, _ = scratch.read(key, present, original)
    return Goal(LOGIC, [ok] if converse else [present], present if converse else ok)


LEMMAS = (
    Lemma(
        "cache_life.tokens_are_kept",
        "n = fB + r, r + m = gB + r': then (f + g)B + r' = n + m; one block per append is not enough",
        partial(_tokens, all_blocks=True),
        partial(_tokens, all_blocks=False),
    ),
    Lemma(
        "cache_life.pieces_do_not_matter",
        "fB + r = f'B + r' with tails in [0, B): f = f' and r = r', however the tokens arrived",
        partial(_unique, shorter=True),
        partial(_unique, shorter=False),
    ),
    Lemma(
        "cache_life.encoded_once",
        "encodings of block i: [i < f] + [f <= i < f + g] = [i < f + g]",
        partial(_encoded_once, fresh_only=True),
        partial(_encoded_once, fresh_only=False),
    ),
    Lemma(
        "cache_life.codes_stay",
        "i < f: an append that encodes blocks f, f + 1, ... leaves the codes of block i",
        partial(_codes, fresh_only=True),
        partial(_codes, fresh_only=False),
    ),
    Lemma(
        "cache_life.positions_stay",
        "p - fB = hB + s: token p of the tail is place s of block f + h",
        partial(_positions, shifted=True),
        partial(_positions, shifted=False),
    ),
    Lemma(
        "cache_life.past_is_held",
        "a query that sees c <= fB + r tokens, c = vB + t, 0 <= t < B: v <= f, and t <= r where v = f",
        partial(_view, floor=True),
        partial(_view, floor=False),
    ),
    Lemma(
        "cache_life.reads_the_original",
        "a read through scratch that succeeds gives the original of the block asked for",
        partial(_read, slot_zero=False),
        partial(_read, slot_zero=True),
    ),
    Lemma(
        "cache_life.missing_is_an_error",
        "a block that is neither resident nor in the host tier cannot be read",
        partial(_missing, slot_zero=False),
        partial(_missing, slot_zero=True),
    ),
    Lemma(
        "cache_life.scratch_stays_true",
        "storing any block in any slot keeps: what is held as a key is its original",
        partial(_stored, overwrite=True),
        partial(_stored, overwrite=False),
    ),
    Lemma(
        "cache_life.reset_empties",
        "after a reset the same holds for the new originals, since no slot is full",
        partial(_reset, emptied=True),
        partial(_reset, emptied=False),
    ),
    Lemma(
        "cache_life.scratch_is_neutral",
        "two pools, whatever they hold: reads that succeed agree",
        partial(_neutral, true_to=True),
        partial(_neutral, true_to=False),
    ),
    Lemma(
        "cache_life.scratch_adds_no_error",
        "what can be read from the host tier can be read through scratch (not conversely)",
        partial(_no_new_error, converse=False),
        partial(_no_new_error, converse=True),
    ),
)
