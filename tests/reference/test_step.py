"""One decode step end to end: the contract, the policies, causal positions, GQA, errors."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from certkv.reference import (
    Budget,
    Cache,
    CorruptionError,
    DTypeError,
    HostMissingError,
    InputError,
    Naive,
    NonFiniteError,
    PaperPolicy,
    Policy,
    SettingError,
    ShapeError,
    Step,
    decode,
)
from certkv.reference.exact import judge
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.reference.ladder import MAX_ROUNDS
from certkv.reference.numbers.types import IntArray
from certkv.reference.steps import budget
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.group import Group, Levels

KV_HEADS, HEADS, HEAD_DIM = 2, 6, 16
POLICIES: list[Policy] = [
    Naive(),
    PaperPolicy(),
    PaperPolicy(k_min=1, k_max=1, value_budget=0.01, exploration=0.5),
    Budget(0.05),
    Budget(0.02, "output"),
    Budget(0.1, "absolute"),
    Budget(0.0),
]


def tensors(tokens: int, seed: int = 0, dtype: Any = np.float16) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Queries that look somewhere, keys with an outlier channel, values with a mean."""
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((tokens, KV_HEADS, HEAD_DIM))
    k[..., 3] = 6 + 0.5 * k[..., 3]
    v = 0.5 + rng.standard_normal((tokens, KV_HEADS, HEAD_DIM))
    q = 2 * rng.standard_normal((HEADS, HEAD_DIM))
    return q.astype(np.float32), k.astype(dtype), v.astype(dtype)


def filled(k: np.ndarray, v: np.ndarray, **settings: object) -> Cache:
    options = {"keys": "int8", "values": "int4-g32", "block": 8} | settings
    cache = Cache(kv_heads=KV_HEADS, head_dim=HEAD_DIM, dtype=k.dtype, **options)  # type: ignore[arg-type]
    cache.append(k, v)
    return cache


def judged(step: Step, q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float | None = None) -> None:
    """No bound is exceeded, by enclosures."""
    group = HEADS // KV_HEADS
    for j in range(KV_HEADS):
        mine = slice(j * group, (j + 1) * group)
        verdicts = judge(
            step.output[mine],
            step.certificate.bound[mine],
            q[mine],
            k[:, j],
            v[:, j],
            HEAD_DIM**-0.5 if scale is None else scale,
            enclosures="always",
        )
        assert not any(verdict.violated for verdict in verdicts), verdicts


def contract(step: Step, policy: Policy) -> None:
    """What every result promises, whatever the data."""
    certificate = step.certificate
    assert not np.isnan(step.output.astype(np.float64)).any()
    for name in ("bound", "key", "value", "arithmetic"):
        assert (getattr(certificate, name) >= 0).all(), name
    parts = zip(certificate.key, certificate.value, certificate.arithmetic, certificate.bound, strict=True)
    for *summands, bound in parts:
        assert sum(summands) == np.inf or sum(Fraction(x) for x in summands) >= Fraction(bound)
    assert (certificate.status == 0).all()
    if isinstance(policy, Budget):
        assert ((certificate.bound <= certificate.tolerance) | (certificate.rung >= 3)).all()
    else:
        assert (certificate.tolerance == np.inf).all()


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("tokens", [1, 7, 8, 100])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16], ids=["float16", "bfloat16"])
def test_contract(policy: Policy, tokens: int, dtype: Any) -> None:
    q, k, v = tensors(tokens, dtype=dtype)
    step = decode(q, filled(k, v), policy)
    contract(step, policy)
    judged(step, q, k, v)


@pytest.mark.parametrize("keys", sorted(KEY_FORMATS))
@pytest.mark.parametrize("values", sorted(VALUE_FORMATS))
def test_every_format(keys: str, values: str) -> None:
    q, k, v = tensors(50)
    for policy in (Naive(), Budget(0.03)):
        step = decode(q, filled(k, v, keys=keys, values=values), policy)
        contract(step, policy)
        judged(step, q, k, v)
        if keys == values == "dense":
            # nothing is quantized: what is left is arithmetic
            assert (step.certificate.rung == 0).all()
            assert (step.certificate.key == 0).all()
            assert (step.certificate.value == 0).all()
            assert (step.certificate.bound < 1e-11).all()


def test_causal_positions_are_the_prefix() -> None:
    """A query at position p gets, bit for bit, what a cache of p + 1 tokens gives."""
    q, k, v = tensors(40)
    whole = filled(k, v)
    for position in (0, 6, 7, 8, 30, 39):
        for policy in (Naive(), PaperPolicy(), Budget(0.05)):
            past = decode(q, whole, policy, position=position)
            prefix = decode(q, filled(k[: position + 1], v[: position + 1]), policy)
            np.testing.assert_array_equal(past.output, prefix.output)
            np.testing.assert_array_equal(past.certificate.bound, prefix.certificate.bound)
            np.testing.assert_array_equal(past.certificate.host_bytes, prefix.certificate.host_bytes)
            judged(past, q, k[: position + 1], v[: position + 1])


def test_the_callers_scale_is_in_the_bound() -> None:
    q, k, v = tensors(64)
    for scale in (2.0**-20, 0.01, 1.0, -0.7, 20.0, 2.0**40):
        for policy in (Naive(), PaperPolicy(), Budget(0.05)):
            step = decode(q, filled(k, v), policy, scale=scale)
            contract(step, policy)
            judged(step, q, k, v, scale)


@pytest.mark.parametrize("out_dtype", ["float32", "float16", "bfloat16"])
def test_the_cast_of_the_output_is_in_the_bound(out_dtype: str) -> None:
    """Rung 3 leaves nothing else, so without the cast in the bound this would be exceeded."""
    q, k, v = tensors(40)
    for policy in (Budget(0.0), Naive()):
        step = decode(q, filled(k, v), policy, out_dtype=out_dtype)
        assert step.output.dtype.name == out_dtype
        judged(step, q, k, v)
    plain = decode(q, filled(k, v), Budget(0.0)).certificate.bound
    assert (decode(q, filled(k, v), Budget(0.0), out_dtype=out_dtype).certificate.bound > 100 * plain).all()


def test_rungs_of_a_budget() -> None:
    """From loose to tight: nothing, some blocks, the whole head; bytes follow."""
    q, k, v = tensors(400)
    cache = filled(k, v, values="int8-g64")
    loose, middle, tight = (decode(q, cache, Budget(t)) for t in (10.0, 0.01, 1e-14))
    assert (loose.certificate.rung == 0).all()
    assert (loose.certificate.host_bytes == 0).all()
    assert (middle.certificate.rung < 3).all()
    assert (middle.certificate.rung > 0).any()
    assert ((middle.certificate.rung > 0) == (middle.certificate.host_bytes > 0)).all()
    assert (tight.certificate.rung == 3).all()
    block_bytes = 8 * HEAD_DIM * 2
    assert (middle.certificate.host_bytes == middle.certificate.promoted.sum(axis=1) * block_bytes).all()
    # everything but the pinned first block, keys and values
    assert (tight.certificate.host_bytes == (50 - 1) * 2 * block_bytes).all()
    assert (tight.certificate.key == 0).all()
    assert (tight.certificate.value == 0).all()


def test_budget_units() -> None:
    """The tolerance is the number that the definition gives, from below and to within its own roundings."""
    q, k, v = tensors(100)
    cache = filled(k, v, keys="dense", values="dense")
    absolute = decode(q, cache, Budget(0.25, "absolute"))
    assert (absolute.certificate.tolerance == 0.25).all()
    output = decode(q, cache, Budget(0.25, "output"))
    norm = np.linalg.norm(output.output, axis=1)
    assert (output.certificate.tolerance <= 0.2 * norm * (1 + 1e-14)).all()
    np.testing.assert_allclose(output.certificate.tolerance, 0.2 * norm, rtol=1e-12)
    values = decode(q, cache, Budget(0.25, "values")).certificate.tolerance
    weights = np.exp(HEAD_DIM**-0.5 * q[0].astype(np.float64) @ k[:, 0].T.astype(np.float64))
    weights /= weights.sum()
    norms = np.linalg.norm(v[:, 0].astype(np.float64), axis=1)
    mean = np.concatenate([np.repeat(norms[:96].reshape(-1, 8).mean(axis=1), 8), np.full(4, norms[96:].mean())])
    # bfloat16 annotations rounded down: at most 2**-7 below
    assert 0.25 * weights @ mean * (1 - 2.0**-7) <= values[0] <= 0.25 * weights @ mean * (1 + 1e-13)


def test_paper_policy_escalates() -> None:
    """A block whose stored codes no longer belong to it is noticed, and the whole layer computed from the originals."""
    q, k, v = tensors(64)
    cache = filled(k, v, keys="int8-paper", values="int4-g16")
    healthy = decode(q, cache, PaperPolicy())
    assert (healthy.certificate.rung < 4).all()
    cache.encoded("keys").codes[5, 1] ^= 0x55
    step = decode(q, cache, PaperPolicy(k_min=8))
    assert (step.certificate.rung == 4).all(), "both KV heads: rung 4 is for the layer"
    judged(step, q, k, v)


def test_moved_bytes_know_scratch() -> None:
    q, k, v = tensors(400)
    small, large = filled(k, v), filled(k, v, scratch_bytes=1 << 20)
    first, again = (decode(q, large, Budget(0.05)) for _ in range(2))
    cold = decode(q, small, Budget(0.05))
    assert first.moved_bytes == cold.moved_bytes > 0
    assert again.moved_bytes == 0
    for step in (again, cold):
        np.testing.assert_array_equal(first.output, step.output)
        np.testing.assert_array_equal(first.certificate.bound, step.certificate.bound)
        np.testing.assert_array_equal(first.certificate.host_bytes, step.certificate.host_bytes)


def test_results_are_the_callers() -> None:
    """A later step changes no earlier result (defect B8)."""
    q, k, v = tensors(64)
    cache = filled(k, v)
    first = decode(q, cache, Budget(0.05))
    copies = [first.output.copy(), first.lse.copy(), first.certificate.bound.copy()]
    decode(-q, cache, Budget(0.0))
    for kept, array in zip(copies, (first.output, first.lse, first.certificate.bound), strict=True):
        np.testing.assert_array_equal(kept, array)


def test_a_lost_host_tier_is_an_error_only_where_it_is_needed() -> None:
    q, k, v = tensors(64)
    cache = filled(k, v)
    cache.host.lose()
    assert not np.isnan(decode(q, cache, Naive()).output).any()
    for policy in (PaperPolicy(), Budget(0.01), Budget(0.0)):
        with pytest.raises(HostMissingError, match="not in the host tier"):
            decode(q, cache, policy)
    cache.reset()
    cache.append(k, v)
    judged(decode(q, cache, Budget(0.01)), q, k, v)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_norms_beyond_the_annotations_range(policy: Policy) -> None:
    """Norms that overflow FP32 are infinite annotations: no warning, no NaN, and a zero query stays exact."""
    q, k, v = tensors(40, dtype=ml_dtypes.bfloat16)
    k[:, 0] = 3e38
    v[:20] = 3e38
    q[1] = 0.0
    step = decode(q, filled(k, v), policy)
    contract(step, policy)
    judged(step, q, k, v)


@pytest.mark.parametrize("policy", [Naive(), PaperPolicy(k_max=2), Budget(10.0)], ids=str)
@pytest.mark.parametrize("side", ["keys", "values"])
def test_damaged_metadata_is_an_error(policy: Policy, side: Any) -> None:
    """Metadata that turned into NaN after it was written: no output, or one computed from the originals."""
    q, k, v = tensors(100)
    cache = filled(k, v)
    cache.encoded(side).minimum[9, 1] = np.nan
    watched = isinstance(policy, Budget) or (isinstance(policy, PaperPolicy) and side == "keys")
    if watched:
        step = decode(q, cache, policy)
        assert (step.certificate.rung[3:] >= 3).all()
        judged(step, q, k, v)
    else:
        with pytest.raises(CorruptionError, match="query head 3"):  # the first head of KV head 1
            decode(q, cache, policy)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_query_that_is_not_finite(bad: float) -> None:
    q, k, v = tensors(20)
    q[4, 7] = bad
    with pytest.raises(NonFiniteError, match=r"q\[4, 7\]"):
        decode(q, filled(k, v), Naive())


def test_many_rounds_and_endless_expansion(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head for which nothing is left to promote goes to rung 3 at once; an expansion beyond all blocks takes all."""
    q, k, v = tensors(60)
    cache = filled(k, v)
    passes: list[int] = []

    def counted(group: Group, levels: Levels, rows: IntArray) -> Attended:
        passes.append(len(rows))
        return attend(group, levels, rows)

    monkeypatch.setattr(budget, "attend", counted)
    step = decode(q, cache, Budget(1e-14, rounds=MAX_ROUNDS))
    assert (step.certificate.rung == 3).all()
    # one pass at the coded levels, which promotes everything, and one that finds nothing left; for both KV heads
    assert len(passes) == 2 * 2
    for expansion in (1e30, float("inf")):
        grown = decode(q, cache, PaperPolicy(k_max=2, coverage=1.0, tail_threshold=0.0, expansion=expansion))
        assert (grown.certificate.promoted[:, 0] == cache.blocks).all()


def test_no_tolerance_is_met_by_an_infinite_bound() -> None:
    """Values whose norms overflow FP32, and a tolerance whose limit overflows float64."""
    q, k, v = tensors(40, dtype=ml_dtypes.bfloat16)
    v = np.where(v > 0.5, 3e38, -3e38).astype(v.dtype)
    for t in (1.0, 1e300):
        step = decode(q, filled(k, v), Budget(t))
        contract(step, Budget(t))
        assert np.isfinite(step.certificate.bound).all()
        assert np.isfinite(step.certificate.tolerance).all()
        judged(step, q, k, v)


def test_a_narrow_tolerance_type_is_not_computed_with() -> None:
    q, k, v = tensors(60)
    for t in (0.9, 0.3, 0.1):
        given: Any = np.float16(t)
        narrow, wide = (decode(q, filled(k, v), Budget(x, "output")) for x in (given, float(given)))
        np.testing.assert_array_equal(narrow.certificate.tolerance, wide.certificate.tolerance)


def test_wrong_arguments() -> None:
    q, k, v = tensors(20)
    cache = filled(k, v)
    with pytest.raises(ShapeError, match="multiple of the cache's 2 KV heads"):
        decode(q[:5], cache, Naive())
    with pytest.raises(ShapeError, match=r"\[q_heads, 16\]"):
        decode(q[:, :8], cache, Naive())
    with pytest.raises(DTypeError, match="float64"):
        decode(q.astype(np.float64), cache, Naive())
    for scale in (0.0, np.nan, np.inf, 1e-300):
        with pytest.raises(SettingError, match="scale"):
            decode(q, cache, Naive(), scale=scale)
    odd: Any
    for odd in ("0.5", True, 1j, 10**400):
        with pytest.raises(SettingError, match="scale"):
            decode(q, cache, Naive(), scale=odd)
        with pytest.raises(SettingError, match="tolerance"):
            Budget(odd)
    for odd in (None, 1.5, float("inf"), MAX_ROUNDS + 1, 10**6):
        with pytest.raises(SettingError, match="rounds"):
            Budget(0.1, rounds=odd)
    with pytest.raises(SettingError, match="out_dtype"):
        decode(q, cache, Naive(), out_dtype="int8")
    with pytest.raises(InputError, match="positions 0 to 19"):
        decode(q, cache, Naive(), position=20)
    with pytest.raises(SettingError, match="policy"):
        decode(q, cache, "naive")  # type: ignore[arg-type]
    wrong: dict[str, Any]
    for wrong in ({"tolerance": -1.0}, {"tolerance": float("nan")}, {"relative_to": "keys"}, {"rounds": -1}):
        with pytest.raises(SettingError):
            Budget(**wrong)
    for wrong in ({"coverage": 1.5}, {"k_min": 0}, {"k_min": 9, "k_max": 3}, {"rank": 0}, {"exploration": -0.1}):
        with pytest.raises(SettingError):
            PaperPolicy(**wrong)
