"""What a tolerance costs on a GPU, with planes and without: bytes fetched and the time of a step, over typical heads.

    python -m benchmarks.gpu.progressive --commit abc1234 [--tokens 32768] [--heads mixed] [--systems NAME,..]

A layer is eight synthetic KV heads of one type (`benchmarks.tightness.heads`), each with four queries a step, and a few
steps; originals are in host memory, and so are planes in systems that say so. Heads are "mixed" unless told otherwise:
of the five types the one where every system fetches something at the narrowest tolerance and none fetches everything,
so that systems can be compared (of "diffuse" and "sink" heads INT8 and INT4 fetch nothing, of "local" ones hardly
anything, and "retrieval" is about single blocks).

Every step that is timed is judged against float64 attention of the originals: a violation, or a bound above its
tolerance, ends the run with exit code 1. Kernels are compiled first, each part of a step in a process of its own
(`benchmarks.gpu.ahead`); what does not compile is left out, and told by the exit code. A cache is filled once per
system. Rows are printed as they come and appended to benchmarks/results/progressive.csv. Systems that kernels do not
run are left out, which is said. Without a GPU the twins run on short heads, and nothing is timed or recorded.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmarks import origin, table
from benchmarks.gpu.ahead import PARTS, Setting, begin
from benchmarks.gpu.graphs import DEVICE, GPU, Replay, capture, require, say, timed
from benchmarks.tightness.heads import HEAD_DIM, KINDS, Head, synthetic

from certkv.cli.bench.timing import GraphClock, dense_time
from certkv.fast import Budget, Plan, Step, TieredCache, float64, plan
from certkv.fast.errors import CertkvError

RESULTS = Path(__file__).resolve().parents[1] / "results/progressive.csv"
MEASURED = ("fast", "benchmarks/gpu", "benchmarks/tightness")
TOLERANCES = (0.02, 0.05, 0.1)
"""Shares of the mass-weighted mean value norm."""

KV_HEADS, GROUP, BLOCK = (8, 4, 64) if GPU else (2, 2, 64)
STEPS = 4 if GPU else 1
"""Steps of a layer, each with queries of its own."""

REPLAYS, SECONDS = 15, 0.1
"""Timed runs of a step, fewer of one that takes long."""


@dataclass(frozen=True)
class System:
    """Formats of keys and values, and where planes lie; "" for formats without."""

    name: str
    keys: str
    values: str
    planes: str = ""


SYSTEMS = (
    System("int8/int4", "int8", "int4-g32"),
    System("int8/int4 planes", "int8+4", "int4-g32+4", "host"),
    System("int8/int4 planes on the device", "int8+4", "int4-g32+4", "device"),
    System("int8/int4 per channel", "int8", "int4"),
    System("int4/int4 planes", "int4+4", "int4+4", "host"),
    System("int4/int4 planes on the device", "int4+4", "int4+4", "device"),
    System("int8/int8", "int8", "int8"),
    System("oscar", "oscar", "oscar"),
    System("oscar planes", "oscar+2+4", "oscar+2+4", "host"),
    System("oscar planes on the device", "oscar+2+4", "oscar+2+4", "device"),
)
USUAL = tuple(s.name for s in SYSTEMS if s.name.startswith(("int8/int4", "oscar")) and s.name[-7:] != "channel")
"""What is measured unless told otherwise."""


@dataclass(frozen=True)
class Row:
    """One system at one tolerance on one layer; shares are of the 16-bit bytes that a head sees, or of coded blocks.

    Attributes
    ----------
    run, commit, gpu, versions : str
    head, tokens, kv_heads, q_heads, head_dim, block, steps
        The layer, and how many steps' queries; numbers are means over them.
    system, keys, values, planes, tolerance
    step_us, dense_us : float
        Medians: a captured step; torch's dense attention of the same originals.
    fetched, fetched_max : float
        From host memory, per head: originals and planes that lie there. Mean and largest.
    plane_bytes : float
        Of planes, wherever they lie, per head.
    moved_mb : float
        What really went over the bus, for all heads together.
    key_originals, value_originals : float
        Blocks used as originals.
    rung_0, rung_1, rung_2, rung_3 : int
        Heads of all steps by highest rung.
    tightness : float
        Bound over error, geometric mean.
    """

    run: str
    commit: str
    gpu: str
    versions: str
    head: str
    tokens: int
    kv_heads: int
    q_heads: int
    head_dim: int
    block: int
    steps: int
    system: str
    keys: str
    values: str
    planes: str
    tolerance: float
    step_us: float
    dense_us: float
    fetched: float
    fetched_max: float
    plane_bytes: float
    moved_mb: float
    key_originals: float
    value_originals: float
    rung_0: int
    rung_1: int
    rung_2: int
    rung_3: int
    tightness: float


class Layer(NamedTuple):
    """One layer on the device.

    Attributes
    ----------
    q : T [steps, q_heads, head_dim]
    k, v : T [1, tokens, kv_heads, head_dim]
        Laid out heads first, as a dense cache is.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor

    @classmethod
    def of(cls, heads: Sequence[Head]) -> Layer:
        """Put heads side by side."""
        drawn = np.stack([head.q.reshape(-1, GROUP, HEAD_DIM) for head in heads], 1)
        q = torch.from_numpy(drawn).to(DEVICE).flatten(1, 2)
        k, v = (
            torch.from_numpy(np.stack([getattr(head, side)[:, 0] for head in heads])).to(DEVICE)[None].transpose(1, 2)
            for side in "kv"
        )
        return cls(q, k, v)

    def exact(self, step: int = 0) -> list[float64.Exact]:
        """Attention of every KV head's queries of a step."""
        return [
            float64.attention(self.q[step, h * GROUP : (h + 1) * GROUP], self.k[0, :, h], self.v[0, :, h], SCALE)
            for h in range(KV_HEADS)
        ]


SCALE = 1.0 / math.sqrt(HEAD_DIM)


def empty(tokens: int, system: System) -> TieredCache:
    """Return a cache for so many tokens.

    Raises
    ------
    CertkvError
        The library has no such format, or does not run it here.
    """
    placed: dict[str, Any] = {"planes": system.planes} if system.planes else {}
    formats = (torch.float16, system.keys, system.values, BLOCK)
    cache = TieredCache(1, KV_HEADS, HEAD_DIM, tokens, *formats, device=DEVICE, **placed)
    plan(cache, KV_HEADS * GROUP, Budget(), SCALE)  # refuses what steps do not read
    return cache


def filled(layer: Layer, system: System) -> TieredCache:
    """Encode a layer; raises as `empty` does."""
    cache = empty(layer.k.shape[1], system)
    cache.append(layer.k, layer.v)
    return cache


def judged(step: Step, exact: Sequence[float64.Exact], what: str) -> float:
    """Judge every head; return bound over error.

    Raises
    ------
    SystemExit
        An error is provably above its bound, or a bound above its tolerance.
    """
    made, ratios = step.certificate, []
    for h, truth in enumerate(exact):
        mine = slice(h * GROUP, (h + 1) * GROUP)
        error = (step.output[0, mine].double() - truth.output).norm(dim=-1)
        bound = made.bound[0, mine].double()
        # 2^-40 covers the rounding of differences and norm; asked so that a NaN is wrong
        within = error * (1.0 - 2.0**-40) - truth.error_ub <= bound
        require(within.all(), f"{what}: an error exceeds its bound")
        ratios.append(bound / error.clamp(min=1e-30))
    require(((made.bound <= made.tolerance) | (made.rung >= 3)).all(), f"{what}: a bound exceeds its tolerance")
    return float(torch.cat(ratios).log().mean().exp())


def measured(
    layer: Layer, system: System, exact: Sequence[Sequence[float64.Exact]], what: str
) -> Iterator[dict[str, Any]]:
    """Yield the columns of every tolerance; ``exact`` has every step's truths."""
    cache = filled(layer, system)
    for t in TOLERANCES:
        made = plan(cache, KV_HEADS * GROUP, Budget(t), SCALE)
        step, q = made.step(), layer.q[:1].clone()
        replay = capture(made, q, step)
        found = []
        for mine, truth in zip(layer.q, exact, strict=True):
            q.copy_(mine[None])
            found.append(one_step(made, q, step, replay, truth, f"{what}, {t}"))
        rungs = {f"rung_{rung}": sum(x[f"rung_{rung}"] for x in found) for rung in range(4)}
        means = {name: sum(x[name] for x in found) / len(found) for name in found[0]}
        yield means | rungs | {"tolerance": t, "fetched_max": max(x["fetched_max"] for x in found)}


def one_step(
    made: Plan, q: torch.Tensor, step: Step, replay: Replay, truth: Sequence[float64.Exact], what: str
) -> dict[str, Any]:
    """Judge and time a step of the queries that ``q`` holds."""
    cache, taken = made.cache, 0.0
    dense, blocks = 4.0 * cache.tokens[0] * HEAD_DIM, max(1, cache.blocks(0))
    replay()
    step.ran(made, q)
    step.check()
    tightness = judged(step, truth, what)
    if GPU:
        first = timed(replay, 1)
        taken = timed(replay, max(3, min(REPLAYS, int(SECONDS * 1e6 / first))))
        step.ran(made, q)
        step.check()
        judged(step, truth, f"{what}, after it was timed")
    certificate = step.certificate
    originals = certificate.promoted[0].float().mean(0) / blocks
    return {
        "step_us": taken,
        "fetched": float(certificate.host_bytes.float().mean()) / dense,
        "fetched_max": float(certificate.host_bytes.max()) / dense,
        "plane_bytes": float(certificate.plane_bytes.float().mean()) / dense,
        "moved_mb": float(step.moved_bytes.sum()) / 1e6,
        "key_originals": float(originals[0]),
        "value_originals": float(originals[1]),
        **{f"rung_{rung}": int((certificate.rung == rung).sum()) for rung in range(4)},
        "tightness": tightness,
    }


def layers(lengths: Sequence[int], kinds: Sequence[str]) -> Iterator[tuple[str, int, list[Future[Head]]]]:
    """Draw heads on processes of their own, while what came before is measured."""
    os.environ |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        asked = [
            (kind, tokens, [pool.submit(synthetic, kind, tokens, seed, GROUP * STEPS) for seed in range(KV_HEADS)])
            for tokens in lengths
            for kind in kinds
        ]
        while asked:
            yield asked.pop(0)


def compiled(lengths: Sequence[int], systems: Sequence[System], patience: float) -> tuple[list[System], list[str]]:
    """Compile all parts of all systems at once, for at most so many seconds.

    Returns
    -------
    systems : those that are ready first; none whose kernels did not compile
    complaints : what did not compile, and why
    """
    sizes: dict[str, Any] = {"kv_heads": KV_HEADS, "group": GROUP, "head_dim": HEAD_DIM, "block": BLOCK}
    sizes |= {"dtype": torch.float16, "capacity": max(lengths)}
    every = [Setting(x.keys, x.values, planes="device" if x.planes == "device" else "host", **sizes) for x in systems]
    once = {(of.keys, of.values): of for of in every}.values()
    begun, asked = time.monotonic(), begin(every, ("ladder",)) | begin(once, PARTS[1:])
    done, _ = wait(asked, timeout=patience)
    late, wrong, complaints = set(), set(), []
    for future, (of, part) in asked.items():
        error = future.exception() if future in done else None
        if future not in done or isinstance(error, BrokenProcessPool):
            late.add((of.keys, of.values))  # it is compiled where it is used
        elif error is not None:
            wrong.add((of.keys, of.values))
            complaints.append(f"{of.keys}, {of.values}: {part} does not compile: {error}")
        else:
            say(f"compiled {of.keys}, {of.values}, {part}: {future.result():.0f} s")
    if asked:
        say(f"compiling took {time.monotonic() - begun:.0f} s" + (f"; not ready: {sorted(late)}" if late else ""))
    whole = [system for system in systems if (system.keys, system.values) not in wrong]
    return sorted(whole, key=lambda system: (system.keys, system.values) in late), complaints


HEADING = (
    "head       tokens  system                          tolerance   step us  dense us  dense/step  fetched %  "
    "largest %  planes %  moved MB  rungs 0/1/2/3  bound/error"
)


def line(r: Row) -> str:
    """Format a row."""
    rungs = "/".join(str(getattr(r, f"rung_{rung}")) for rung in range(4))
    return (
        f"{r.head:9s} {r.tokens:7d}  {r.system:30s}  {r.tolerance:9g}  {r.step_us:8.1f}  {r.dense_us:8.1f}  "
        f"{r.dense_us / r.step_us if r.step_us else math.nan:10.2f}  {100 * r.fetched:9.2f}  "
        f"{100 * r.fetched_max:9.2f}  {100 * r.plane_bytes:8.2f}  {r.moved_mb:8.2f}  {rungs:>13s}  {r.tightness:11.1f}"
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="32768" if GPU else "512", metavar="N,..")
    parser.add_argument("--heads", default="mixed", metavar="KIND,..", help=f"of {', '.join(KINDS)}")
    parser.add_argument("--systems", default=",".join(USUAL), metavar="NAME,..")
    parser.add_argument("--patience", type=float, default=75.0, help="seconds for compiling before measuring begins")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no system after so many")
    parser.add_argument("--small", action="store_true", help="record nothing unless --out names a file")
    origin.add_arguments(parser, RESULTS)
    options = parser.parse_args()
    options.small = options.small or not GPU
    out, of = origin.asked(parser, options, RESULTS, *MEASURED)
    begun = time.monotonic()
    gpu = torch.cuda.get_device_name() if GPU else "cpu, twins"
    try:
        from importlib.metadata import version

        triton = version("triton")
    except ModuleNotFoundError:
        triton = "none"
    head: dict[str, Any] = {
        "run": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": of,
        "gpu": gpu,
        "versions": f"torch {torch.__version__}, Triton {triton}",
    }
    sizes: dict[str, Any] = {"kv_heads": KV_HEADS, "q_heads": KV_HEADS * GROUP, "head_dim": HEAD_DIM, "block": BLOCK}
    names, skipped = options.systems.split(","), set()
    lengths, kinds = [int(n) for n in options.tokens.split(",")], options.heads.split(",")
    say(f"{gpu}, commit {of}")
    drawing = layers(lengths, kinds)
    ahead = next(drawing)  # on other processes, while kernels are compiled
    systems, complaints = compiled(lengths, [system for system in SYSTEMS if system.name in names], options.patience)
    for complaint in complaints:
        say(complaint)
    say(HEADING)
    for kind, tokens, drawn in (ahead, *drawing):
        layer = Layer.of([future.result() for future in drawn])
        exact = [layer.exact(step) for step in range(len(layer.q))]
        clock = GraphClock(DEVICE, REPLAYS) if GPU else None
        dense = dense_time(layer.k, layer.v, layer.q[:1], SCALE, clock) if clock is not None else 0.0
        del clock
        for system in systems:
            what = f"{kind}, {tokens} tokens, {system.name}"
            if system.name in skipped:
                continue
            if time.monotonic() - begun > 60.0 * options.minutes:
                say(f"{what}: not begun, {options.minutes:g} minutes are over")
                continue
            try:
                for found in measured(layer, system, exact, what):
                    about: dict[str, Any] = {
                        "system": system.name,
                        "keys": system.keys,
                        "values": system.values,
                        "planes": system.planes,
                    }
                    layer_of: dict[str, Any] = {"head": kind, "tokens": tokens, "steps": len(layer.q)}
                    row = Row(**head, **sizes, **layer_of, dense_us=dense, **about, **found)
                    say(line(row))
                    if out is not None:
                        table.append(out, Row, [row])
            except CertkvError as error:
                skipped.add(system.name)
                say(f"left out: {system.name}: {' '.join(str(error).split())}")
            if GPU:
                torch.cuda.empty_cache()
    say(f"{time.monotonic() - begun:.0f} s; {out or 'not recorded'}")
    require(not complaints, f"{len(complaints)} parts did not compile")


if __name__ == "__main__":
    main()
