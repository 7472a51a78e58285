"""Refinement planes on a GPU: what is stored is the twin's, and captured steps that read it stay within their bounds.

    python -m benchmarks.gpu.planes_check [--formats oscar+2+4/oscar+2+4,int8+4/int4-g32+4] [--tokens 4096,32768]

Planes and bases are compared with those of the twin bit for bit, annotations to one step of their storage, of an append
at once and of captured appends of one token over a block boundary. Then steps of several tolerances are captured, with
planes in pinned host memory and on the device: every head is judged against float64 attention of the originals,
replays are the eager steps, bytes are exactly those of the levels that were read, and every level is in use somewhere.
Planes that are lost are an error where they would be read, and can be cut again. It exits with 1 at the first thing
that does not hold. Without a GPU twins are compared with themselves, on short heads.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, as_completed
from typing import Literal

import torch
from benchmarks.gpu import ahead
from benchmarks.gpu.graphs import DEVICE, GPU, Replay, capture, captured, require, say
from benchmarks.gpu.step_check import Case

from certkv.fast import Budget, Plan, Status, Step, TieredCache, plan
from certkv.fast.levels import planes as read_planes

TOLERANCES = (0.2, 0.1, 0.05, 0.02, 0.005)
KV_HEADS, GROUP, BLOCK, HEAD_DIM = (8, 4, 64, 128) if GPU else (2, 2, 16, 64)
LENGTHS = (4096, 32768) if GPU else (300, 77)
COMPARED = 11 * BLOCK + BLOCK // 4
"""Tokens that the twin encodes, too: it takes its time."""

MORE = BLOCK
"""Tokens appended one by one, so that they fill a block."""

STORED = 16 * BLOCK
"""Capacity of a cache that is compared."""

EXACT = ("key_codes", "key_step", "key_minimum", "key_norm", "value_codes", "value_step", "value_minimum")
NEAR = ("key_notes", "value_notes", "finer_key_notes", "finer_value_notes", "finer_residual_codes")

Place = Literal["host", "device"]
PLACES: tuple[Place, ...] = ("host", "device")
BEGUN = time.monotonic()


def told(what: str) -> None:
    """Say what holds, and when."""
    say(f"ok {time.monotonic() - BEGUN:4.0f} s  {what}")


def cache_of(keys: str, values: str, tokens: int, place: Place, device: torch.device) -> TieredCache:
    """Return an empty cache of one sequence."""
    sizes = (1, KV_HEADS, HEAD_DIM, tokens, torch.float16, keys, values, BLOCK)
    return TieredCache(*sizes, planes=place, device=device)


def whole(x: torch.Tensor) -> torch.Tensor:
    """Return bit patterns as int64, on the CPU."""
    x = x.cpu().contiguous()
    return (x if x.dtype == torch.uint8 else x.view(torch.int32 if x.element_size() == 4 else torch.int16)).long()


def same(mine: TieredCache, twin: TieredCache, what: str) -> None:
    """Compare what two caches of the same tokens hold of their full blocks.

    Raises
    ------
    SystemExit
    """
    here, there = mine.pages.pages(0), twin.pages.pages(0)
    require(len(here) == len(there) > 0 and mine.tokens == twin.tokens, f"{what}: {mine.tokens}, {twin.tokens} tokens")
    for side, name in enumerate(("key", "value")):
        for level, planes in enumerate(zip(mine.planes.sides[side], twin.planes.sides[side], strict=True), 1):
            ours, theirs = (whole(x)[of] for x, of in zip(planes, (here, there), strict=True))
            require(torch.equal(ours, theirs), f"{what}: {name} plane {level} is not the twin's")
    for name in (*EXACT, *NEAR):
        ours, theirs = (whole(getattr(x.pool, name))[of] for x, of in ((mine, here), (twin, there)))
        apart = int((ours - theirs).abs().max()) if ours.numel() else 0
        require(apart <= (name in NEAR), f"{what}: {name} differs from the twin's by {apart}")
    require(mine.planes.present[here].all(), f"{what}: planes are not marked as present")


def stored(keys: str, values: str) -> None:
    """Append at once, and one by one in a graph; compare with the twin."""
    made = torch.Generator().manual_seed(5)
    k, v = torch.randn(2, 1, COMPARED + MORE, KV_HEADS, HEAD_DIM, generator=made).half()
    k[..., ::17] *= 4.0
    twin = cache_of(keys, values, STORED, "host", torch.device("cpu"))
    mine = [cache_of(keys, values, STORED, place, DEVICE) for place in PLACES]
    for cache in (twin, *mine):
        cache.append(k[:, :COMPARED].to(cache.device), v[:, :COMPARED].to(cache.device))
    for cache in mine:
        same(cache, twin, f"{keys}, {values}, planes: {cache.planes.place}")
    twin.append(k[:, COMPARED:], v[:, COMPARED:])
    for cache in mine:
        one_by_one(cache, k[:, COMPARED:], v[:, COMPARED:])
        same(cache, twin, f"{keys}, {values}, planes: {cache.planes.place}, appended one by one")
        cache.verify(originals=True)
    told(f"{keys}, {values}: {twin.blocks(0)} blocks hold the twin's bits, planes on the host and on the device")


def one_by_one(cache: TieredCache, k: torch.Tensor, v: torch.Tensor) -> None:
    """Append every token by a replay."""
    cache.reserve()
    now_k, now_v = (x[:, 0].to(DEVICE, copy=True) for x in (k, v))
    active = torch.zeros(1, dtype=torch.uint8, device=DEVICE)
    replay = captured(lambda: cache.append_one(now_k, now_v, active))
    active.fill_(1)
    for t in range(k.shape[1]):
        now_k.copy_(k[:, t])
        now_v.copy_(v[:, t])
        replay()
    cache.sync()


def bytes_read(made: Plan, step: Step, what: str) -> None:
    """Compare the bytes of a certificate with those of the levels that were read."""
    cache, found = made.cache, step.certificate
    total = torch.zeros_like(found.plane_bytes)
    for side, sizes in enumerate(cache.planes.block_bytes):
        count = read_planes(made.ws.levels.int(), side)
        for plane, size in enumerate(sizes):
            total += size * (count > plane).sum(-1)
    expected = torch.where(found.rung > 0, total, 0)
    require(torch.equal(found.plane_bytes, expected), f"{what}: bytes of planes are not those of the levels")
    host = found.promoted.sum(-1) * cache.originals.block_bytes + expected * (cache.planes.place == "host")
    require(torch.equal(found.host_bytes, host), f"{what}: bytes from the host are not those of the levels")


def case_of(keys: str, values: str, lengths: list[int], place: Place) -> Case:
    """Return a filled cache of sequences of these lengths."""
    return Case(lengths, KV_HEADS, GROUP, HEAD_DIM, BLOCK, values, torch.float16, keys, place)


def steps(case: Case) -> torch.Tensor:
    """Judge captured steps of every tolerance; return blocks by level, [side, base, planes, original]."""
    cache, lengths = case.cache, case.tokens
    keys, values, place = cache.keys, cache.values, cache.planes.place
    blocks = torch.tensor([cache.blocks(s) for s in range(cache.batch)])[:, None, None]
    every = torch.zeros(2, max(cache.planes.counts) + 2, dtype=torch.int64)
    for t in TOLERANCES:
        made = plan(cache, KV_HEADS * GROUP, Budget(t))
        q, step = case.queries("diffuse"), made.step()
        replay = capture(made, q, step)
        rungs, used, read, worst = [0] * 4, torch.zeros_like(every), 0, 0.0
        for kind in ("diffuse", "mixed"):
            what = f"{keys}, {values}, planes: {place}, {lengths} tokens, {t}, {kind}"
            q.copy_(case.queries(kind))
            replay()
            step.check()
            found, eager = step.certificate, made.run(q, out=made.step())
            wrong, ratios = case.violations(q[None], step.output[None], found.bound[None])
            require(wrong == 0, f"{what}: {wrong} violations")
            require(
                ((found.bound <= found.tolerance) | (found.rung >= 3)).all(), f"{what}: a bound above its tolerance"
            )
            require(torch.equal(step.output, eager.output), f"{what}: replay and eager step differ")
            for name, tensor in vars(found).items():
                require(
                    torch.equal(tensor, getattr(eager.certificate, name)), f"{what}: {name} of replay and eager step"
                )
            bytes_read(made, step, what)
            above = found.levels.cpu().long()
            by_level = torch.cat([blocks[..., None] - above.sum(-1, keepdim=True), above], -1)
            used += by_level[(found.rung < 3).cpu()].sum(0)
            rungs = [n + int((found.rung == rung).sum()) for rung, n in enumerate(rungs)]
            read += int(found.plane_bytes.sum())
            worst = max(worst, 1.0 / min(ratios))
        every += used
        levels = "; ".join("/".join(map(str, side)) for side in used.tolist())
        told(
            f"{keys}, {values}, {place}, {t:g}: rungs {'/'.join(map(str, rungs))}, key and value blocks "
            f"base/planes/original {levels}, planes {read / 1e6:.2f} MB, largest error/bound {worst:.2f}"
        )
        if t == TOLERANCES[-2]:
            lost(made, q, step, replay)
    return every


def lost(made: Plan, q: torch.Tensor, step: Step, replay: Replay) -> None:
    """Check that planes of a sequence that are gone are an error where they were read, and that they come back."""
    before, needed, cache = step.output.clone(), bool(step.certificate.plane_bytes[0].any()), made.cache
    cache.planes.lose(0)
    replay()
    missing = bool((step.certificate.status[0] == Status.HOST_MISSING).all())
    what = f"{cache.keys}, {cache.values}, {cache.planes.place}"
    require(missing == needed, f"{what}: lost planes: status {step.certificate.status[0, 0]}")
    require(not needed or step.output[0].isnan().all(), f"{what}: lost planes: output")
    require(torch.equal(step.output[1:], before[1:]), f"{what}: lost planes reach other sequences")
    cache.repair()
    replay()
    step.check()
    require(torch.equal(step.output, before), f"{what}: planes that were cut again give another output")


def setting(keys: str, values: str, capacity: int, batch: int, place: Place = "host") -> ahead.Setting:
    """Return what decides which kernels a cache needs."""
    return ahead.Setting(keys, values, torch.float16, KV_HEADS, GROUP, HEAD_DIM, BLOCK, capacity, batch, place)


def ready(asked: Mapping[Future[float], tuple[ahead.Setting, str]]) -> Iterator[tuple[str, str]]:
    """Yield formats as soon as all that was asked for them is compiled."""
    left = Counter((of.keys, of.values) for of, _ in asked.values())
    for future in as_completed(asked):
        of, part = asked[future]
        say(f"{time.monotonic() - BEGUN:7.0f} s  compiled {of.keys}, {of.values}, {part}, in {future.result():.0f} s")
        left[of.keys, of.values] -= 1
        if not left[of.keys, of.values]:
            yield of.keys, of.values


def main(arguments: Sequence[str] | None = None) -> None:
    """Check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--formats", default="oscar+2+4/oscar+2+4,int8+4/int4-g32+4", help="keys/values, comma-separated"
    )
    parser.add_argument("--tokens", default=",".join(map(str, LENGTHS)), metavar="N,..")
    options = parser.parse_args(arguments)
    pairs = [(keys, values) for keys, _, values in (pair.partition("/") for pair in options.formats.split(","))]
    lengths = [int(n) for n in options.tokens.split(",")]
    say(f"{torch.cuda.get_device_name() if GPU else 'cpu, twins'}, torch {torch.__version__}")
    # capacities as those of `Case`, and of `stored`; sides of appends apart: kernels of keys know nothing of values
    longest, batch = max(lengths) + 2 * BLOCK, len(lengths)
    of_steps = ahead.begin([setting(*pair, longest, batch, place) for pair in pairs for place in PLACES], ("ladder",))
    of_steps |= ahead.begin([setting(*pair, longest, batch) for pair in pairs], ("attend", "first_tier"))
    sides = [setting(keys, "int8", STORED, 1) for keys, _ in pairs]
    sides += [setting("int8", values, STORED, 1) for _, values in pairs]
    of_appends = ahead.begin(sides, ("append", "append_one"))
    torch.manual_seed(1)
    torch.set_num_threads(2)  # of the twins: processors are busy
    for _ in ready(of_appends):
        pass
    cases = {}
    for pair in pairs:  # while steps are still compiled
        stored(*pair)
        cases[pair] = [case_of(*pair, lengths, place) for place in PLACES]
        told(f"{', '.join(pair)}: caches are filled")
    for pair in ready(of_steps) if GPU else pairs:
        used = torch.stack([steps(case) for case in cases.pop(pair)]).sum(0)
        require((used > 0).all(), f"{', '.join(pair)}: not every level is in use: {used.tolist()}")


if __name__ == "__main__":
    main()
