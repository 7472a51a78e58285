"""A cache in OScaR's formats: notes of scaled tokens, the rotated query, wide sums, and the residual window."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.oscar import JOINT, PLAIN, off
from certkv.proofs.mutants.scene import Scene, require_sound
from certkv.reference import Cache, Naive
from certkv.reference.annotations import annotate_keys
from certkv.reference.annotations import keys as key_notes
from certkv.reference.numbers.types import FloatArray
from certkv.reference.steps import group as group_module
from certkv.reference.steps import naive
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.group import Group, Levels


def notes_cover_groups_far_from_zero() -> None:
    """Annotate groups far from zero, where the offset's rounding is a large part of a step."""
    rng = np.random.default_rng(31)
    x = (rng.integers(130, 250, (20, 1, 4)) + rng.integers(0, 6, (20, 32, 4))).astype(ml_dtypes.bfloat16)
    encoded = PLAIN.encode(x)
    noted = annotate_keys(x, encoded, PLAIN)
    largest = off(PLAIN, x).max(axis=(-2, -1))
    require(bool((noted.relative_max_ub.astype(np.float64) >= largest).all()), "a residual is above its note")


def sums_are_wide() -> None:
    """Attend to 301 keys that are all alike, and so are stored without loss: nothing but arithmetic is in the bound.

    301 takes 9 bits: a sum in bfloat16 would be off by 0.3 %.
    """
    rng = np.random.default_rng(33)
    v = rng.standard_normal((301, 1, 16)).astype(np.float16)
    q = rng.standard_normal((2, 16)).astype(np.float32)
    scene = Scene(q, np.ones((301, 1, 16), np.float16), v, 32, "oscar", "dense", 0.25)
    step = scene.decode(Naive())
    require_sound(scene, step)
    require(bool((step.certificate.bound < 1e-10).all()), "keys that are stored without loss have an error")


def notes_cover_scaled_tokens() -> None:
    """Annotate keys of norms far from 1: every note is at least what is measured here, in the units of K."""
    x = (30.0 * np.random.default_rng(37).standard_normal((6, 1, 32, 16))).astype(np.float16)
    noted = annotate_keys(x, JOINT.encode(x), JOINT)
    largest = np.linalg.norm(off(JOINT, x), axis=-1).max(axis=-1) * (1.0 - 2.0**-40)
    require(bool((noted.relative_norm_ub.astype(np.float64) >= largest).all()), "a residual is above its note")


def queries_are_rotated() -> None:
    """Score rotated keys: the numbers are those of the decoded keys and the query as it came."""
    rng = np.random.default_rng(38)
    k, v = rng.standard_normal((2, 96, 1, 16)).astype(np.float16)
    q = rng.standard_normal((4, 16)).astype(np.float32)
    view = Scene(q, k, v, 32, "oscar", "dense", 0.25).cache().view(0)
    group = Group(q.astype(np.float64), np.arange(4), 0.25, view)
    # two ways of computing sums of 16 products of numbers below 100
    near = np.abs(group.coded_scores - group.scores(view.decoded("keys"))) <= 2.0**-30
    require(bool(near.all()), "a score is not that of its decoded key")


def windows_are_whole() -> None:
    """Append 100 tokens to a cache with a window of 96: nothing is coded before the 96th, then all of it at once."""
    x = np.ones((100, 1, 8), np.float16)
    cache = Cache(kv_heads=1, head_dim=8, keys="oscar", values="oscar", block=32, residual=96)
    for t in range(100):
        cache.append(x[t : t + 1], x[t : t + 1])
        require(cache.blocks == (3 if t >= 95 else 0), f"after {t + 1} tokens {cache.blocks} blocks are coded")


def narrow_sums(group: Group, levels: Levels, rows: Any) -> Attended:
    """Pass the softmax denominator through 16 bits."""
    seen = attend(group, levels, rows)
    total = np.exp(seen.lse - group.coded_scores[rows].max(axis=(-2, -1)))[:, None]
    return replace(seen, output=seen.output * (total / total.astype(ml_dtypes.bfloat16).astype(np.float64)))


def half_a_step(original: Any, encoded: Any, fmt: Any) -> FloatArray:
    """Note half of the largest step instead of what is measured."""
    half = encoded.step.astype(np.float64).max(axis=-2, keepdims=True) / 2
    return np.broadcast_to(half, original.shape)


def in_scaled_units(original: Any, encoded: Any, fmt: Any) -> FloatArray:
    """Measure residuals of scaled tokens and forget to scale them back."""
    norm = np.where(encoded.norm > 0, encoded.norm, 1.0).astype(np.float64)[..., None]
    return np.asarray(np.abs(original.astype(np.float64) - fmt.decode(encoded)) / norm)


def not_rotated() -> AbstractContextManager[None]:
    """Score rotated keys with the query as it came."""

    class Still:
        rotate = staticmethod(lambda x: x)

    return patched((group_module, "rotation", Still))


CHECKS = (
    Check("oscar-far-groups", "notes cover groups far from zero", notes_cover_groups_far_from_zero),
    Check("oscar-sums", "softmax sums are wide enough for the bound", sums_are_wide),
    Check("oscar-notes", "notes are in the units of K", notes_cover_scaled_tokens),
    Check("oscar-query", "rotated keys are scored with the rotated query", queries_are_rotated),
    Check("oscar-window", "the residual window is encoded whole", windows_are_whole),
)

MUTANTS = (
    Mutant(
        "oscar-half-step",
        "-",
        "half a step as the note of a group far from zero",
        lambda: patched((key_notes, "residual_magnitude", half_a_step)),
        "oscar-far-groups",
    ),
    Mutant(
        "oscar-narrow-sums",
        "-",
        "softmax sums in 16 bits",
        lambda: patched((naive, "attend", narrow_sums)),
        "oscar-sums",
    ),
    Mutant(
        "oscar-scaled-notes",
        "-",
        "notes of scaled tokens without their norms",
        lambda: patched((key_notes, "residual_magnitude", in_scaled_units)),
        "oscar-notes",
    ),
    Mutant("oscar-query-still", "-", "rotated keys scored with the query as it came", not_rotated, "oscar-query"),
    Mutant(
        "oscar-window-open",
        "-",
        "blocks encoded before the residual window is full",
        lambda: patched((Cache, "full_blocks", lambda self, tokens: tokens // self.block)),
        "oscar-window",
    ),
)
