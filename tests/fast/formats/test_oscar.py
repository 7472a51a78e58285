"""OScaR's kin in a cache: every way to append gives the same bits, and what is damaged is encoded again."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from certkv.fast.append_one import Held, Work
from certkv.fast.cache import TieredCache
from certkv.fast.encode import encode_keys
from certkv.fast.errors import CorruptionError, SettingError, ShapeError
from certkv.fast.formats import KEY_FORMATS, VALUE_FORMATS, OscarKeys, OscarValues, rotation
from certkv.fast.formats.packing import pack_plane, plane_rows, unpack_plane
from certkv.fast.numbers import norm_factor
from certkv.fast.pool import Pool, allocate

KEYS = [name for name, fmt in KEY_FORMATS.items() if isinstance(fmt, OscarKeys)]
VALUES = [name for name, fmt in VALUE_FORMATS.items() if isinstance(fmt, OscarValues)]
BATCH, KV_HEADS, HEAD_DIM = 2, 3, 12


def new(keys: str, values: str = "oscar", block: int = 8, **more: Any) -> TieredCache:
    settings: dict[str, Any] = {"dtype": torch.bfloat16, "capacity": 3 * block + 2} | more
    return TieredCache(BATCH, KV_HEADS, HEAD_DIM, keys=keys, values=values, block=block, **settings)


def drawn(tokens: int, dtype: torch.dtype = torch.bfloat16, seed: int = 0) -> list[torch.Tensor]:
    """Draw keys and values [batch, tokens, kv_heads, head_dim] with strong heads and tokens of zeros."""
    made = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, BATCH, tokens, KV_HEADS, HEAD_DIM, generator=made)
    k[:, :, 0] *= 1000.0
    k[:, 3::7] = 0.0
    return [k.to(dtype), v.to(dtype)]


def stored(cache: TieredCache) -> dict[str, bytes]:
    """What all pages of all sequences hold, by tensor, in the order of the blocks."""
    pages = [page for s in range(BATCH) for page in cache.pages.pages(s)]
    held = cache.pool.tensors().items()
    return {name: t[pages].contiguous().flatten().view(torch.uint8).numpy().tobytes() for name, t in held}


def test_codes_of_every_width_are_packed_along_tokens() -> None:
    for bits in (1, 2, 4, 8):
        for block in (1, 3, 8, 33):
            codes = torch.randint(0, 2**bits, (2, block, 5)).to(torch.uint8)
            packed = pack_plane(codes, bits)
            rows = plane_rows(block, bits)
            assert packed.shape == (2, rows, 5)
            assert torch.equal(unpack_plane(packed, bits, block), codes)
            for t in range(block):
                assert torch.equal((packed[:, t % rows] >> bits * (t // rows)) & (2**bits - 1), codes[:, t])


@pytest.mark.parametrize("head_dim", [1, 2, 8, 20, 80, 96, 256, 300])
def test_the_rotation_is_its_own_inverse_and_keeps_norms(head_dim: int) -> None:
    x = torch.randn(7, head_dim, dtype=torch.float64)
    turned = rotation.rotate(x)
    # twice what `rotate_error_ub` allows: the second rotation of a result that is off by the first
    off = rotation.rotate_error_ub(turned) + rotation.rotate_error_ub(x).norm(dim=-1, keepdim=True)
    assert bool(((rotation.rotate(turned) - x).abs() <= off).all())
    norm = x.norm(dim=-1)
    # both norms as they are computed, and the rotation's own error over the norm
    allowed = 2 * (norm_factor(head_dim) - 1) + rotation.rotate_error_ub(x).norm(dim=-1) / norm
    assert bool(((turned.norm(dim=-1) / norm - 1.0).abs() <= allowed).all())


@pytest.mark.parametrize("keys", KEYS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_any_pieces_give_the_same_bits(keys: str, dtype: torch.dtype) -> None:
    values = VALUES[len(keys) % len(VALUES)]
    block = max(8, KEY_FORMATS[keys].least_block)
    tokens = 2 * block + 3
    k, v = drawn(tokens, dtype)
    whole, pieces, single = (new(keys, values, block, dtype=dtype) for _ in range(3))
    whole.append(k, v)
    for part in (slice(0, 3), slice(3, block + 1), slice(block + 1, tokens)):
        pieces.append(k[:, part], v[:, part])
    single.reserve()
    for t in range(tokens):
        single.append_one(k[:, t], v[:, t])
    single.sync()
    assert whole.tokens == pieces.tokens == single.tokens == (tokens,) * BATCH
    assert stored(whole) == stored(pieces) == stored(single)
    for cache in (whole, pieces, single):
        cache.verify(originals=True)


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter")
def test_kernels_append_one_token_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a captured graph does, in the interpreter: the bits of codes, steps, minima and norms are the twin's."""
    from certkv.fast import append_one as module
    from certkv.fast.kernels import append_one as kernels
    from certkv.fast.kernels.encode_oscar_keys import encode_oscar_keys
    from certkv.fast.kernels.encode_oscar_values import encode_oscar_values

    def encode(held: Held, work: Work) -> None:
        keys, values = held.resident.keys[:, :, 1], held.resident.values[:, :, 1]
        of_keys, of_values = KEY_FORMATS[held.keys], VALUE_FORMATS[held.values]
        assert isinstance(of_keys, OscarKeys)
        assert isinstance(of_values, OscarValues)
        encode_oscar_keys(keys, work.page, held.pool, of_keys)
        encode_oscar_values(values, work.page, held.pool, held.anchor, of_values)

    k, v = drawn(5)
    twin, kernel = new("oscar", block=4), new("oscar", block=4)
    twin.append(k, v)
    kernel.reserve()
    monkeypatch.setattr(module, "admit_twin", kernels.admit)
    monkeypatch.setattr(module, "turn_twin", kernels.turn)
    monkeypatch.setattr(module, "encode_tails_twin", encode)
    for t in range(5):
        kernel.append_one(k[:, t], v[:, t])
    kernel.sync()
    mine, theirs = stored(kernel), stored(twin)
    for name in ("key_codes", "key_step", "key_minimum", "key_norm", "value_codes", "value_step", "value_minimum"):
        assert mine[name] == theirs[name], name


@pytest.mark.parametrize("keys", ["oscar", "oscar-head", "kivi"])
def test_what_is_damaged_is_encoded_again(keys: str) -> None:
    cache = new(keys)
    cache.append(*drawn(19))
    before = stored(cache)
    page = cache.pages.pages(1)[1]
    for name, tensor in cache.pool.tensors().items():
        if not tensor[page].numel():
            continue
        tensor[page, -1].view(torch.uint8)[..., 0] ^= 1
        with pytest.raises(CorruptionError, match="codes, metadata or annotations"):
            cache.verify()
        found = cache.repair()
        # a norm that all KV heads share is part of each of them
        shared = name == "key_norm" and keys == "oscar"
        heads = list(range(KV_HEADS)) if shared else [KV_HEADS - 1]
        assert [(d.sequence, d.block, d.kv_head) for d in found] == [(1, 1, h) for h in heads], name
        cache.verify()
        assert stored(cache) == before


def test_a_joint_norm_wants_the_originals_of_all_heads() -> None:
    """Of one head's keys alone it cannot be formed, and nothing is made up."""
    for keys, possible in (("oscar", False), ("oscar-head", True)):
        cache = new(keys)
        cache.append(*drawn(8))
        page = cache.pages.pages(0)[0]
        before = stored(cache)
        cache.originals.lose(0, 2, 0)
        cache.pool.key_codes[page, 1, 0, 0] ^= 1
        if possible:
            assert len(cache.repair()) == 1
            assert stored(cache) == before
        else:
            with pytest.raises(CorruptionError):
                cache.repair()


def test_reset_leaves_nothing() -> None:
    cache = new("oscar")
    cache.append(*drawn(19))
    pages = cache.pages.pages(0)
    cache.reset(0)
    for name, tensor in cache.pool.tensors().items():
        held = tensor[pages]
        assert bool((held == 0xAA if held.dtype == torch.uint8 else held.isnan()).all()), name
    cache.verify()


def test_bytes_are_those_of_the_page_on_formats() -> None:
    """Codes and metadata per token and KV head at d = 128, 8 KV heads: 96.5, 80.5 and 72.5 bytes."""
    for suffix, block, bytes_each in (("", 64, 96.5), ("-g64", 64, 80.5), ("-g128", 128, 72.5)):
        pool = allocate(2, 8, block, 128, torch.float16, f"oscar{suffix}", keys=f"oscar{suffix}")
        assert pool.nbytes - pool.note_bytes == 2 * 8 * block * bytes_each
        cache = TieredCache(1, 8, 128, 2 * block, torch.float16, f"oscar{suffix}", f"oscar{suffix}", block)
        assert cache.memory().rows[0].nbytes == 2 * 8 * block * bytes_each


def test_groups_that_a_name_promises() -> None:
    with pytest.raises(SettingError, match="keys oscar-g64 have groups of 64 tokens, and blocks of 32 hold none"):
        new("oscar-g64", block=32)
    with pytest.raises(SettingError, match="groups of 128 tokens"):
        allocate(1, 1, 64, 8, torch.float16, "oscar", keys="oscar-4-g128")
    with pytest.raises(SettingError, match="unknown key format 'oscar-g32'"):
        new("oscar-g32")
    new("oscar", block=3)


def test_a_pool_of_another_format_is_refused() -> None:
    def pool(keys: str) -> Pool:
        return allocate(1, 2, 64, 8, torch.float16, "oscar", keys=keys)

    x, pages = torch.zeros(1, 2, 64, 8, dtype=torch.float16), torch.zeros(1, dtype=torch.int64)
    for other, what in (("oscar-4", "codes"), ("oscar-g64", "steps"), ("kivi", "norms")):
        with pytest.raises(ShapeError, match=what):
            encode_keys(x, pages, pool("oscar"), KEY_FORMATS[other])
