"""The NumPy forward: against torch, against itself in pieces, on passkeys, and on damaged input."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from certkv.cli import llama, passkey

Array = NDArray[Any]
GOLDEN = Path(__file__).parent / "golden_logits.safetensors"
U32, U64 = 2.0**-24, 2.0**-53
FILLER = Path(json.__file__).with_name("decoder.py").read_bytes() + Path(re.__file__).read_bytes()


@pytest.fixture(scope="module")
def model() -> llama.Llama:
    return llama.load()


@pytest.fixture(scope="module")
def exact() -> llama.Llama:
    """The same weights in float64 without the rounding of q, k and v."""
    return llama.load(dtype=np.float64, round_qkv=False)


@pytest.fixture(scope="module")
def golden() -> dict[str, Array]:
    """Logits of the torch model on the exported weights: `python models/golden.py` wrote them."""
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def torch_error(golden: dict[str, Array]) -> float:
    """The largest rounding error of torch's own float32 logits: the yardstick of the comparisons below."""
    return float(np.abs(golden["float32"] - golden["float64"]).max())


# The comparisons with torch. Both sides evaluate one function with the same number of operations per logit and
# differ in the order of sums. A forward error is first order in the unit roundoff, error = C * u, with a C that the
# function sets and the order of sums changes by a small factor; 8 is allowed for it. C is read off torch's own float32
# run: C = torch_error / U32. In float64 both sides err, hence twice the factor.


def test_float32_logits_match_torch(golden: dict[str, Array], torch_error: float) -> None:
    model = llama.load(round_qkv=False)
    logits = llama.prefill(model, golden["tokens"]).logits[golden["positions"]]
    assert np.abs(logits - golden["float64"]).max() <= 8 * torch_error


def test_float64_logits_match_torch(exact: llama.Llama, golden: dict[str, Array], torch_error: float) -> None:
    logits = llama.prefill(exact, golden["tokens"]).logits[golden["positions"]]
    assert np.abs(logits - golden["float64"]).max() <= 16 * torch_error * U64 / U32


def test_rounding_of_q_k_v_is_where_the_text_says(golden: dict[str, Array], torch_error: float) -> None:
    # In float64 the two sides differ by some 1e-13 before the rounding, so a value that they would round to different
    # halves must lie that close to a tie: hopeless odds. After it the same bound as above holds.
    model = llama.load(dtype=np.float64)
    logits = llama.prefill(model, golden["tokens"]).logits[golden["positions"]]
    assert np.abs(logits - golden["float64_rounded_qkv"]).max() <= 16 * torch_error * U64 / U32
    # The rounding is visible at all: without it the logits are elsewhere.
    assert np.abs(golden["float64"] - golden["float64_rounded_qkv"]).max() > 1e3 * torch_error * U64 / U32


def test_golden_prompt_is_predicted_well(golden: dict[str, Array]) -> None:
    positions, logits = golden["positions"][:-1], golden["float64"][:-1]
    top = logits.max(axis=-1, keepdims=True)
    log_likelihood = logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    bits = -np.mean(log_likelihood[np.arange(len(positions)), golden["tokens"][positions + 1]]) / np.log(2)
    assert bits < 8 / 2  # half of what an untrained model needs: the golden logits are a trained model's


@pytest.mark.parametrize("depth", [0.0, 0.37, 0.8, 1.0])
def test_passkey_is_recalled(model: llama.Llama, depth: float) -> None:
    rng = np.random.default_rng([5, round(100 * depth)])
    prompt = passkey.build(FILLER, 1_800, depth, passkey.random_key(rng))
    assert llama.recall_passkey(model, prompt) == prompt.answer


def test_recall_needs_the_needle(model: llama.Llama) -> None:
    """Without attention to the needle's tokens the answer is lost: recall is retrieval, not luck."""
    prompt = passkey.build(FILLER, 900, 0.3, b"829174")
    tokens = llama.encode(prompt.text)
    start = llama.prefill(model, tokens)
    cache = llama.DenseCache(model, start)
    hidden = slice(1 + prompt.needle_start, 1 + prompt.needle_start + passkey.NEEDLE_BYTES)
    for layer in range(model.config.num_hidden_layers):
        cache.v[layer] = cache.v[layer].copy()
        cache.v[layer][hidden] = 0
    last = len(tokens) - 1
    for layer in range(model.config.num_hidden_layers):
        cache.k[layer], cache.v[layer] = cache.k[layer][:last], cache.v[layer][:last]
    logits = llama.decode(model, int(tokens[last]), last, cache)
    answer = bytes(llama.generate(model, logits, last + 1, cache, passkey.DIGITS))
    assert answer != prompt.answer


def test_chunks_change_nothing(exact: llama.Llama, golden: dict[str, Array], torch_error: float) -> None:
    tokens = golden["tokens"]
    whole = llama.prefill(exact, tokens, chunk=len(tokens))
    for chunk in (1, 7, 64, len(tokens) - 1):
        parts = llama.prefill(exact, tokens, chunk=chunk)
        # The same sums in another order: the comparison in float64 from above.
        assert np.abs(parts.logits - whole.logits).max() <= 16 * torch_error * U64 / U32


def test_decode_continues_the_prefill(exact: llama.Llama, golden: dict[str, Array], torch_error: float) -> None:
    tokens = golden["tokens"][:96]
    whole = llama.prefill(exact, tokens)
    begin = 80
    cache = llama.DenseCache(exact, llama.prefill(exact, tokens[:begin]))
    for position in range(begin, len(tokens)):
        logits = llama.decode(exact, int(tokens[position]), position, cache)
        assert np.abs(logits - whole.logits[position]).max() <= 16 * torch_error * U64 / U32
    for layer, capture in enumerate(whole.layers):
        np.testing.assert_allclose(cache.k[layer], capture.k, rtol=0, atol=1e6 * U64)
        np.testing.assert_allclose(cache.v[layer], capture.v, rtol=0, atol=1e6 * U64)


def test_decode_hands_out_halves(model: llama.Llama) -> None:
    seen: list[tuple[int, Any, Any, Any]] = []

    def attend(layer: int, q: Array, k: Array, v: Array) -> Array:
        seen.append((layer, q, k, v))
        return np.repeat(v, 4, axis=0)  # one token: attention returns its value

    config = model.config
    logits = llama.decode(model, llama.START, 0, attend)
    assert [layer for layer, *_ in seen] == list(range(config.num_hidden_layers))
    for _, q, k, v in seen:
        assert q.shape == (config.num_attention_heads, config.head_dim)
        assert k.shape == v.shape == (config.num_key_value_heads, config.head_dim)
        assert q.dtype == k.dtype == v.dtype == np.float16
    whole = llama.prefill(model, np.asarray([llama.START]))
    # One token: the softmax is exactly 1, so that only the BLAS order for one row may differ; both err by u32 per sum.
    assert np.abs(logits - whole.logits[0]).max() <= 1e-3 * np.abs(logits).max()


def test_capture_is_what_attention_read(model: llama.Llama) -> None:
    tokens = llama.encode(FILLER[:50])
    for capture in llama.prefill(model, tokens).layers:
        assert capture.q.shape == (51, 8, 64)
        assert capture.k.shape == capture.v.shape == (51, 2, 64)
        assert capture.q.dtype == capture.k.dtype == capture.v.dtype == np.float16


def test_causal_attention_matches_its_definition() -> None:
    rng = np.random.default_rng(3)
    tokens, queries, d, scale = 37, 11, 8, 0.3
    q, k, v = rng.normal(size=(queries, 6, d)), rng.normal(size=(tokens, 2, d)), rng.normal(size=(tokens, 2, d))
    got = llama.causal_attention(q, k, v, scale, np.float64, chunk=4)
    for query in range(queries):
        seen = tokens - queries + query + 1
        for head in range(6):
            weights = np.exp(scale * (k[:seen, head // 3] @ q[query, head]))
            expected = weights @ v[:seen, head // 3] / weights.sum()
            # Scores below 20 in size with some 10 roundings each, a convex mean of values below 5: under 1e4 u.
            assert np.abs(got[query, head] - expected).max() <= 1e4 * U64


def test_rope_depends_on_distance_only(model: llama.Llama) -> None:
    rng = np.random.default_rng(4)
    q, k = rng.normal(size=(1, 1, 64)), rng.normal(size=(1, 1, 64))

    def score(query_at: int, key_at: int) -> float:
        turned = [
            llama.rotate(x, *llama.rotary(model.config, np.asarray([at]), np.float64))
            for x, at in ((q, query_at), (k, key_at))
        ]
        return float(np.vdot(turned[0], turned[1]))

    # An angle of up to 8191 rad carries an absolute error of 8192 * 2u (its product and its frequency), each of the
    # four table entries of a pair as much; the score moves by at most that times |q| |k|.
    slack = 8 * 8192 * 2 * U64 * float(np.linalg.norm(q) * np.linalg.norm(k))
    for shift in (1, 100, 5_000):
        assert abs(score(3_000 + shift, 17 + shift) - score(3_000, 17)) <= slack
    assert abs(score(3_001, 17) - score(3_000, 17)) > slack
    for x in (q, k):
        turned = llama.rotate(x, *llama.rotary(model.config, np.asarray([8191]), np.float64))
        assert abs(np.linalg.norm(turned) - np.linalg.norm(x)) <= slack


def test_text_round_trip() -> None:
    tokens = llama.encode("# passkey: ä\n")
    assert tokens[0] == llama.START
    assert llama.decode_text(tokens) == "# passkey: ä\n".encode()
    assert llama.encode(b"").tolist() == [llama.START]


def test_bundled_files_are_small() -> None:
    assert (llama.BUNDLED_MODEL / "model.safetensors").stat().st_size <= 8_000_000
    assert llama.BUNDLED_CAPTURE.stat().st_size <= 2_500_000
    assert llama.load().config.max_position_embeddings >= 8192


@pytest.mark.parametrize(
    "tokens",
    [[], [[1, 2]], [256], [-1], [0.5], np.zeros(8193, np.int64)],
    ids=["empty", "matrix", "too large", "negative", "float", "too long"],
)
def test_wrong_tokens(model: llama.Llama, tokens: Any) -> None:
    with pytest.raises(llama.TokensError):
        llama.prefill(model, np.asarray(tokens))


def test_wrong_position_and_wrong_attend(model: llama.Llama) -> None:
    with pytest.raises(llama.TokensError, match="position 8192"):
        llama.decode(model, 0, 8192, lambda *_: np.zeros((8, 64)))
    with pytest.raises(ValueError, match=r"attend returned shape \[2, 64\] for layer 0"):
        llama.decode(model, 0, 0, lambda layer, q, k, v: v)


def _edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _edit_weights(folder: Path, change: Callable[[dict[str, Array]], None]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _spoil(name: str, value: float) -> Callable[[dict[str, Array]], None]:
    def change(tensors: dict[str, Array]) -> None:
        tensors[name][3] = value

    return change


NORM = "model.norm.weight"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda folder: shutil.rmtree(folder), "config.json: no such file"),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors: no such file"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "not a readable safetensors"),
    "cut weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-100]),
        "not a readable safetensors",
    ),
    "foreign weights": (
        lambda folder: save_file({"weight": np.zeros(3, np.float16)}, folder / "model.safetensors"),
        "56 tensors are missing, the first is model.embed_tokens.weight",
    ),
    "extra tensor": (
        lambda folder: _edit_weights(folder, lambda t: t.update({"lm_head.weight": np.zeros(3, np.float16)})),
        "not part of this architecture, the first is lm_head.weight",
    ),
    "integers": (
        lambda folder: _edit_weights(folder, lambda t: t.update({NORM: np.ones(256, np.int16)})),
        "model.norm.weight is int16",
    ),
    "infinity": (lambda folder: _edit_weights(folder, _spoil(NORM, np.inf)), r"not finite at \[3\]"),
    "NaN": (lambda folder: _edit_weights(folder, _spoil(NORM, np.nan)), r"not finite at \[3\]"),
    "not JSON": (lambda folder: (folder / "config.json").write_text("{"), "not readable JSON"),
    "not text": (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "not readable JSON"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "model_type must be 'llama'"),
    "another model": (lambda folder: _edit_config(folder, model_type="gpt2"), "model_type must be 'llama'"),
    "untied": (lambda folder: _edit_config(folder, tie_word_embeddings=False), "tie_word_embeddings must be true"),
    "scaled RoPE": (lambda folder: _edit_config(folder, rope_scaling={"factor": 2}), "rope_scaling"),
    "wrong shape": (lambda folder: _edit_config(folder, intermediate_size=400), "config.json implies"),
    "zero heads": (
        lambda folder: _edit_config(folder, num_key_value_heads=0),
        "num_key_value_heads must be a positive",
    ),
    "text for a number": (lambda folder: _edit_config(folder, head_dim="64"), "head_dim must be a positive"),
    "heads do not divide": (lambda folder: _edit_config(folder, num_key_value_heads=3), "no multiple of 3 KV heads"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_model_folder(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(llama.BUNDLED_MODEL, folder)
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(llama.ModelError, match=message):
        llama.load(folder)


def test_wrong_compute_type() -> None:
    with pytest.raises(llama.ModelError, match="float16 is not supported"):
        llama.load(dtype=np.float16)


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_prompt_has_its_length_and_its_needle(depth: float) -> None:
    prompt = passkey.build(FILLER, 1_000, depth, b"012345")
    assert len(prompt.text) == 1_000
    assert prompt.text[prompt.needle_start :].startswith(passkey.NEEDLE % b"012345")
    assert prompt.text.endswith(passkey.QUESTION)
    assert prompt.text.count(b"012345") == 1


@pytest.mark.parametrize(
    ("length", "depth", "key"), [(10, 0.5, b"012345"), (10**9, 0.5, b"012345"), (900, 1.5, b"012345"), (900, 0.5, b"1")]
)
def test_wrong_prompts(length: int, depth: float, key: bytes) -> None:
    with pytest.raises(ValueError):
        passkey.build(FILLER, length, depth, key)
