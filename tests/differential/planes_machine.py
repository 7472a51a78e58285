"""Caches and steps of formats with refinement planes, side by side with the reference's."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from certkv import fast, reference
from certkv.fast.formats.registry import PLANAR_KEY_FORMATS, PLANAR_VALUE_FORMATS
from certkv.fast.policies import RELATIVE_TO, RelativeTo
from certkv.fast.pool import FINER_VALUE_NOTES, KEY_NOTES
from certkv.reference.cache.cache import SIDES

from .append_machine import AppendMachine
from .cache_machine import SEEDS, TYPES, same_bits, to_torch
from .step_machine import StepMachine

KEYS = st.sampled_from(["int8", *sorted(PLANAR_KEY_FORMATS)])
VALUES = st.sampled_from(["int4-g32", *sorted(PLANAR_VALUE_FORMATS)])
PLACES = st.sampled_from(["host", "device"])


def neighbours(mine: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> bool:
    """Whether numbers in bfloat16 bound one number: equal, or next to each other."""
    return bool((np.abs(mine - theirs) <= 2.0**-7 * np.maximum(mine, theirs)).all())


class PlanesCacheMachine(AppendMachine):
    """Events of `AppendMachine`, and planes that are lost."""

    @initialize(
        batch=st.integers(1, 3),
        kv_heads=st.integers(1, 2),
        block=st.integers(1, 5),
        head_dim=st.sampled_from([8, 40]),
        keys=KEYS,
        values=VALUES,
        dtype=st.sampled_from(list(TYPES)),
        place=PLACES,
        planes=PLACES,
    )
    def start(self, **drawn: Any) -> None:
        """Make an empty cache of each kind."""
        super().start(**drawn, spare=2)

    @rule(seed=SEEDS, which=st.sampled_from(["sequence", "head", "block", "one"]))
    def lose_planes(self, seed: int, which: str) -> None:
        """Lose planes of a sequence: all, of one KV head, of one block, or one."""
        s = seed % self.ours.batch
        if self.ours.blocks(s):
            head = seed // 3 % self.ours.kv_heads if which in ("head", "one") else None
            block = seed // 6 % self.ours.blocks(s) if which in ("block", "one") else None
            self.ours.planes.lose(s, head, block)
            self.theirs[s].planes.lose(head, block)

    def same_annotations(self, s: int, cache: reference.Cache, pages: list[int]) -> None:
        """Planes bit for bit, where they are there; what is measured of every level within one step of storage."""
        ours, pool = self.ours, self.ours.pool
        for side, mine in zip(SIDES, ours.planes.sides, strict=True):
            for plane, held in enumerate(mine):
                assert same_bits(held[pages], cache.planes._store[side][plane])
                there = cache.planes._present[side][plane]
                assert (ours.planes.present[pages].numpy().astype(bool) == there).all()
        for level in range(cache.levels("keys") - 1):
            its = cache.key_annotations(level + 1).arrays()
            for i, name in enumerate(KEY_NOTES):
                assert neighbours(pool.finer_key_notes[pages, :, level, i].double().numpy(), its[name].astype(float))
        for level in range(cache.levels("values") - 1):
            its = cache.value_annotations(level + 1).arrays()
            for i, name in enumerate(FINER_VALUE_NOTES):
                assert neighbours(pool.finer_value_notes[pages, :, level, i].double().numpy(), its[name].astype(float))
            codes = pool.finer_residual_codes[pages, :, level].numpy().astype(int)
            assert np.abs(codes - its["residual_codes"]).max(initial=0) <= 1
        if not ours.planes.some:
            return
        free = sorted(set(range(len(pool.key_codes))) - {p for i in range(ours.batch) for p in ours.pages.pages(i)})
        assert not ours.planes.present[free].any()
        for held in (*ours.planes.keys, *ours.planes.values):
            assert (held[free] == 0xA5).all()
        ours.verify(originals=True)


class PlanesStepMachine(StepMachine):
    """Events of `StepMachine`, and planes that are lost."""

    @initialize(
        batch=st.integers(1, 2),
        kv_heads=st.integers(1, 2),
        group=st.integers(1, 3),
        block=st.integers(1, 6),
        head_dim=st.sampled_from([8, 40]),
        keys=KEYS,
        values=VALUES,
        dtype=st.sampled_from(list(TYPES)),
        place=PLACES,
        planes=PLACES,
    )
    def start(self, **drawn: Any) -> None:
        """Make an empty cache of each kind."""
        super().start(**drawn)

    @rule(s=st.integers(0, 2), head=st.integers(0, 1))
    def lose_planes(self, s: int, head: int) -> None:
        """Lose the planes of a sequence's KV head."""
        s, head = s % self.ours.batch, head % self.ours.kv_heads
        if self.ours.blocks(s) and self.ours.planes.some:
            self.ours.planes.lose(s, head)
            self.theirs[s].planes.lose(head)
            self.lost[s] = True

    @precondition(lambda self: self.full)
    @rule(
        seed=SEEDS,
        tolerance=st.sampled_from([0.003, 0.02, 0.1]),
        unit=st.sampled_from(RELATIVE_TO),
        verify=st.sampled_from(["off", "step"]),
    )
    def counted(self, seed: int, tolerance: float, unit: RelativeTo, verify: Any) -> None:
        """Bytes are those of the levels, which are in the workspace."""
        ours, q = self.ours, self.query(seed)
        made = fast.plan(ours, q.shape[1], fast.Budget(tolerance, unit), verify=verify)
        step = made.run(to_torch(q), out=made.step())
        found = step.certificate
        good = (found.status == fast.Status.OK).numpy()
        byte = made.ws.levels.numpy().astype(int)
        exact = (found.rung == 3).numpy()
        laddered = found.rung > 0
        read = np.zeros(good.shape, int)
        for side, sizes in enumerate(ours.planes.block_bytes):
            planes, original = byte >> (3 + 2 * side) & 3, byte >> side & 1
            for plane, size in enumerate(sizes):
                read += size * (planes > plane).sum(-1)
                used = ((planes == plane + 1) & (original == 0)).sum(-1)
                want = np.where(good & ~exact & laddered.numpy(), used, 0)
                assert (found.finer[:, :, side, plane].numpy() == want).all()
            if not sizes:
                assert not found.finer[:, :, side].any()
        read = np.where(good & laddered.numpy(), read, 0)
        assert (found.plane_bytes.numpy() == read).all()
        originals = found.promoted.sum(-1).numpy() * ours.originals.block_bytes
        assert (found.host_bytes.numpy() == originals + read * (ours.planes.place == "host")).all()
        assert (found.levels[..., -1] == found.promoted).all()
        raised = (found.levels[..., 0, :].sum(-1) > 0) + 2 * (found.levels[..., 1, :].sum(-1) > 0)
        some = good & ~exact
        assert (np.minimum(raised.numpy(), 2)[some] == found.rung.numpy()[some]).all()
