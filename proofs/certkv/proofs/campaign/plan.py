"""Sizes of cases, and which cases a campaign of a given fraction consists of."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from certkv.proofs.campaign.generators import GeneratorOfCases
from certkv.proofs.campaign.setting import Size

WIDE = (64, 65, 80, 96, 128, 128)

SIZES = {
    size.name: size
    for size in (
        Size(
            "small", (1, 200), (8, 11, 16, 33, 64, 80, 96, 127, 256), (1, 2, 4, 5, 7, 8, 16, 32, 64, 64), (1, 2, 3), 4
        ),
        Size("enclosed", (1, 40), (8, 11, 16, 24, 64), (1, 4, 8), (1, 2), 2, enclosed=True),
        Size("medium", (1024, 2048), WIDE, (16, 32, 64), (1, 2), 3),
        Size("wide", (1024, 4096), (64, 64, 80, 96, 128), (64,), (1,), 6),
        Size("large", (16384, 20000), (64, 64, 80, 128), (16, 32), (1,), 1),
    )
}

LONGEST_FIRST = ("large", "wide", "medium", "enclosed", "small")
"""Order of running, so that two processes end together; no result depends on it."""


@dataclass(frozen=True)
class Job:
    """One case of the campaign."""

    generator: str
    size: str
    index: int

    def command(self, seed: int) -> str:
        """Return what repeats this case alone."""
        return f"--only {self.generator}:{self.size} --seed {seed} --index {self.index}"

    def rng(self, seed: int) -> np.random.Generator:
        """Random numbers that depend on the seed and on this case only."""
        return np.random.default_rng([seed, zlib.crc32(f"{self.generator}:{self.size}".encode()), self.index])


def scaled(planned: Sequence[int], fraction: float) -> list[int]:
    """Scale counts so that their sum scales too: what rounding takes from one count is carried to the next.

    Parameters
    ----------
    planned : sequence of int
    fraction : float
        Above 0.

    Returns
    -------
    list of int
        Each at most what was planned, or its share of a larger campaign; the first is at least 1.
    """
    counts = []
    whole, taken = 0, 0
    for count in planned:
        whole += count
        counts.append(min(max(count, math.ceil(count * fraction)), int(whole * fraction) + 1 - taken))
        taken += counts[-1]
    return counts


def planned_jobs(generators: Mapping[str, GeneratorOfCases], fraction: float) -> list[Job]:
    """Every case of a campaign: at least one small case of every generator, one case of every size.

    A fraction above 1 is a larger campaign, which goes on counting. Its cases come in rounds, each as long as a full
    campaign, so that one that is stopped has done something of everything.
    """
    jobs = []
    for size in LONGEST_FIRST:
        names = [name for name, generator in generators.items() if size in generator.cases]
        planned = [generators[name].cases[size] for name in names]
        small = size == "small"
        counts = [math.ceil(count * fraction) for count in planned] if small else scaled(planned, fraction)
        jobs += [Job(name, size, i) for name, count in zip(names, counts, strict=True) for i in range(count)]
    return sorted(jobs, key=lambda job: job.index // generators[job.generator].cases[job.size])
