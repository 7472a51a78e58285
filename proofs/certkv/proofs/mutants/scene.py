"""A scene: originals, queries and settings, small enough to be judged by enclosures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.proofs.mutants.model import CheckFailed, require
from certkv.reference import Cache, Policy, Step
from certkv.reference import step as step_module
from certkv.reference.exact import Verdict, judge
from certkv.reference.numbers.types import AnyArray


@dataclass(frozen=True, eq=False)
class Scene:
    """What a check feeds to the reference.

    Attributes
    ----------
    q : float16, bfloat16 or float32 [q_heads, d]
    k, v : float16 or bfloat16 [tokens, kv_heads, d]
    block : int
    keys, values : str
        Formats.
    scale : float
    scratch_bytes : int
    """

    q: AnyArray
    k: AnyArray
    v: AnyArray
    block: int
    keys: str = "int8"
    values: str = "dense"
    scale: float = 1.0
    scratch_bytes: int = 0

    def empty_cache(self) -> Cache:
        """Return a cache of this scene's settings without tokens."""
        return Cache(
            kv_heads=self.k.shape[1],
            head_dim=self.k.shape[2],
            dtype=self.k.dtype,
            keys=self.keys,
            values=self.values,
            block=self.block,
            scratch_bytes=self.scratch_bytes,
        )

    def cache(self) -> Cache:
        """Return a cache that holds the scene's tokens."""
        cache = self.empty_cache()
        cache.append(self.k, self.v)
        return cache

    def decode(
        self,
        policy: Policy,
        cache: Cache | None = None,
        *,
        position: int | None = None,
        out_dtype: str = "float64",
        index: int = 0,
    ) -> Step:
        """Run one step, on a fresh cache unless one is given."""
        # looked up at call time, so that a planted `decode` is the one that runs
        return step_module.decode(
            self.q,
            cache or self.cache(),
            policy,
            scale=self.scale,
            position=position,
            out_dtype=out_dtype,
            index=index,
        )

    def verdicts(self, step: Step, position: int | None = None) -> list[Verdict]:
        """Judge every head; query head h belongs to KV head ``h // (q_heads // kv_heads)``."""
        size = len(self.q) // self.k.shape[1]
        seen = len(self.k) if position is None else position + 1
        found: list[Verdict] = []
        for kv_head in range(self.k.shape[1]):
            rows = slice(kv_head * size, (kv_head + 1) * size)
            found += judge(
                step.output[rows],
                step.certificate.bound[rows],
                self.q[rows],
                self.k[:seen, kv_head],
                self.v[:seen, kv_head],
                self.scale,
            )
        return found


def require_sound(scene: Scene, step: Step, position: int | None = None, where: str = "") -> list[Verdict]:
    """Check that every output is finite and its true error within its bound, a finite number for every head.

    Raises
    ------
    CheckFailed
    """
    heads = len(scene.q)
    require(step.certificate.bound.shape == (heads,), f"{where}: a bound per head is missing")
    require(bool(np.isfinite(step.output).all()), f"{where}: an output is not finite")
    require(bool(np.isfinite(step.certificate.bound).all()), f"{where}: a head has no finite bound")
    verdicts = scene.verdicts(step, position)
    for head, verdict in enumerate(verdicts):
        if verdict.violated:
            bound = float(step.certificate.bound[head])
            raise CheckFailed(f"{where} head {head}: error {verdict.error_lb:.3e} above the bound {bound:.3e}")
    return verdicts


def require_tight(step: Step, verdicts: list[Verdict], factor: float, where: str = "") -> None:
    """Check that the bound is at most ``factor`` times the true error, in a scene that nearly attains it."""
    for head, verdict in enumerate(verdicts):
        bound = float(step.certificate.bound[head])
        require(
            bound <= factor * verdict.error_lb,
            f"{where} head {head}: bound {bound:.3e} for an error of {verdict.error_ub:.3e}",
        )
