"""Certified attention in a model's loop, on random weights; and the demo on what is bundled."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest

from certkv.cli import answer, demo, llama, passkey
from certkv.reference import Budget, Naive, decode

from .support import Run

STEPS = 3


@pytest.fixture
def model() -> llama.Llama:
    """Two layers of random weights: bounds must hold whatever a model has learned."""
    config = llama.Config(
        vocab_size=256,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        rope_theta=1e4,
        rms_norm_eps=1e-5,
    )
    rng = np.random.default_rng(3)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in config.shapes().items()}
    return llama.Llama(config, weights, np.dtype(np.float32), round_qkv=True)


def silent(what: str, steps: int) -> None:
    """No progress."""


def test_every_step_of_every_layer_is_certified(model: llama.Llama) -> None:
    tokens = llama.encode(demo.passkey_prompt().text[:200])
    result = answer.answer(model, tokens, STEPS, Budget(0.1), silent)
    assert (result.steps, result.layers) == (STEPS, 2)
    steps = result.certified.steps
    assert [(s.query, s.layer, s.head) for s in steps] == [
        (step, layer, head) for step in range(STEPS) for layer in range(2) for head in range(4)
    ]
    assert any(s.quantized for s in steps)
    for s in steps:
        assert s.error <= s.bound
        assert s.bound <= s.tolerance or s.rung >= 3
    # 201 tokens of the prompt and the two generated ones that were fed back
    assert [s.tokens for s in result.certified.storage] == [203, 203]


def test_from_the_originals_the_answer_is_the_dense_one(model: llama.Llama) -> None:
    tokens = llama.encode(b"def main(arguments):\n    return 0\n" * 5)
    result = answer.answer(model, tokens, STEPS, Budget(0.0), silent)
    assert {s.rung for s in result.certified.steps} == {3}
    assert result.certified_text == result.dense_text


def test_a_bound_that_is_too_small_is_seen(model: llama.Llama, monkeypatch: pytest.MonkeyPatch) -> None:
    def lying(*args: Any, **options: Any) -> Any:
        step = decode(*args, **options)
        return dataclasses.replace(
            step, certificate=dataclasses.replace(step.certificate, bound=step.certificate.bound * 1e-3)
        )

    monkeypatch.setattr(answer, "decode", lying)
    result = answer.answer(model, llama.encode(b"x = 1\n" * 30), STEPS, Naive(), silent)
    assert any(s.violated for s in result.certified.steps)
    prompt = passkey.Prompt(b"", b"123456", 0)
    assert any("VIOLATED" in line for line in demo.describe(result, prompt))


def test_generated_bytes_are_shown_in_ascii() -> None:
    assert demo.shown(b"123456") == "123456"
    assert demo.shown(b"1\n\xff") == r"1\n\\xff"


def test_the_demo_on_bundled_data(run: Run) -> None:
    begun = time.monotonic()
    outcome = run("demo")
    assert time.monotonic() - begun < 60
    assert outcome.code == 0, outcome
    assert outcome.out.isascii()
    assert max(map(len, outcome.out.splitlines())) <= 120
    assert outcome.out.count("SOUND: no error exceeds its bound") == 2
    key = demo.passkey_prompt().answer.decode()
    for line in ("hidden", "answer, dense attention", "answer, certified attention"):
        assert f"  {line}".ljust(32) + key in outcome.out
