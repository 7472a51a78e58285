"""Certify, by twin and by kernels, against the theorem's formulas, the reference's truth, and damaged inputs."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from certkv.fast import certify as twin
from certkv.fast import resident_terms as resident_twin
from certkv.fast import score_error as score_twin
from certkv.fast.certify import PARTIAL, Terms
from certkv.fast.charges import Charges, ScoreCharge
from certkv.fast.kernels import certify as kernel
from certkv.fast.kernels import resident_terms as resident_kernel
from certkv.fast.kernels import score_error as score_kernel
from certkv.fast.score_error import ScoreErrors
from certkv.fast.totals import Totals, totals
from certkv.reference.bounds.kernel_model import H200_FP16_P
from certkv.reference.exact.float64 import attention

from .bridge import INTERPRETED_KERNELS
from .certify_exact import SLACK, Block, errors_of, wide
from .certify_scene import Executed, Scene, charges_of, everyone, make_scene, run_pass

pytestmark = INTERPRETED_KERNELS

LENGTHS = (69, 40, 9)
MODULES = {"twin": (twin, resident_twin, score_twin), "kernel": (kernel, resident_kernel, score_kernel)}
SCENES: tuple[dict[str, Any], ...] = (
    {"values": "int4-g32", "peak": 1.0},
    {"values": "int4-g32", "peak": 5.0, "first": 1},
    {"values": "int8", "peak": 3.0, "dtype": "bfloat16"},
    {"values": "int4", "peak": 30.0, "block": 13, "group": 3, "head_dim": 20},
    {"values": "int8-g64", "peak": 2.0, "kind": "huge", "head_dim": 80, "first": 1},
    {"values": "int8", "peak": 1.0, "kind": "tiny", "first": 1},
    {"keys": "oscar", "values": "oscar", "peak": 1.0, "first": 1},
    {"keys": "oscar-4", "values": "oscar-4", "peak": 3.0, "dtype": "bfloat16", "head_dim": 80, "block": 33},
    {"keys": "int8", "values": "oscar", "peak": 4.0, "block": 13, "head_dim": 20},
    {"keys": "oscar-head", "values": "int8", "peak": 2.0, "kind": "huge", "group": 3, "first": 1},
    {"keys": "kivi", "values": "kivi", "peak": 5.0},
)


class Certified(NamedTuple):
    errors: ScoreErrors
    terms: Terms
    mass: torch.Tensor
    totals: Totals
    charges: Charges


@cache
def scene_of(index: int, promoted: bool = False) -> tuple[Scene, Executed]:
    scene = make_scene(index, lengths=LENGTHS, **SCENES[index])
    levels = None
    if promoted:
        shape = (*scene.q.shape[:2], scene.coded.page_table.shape[1])
        levels = np.random.default_rng(index).integers(0, 4, size=shape).astype(np.uint8)
    return scene, run_pass(scene, levels)


def run(
    how: str, scene: Scene, done: Executed, active: torch.Tensor | None = None, enlarged: bool = False
) -> Certified:
    """Certify a pass; what is not written stays NaN. Enlarged charges stand out from the slack of binary32."""
    coded_module, resident_module, score_module = MODULES[how]
    batch, heads, head_dim = scene.q.shape
    blocks = scene.coded.page_table.shape[1]
    charges = charges_of(H200_FP16_P, max(LENGTHS), scene.coded.block, head_dim)
    if enlarged:
        score = ScoreCharge(1e-3, 0.05)
        charges = replace(
            charges,
            coded=score,
            original=ScoreCharge(2e-3, 0.02),
            share_up=1.0625,
            share_lost=2.0**-10,
            mass_down=0.9375,
            mass_lost=2.0**-9,
        )
    errors = ScoreErrors(*(torch.full((batch, heads, blocks), torch.nan) for _ in range(3)))
    score_module.score_error(done.resident.q, scene.coded, scene.scale, charges.floor, errors)
    terms = Terms.empty(batch, heads, blocks)
    active = everyone(scene) if active is None else active
    coded_module.certify(done.coded, scene.coded, errors, charges, terms, active)
    mass = torch.full((batch, heads, 2), torch.nan)
    resident_module.resident_terms(done.resident, scene.coded, scene.scale, charges, mass, terms, active)
    found = Totals.empty(batch, heads)
    totals(terms.partial, done.coded.output, charges, "values", 0.05, found, active)
    return Certified(errors, terms, mass, found, charges)


@pytest.mark.parametrize("index", range(len(SCENES)))
@pytest.mark.parametrize("how", MODULES)
@pytest.mark.parametrize(("promoted", "enlarged"), [(False, False), (True, True)])
def test_terms_are_the_theorems(how: str, index: int, promoted: bool, enlarged: bool) -> None:
    """Every term: at least the real number, at most 1.01 times it; the weight the other way round."""
    scene, done = scene_of(index, promoted)
    got = run(how, scene, done, enlarged=enlarged)
    checked = 0
    for s, cache_ in enumerate(scene.caches):
        for head in range(scene.q.shape[1]):
            without_rounding = wide(torch.tensor(0.0))
            for b in range(scene.coded.page_table.shape[1]):
                where = (s, head, b)
                numbers = {name: wide(getattr(got.terms, name)[where]) for name in Terms._fields[:5]}
                if not scene.coded.first <= b < cache_.blocks:
                    assert not any(numbers.values()), (where, numbers)
                    continue
                block = Block(scene.coded, done.coded, got.charges, where)
                pure, both = errors_of(block, got.errors, got.charges, where, scene.coded.block)
                for name, exact in (
                    ("key", block.key(*both)),
                    ("value", block.value()),
                ):
                    assert numbers[name] >= exact * SLACK or exact == numbers[name] == 0, (where, name)
                    assert numbers[name] <= exact * 1.01, (where, name, numbers[name], exact)
                # a guess for the choice: no less than what is known without rounding, no more than there is
                assert block.key(*pure) * SLACK <= numbers["key_gain"] <= numbers["key"], where
                without_rounding += block.key(*pure)
                weight = block.weight(*both)
                assert numbers["weight_lb"] * SLACK <= weight, where
                # what the mass may have lost is taken off twice: exactly, and by the rounding of what is left
                assert numbers["weight_lb"] >= weight / 1.01 - 2.0**-20 * block.mass, where
                assert abs(numbers["mass"] - block.mass) <= 1e-5 * block.mass
                checked += 1
            pure_key = wide(got.terms.partial[s, head, :, PARTIAL.index("pure_key")].double().sum())
            assert without_rounding * SLACK <= pure_key <= without_rounding * 1.01
    assert checked >= 12


@pytest.mark.parametrize("index", range(len(SCENES)))
@pytest.mark.parametrize("how", MODULES)
def test_score_errors_are_the_references(how: str, index: int) -> None:
    """Delta and Omega are at least those of the reference, rounded outward in float64, and at most 1.01 times them."""
    scene, done = scene_of(index, True)
    errors = result_of(how, index, True).errors
    per = scene.q.shape[1] // scene.kv_heads
    for (s, h), (group, _, _) in done.seen.items():
        n, rows = group.view.blocks, slice(h * per, (h + 1) * per)
        live = slice(scene.coded.first, n)
        if not n:
            continue
        for name, reference in (("delta", group.delta_ub), ("omega", group.operator_ub)):
            got = getattr(errors, name)[s, rows].numpy().astype(np.float64)
            assert (got[:, live] >= reference[:, live]).all(), name
            assert (got[:, live] <= 1.01 * reference[:, live] + 2.0**-50).all(), name
            assert np.isinf(got[:, n:]).all()
        keys = np.abs(group.view.decoded("keys"))
        originals = np.abs(group.originals("keys", np.ones(n, np.bool_)))
        for used in (keys, originals):
            sizes = abs(scene.scale) * np.einsum("gd,btd->gbt", np.abs(group.q), used).max(axis=-1)
            assert (errors.size[s, rows].numpy()[:, live] >= sizes[:, live]).all()


def true_error(scene: Scene, done: Executed) -> np.ndarray:
    """Distance of the output from exact attention, rounded down; [batch, Hq]."""
    error = np.zeros(scene.q.shape[:2])
    per = scene.q.shape[1] // scene.kv_heads
    for s, cache_ in enumerate(scene.caches):
        for h in range(scene.kv_heads):
            view, rows = cache_.view(h), slice(h * per, (h + 1) * per)
            exact = attention(scene.q[s, rows], view.all_originals("keys"), view.all_originals("values"), scene.scale)
            distance = np.linalg.norm(exact.output - done.coded.output[s, rows].numpy(), axis=-1)
            error[s, rows] = np.maximum(distance * (1 - 1e-12) - exact.error_ub, 0.0)
    return error


@cache
def result_of(how: str, index: int, promoted: bool) -> Certified:
    return run(how, *scene_of(index, promoted))


@pytest.mark.parametrize("promoted", [False, True])
@pytest.mark.parametrize("index", range(len(SCENES)))
def test_bound_is_above_the_error(index: int, promoted: bool) -> None:
    scene, done = scene_of(index, promoted)
    got = result_of("twin", index, promoted)
    error = true_error(scene, done)
    bound = got.totals.bound.numpy().astype(np.float64)
    assert (bound >= error).all()
    assert np.isfinite(bound).all()
    parts = got.totals.key + got.totals.value + got.totals.arithmetic
    assert (parts >= got.totals.bound).all()
    if SCENES[index]["peak"] < 4 and not promoted:
        assert (bound[0] < 200.0 * error[0]).all()
    # masses of blocks and slots are all there is
    total = got.terms.mass.sum(-1) + got.mass.sum(-1)
    assert (total - 1).abs().max() < 1e-4


@pytest.mark.parametrize("index", range(len(SCENES)))
def test_kernel_and_twin_agree(index: int) -> None:
    """Both are binary32; sums in another order and another exp2 differ by less than their 1 + 2^-12."""
    one, two = result_of("twin", index, True), result_of("kernel", index, True)
    for a, b in zip((*one.errors, *one.terms[:5], one.mass), (*two.errors, *two.terms[:5], two.mass), strict=True):
        assert torch.isclose(a, b, rtol=2.0**-12, atol=2.0**-90).all()
    assert torch.isclose(one.terms.partial, two.terms.partial, rtol=2.0**-12, atol=2.0**-90).all()


def damaged(scene: Scene, done: Executed, what: str, number: float) -> tuple[Scene, Executed]:
    """Put a number into one valid place of one input."""
    group, name = what.split(".")
    s, h, b, per = 0, 0, 1, scene.q.shape[1] // scene.kv_heads
    page = int(scene.coded.page_table[s, b])
    at: dict[str, Any] = {
        "weights": (s, h, b, 0, 3),
        "reference": (s, h, b, 0),
        "m": (s, h * per),
        "l": (s, h * per),
        "output": (s, h * per, 1),
        "anchor": (s, h, 0),
        "q": (s, h * per, 1),
        "keys": (s, h, 1, 1, 0),
        "values": (s, h, 1, 1, 0),
    }
    if group == "resident" and name in ("weights", "reference"):
        at |= {"weights": (s, h * per, 1, 1), "reference": (s, h * per, 1)}

    def put(x: torch.Tensor, place: Any) -> torch.Tensor:
        x = x.clone()
        x[place] = number
        return x

    if group == "pool":
        field, _, last = name.partition(":")
        place = (page, h, int(last)) if last else (page, h, 0)
        pool = replace(scene.coded.pool, **{field: put(getattr(scene.coded.pool, field), place)})
        return replace(scene, coded=replace(scene.coded, pool=pool)), done
    if group == "anchor":
        return replace(scene, coded=replace(scene.coded, anchor=put(scene.coded.anchor, at["anchor"]))), done
    part = getattr(done, group)
    part = part._replace(**{name: put(getattr(part, name), at[name])})
    return scene, replace(done, **{group: part})


PLACES = (
    *(f"pool.key_notes:{i}" for i in range(3)),
    *(f"pool.value_notes:{i}" for i in range(7)),
    *("pool.key_step", "pool.key_minimum", "pool.value_step", "pool.value_minimum"),
    *(f"coded.{name}" for name in ("weights", "reference", "m", "l", "output")),
    *(f"resident.{name}" for name in ("q", "keys", "values", "weights", "reference", "m", "l", "output")),
    "anchor.",
)


@cache
def small_scene() -> tuple[Scene, Executed, np.ndarray, Totals]:
    scene = make_scene(7, lengths=(53,), kv_heads=1, spare=1)
    done = run_pass(scene)
    return scene, done, true_error(scene, done), run("twin", scene, done).totals


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("what", PLACES)
def test_damage_never_lowers_the_bound(what: str, number: float) -> None:
    """A number that is none, anywhere, leaves a bound that is above the error; the tolerance does not grow by it."""
    scene, done, error, clean = small_scene()
    scene, hurt = damaged(scene, done, what, number)
    if what.endswith(".output"):
        # no distance from such an output is known; both parts of a pass have the same one
        error = np.array([[np.inf, error[0, 1]]])
        output = (hurt.coded if what.startswith("coded") else hurt.resident).output
        hurt = replace(hurt, coded=hurt.coded._replace(output=output), resident=hurt.resident._replace(output=output))
    for how in MODULES if np.isnan(number) else ("twin",):
        got = run(how, scene, hurt).totals
        bound = got.bound.numpy().astype(np.float64)
        assert not np.isnan(bound).any()
        assert (bound >= error).all(), (how, bound, error)
        # nor below what it was: what is not known counts as large
        assert (got.bound >= clean.bound * (1 - 2.0**-10)).all(), (how, bound)
        assert (got.tolerance <= clean.tolerance * (1 + 2.0**-10)).all()


@pytest.mark.parametrize("how", MODULES)
def test_nothing_outside_is_read_or_written(how: str) -> None:
    """Page table entries beyond the blocks point nowhere; heads that are not active keep what they had."""
    scene, done = scene_of(1)
    table = scene.coded.page_table.clone()
    for s, cache_ in enumerate(scene.caches):
        table[s, cache_.blocks :] = 2**30
    astray = replace(scene, coded=replace(scene.coded, page_table=table))
    expected = run(how, scene, done)
    got = run(how, astray, done)
    for a, b in zip(expected.terms, got.terms, strict=True):
        assert torch.equal(a, b)
        assert not torch.isnan(b).any()
    active = everyone(scene)
    active[0, 1] = active[1, 2] = active[2] = 0
    got = run(how, astray, done, active=active)
    for a, b in zip((*expected.terms, expected.mass), (*got.terms, got.mass), strict=True):
        assert torch.isnan(b[active == 0]).all()
        assert torch.equal(b[active != 0], a[active != 0])


def test_partials_are_sums() -> None:
    """Chunks sum or take the largest of their blocks; the last entries are the resident slots."""
    scene, done = scene_of(1)
    got = run("twin", scene, done)
    for column, name in enumerate(PARTIAL[:4]):
        if name == "pure_key":
            continue
        expected = getattr(got.terms, name).sum(-1)
        assert torch.allclose(got.terms.partial[..., :-2, column].sum(-1), expected, rtol=1e-5)
    assert (got.terms.partial[..., -2:, 1:3] == 0).all()
