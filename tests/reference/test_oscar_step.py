"""Steps over a cache in OScaR's formats: the certificate, through the rotation, against the originals."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from certkv.reference import Budget, Cache, Naive, NonFiniteError, PaperPolicy, Policy, SettingError, Step, decode
from certkv.reference.bounds import arithmetic
from certkv.reference.exact import judge
from certkv.reference.formats import (
    OSCAR_KEY_FORMATS,
    OSCAR_VALUE_FORMATS,
    key_format,
    least_block,
    rotation,
    value_format,
)
from certkv.reference.numbers import BFLOAT16, gamma, norm_ub
from certkv.reference.steps.attend import attend
from certkv.reference.steps.group import Group, Levels

KV_HEADS, HEADS = 2, 4
POLICIES: list[Policy] = [Naive(), PaperPolicy(), Budget(0.05), Budget(0.4), Budget(0.02, "output"), Budget(0.0)]


def tensors(
    tokens: int, head_dim: int = 16, dtype: Any = np.float16, seed: int = 0, imbalance: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys with an outlier channel and one token in 16 that is so many times as long; values with a mean."""
    rng = np.random.default_rng([seed, tokens, head_dim])
    k = rng.standard_normal((tokens, KV_HEADS, head_dim))
    k[..., 3 % head_dim] *= 5
    k[::16] *= imbalance
    v = 0.5 + rng.standard_normal((tokens, KV_HEADS, head_dim))
    q = rng.standard_normal((HEADS, head_dim))
    return q.astype(np.float32), k.astype(dtype), v.astype(dtype)


def filled(k: np.ndarray, v: np.ndarray, **settings: Any) -> Cache:
    options: dict[str, Any] = {"keys": "oscar", "values": "oscar", "block": 32} | settings
    cache = Cache(kv_heads=k.shape[1], head_dim=k.shape[2], dtype=k.dtype, **options)
    cache.append(k, v)
    return cache


def judged(step: Step, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    """No bound is exceeded; every one is finite and no output is NaN."""
    assert np.isfinite(step.certificate.bound).all()
    size = len(q) // k.shape[1]
    for j in range(k.shape[1]):
        mine = slice(j * size, (j + 1) * size)
        bound = step.certificate.bound[mine]
        verdicts = judge(step.output[mine], bound, q[mine], k[:, j], v[:, j], k.shape[2] ** -0.5)
        assert not any(verdict.violated for verdict in verdicts), verdicts


def enforced(step: Step, policy: Policy) -> None:
    if isinstance(policy, Budget):
        certificate = step.certificate
        assert ((certificate.bound <= certificate.tolerance) | (certificate.rung >= 3)).all()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("head_dim", [8, 20, 80])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_contract(policy: Policy, head_dim: int, dtype: Any) -> None:
    q, k, v = tensors(100, head_dim, dtype)
    step = decode(q, filled(k, v), policy)
    judged(step, q, k, v)
    enforced(step, policy)


@pytest.mark.parametrize("keys", OSCAR_KEY_FORMATS)
@pytest.mark.parametrize("imbalance", [1.0, 0.01, 100.0])
def test_every_key_format(keys: str, imbalance: float) -> None:
    block = max(32, least_block(OSCAR_KEY_FORMATS[keys]))
    q, k, v = tensors(max(100, block + 4), imbalance=imbalance)
    for policy in (Naive(), Budget(0.1)):
        step = decode(q, filled(k, v, keys=keys, values="int8", block=block), policy)
        judged(step, q, k, v)
        enforced(step, policy)


@pytest.mark.parametrize("values", OSCAR_VALUE_FORMATS)
def test_every_value_format(values: str) -> None:
    q, k, v = tensors(100, 64)
    for policy in (Naive(), PaperPolicy(), Budget(0.1)):
        step = decode(q, filled(k, v, keys="int8", values=values), policy)
        judged(step, q, k, v)
        enforced(step, policy)


def test_extremes_are_sound() -> None:
    """Subnormal heads beside heads near the largest number, and a token of zeros; bounds may be large, not wrong."""
    for dtype, largest in ((np.float16, 2.0**15), (ml_dtypes.bfloat16, 2.0**60)):
        q, k, v = tensors(64, 16, dtype)
        k = k.astype(np.float64)
        k[:, 0] *= 2.0**-20
        k[:, 1] *= largest / 32
        k[5] = 0.0
        k = k.astype(dtype)
        small = (q * np.float32(2.0**-60 if largest > 2.0**30 else 2.0**-12)).astype(np.float32)
        for queries in (q, small):
            step = decode(queries, filled(k, v), Naive())
            size = len(q) // KV_HEADS
            for j in range(KV_HEADS):
                mine = slice(j * size, (j + 1) * size)
                bound = step.certificate.bound[mine]
                verdicts = judge(step.output[mine], bound, queries[mine], k[:, j], v[:, j], 0.25)
                assert not any(verdict.violated for verdict in verdicts)


@pytest.mark.parametrize("budget", [None, 1.0])
def test_an_infinite_note_of_a_weightless_block_promotes_it(budget: float | None) -> None:
    """Equal values of the largest number, rotated, are beyond bfloat16 and cut: nothing is known of their residual.

    0 times infinity is NaN; it is promoted like whatever is too large, without a warning.
    """
    k, v = np.zeros((8, 1, 16), ml_dtypes.bfloat16), np.zeros((8, 1, 16), ml_dtypes.bfloat16)
    k[:4], v[:4] = -30000.0, BFLOAT16.max
    cache = filled(k, v, keys="dense", block=4)
    step = decode(np.ones((1, 16), np.float32), cache, PaperPolicy(value_budget=budget))
    assert step.certificate.promoted[0, 1] >= 1
    # promoted, it is as far from the output as its values are
    assert np.isfinite(step.certificate.bound[0])
    assert not step.output.any()


def group_of(q: np.ndarray, cache: Cache) -> Group:
    return Group(q[:2].astype(np.float64), np.arange(2), cache.head_dim**-0.5, cache.view(0))


@pytest.mark.parametrize("head_dim", [8, 80, 128])
def test_scores_through_the_rotated_query_are_those_of_decoded_keys(head_dim: int) -> None:
    """Both are within what is charged of ``scale q . k_hat``."""
    q, k, v = tensors(64, head_dim)
    group = group_of(q, filled(k, v))
    direct = group.scores(group.view.decoded("keys"))
    norms = norm_ub(group.view.decoded("keys"))
    charged = arithmetic.score_rounding_ub(
        group.scale, norm_ub(group.q)[:, None, None], norms, head_dim + group.key_roundings
    )
    assert group.key_roundings == rotation.roundings(head_dim)
    assert (np.abs(group.coded_scores - direct) <= 2.0 * charged).all()
    assert (group.coded_scores != direct).any()  # another way of computing them, indeed


def test_rotating_the_output_back_is_decoding_every_value() -> None:
    """``H sum p x = sum p H x``: the form that reads one rotation per query, within what the reference is charged."""
    q, k, v = tensors(64, 80)
    cache = filled(k, v)
    group = group_of(q, cache)
    levels = Levels.coded(2, 2)
    seen = attend(group, levels, np.arange(2))
    fmt = OSCAR_VALUE_FORMATS["oscar"]
    inside = fmt.decode_rotated(group.view.encoded("values")).reshape(-1, 80)
    turned = rotation.rotate(seen.share.reshape(2, -1) @ inside)
    mean = seen.share.reshape(2, -1) @ np.linalg.norm(inside, axis=-1)
    # each is within gamma_{N + r + 1} of the mean norm: N terms and decoding before, or N terms and one rotation after
    limit = 2 * gamma(2 * 64 + 2 * group.value_roundings + 6) * mean
    assert (np.linalg.norm(turned - seen.output, axis=-1) <= limit).all()


def test_pieces_of_a_prefill_make_the_same_bits() -> None:
    """Appended at once, in chunks, or token by token: codes, metadata, norms and annotations are the same."""
    q, k, v = tensors(150)
    whole = filled(k, v, keys="oscar+2+4", values="oscar+2+4", residual=64)
    for chunk in (1, 7, 50, 64, 97):
        parts = filled(k[:0], v[:0], keys="oscar+2+4", values="oscar+2+4", residual=64)
        for start in range(0, 150, chunk):
            parts.append(k[start : start + chunk], v[start : start + chunk])
        for side in ("keys", "values"):
            one, other = parts.encoded(side), whole.encoded(side)
            for name in ("codes", "step", "minimum", "norm"):
                mine, theirs = getattr(one, name), getattr(other, name)
                assert (mine is None) == (theirs is None)
                assert mine is None or mine.tobytes() == theirs.tobytes()
        ours, theirs = decode(q, parts, Budget(0.3)), decode(q, whole, Budget(0.3))
        np.testing.assert_array_equal(ours.output, theirs.output)
        np.testing.assert_array_equal(ours.certificate.bound, theirs.certificate.bound)


@pytest.mark.parametrize("residual", [32, 64, 96])
def test_the_residual_window_is_whole_and_original(residual: int) -> None:
    q, k, v = tensors(200)
    cache = filled(k[:0], v[:0], residual=residual)
    for t in range(200):
        cache.append(k[t : t + 1], v[t : t + 1])
        held = (t + 1) // residual * residual
        assert cache.blocks * 32 == held
        np.testing.assert_array_equal(cache.tail("keys"), k[held : t + 1])
    for position in (0, 31, 32, 63, 64, 95, 100, 150, 199):
        view = cache.view(1, position)
        assert view.blocks * 32 == (position + 1) // residual * residual
        np.testing.assert_array_equal(view.all_originals("values"), v[: position + 1, 1])
        np.testing.assert_array_equal(view.tail_originals("keys"), k[view.blocks * 32 : position + 1, 1])
        for policy in (Naive(), Budget(0.2)):
            past = decode(q, cache, policy, position=position)
            prefix = decode(q, filled(k[: position + 1], v[: position + 1], residual=residual), policy)
            np.testing.assert_array_equal(past.output, prefix.output)
            np.testing.assert_array_equal(past.certificate.bound, prefix.certificate.bound)
            judged(past, q, k[: position + 1], v[: position + 1])


@pytest.mark.parametrize("residual", [0, -32, 33, 48])
def test_a_residual_window_is_whole_blocks(residual: int) -> None:
    with pytest.raises(SettingError, match="multiple of the block, 32"):
        Cache(kv_heads=1, head_dim=8, block=32, residual=residual)


def test_formats_are_found_by_name() -> None:
    for name, keys in OSCAR_KEY_FORMATS.items():
        assert key_format(name) is keys
    for name, values in OSCAR_VALUE_FORMATS.items():
        assert value_format(name) is values
    with pytest.raises(SettingError, match="unknown key format 'oscar-3'"):
        key_format("oscar-3")
    with pytest.raises(SettingError, match=r"unknown key format \['oscar'\]"):
        key_format(["oscar"])  # type: ignore[arg-type]


def test_no_nan_is_scaled_away() -> None:
    k = np.zeros((32, KV_HEADS, 16), np.float16)
    k[7, 1, 3] = np.nan
    cache = filled(np.zeros((0, KV_HEADS, 16), np.float16), np.zeros((0, KV_HEADS, 16), np.float16))
    with pytest.raises(NonFiniteError, match=r"k\[7, 1, 3\] is nan"):
        cache.append(k, np.zeros_like(k))


def test_the_papers_formula_has_nothing_to_say() -> None:
    q, k, v = tensors(64)
    assert (decode(q, filled(k, v), Naive()).paper_bound == np.inf).all()
