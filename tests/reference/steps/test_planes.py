"""Steps on caches of several levels: bounds at every level, what is read, what it costs, what cannot be read."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from certkv.reference import Budget, Cache, HostMissingError, Naive, PaperPolicy, Policy, SettingError, Step, decode
from certkv.reference.annotations import device_bytes_per_token
from certkv.reference.exact import judge
from certkv.reference.formats import key_format, value_format
from certkv.reference.steps import budget, choice
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.certify import certify
from certkv.reference.steps.group import Group
from certkv.reference.steps.levels import SIDES, Levels

KV_HEADS, HEADS, HEAD_DIM, BLOCK = 2, 4, 32, 16
FORMATS = [
    ("int8+4", "int4-g32+4"), ("int4+4", "int4-g32+4"), ("int8", "int4-g32+4"), ("int4+4", "int8-g64"),
    ("oscar+2+4", "oscar+2+4"), ("int8+4", "int4+4"), ("dense", "oscar+2+4"), ("oscar+2+4", "int8+4"),
]  # fmt: skip
FLOAT64 = np.dtype(np.float64)


def tensors(tokens: int, seed: int = 0, dtype: Any = np.float16, sharpness: float = 1.0) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    k, v = rng.standard_normal((2, tokens, KV_HEADS, HEAD_DIM))
    q = sharpness * rng.standard_normal((HEADS, HEAD_DIM))
    return q.astype(np.float32), k.astype(dtype), (v + 0.3).astype(dtype)


def filled(k: np.ndarray, v: np.ndarray, keys: str, values: str, **settings: Any) -> Cache:
    cache = Cache(
        kv_heads=k.shape[1], head_dim=k.shape[2], dtype=k.dtype, keys=keys, values=values, block=BLOCK, **settings
    )
    cache.append(k, v)
    return cache


def judged(step: Step, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    size = len(q) // k.shape[1]
    for j in range(k.shape[1]):
        mine = slice(j * size, (j + 1) * size)
        bound = step.certificate.bound[mine]
        verdicts = judge(step.output[mine], bound, q[mine], k[:, j], v[:, j], k.shape[2] ** -0.5, enclosures="always")
        assert not any(verdict.violated for verdict in verdicts), verdicts


def groups(cache: Cache, q: np.ndarray, pinned: int = 0) -> list[Group]:
    size = len(q) // cache.kv_heads
    heads = [np.arange(j * size, (j + 1) * size) for j in range(cache.kv_heads)]
    scale = cache.head_dim**-0.5
    return [Group(q[h].astype(np.float64), h, scale, cache.view(j), pinned) for j, h in enumerate(heads)]


def counts(cache: Cache, step: Step) -> None:
    """Blocks and bytes of every head add up; a cache that had nothing in scratch moved no less than any head needed."""
    done = step.certificate
    assert done.levels.shape == (len(done.bound), 2, cache.level_count)
    np.testing.assert_array_equal(done.promoted, done.levels[..., -1])
    originals = done.promoted.sum(axis=1) * cache.host.block_bytes
    in_host = done.plane_bytes if cache.planes.place == "host" else 0
    np.testing.assert_array_equal(done.host_bytes, originals + in_host)
    for i, side in enumerate(SIDES):
        assert not done.levels[:, i, cache.levels(side) - 1 : -1].any(), "a level that the side does not have"
    sizes = np.zeros((2, cache.level_count - 1), np.int64)
    for i, side in enumerate(SIDES):
        sizes[i, : cache.levels(side) - 1] = cache.plane_bytes(side)
    least = (done.levels[..., :-1] * np.cumsum(sizes, axis=1)).sum(axis=(1, 2))
    assert (done.plane_bytes >= least).all(), "planes of blocks that are used at a level"


@pytest.mark.parametrize(("keys", "values"), FORMATS, ids=lambda name: name)
@pytest.mark.parametrize("place", ["host", "device"])
@pytest.mark.parametrize(
    "policy", [Budget(0.1), Budget(0.02), Budget(0.004, "output"), Naive(), PaperPolicy()], ids=str
)
def test_contract(keys: str, values: str, place: str, policy: Policy) -> None:
    q, k, v = tensors(150, sharpness=2.0)
    cache = filled(k, v, keys, values, planes=place)
    step = decode(q, cache, policy)
    judged(step, q, k, v)
    counts(cache, step)
    done = step.certificate
    if isinstance(policy, Budget):
        assert ((done.bound <= done.tolerance) | (done.rung >= 3)).all()
        assert ((done.rung > 0) == (done.levels.any(axis=(1, 2)))).all()
    else:
        assert not done.plane_bytes.any(), "only a budget reads planes"


@given(
    formats=st.sampled_from(FORMATS),
    seed=st.integers(0, 10**6),
    tokens=st.integers(1, 90),
    bf16=st.booleans(),
    kind=st.sampled_from(["normal", "huge", "tiny", "spread"]),
)
@settings(max_examples=40)
def test_every_level_is_sound(formats: tuple[str, str], seed: int, tokens: int, bf16: bool, kind: str) -> None:
    """Any levels for any head and block: the bound of that pass is true. Data up to the ends of the types."""
    dtype = np.dtype(ml_dtypes.bfloat16 if bf16 else np.float16)
    rng = np.random.default_rng(seed)
    q, k, v = tensors(tokens, seed, np.float32, float(rng.choice([0.1, 1.0, 8.0])))
    if kind != "normal":
        top = {"huge": (1e4, 1e30), "tiny": (1e-7, 1e-37), "spread": (100.0, 100.0)}[kind][bf16]
        size = top * np.exp2(rng.uniform(-12.0, 0.0, (2, tokens, 1, 1)) if kind == "spread" else np.zeros((2, 1, 1, 1)))
        k, v = np.clip(k * size[0], -4 * top, 4 * top), np.clip(v * size[1], -4 * top, 4 * top)
        q = (q / top).astype(np.float32)
    k, v = k.astype(dtype), v.astype(dtype)
    cache = filled(k, v, *formats)
    size_of = HEADS // KV_HEADS
    for j, group in enumerate(groups(cache, q)):
        shape = (size_of, group.view.blocks)
        planes = [rng.integers(0, cache.levels(side), shape) for side in SIDES]
        levels = Levels(rng.random(shape) < 0.2, rng.random(shape) < 0.2, *planes)
        rows = np.arange(size_of)
        seen = attend(group, levels, rows)
        done = certify(group, levels, rows, seen, FLOAT64)
        verdicts = judge(
            done.output, done.bound.bound, q[group.heads], k[:, j], v[:, j], HEAD_DIM**-0.5, enclosures="always"
        )
        assert not any(verdict.violated for verdict in verdicts), verdicts


def test_all_planes_of_a_divided_format_are_the_whole_format() -> None:
    """`int4+4` with every plane read is `int8`: the same scores and the same notes, so the same bound."""
    q, k, v = tensors(100)
    bounds = []
    for keys, planes in (("int4+4", 1), ("int8", 0)):
        for group in groups(filled(k, v, keys, "dense"), q):
            rows = np.arange(len(group.q))
            levels = Levels.coded(len(rows), group.view.blocks)
            levels.key_planes[...] = planes
            seen = attend(group, levels, rows)
            bounds.append(certify(group, levels, rows, seen, FLOAT64).bound.bound)
    # the same numbers are summed, and rounded up to bfloat16 before they are multiplied by a power of two
    np.testing.assert_allclose(np.concatenate(bounds[:2]), np.concatenate(bounds[2:]), rtol=1e-12)


def test_a_finer_level_is_worth_reading() -> None:
    """Four bits more divide a level's bound of key and value parts by about 16; by more than 8 on normal numbers."""
    q, k, v = tensors(200, sharpness=0.5)
    for keys, values in (("int4+4", "dense"), ("int8+4", "dense"), ("dense", "int4-g32+4"), ("dense", "int4+4")):
        group = groups(filled(k, v, keys, values), q)[0]
        rows, found = np.arange(len(group.q)), []
        for level in (0, 1):
            levels = Levels.coded(len(rows), group.view.blocks)
            levels.key_planes[...] = level if keys != "dense" else 0
            levels.value_planes[...] = level if values != "dense" else 0
            found.append(certify(group, levels, rows, attend(group, levels, rows), FLOAT64).bound.bound)
        assert (found[0] > 8 * found[1]).all(), (keys, values)


def test_planes_cost_fewer_bytes_than_originals() -> None:
    """The same heads at the same tolerance; the base planes are the same bits, so the first pass is the same pass."""
    q, k, v = tensors(600, sharpness=1.5)
    plain = decode(q, filled(k, v, "int8", "int4-g32"), Budget(0.02))
    finer = decode(q, filled(k, v, "int8+4", "int4-g32+4"), Budget(0.02))
    assert (plain.certificate.rung < 3).all()
    assert (plain.certificate.host_bytes > 0).all()
    # a plane is a quarter of an original; what it leaves of a term asks for a block more here and there
    assert (finer.certificate.host_bytes < 0.4 * plain.certificate.host_bytes).all()
    first = [decode(q, filled(k, v, *f), Naive()) for f in (("int8", "int4-g32"), ("int8+4", "int4-g32+4"))]
    np.testing.assert_array_equal(first[0].output, first[1].output)
    np.testing.assert_array_equal(first[0].certificate.bound, first[1].certificate.bound)


@pytest.mark.parametrize(("keys", "values"), FORMATS, ids=lambda name: name)
def test_bytes_are_those_that_moved(keys: str, values: str) -> None:
    """One query head per KV head and no scratch: what was counted is what was moved, planes read in vain included."""
    q, k, v = tensors(150, sharpness=3.0)
    q = q[::2]
    for t in (0.2, 0.05, 0.01, 0.001):
        for rounds in (1, 3):
            cache = filled(k, v, keys, values)
            step = decode(q, cache, Budget(t, rounds=rounds))
            counts(cache, step)
            done = step.certificate
            # a head that ends in rung 3 streams what it has promoted once more
            again = step.moved_bytes - int(done.host_bytes.sum())
            assert again >= 0
            assert again % cache.host.block_bytes == 0
            if (done.rung < 3).all():
                assert again == 0
            held = filled(k, v, keys, values, planes="device")
            assert held.planes.moved_bytes == 0
            assert decode(q, held, Budget(t, rounds=rounds)).moved_bytes % held.host.block_bytes == 0


def test_levels_only_rise(monkeypatch: pytest.MonkeyPatch) -> None:
    """From round to round no head loses a plane or an original, and a round reads something."""
    q, k, v = tensors(300, sharpness=4.0)
    passes: list[tuple[int, ...]] = []
    seen: dict[tuple[int, int], Levels] = {}
    rises = 0

    def watched(group: Group, levels: Levels, rows: np.ndarray) -> Attended:
        nonlocal rises
        passes.append(tuple(rows.tolist()))
        for i, row in enumerate(rows.tolist()):
            now = levels.rows(np.array([i]))
            before = seen.get((group.view.kv_head, row))
            if before is not None:
                assert not before.beyond(now).any()
                assert now.beyond(before).all()
                rises += 1
            seen[group.view.kv_head, row] = now
        return attend(group, levels, rows)

    monkeypatch.setattr(budget, "attend", watched)
    for keys, values in FORMATS:
        seen.clear()
        decode(q, filled(k, v, keys, values), Budget(0.01, rounds=6))
    assert rises >= 8


def test_a_lost_plane_is_an_error_where_it_is_wanted() -> None:
    q, k, v = tensors(200, sharpness=2.0)
    for keys, values in FORMATS:
        cache = filled(k, v, keys, values)
        assert decode(q, cache, Budget(0.02)).certificate.plane_bytes.any(), "nothing to lose"
        cache.planes.lose()
        judged(decode(q, cache, Naive()), q, k, v)
        with pytest.raises(HostMissingError, match="refinement plane"):
            decode(q, cache, Budget(0.02))
        judged(decode(q, cache, Budget(0.0)), q, k, v)  # rung 3 needs no planes
        cache.reset()
        cache.append(k, v)
        judged(decode(q, cache, Budget(0.02)), q, k, v)


def test_causal_positions_are_the_prefix() -> None:
    q, k, v = tensors(100, sharpness=2.0)
    for keys, values in FORMATS[:2]:
        whole = filled(k, v, keys, values)
        for position in (14, 15, 16, 60, 99):
            past = decode(q, whole, Budget(0.02), position=position)
            prefix = decode(q, filled(k[: position + 1], v[: position + 1], keys, values), Budget(0.02))
            np.testing.assert_array_equal(past.output, prefix.output)
            for name in past.certificate.__dataclass_fields__:
                one, other = getattr(past.certificate, name), getattr(prefix.certificate, name)
                np.testing.assert_array_equal(one, other, err_msg=name)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=5))
@settings(max_examples=20)
def test_pieces_make_the_same_planes(pieces: list[int]) -> None:
    """However tokens arrive, planes and the notes of every level are those of one append."""
    _, k, v = tensors(sum(pieces))
    whole, parts = filled(k, v, "oscar+2+4", "int4-g32+4"), filled(k[:0], v[:0], "oscar+2+4", "int4-g32+4")
    for end, size in zip(np.cumsum(pieces), pieces, strict=True):
        parts.append(k[end - size : end], v[end - size : end])
    blocks = np.arange(whole.blocks)
    if not whole.blocks:
        return
    for side in SIDES:
        for plane in range(whole.levels(side) - 1):
            one, other = (cache.planes.read(side, plane, 1, blocks) for cache in (whole, parts))
            assert one.tobytes() == other.tobytes()
    for level in range(whole.levels("keys")):
        a, b = (cache.key_annotations(level).arrays() for cache in (whole, parts))
        assert all(a[name].tobytes() == b[name].tobytes() for name in a)
    for level in range(whole.levels("values")):
        a, b = (cache.value_annotations(level).arrays() for cache in (whole, parts))
        assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_what_a_level_would_leave_is_what_it_leaves() -> None:
    """Values do not move shares: the term that was foreseen for a level is the term of a pass at that level."""
    q, k, v = tensors(120)
    group = groups(filled(k, v, "int8+4", "oscar+2+4"), q)[0]
    rows, none = np.arange(len(group.q)), Levels.coded(len(q) // KV_HEADS, group.view.blocks)
    seen = attend(group, none, rows)
    done = certify(group, none, rows, seen, FLOAT64)
    limit = np.full(len(rows), 0.1)
    for level in (1, 2):
        left = choice._left(group, none, rows, seen, done, limit, "values", level)
        levels = Levels(none.keys, none.values, none.key_planes, np.full_like(none.value_planes, level))
        finer = attend(group, levels, rows)
        np.testing.assert_array_equal(finer.share, seen.share)
        terms = certify(group, levels, rows, finer, FLOAT64).bound.value_gain[:, :-1]
        np.testing.assert_array_equal(left, terms)


def test_the_price_of_a_level_is_what_is_still_to_be_read() -> None:
    _, k, v = tensors(48)
    for place, share in (("host", 1.0), ("device", choice.DEVICE_COST)):
        cache = filled(k, v, "oscar+2+4", "int4-g32+4", planes=place)
        group = groups(cache, np.ones((2, HEAD_DIM), np.float32))[0]
        levels = Levels.coded(1, 3)
        levels.key_planes[0] = (0, 1, 2)
        two, four = BLOCK * HEAD_DIM / 4 * share, BLOCK * HEAD_DIM / 2 * share
        original = BLOCK * HEAD_DIM * 2.0
        keys, values = (choice.costs(group, levels, side, 3)[0].tolist() for side in SIDES)
        assert keys == [[two, two + four, original], [0.0, four, original], [0.0, 0.0, original]]
        assert values == [[four, four, original]] * 3, "one plane only: the second level is priced like the first"


def test_coarse_keys_rise_one_level_at_a_time() -> None:
    """Where score errors are above 2 and rounds are left; never where the next level is as unknown as this one."""
    q, k, v = tensors(80, sharpness=8.0)
    group = groups(filled(k, v, "oscar+2+4", "dense"), q)[0]
    rows, blocks = np.arange(len(group.q)), group.view.blocks
    levels = Levels.coded(len(rows), blocks)
    assert (group.delta_ub > choice.FAR).all()
    assert (group.finer_errors[0][0] > choice.FAR).any()
    wanted = Levels.coded(len(rows), blocks)
    wanted.keys[:, 0], wanted.values[:, 1] = True, True
    wanted.key_planes[:, 1:3] = (1, 2)
    slow = choice.one_at_a_time(group, levels, rows, wanted)
    assert not slow.keys.any()
    assert slow.key_planes.tolist() == [[1, 1, 1, 0, 0]] * len(rows)
    np.testing.assert_array_equal(slow.values, wanted.values)
    group.finer_errors[0][0][:, 0] = group.delta_ub[:, 0]
    slow = choice.one_at_a_time(group, levels, rows, wanted)
    assert slow.keys.tolist() == wanted.keys.tolist(), "what is no nearer is not looked at"
    group.finer_errors[0][0][:, 0] = np.inf
    group.delta_ub[:, 2] = choice.FAR
    slow = choice.one_at_a_time(group, levels, rows, wanted)
    assert slow.keys.tolist() == wanted.keys.tolist(), "what is unknown is not waited for"
    assert slow.key_planes.tolist() == [[0, 1, 2, 0, 0]] * len(rows)


def test_a_finer_level_that_is_worse_is_not_read() -> None:
    """One-hot keys lie on the base's grid after rotation: two bits more are worse, and no budget reads only them."""
    k = np.zeros((96, 1, 64), np.float16)
    token = np.arange(96)
    k[token, 0, token % 64] = np.where(token % 2, 1.0, -1.0)
    fmt = key_format("oscar+2+4")
    x = k[:32].swapaxes(0, 1)
    encoded = fmt.encode(x)
    errors = (fmt.decode(encoded.at(level)) - x.astype(np.float64) for level in range(3))
    off = [float(np.linalg.norm(error, axis=-1).max()) for error in errors]
    assert off[0] < off[2] < off[1]
    rng = np.random.default_rng(3)
    q = (6000.0 * rng.standard_normal((4, 64))).astype(np.float32)
    v = rng.standard_normal((96, 1, 64)).astype(np.float16)
    cache = Cache(kv_heads=1, head_dim=64, keys="oscar+2+4", values="int8", block=32)
    cache.append(k, v)
    group = groups(cache, q)[0]
    assert (group.delta_ub > choice.FAR).all()
    assert (group.finer_errors[0][0] > group.delta_ub).all()
    levels, wanted = Levels.coded(4, 3), Levels.coded(4, 3)
    wanted.keys[...] = True
    assert choice.one_at_a_time(group, levels, np.arange(4), wanted).keys.all()
    step = decode(q, cache, Budget(0.01))
    judged(step, q, k, v)
    assert step.certificate.promoted[:, 0].any()
    assert not step.certificate.plane_bytes.any()


def test_looks_are_not_taken_from_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two planes that are looked at first: three rounds of choices are left, and the head needs no rung 3.

    Formats of one level, and finer values, have the rounds of the policy; 0 stays 0; 255 are the most that are proved.
    """
    rng = np.random.default_rng(8)
    k, v = (rng.standard_normal((261, 1, 64)).astype(np.float16) for _ in range(2))
    q = rng.standard_normal((4, 64)) * np.array([[1], [3], [10], [30]])
    q = (q * 8.0 / np.linalg.norm(k.astype(np.float64), axis=-1).mean()).astype(np.float16)

    def rungs(keys: str, rounds: int = 3) -> list[int]:
        cache = Cache(kv_heads=1, head_dim=64, keys=keys, values=keys, block=32)
        cache.append(k, v)
        step = decode(q, cache, Budget(0.05, rounds=rounds))
        judged(step, q, k, v)
        return [int(rung) for rung in step.certificate.rung]

    assert rungs("oscar") == rungs("oscar+2+4") == [2, 2, 2, 2]
    assert rungs("oscar+2+4", rounds=0) == [3, 3, 3, 3]
    for keys, values, planes in (("oscar+2+4", "int8", 2), ("int8+4", "int4+4", 1), ("int8", "oscar+2+4", 0)):
        _, some_keys, some_values = tensors(40)
        group = groups(filled(some_keys, some_values, keys, values), np.ones((4, HEAD_DIM), np.float32))[0]
        counted = [budget.rounds_of(Budget(rounds=rounds), group) for rounds in (0, 1, 3, 254, 255)]
        assert counted == [0, 1 + planes, 3 + planes, min(254 + planes, 255), 255]
    monkeypatch.setattr(budget, "rounds_of", lambda policy, group: policy.rounds)
    assert rungs("oscar+2+4") == [2, 2, 2, 3], "where looks are counted"


def test_levels_remember_everything_that_was_read() -> None:
    levels = Levels.coded(2, 3)
    first = Levels.coded(1, 3)
    first.key_planes[0] = (1, 2, 0)
    levels.raise_to(np.array([1]), first)
    second = Levels.coded(1, 3)
    second.keys[0, 1] = True
    second.key_planes[0] = (0, 0, 1)
    levels.raise_to(np.array([1]), second)
    assert levels.key_planes.tolist() == [[0, 0, 0], [1, 2, 1]], "not lowered, nor forgotten where an original came"
    assert levels.keys.tolist() == [[False] * 3, [False, True, False]]
    assert levels.at("keys", 1).tolist() == [[False] * 3, [True, False, True]]
    assert levels.at("keys", 2).tolist() == [[False] * 3] * 2, "the original is used"


def test_bytes_on_the_device() -> None:
    """Annotations of every level; planes where they lie there: by hand, at B = 64 and d = 128."""
    keys, values = key_format("int8+4"), value_format("int4-g32+4")
    plain = device_bytes_per_token(key_format("int8"), value_format("int4-g32"), 64, 128)
    # four bfloat16 of a level of keys, three and a code per token of one of values
    notes = (4 * 2 + 3 * 2 + 64) / 64
    assert float(device_bytes_per_token(keys, values, 64, 128) - plain) == notes
    assert float(device_bytes_per_token(keys, values, 64, 128, planes="device") - plain) == notes + 64 + 64
    k, v = np.ones((2, 200, 3, 128), np.float16)
    for place, planes in (("host", 0), ("device", 3 * 3 * 64 * 128)):
        cache = Cache(kv_heads=3, head_dim=128, keys="int8+4", values="int4-g32+4", block=64, planes=place)  # type: ignore[arg-type]
        cache.append(k, v)
        assert cache.finer_device_bytes == 3 * 3 * (8 + 6 + 64) + planes
        assert cache.planes.bytes == 3 * 3 * 64 * 128


def test_formats_of_one_level_have_no_planes() -> None:
    """Nothing of a block lies between base and original."""
    q, k, v = tensors(150, sharpness=2.0)
    cache = filled(k, v, "int8", "int4-g32", planes="device")
    assert cache.level_count == 1
    assert cache.planes.bytes == cache.finer_device_bytes == 0
    for policy in (Naive(), PaperPolicy(), Budget(0.02), Budget(0.0)):
        done = decode(q, cache, policy).certificate
        np.testing.assert_array_equal(done.levels, done.promoted[..., None])
        assert not done.plane_bytes.any()


def test_wrong_places_are_refused() -> None:
    with pytest.raises(SettingError, match="device, host"):
        Cache(kv_heads=1, head_dim=8, planes="disk")  # type: ignore[arg-type]
