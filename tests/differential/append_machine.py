"""The same as `cache_machine`, with appends that the host does not see: one token per sequence, on the device alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from certkv.fast.certificate import Status
from certkv.fast.errors import CapacityError, CertkvError, NonFiniteError

from .cache_machine import SEEDS, CacheMachine, to_torch

ACTIVE = st.lists(st.booleans(), min_size=3, max_size=3)


class AppendMachine(CacheMachine):
    """Appends one by one between all other events."""

    def has_room(self, s: int) -> bool:
        """Whether a sequence takes another token: below its capacity, and with a page if a block fills."""
        ours, n = self.ours, self.theirs[s].tokens
        fills = n % ours.block == ours.block - 1
        return n < ours.capacity and (not fills or n // ours.block < self.held_pages[s])

    @property
    def held_pages(self) -> list[int]:
        """Pages of each sequence, by the table that the device reads."""
        return [int((row >= 0).sum()) for row in self.ours.pages.table]

    @rule(seed=SEEDS)
    def reserve(self, seed: int) -> None:
        """Reserve pages for any number of tokens of each sequence; what is held stays held."""
        ours, before = self.ours, self.held_pages
        wanted = [int(n) for n in np.random.default_rng(seed).integers(0, ours.capacity + 1, ours.batch)]
        ours.reserve(wanted)
        assert self.held_pages == [max(have, n // ours.block) for have, n in zip(before, wanted, strict=True)]

    @rule(seed=SEEDS, room=st.integers(0, 2))
    def nearly_full(self, seed: int, room: int) -> None:
        """Append all but a few of the tokens that one sequence has room for."""
        ours, s = self.ours, seed % self.ours.batch
        added = [max(0, ours.capacity - have - room) if i == s else 0 for i, have in enumerate(ours.tokens)]
        k, v = self.tokens(seed, added[s])
        ours.append(to_torch(k), to_torch(v), added)
        self.took(s, k[s], v[s])

    @precondition(lambda self: hasattr(self, "ours") and self.ours._work is not None)
    @rule(active=ACTIVE, seed=SEEDS, times=st.integers(1, 4))
    def append_one(self, active: list[bool], seed: int, times: int) -> None:
        """Append a few times without asking the device; what has no room is refused, and nothing follows it."""
        ours = self.ours
        some = torch.tensor(active[: ours.batch])
        everyone = bool(some.all())
        refused: set[int] = set()
        for time in range(times):
            k, v = self.tokens(seed + time, 1)
            for s in range(ours.batch):
                if not active[s]:
                    k[s], v[s] = np.nan, np.nan
            ours.append_one(to_torch(k[:, 0]), to_torch(v[:, 0]), None if everyone else some)
            for s in (s for s in range(ours.batch) if active[s]):
                if s in refused or not self.has_room(s):
                    refused.add(s)
                    continue
                self.took(s, k[s], v[s])
        self.raises(dict.fromkeys(refused, CapacityError))

    @precondition(lambda self: hasattr(self, "ours") and self.ours._work is not None)
    @rule(seed=SEEDS, bad=st.sampled_from([np.nan, np.inf, -np.inf]))
    def refused_one(self, seed: int, bad: float) -> None:
        """Append something that is not finite in one sequence: only that one is left as it was, and says where."""
        ours = self.ours
        pair, which, s = self.tokens(seed, 1), seed % 2, seed // 2 % self.ours.batch
        at = np.unravel_index(seed // 8 % pair[which][s, 0].size, pair[which][s, 0].shape)
        pair[which][(s, 0, *at)] = bad
        errors: dict[int, type[CertkvError]] = {s: NonFiniteError}
        ours.append_one(*(to_torch(x[:, 0]) for x in pair))
        assert int(ours.refusals.status[s]) == (Status.NONFINITE_VALUE if which else Status.NONFINITE_KEY)
        assert int(ours.refusals.position[s]) == int(np.ravel_multi_index(at, pair[0][s, 0].shape))
        for other in range(ours.batch):
            if other == s:
                continue
            if self.has_room(other):
                self.took(other, pair[0][other], pair[1][other])
            else:
                errors[other] = CapacityError
        self.raises(errors)

    def took(self, s: int, k: np.ndarray[Any, Any], v: np.ndarray[Any, Any]) -> None:
        """Let the reference have tokens that ours took."""
        self.theirs[s].append(k, v)
        self.fed[s]["keys"].append(k)
        self.fed[s]["values"].append(v)

    def raises(self, errors: dict[int, type[CertkvError]]) -> None:
        """Every refusal is raised once, in the order of the sequences; then there is none."""
        for s in sorted(errors):
            with pytest.raises(errors[s], match=rf"sequence {s} |\[{s}, "):
                self.ours.sync()
        self.ours.sync()
        assert not self.ours.refusals.status.any()
        assert (self.ours.refusals.position == -1).all()
