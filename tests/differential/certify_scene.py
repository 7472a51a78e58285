"""A batch of caches of the reference, stored as the fast path stores them, and passes whose weights are in 16 bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from certkv.fast.annotate import key_size_ub
from certkv.fast.certify import Pass
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.coded import Coded
from certkv.fast.formats import KEY_FORMATS, Encoded
from certkv.fast.pool import KEY_NOTES, KEYS, VALUE_NOTES, Pool, allocate
from certkv.fast.resident_terms import ResidentPass
from certkv.reference.bounds import kernel_arithmetic as model_of
from certkv.reference.bounds.kernel_model import KernelModel
from certkv.reference.cache import Cache
from certkv.reference.cache.cache import SIDES
from certkv.reference.numbers import float_type
from certkv.reference.steps.attend import Attended, attend
from certkv.reference.steps.group import Group, Levels, any_row

from .bridge import to_torch

LOG2_E = math.log2(math.e)
BIAS = 14


def charges_of(model: KernelModel, tokens: int, block: int, head_dim: int) -> Charges:
    """Instantiate the reference's arithmetic model with everything at its worst, `updates` of the maximum included."""
    updates = model_of.tiles_per_split(model, tokens)
    error = model_of.log_weight_error_ub(
        model,
        scale=1.0,
        head_dim=head_dim,
        q_norm_ub=np.zeros((1, 1)),
        key_size_ub=np.zeros((1, 1)),
        range_bits_ub=np.full((1, 1), model_of.FAR_BITS),
        score_bits_ub=np.full((1, 1), 2.0**21 if model.fused_exponent else 0.0),
        updates=updates,
    )
    eps = float(error[0, 0])

    dot = model_of.grown(model.qk.steps(head_dim * model.products) * model.qk.error.value)
    exponent = 0.0 if model.fused_exponent else model.roundoff.value
    # operands are below 2^60, so that flushed products lose less than 2^-40
    score = ScoreCharge(relative=(dot + exponent) * 1.001, constant=eps + 2.0**-40)
    shared = {"tokens": tokens, "updates": updates}
    mass = float(model_of.mass_error_ub(model, block=block, range_bits_ub=np.array(model_of.FAR_BITS), **shared))
    lost = float(model_of.lost_weight_ub(model, updates) + model.flush.value)
    assert tokens * lost <= 0.125

    def accumulation(mean: float, largest: float, output: float) -> float:
        found = model_of.accumulation_ub(
            model,
            tokens=tokens,
            head_dim=head_dim,
            mean_size_ub=np.array([mean]),
            max_size_ub=np.array([largest]),
            output_norm_ub=np.array([output]),
            updates=updates,
        )
        return float(found[0])

    absolute = accumulation(0.0, 0.0, 0.0)
    return Charges(
        floor=model.qk.floor.value,
        coded=score,
        original=score,
        resident=score,
        share_up=(1.0 + mass) * (1.0 + 4.0 * tokens * lost),
        share_lost=max(8.0 * lost, 2.0**-60),
        mass_down=1.0 / ((1.0 + mass) * (1.0 + 4.0 * tokens * lost)),
        mass_lost=8.0 * block * lost,
        of_mean=accumulation(1.0, 0.0, 0.0),
        of_largest=accumulation(0.0, 1.0, 0.0),
        of_output=accumulation(0.0, 0.0, 1.0),
        absolute=absolute,
    ).rounded()


@dataclass(eq=False)
class Scene:
    """Caches of several sequences and one query of each.

    Attributes
    ----------
    caches : list of Cache
    q : ndarray [batch, Hq, d]
    scale : float
    coded : Coded
    resident : Tensor [2, batch, H, 2, B, d]
        Keys and values; NaN where there is no token.
    """

    caches: list[Cache]
    q: np.ndarray
    scale: float
    coded: Coded
    resident: torch.Tensor

    @property
    def kv_heads(self) -> int:
        return self.caches[0].kv_heads

    @property
    def q_torch(self) -> torch.Tensor:
        return to_torch(self.q, float_type(self.q.dtype))

    def group(self, sequence: int, kv_head: int) -> Group:
        per = self.q.shape[1] // self.kv_heads
        heads = np.arange(kv_head * per, (kv_head + 1) * per)
        view = self.caches[sequence].view(kv_head)
        return Group(self.q[sequence, heads].astype(np.float64), heads, self.scale, view, self.coded.first)


def data(
    rng: np.random.Generator, tokens: int, kv_heads: int, head_dim: int, dtype: np.dtype, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Keys with outlier channels and values of uneven norms; "huge" and "tiny" values test the ends of the range."""
    k = rng.standard_normal((tokens, kv_heads, head_dim))
    k[..., 0] = 8.0 + 0.3 * k[..., 0]
    v = rng.standard_normal((tokens, kv_heads, head_dim)) * np.exp(0.7 * rng.standard_normal((tokens, kv_heads, 1)))
    v *= {"plain": 1.0, "huge": 1e3, "tiny": 1e-4}[kind]
    return k.astype(dtype), v.astype(dtype)


def make_scene(
    seed: int,
    *,
    lengths: tuple[int, ...],
    keys: str = "int8",
    values: str = "int4-g32",
    kv_heads: int = 2,
    group: int = 2,
    head_dim: int = 32,
    block: int = 16,
    dtype: str = "float16",
    peak: float = 1.0,
    first: int = 0,
    kind: str = "plain",
    spare: int = 3,
) -> Scene:
    """Build caches and a poisoned pool with pages in random order; `spare` entries of the page table are unused."""
    rng = np.random.default_rng(seed)
    ft = float_type(dtype)
    caches = []
    for tokens in lengths:
        cache = Cache(kv_heads=kv_heads, head_dim=head_dim, dtype=dtype, keys=keys, values=values, block=block)
        cache.append(*data(rng, tokens, kv_heads, head_dim, ft.dtype, kind))
        caches.append(cache)
    batch, max_blocks = len(lengths), max(c.blocks for c in caches) + spare
    pages = rng.permutation(batch * max_blocks + 5)[: batch * max_blocks].reshape(batch, max_blocks)
    torch_type = torch.float16 if dtype == "float16" else torch.bfloat16
    pool = allocate(batch * max_blocks + 5, kv_heads, block, head_dim, torch_type, values, keys=keys)
    resident = torch.full((2, batch, kv_heads, 2, block, head_dim), torch.nan, dtype=torch_type)
    anchor = torch.zeros(batch, kv_heads, head_dim)
    for s, cache in enumerate(caches):
        n = cache.blocks
        if n:
            at = torch.from_numpy(pages[s, :n])
            for side, prefix in zip(SIDES, ("key", "value"), strict=True):
                encoded = cache.encoded(side)
                getattr(pool, f"{prefix}_codes")[at] = torch.from_numpy(np.ascontiguousarray(encoded.codes))
                getattr(pool, f"{prefix}_step")[at] = to_torch(encoded.step, ft)
                getattr(pool, f"{prefix}_minimum")[at] = to_torch(encoded.minimum, ft)
            store_norms_and_sizes(cache, keys, pool, at)
            bf = float_type("bfloat16")
            for names, notes, target in (
                (KEY_NOTES, cache.key_annotations(), pool.key_notes),
                (VALUE_NOTES, cache.value_annotations(), pool.value_notes),
            ):
                target[at] = torch.stack([to_torch(getattr(notes, name), bf) for name in names], dim=-1)
            notes = cache.value_annotations()
            pool.residual_codes[at] = torch.from_numpy(notes.residual_codes)
            pool.anchored_codes[at] = torch.from_numpy(notes.anchored_codes)
            anchor[s] = torch.from_numpy(cache.anchor())
            assert np.array_equal(anchor[s].double().numpy(), cache.anchor())
        for side, kept in zip(SIDES, resident, strict=True):
            tail = cache.tail(side)
            kept[s, :, 1, : len(tail)] = to_torch(tail, ft).movedim(1, 0)
            if n:
                for h in range(kv_heads):
                    block0 = cache.view(h).all_originals(side)[:block]
                    kept[s, h, 0] = to_torch(block0, ft)
    q = (peak * rng.standard_normal((batch, kv_heads * group, head_dim))).astype(ft.dtype)
    coded = Coded(
        pool=pool,
        page_table=torch.from_numpy(pages.astype(np.int32)),
        lengths=torch.tensor(lengths, dtype=torch.int32),
        anchor=anchor,
        values=values,
        first=first,
        keys=keys,
    )
    return Scene(caches, q, 1.0 / math.sqrt(head_dim), coded, resident)


def store_norms_and_sizes(cache: Cache, keys: str, pool: Pool, at: torch.Tensor) -> None:
    """Write the norms of a cache's keys to its pages, and the sizes of keys."""
    fmt, norm = KEY_FORMATS[keys], cache.encoded("keys").norm
    if norm is not None and norm.size:
        # the reference has a copy of joint norms for every KV head
        pool.key_norm[at] = torch.from_numpy(norm)[:, : pool.key_norm.shape[1]]
    held = Encoded(
        pool.key_codes[at], pool.key_step[at], pool.key_minimum[at], pool.key_norm[at] if fmt.scope else None
    )
    pool.sizes[at, :, KEYS] = key_size_ub(held, fmt, cache.block)


@dataclass(eq=False)
class Executed:
    """A pass of the reference, its weights rounded to 16 bits; and the reference's own `Attended` of every KV head."""

    coded: Pass
    resident: ResidentPass
    seen: dict[tuple[int, int], tuple[Group, Levels, Attended]]


def run_pass(scene: Scene, promoted: np.ndarray | None = None) -> Executed:
    """Attend; weights relative to each block's own rounded maximum, poison where there is nothing.

    Parameters
    ----------
    promoted : uint8 [batch, Hq, max_blocks], optional
        Levels.
    """
    batch, heads, head_dim = scene.q.shape
    max_blocks, block = scene.coded.page_table.shape[1], scene.coded.block
    per, first = heads // scene.kv_heads, scene.coded.first
    of_blocks = (batch, scene.kv_heads, max_blocks, per)
    weights = torch.full((*of_blocks, block), torch.nan, dtype=torch.float16)
    reference = torch.full(of_blocks, torch.nan)
    resident_weights = torch.full((batch, heads, 2, block), torch.nan, dtype=torch.float16)
    resident_reference = torch.full((batch, heads, 2), torch.nan)
    m, l = torch.zeros(2, batch, heads).unbind(0)  # noqa: E741
    output = torch.zeros(batch, heads, head_dim)
    levels = torch.zeros(batch, heads, max_blocks, dtype=torch.uint8)
    if promoted is not None:
        levels = torch.from_numpy(promoted.copy())
    seen = {}
    for s in range(batch):
        for h in range(scene.kv_heads):
            group = scene.group(s, h)
            n = group.view.blocks
            mine = Levels.coded(per, n, first)
            bits = levels[s, h * per : (h + 1) * per, :n].numpy()
            mine.keys[:] |= (bits & 1) != 0
            mine.values[:] |= (bits & 2) != 0
            rows = np.arange(per)
            done = attend(group, mine, rows)
            seen[s, h] = group, mine, done
            exact = group.exact_scores(any_row(mine.keys)) if n else group.coded_scores
            scores = np.where(mine.keys[..., None], exact, group.coded_scores) * LOG2_E
            tails = group.tail_scores * LOG2_E
            originals = group.originals("values", any_row(mine.values)) if n else group.coded_values
            for g in range(per):
                head, values = h * per + g, np.where(mine.values[g, :, None, None], originals, group.coded_values)
                parts = [(scores[g, b], values[b], b) for b in range(n)]
                if tails.shape[-1]:
                    parts.append((tails[g], group.tail_values, -1))
                top = max(np.float32(y.max()) for y, _, _ in parts)
                total, weighted = 0.0, np.zeros(head_dim)
                for y, v, b in parts:
                    ref = np.float32(y.max())
                    p = np.asarray(np.exp2(y - ref) * 2.0**BIAS, np.float16)
                    factor = np.exp2(np.float64(ref) - np.float64(top))
                    total += p.astype(np.float64).sum() * factor
                    weighted += p.astype(np.float64) @ v * factor
                    if b >= first:
                        at = s, head // per, b, g
                        weights[at], reference[at] = torch.from_numpy(p), float(ref)
                    else:
                        slot = 1 if b < 0 else 0
                        resident_weights[s, head, slot, : len(p)] = torch.from_numpy(p)
                        resident_reference[s, head, slot] = float(ref)
                m[s, head], l[s, head] = float(top), total
                output[s, head] = torch.from_numpy(weighted / total)
    keys, values_ = scene.resident
    return Executed(
        Pass(weights, reference, m, l, output, levels),
        ResidentPass(scene.q_torch, keys, values_, resident_weights, resident_reference, m, l, output),
        seen,
    )


def everyone(scene: Scene) -> torch.Tensor:
    return torch.ones(scene.q.shape[:2], dtype=torch.uint8)
