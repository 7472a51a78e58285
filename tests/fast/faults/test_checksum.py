"""Checksums: what they are certain to notice, and that kernels and twins have the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from certkv.fast import checksum
from certkv.fast.checksum import FACTORS, M31, OWNER, SHIFT, Checksums, totals_twin, weight
from certkv.fast.kernels import checksum as kernels

from ..compiled import compiled
from .scene import filled, flip

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.language"),
]


def test_weights_are_a_bijection_of_indices() -> None:
    """Each step has an inverse modulo 2^31, so no two indices share a weight; and all are odd and below 2^32."""
    index = torch.cat([torch.arange(1 << 20), torch.randint(0, M31 + 1, (1 << 20,)), torch.tensor([OWNER])])
    found = weight(index)
    assert (found % 2 == 1).all()
    assert (found < 2**32).all()
    x = found // 2
    for factor in reversed(FACTORS):
        x = x ^ (x >> SHIFT) ^ (x >> 2 * SHIFT)  # 3 SHIFT is beyond the 31 bits
        x = (x * pow(factor, -1, 2**31)) & M31
    assert torch.equal(x, index)
    assert kernels.weight.fn.__name__ == "weight"


@pytest.mark.parametrize("width", [3, 4])
def test_what_is_certain_is_so_for_every_small_word(width: int) -> None:
    """Words and odd weights of `width` bits, sums modulo 2^(2 width): the three claims, for all there are."""
    words, modulus = range(2**width), 4**width
    odd = range(1, 2**width, 2)
    for m, old, new in itertools.product(odd, words, words):
        assert old == new or (m * (new - old)) % modulus
    for (m, n), old, new in itertools.product(itertools.permutations(odd, 2), words, words):
        assert old == new or ((m - n) * (new - old)) % modulus
    for m, n in itertools.permutations(odd, 2):
        for a, b in itertools.product(range(width), repeat=2):
            assert all((m * 2**a + sign * n * 2**b) % modulus for sign in (-1, 1))


def test_even_or_equal_weights_would_not_do() -> None:
    """The claims need what they say: an even weight loses a bit, equal weights a change of places."""
    assert (2 * 8) % 16 == 0
    assert ((3 - 3) * 5) % 256 == 0


@pytest.mark.parametrize(
    ("values", "dtype", "more"),
    [
        ("int4", torch.float16, {}),
        ("int8-g64", torch.bfloat16, {"block": 6}),
        ("int4-g32", torch.float16, {"block": 5}),
        ("int8", torch.bfloat16, {"block": 3}),
    ],
)
def test_kernels_have_the_bits_of_the_twins(values: str, dtype: torch.dtype, more: dict[str, Any]) -> None:
    """Sizes that are no multiple of a word, and words of 8, 16 and 32 bits."""
    cache = filled(dtype, values=values, **more)
    of_pool = checksum.pool_fields(cache.pool)
    rows = torch.arange(len(of_pool[0])).flip(0)
    assert torch.equal(totals_twin(of_pool, rows), kernels.totals(of_pool, rows))
    assert torch.equal(totals_twin(of_pool, rows, 7), kernels.totals(of_pool, rows, 7))
    made = [Checksums.empty(3, 2, cache.max_blocks, 1, cache.device) for _ in range(2)]
    state = (cache.lengths, cache.anchor, cache.resident)
    made[0].take(*state)
    kernels.add_resident(made[1], *state, 1)
    for name in ("resident", "lengths"):
        assert torch.equal(getattr(made[0], name), getattr(made[1], name))
        assert torch.equal(getattr(made[0], name), getattr(cache.checksums, name))
    kernels.add_resident(made[1], *state, -1)
    assert not made[1].resident.any()
    assert not made[1].lengths.any()


def test_a_tile_of_sixteen_bits_sums_to_the_same() -> None:
    """The device function that other kernels use on what they have read: in any order, the record's checksum."""
    import triton
    import triton.language as tl

    sixteen = kernels.sixteen

    @triton.jit  # type: ignore[untyped-decorator]
    def sums(x, out, N: tl.constexpr, C: tl.constexpr, D: tl.constexpr):  # type: ignore[no-untyped-def]
        total = tl.zeros((N, C), tl.uint64)
        for first in range(0, D, C):
            element = tl.arange(0, N)[:, None] * D + first + tl.arange(0, C)[None, :]
            total += sixteen(tl.load(x + element), element)
        tl.store(out, tl.sum(tl.sum(total, 1), 0).to(tl.int64, bitcast=True))

    x = torch.randn(1, 8, 16).half()
    out = torch.zeros(1, dtype=torch.int64)
    globals()["sixteen"] = sixteen  # a jitted function sees the globals of its module
    sums[(1,)](x.view(torch.int16), out, N=8, C=4, D=16)
    assert torch.equal(out, totals_twin((x,), torch.zeros(1, dtype=torch.int64)))


@pytest.mark.parametrize("keys", ["int8", "oscar", "oscar-head"])
def test_every_flipped_bit_of_a_page_is_noticed(keys: str) -> None:
    cache = filled(keys=keys, values="int4", tokens=(17,))
    page, owner = torch.tensor(cache.pages.pages(0)), torch.arange(2)
    held = {name: tensor for name, tensor in cache.pool.tensors().items() if tensor.shape[1]}
    assert ("key_norm" in held) == (keys != "int8")
    for tensor in held.values():
        record = tensor[cache.pages.pages(0)[1], -1]
        # what the KV heads share is part of what each of them reads
        mine = [tensor.shape[1] == 1, True]
        for bit in range(8 * record.nbytes):
            flip(record, bit)
            now = cache.checksums.of_blocks(cache.pool, page, owner)
            assert (now != cache.checksums.blocks[page]).tolist() == [[False, False], mine]
            flip(record, bit)
    assert torch.equal(cache.checksums.of_blocks(cache.pool, page, owner), cache.checksums.blocks[page])


def test_words_and_rows_that_change_places_are_noticed() -> None:
    """Also rows that have the same sum, which weights in arithmetic progression would not tell apart."""
    words = torch.randint(-(2**31), 2**31 - 1, (1, 6, 8), dtype=torch.int64).to(torch.int32)
    words[0, 3] = words[0, 2].flip(0)
    row = torch.zeros(1, dtype=torch.int64)
    before = totals_twin((words,), row)
    for i, j in itertools.combinations(range(48), 2):
        changed = words.clone().flatten()
        changed[[i, j]] = changed[[j, i]]
        assert (totals_twin((changed.view(words.shape),), row) != before) == (words.flatten()[i] != words.flatten()[j])
    for i, j in itertools.combinations(range(6), 2):
        changed = words.clone()
        changed[:, [i, j]] = changed[:, [j, i]]
        assert totals_twin((changed,), row) != before


def test_owners_are_part_of_it() -> None:
    """A page that belongs to another block, or to another sequence, has another checksum."""
    cache = filled()
    pages = torch.tensor(cache.pages.pages(0))
    mine = torch.arange(len(pages))
    for other in (mine.flip(0), mine + 1, mine + cache.max_blocks):
        wrong = cache.checksums.of_blocks(cache.pool, pages, other) != cache.checksums.blocks[pages]
        assert torch.equal(wrong.all(-1), other != mine)


def test_no_spills() -> None:
    lines = compiled("faults/checksum_launches.py")
    own = ("totals", "add_resident", "write_filled", "guard", "verify", "withdraw")
    assert {name for name, *_ in lines} == {f"{name}_kernel" for name in own}
    assert len(lines) == 24
    # 512 programs of 4 warps share a multiprocessor's 65,536 registers six at a time at up to 85
    assert all(registers <= 85 and spills == 0 for _, registers, spills, *_ in lines)
