"""Where score errors are large, the step bounds numerator and denominator together (theorem ``sharp``)."""

from __future__ import annotations

import numpy as np
import pytest

from certkv.reference import Cache, Naive, decode
from certkv.reference.exact import judge
from certkv.reference.steps import certify


def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two tokens, in different blocks and of opposite values, share all the mass: either may have most of it."""
    rng = np.random.default_rng(5)
    direction = rng.standard_normal(32)
    k = rng.standard_normal((128, 1, 32))
    k[5, 0] = k[70, 0] = 3.0 * direction
    v = 0.1 * rng.standard_normal((128, 1, 32))
    v[5], v[70] = 1.0, -1.0
    q = np.stack([s * direction for s in (2.0, 8.0, 12.0, 16.0)])
    return q.astype(np.float16), k.astype(np.float16), v.astype(np.float16)


def bounds(monkeypatch: pytest.MonkeyPatch, coupled_from: float) -> np.ndarray:
    q, k, v = scene()
    monkeypatch.setattr(certify, "COUPLED_FROM", coupled_from)
    cache = Cache(kv_heads=1, head_dim=32, keys="int8", values="int8-g64", block=64)
    cache.append(k, v)
    step = decode(q, cache, Naive())
    verdicts = judge(step.output, step.certificate.bound, q, k[:, 0], v[:, 0], 1 / np.sqrt(32), enclosures="always")
    assert not any(verdict.violated for verdict in verdicts)
    return step.certificate.bound


def test_it_is_used_and_never_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    with_root, without = bounds(monkeypatch, 0.3), bounds(monkeypatch, np.inf)
    assert (with_root <= without).all()
    assert (with_root < without).any(), "the scene is meant to gain from it"
