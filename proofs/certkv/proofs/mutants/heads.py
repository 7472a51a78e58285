"""What a step returns for each head."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np

from certkv.proofs.mutants.inputs import alike, gaussian, ties
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.scene import require_sound
from certkv.proofs.mutants.storage import arrays_belong_to_the_caller
from certkv.reference import Budget, Certificate, Naive, PaperPolicy, Step
from certkv.reference import step as step_module
from certkv.reference.cache import Cache
from certkv.reference.numbers.types import AnyArray, FloatArray

REAL_DECODE = step_module.decode


def every_head_has_its_own() -> None:
    """Eight heads of very different sharpness: each has a full certificate, and each bound is true for its head."""
    scene = gaussian(51, q_heads=8, kv_heads=2, values="int4")
    q = scene.q * (np.arange(1, 9, dtype=np.float32) / 2)[:, None]
    v = scene.v.copy()
    v[:, 1] *= np.float16(16.0)  # the second KV head has larger values
    scene = replace(scene, q=q, v=v)
    for policy in (Naive(), PaperPolicy(), Budget(0.05)):
        step = scene.decode(policy)
        for name in step.certificate.__dataclass_fields__:
            found = getattr(step.certificate, name)
            require(isinstance(found, np.ndarray) and len(found) == 8, f"{policy.name}: no {name} per head")
            require(not np.isnan(found).any(), f"{policy.name}: {name} is NaN")
        require_sound(scene, step, where=policy.name)
    small, large = (alike(ties(1, 15, 32, size), "int4-g32") for size in (2.0**-6, 2.0**-2))
    k, v = (np.concatenate(pair, axis=1) for pair in ((small.k, large.k), (small.v, large.v)))
    attained = replace(small, q=np.repeat(small.q, 2, axis=0), k=k, v=v)  # each error is its head's bound
    require_sound(attained, attained.decode(Naive()), where="two value sizes,")


def heads_read_their_group() -> None:
    """Three heads per KV head, under every policy."""
    scene = gaussian(52, q_heads=6, kv_heads=2, sharpness=2.0)
    for policy in (Naive(), PaperPolicy(), Budget(0.05), Budget(0.0)):
        require_sound(scene, scene.decode(policy), where=policy.name)


def planted_decode(change: Callable[[Step], Step]) -> AbstractContextManager[None]:
    """Change every step on its way out."""

    def decode(q: AnyArray, cache: Cache, policy: Any, **options: Any) -> Step:
        return change(REAL_DECODE(q, cache, policy, **options))

    return patched((step_module, "decode", decode))


def with_bound(change: Callable[[FloatArray], FloatArray]) -> AbstractContextManager[None]:
    """Change the bounds of every step."""
    return planted_decode(
        lambda step: replace(step, certificate=replace(step.certificate, bound=change(step.certificate.bound)))
    )


def no_certificate() -> AbstractContextManager[None]:
    """Return a certificate only where a policy enforces a tolerance."""

    def only_enforced(step: Step) -> Step:
        enforced = np.isfinite(step.certificate.tolerance).all()
        return step if enforced else replace(step, certificate=Certificate.blank(len(step.output)))

    return planted_decode(only_enforced)


def workspace_output() -> AbstractContextManager[None]:
    """Write every output into one workspace and return that."""
    workspace: dict[tuple[int, ...], AnyArray] = {}

    def reused(step: Step) -> Step:
        place = workspace.setdefault(step.output.shape, np.empty_like(step.output))
        place[...] = step.output
        return replace(step, output=place)

    return planted_decode(reused)


def workspace_certificate() -> AbstractContextManager[None]:
    """Write every bound into one workspace and return that."""
    workspace: dict[tuple[int, ...], FloatArray] = {}

    def reused(bound: FloatArray) -> FloatArray:
        place = workspace.setdefault(bound.shape, np.empty_like(bound))
        place[...] = bound
        return place

    return with_bound(reused)


def modulo_heads() -> AbstractContextManager[None]:
    """Let head h read KV head ``h % kv_heads``."""

    def decode(q: AnyArray, cache: Cache, policy: Any, **options: Any) -> Step:
        order = np.argsort(np.arange(len(q)) % cache.kv_heads, kind="stable")
        back = np.argsort(order)
        step = REAL_DECODE(q[order], cache, policy, **options)
        names = step.certificate.__dataclass_fields__
        certificate = Certificate(**{name: getattr(step.certificate, name)[back] for name in names})
        return replace(step, output=step.output[back], lse=step.lse[back], certificate=certificate)

    return patched((step_module, "decode", decode))


CHECKS = (
    Check("own-certificate", "every head of every step has its own, true certificate", every_head_has_its_own),
    Check("gqa", "query head h reads KV head h // (q_heads // kv_heads)", heads_read_their_group),
    Check("results-owned", "results of a step outlive the next step", arrays_belong_to_the_caller),
)

MUTANTS = (
    Mutant("output-workspace", "B8", "outputs share a workspace", workspace_output, "results-owned"),
    Mutant("bound-workspace", "B8", "bounds share a workspace", workspace_certificate, "results-owned"),
    Mutant("no-certificate", "B9", "no certificate unless enforced", no_certificate, "own-certificate"),
    Mutant(
        "first-bound",
        "B9",
        "the first head's bound for all",
        lambda: with_bound(lambda b: b[:1].repeat(len(b))),
        "own-certificate",
    ),
    Mutant(
        "mean-bound",
        "B9",
        "the mean of the heads' bounds for all",
        lambda: with_bound(lambda b: np.full_like(b, b.mean())),
        "own-certificate",
    ),
    Mutant(
        "one-bound-per-step",
        "B9",
        "one bound for the whole step",
        lambda: with_bound(lambda b: b.max(keepdims=True)),
        "own-certificate",
    ),
    Mutant("heads-modulo", "-", "query head h reads KV head h % kv_heads", modulo_heads, "gqa"),
)
