"""Theorem ``sharp``: T against intervals, the root against T, the statement on heads, and where it is attained."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flint import arb
from hypothesis import given
from hypothesis import strategies as st

from certkv.reference.bounds import sharp as module
from certkv.reference.bounds.block_bound import block_bound
from certkv.reference.bounds.kappa import choose_kappa, golden_section, uniform_kappa
from certkv.reference.bounds.root import certifies, smallest_certified
from certkv.reference.bounds.sharp import Function, sharp, uniform
from certkv.reference.errors import SettingError
from certkv.reference.numbers import norm_ub, outward
from certkv.reference.numbers.types import FloatArray

Block = tuple[float, float, float]
BLOCKS = st.lists(st.tuples(st.floats(1e-6, 1), st.floats(0, 3), st.floats(0, 10)), min_size=1, max_size=5)
KAPPAS = st.floats(-1, 3) | st.sampled_from([0.0, 1.0])


def inputs(**changes: Any) -> dict[str, Any]:
    """One head, two blocks, unit numbers, unless changed."""
    mass = np.array([[0.5, 0.5]])
    given_: dict[str, Any] = {
        "mass_ub": mass,
        "mass_lb": mass,
        "delta_ub": np.array([[0.1, 0.2]]),
        "radius_ub": np.array([[1.0, 2.0]]),
        "value_and_accumulation_ub": np.array([0.05]),
        "start_ub": np.array([10.0]),
    }
    return given_ | changes


def function(*, kappa: float = 1.0, cap_ub: Any = None, credit_lb: Any = None, **changes: Any) -> Function:
    """T of `inputs`."""
    numbers = inputs(**changes)
    del numbers["start_ub"]
    return Function.of(**numbers, kappa=np.full(len(numbers["mass_ub"]), kappa), cap_ub=cap_ub, credit_lb=credit_lb)


def exact(lam: float, blocks: list[Block], rest: float, kappa: float) -> arb:
    """T, in ball arithmetic."""
    total = abs(arb(kappa)) * arb(rest)
    for rho, delta, radius in blocks:
        ends = [arb(delta).exp(), arb(-delta).exp()]
        raised, lowered = (abs(w - arb(kappa)) * arb(radius) - arb(lam) * w for w in ends)
        total += arb(rho) * raised.max(lowered)
    return total


def sizes(lam: float, blocks: list[Block], rest: float, kappa: float) -> float:
    """Sum of the magnitudes that enter T."""
    each = [m * np.exp(d) * ((np.exp(d) + abs(kappa) + 1) * r + lam) for m, d, r in blocks]
    return float(sum(each) + abs(kappa) * rest)


def arrays(blocks: list[Block], rest: float) -> dict[str, FloatArray]:
    """Arguments of one head."""
    mass, delta, radius = np.array(blocks, dtype=np.float64).T[:, None, :]
    return {
        "mass_ub": mass,
        "mass_lb": mass,
        "delta_ub": delta,
        "radius_ub": radius,
        "value_and_accumulation_ub": np.array([rest]),
    }


@given(BLOCKS, st.floats(0, 1), KAPPAS, st.floats(0, 20))
def test_evaluated_outward(blocks: list[Block], rest: float, kappa: float, lam: float) -> None:
    """``total_ub`` is at most 0 only where T is, and no further from T than 2**-40 of what enters it.

    About 30 roundings and exponentials of 8u on a path: below 2**-44 of the magnitudes.
    """
    total = float(function(kappa=kappa, **arrays(blocks, rest)).at(np.array([lam]))[0][0])
    true = exact(lam, blocks, rest, kappa)
    assert total > 0 or true <= 0
    assert abs(arb(total) - true) < arb(2.0**-40 * sizes(lam, blocks, rest, kappa) + 2.0**-890)


@given(BLOCKS, st.floats(0, 1), KAPPAS)
def test_returns_the_root(blocks: list[Block], rest: float, kappa: float) -> None:
    """What is returned is proved by T in ball arithmetic, and 1e-9 less is not."""
    # the root is below the largest E (E + |kappa|) R, 5e3, plus E |kappa| rest / rho, 6.1e7
    start = 1e9
    found = float(sharp(**arrays(blocks, rest), kappa=kappa, start_ub=np.array([start]))[0])
    assert found < start
    assert exact(found, blocks, rest, kappa) <= 0
    # below, an absolute 2**-890 in the evaluation may matter more than the root itself
    assert exact(found * (1 - 1e-9), blocks, rest, kappa) > 0 or found < 2.0**-800


def test_masses_by_sign() -> None:
    """A positive share takes the upper mass, a negative one the lower: any mass between them is covered."""
    low, high = np.array([[0.3, 0.4]]), np.array([[0.5, 0.6]])
    found = float(sharp(**inputs(mass_ub=high, mass_lb=low))[0])
    for shares in itertools.product((0.3, 0.4, 0.5), (0.4, 0.5, 0.6)):
        assert exact(found, [(shares[0], 0.1, 1.0), (shares[1], 0.2, 2.0)], 0.05, 1.0) <= 0


def worst_of_uniform(delta: float, radius: float) -> arb:
    """Error of two tokens of equal weight, values +-R, off by +-Delta; the output 0 is exact."""
    up, down = arb(delta).exp(), arb(-delta).exp()
    return arb(radius) * (up - down) / (up + down)


@pytest.mark.parametrize("delta", [1e-12, 1e-3, 0.1, 0.5, 1.0, 2.0, 20.0])
def test_uniform_is_attained(delta: float) -> None:
    """R tanh(Delta): valid for the worst head, and at most 1e-13 above it (about 50 roundings)."""
    one, error = np.ones((1, 1)), worst_of_uniform(delta, 3.0)
    closed = float(uniform(delta, 3.0))
    assert error <= closed
    assert closed <= float(error.mid()) * (1 + 1e-13)
    kappa = uniform_kappa(delta)
    root = sharp(
        mass_ub=one,
        mass_lb=one,
        delta_ub=delta * one,
        radius_ub=3.0 * one,
        value_and_accumulation_ub=np.zeros(1),
        start_ub=np.array([9.0]),
        kappa=kappa,
    )
    assert error <= float(root[0])
    # kappa is rounded, which moves |w - kappa| by u at most; that is felt where it is of the size of 1/E or of Delta**2
    blur = 2.0**-52 * (np.exp(2 * delta) + 1 / delta)
    assert float(root[0]) <= float(error.mid()) * (1 + 1e-12 + blur)


def test_uniform_with_a_rest() -> None:
    """``R t + X (1 + t)`` is where T of kappa = 1/cosh(Delta) vanishes."""
    found = float(uniform(0.7, 3.0, 0.25))
    kappa = float(uniform_kappa(0.7))
    near = exact(found, [(1.0, 0.7, 3.0)], 0.25, kappa)
    assert abs(near) < 1e-12
    assert exact(found * (1 - 1e-9), [(1.0, 0.7, 3.0)], 0.25, kappa) > 0
    t = np.tanh(0.7)
    assert found == pytest.approx(3.0 * t + 0.25 * (1 + t), rel=1e-13)
    assert uniform(np.array([0.0, np.nan, 0.5, 800.0, np.inf]), 2.0).tolist() == [
        0.0,
        np.inf,
        float(uniform(0.5, 2.0)),
        float(uniform(800.0, 2.0)),
        float(uniform(np.inf, 2.0)),
    ]
    assert 2.0 <= float(uniform(np.inf, 2.0)) <= 2.0 * (1 + 1e-13)


def head(rng: np.random.Generator) -> tuple[dict[str, FloatArray], float, FloatArray, FloatArray]:
    """Draw a head at the ends of the hypotheses; its numbers, true error, and C_b and D_b as they really are."""
    blocks, size, d = rng.integers(1, 4), rng.integers(1, 4), rng.integers(1, 4)
    shape = (blocks, size)
    computed = rng.random(shape) ** 3 + 1e-9
    computed /= computed.sum()
    delta_ub = rng.random(blocks) * rng.choice([0.01, 0.3, 2.0])
    delta = delta_ub[:, None] * rng.choice([-1.0, 1.0], shape)
    w = np.exp(-delta)
    true = computed * w / (computed * w).sum()
    v = rng.standard_normal((*shape, d))
    v_hat = v + rng.standard_normal((*shape, d)) * rng.choice([0.0, 0.01, 0.3])
    output = np.einsum("bt,btd->d", computed, v_hat)
    error = float(np.linalg.norm(np.einsum("bt,btd->d", true, v) - output))
    mass = computed.sum(axis=1)[None]
    numbers = {
        "mass_ub": mass,
        "mass_lb": mass,
        "delta_ub": delta_ub[None],
        "radius_ub": norm_ub(v - output).max(axis=1)[None],
        "value_and_accumulation_ub": norm_ub(np.einsum("bt,btd->d", computed, v - v_hat))[None],
    }
    cap = norm_ub(np.einsum("bt,btd->bd", computed * (w - 1), v - output))[None]
    credit = (computed * w).sum(axis=1)[None]
    return numbers, error, cap, credit


# In the next two tests errors and inputs are computed with about 40 roundings of numbers below 30.
ROUNDING = 1e-12


def test_theorem_on_random_heads() -> None:
    rng = np.random.default_rng(8)
    reached = []
    for trial in range(300):
        numbers, error, cap, credit = head(rng)
        start = np.array([1e3])
        quick = uniform_kappa(numbers["delta_ub"].max(axis=-1))
        kappa = quick if trial % 6 else choose_kappa(**numbers, start_ub=start)
        bounds = {
            "one": sharp(**numbers, start_ub=start),
            "any": sharp(**numbers, start_ub=start, kappa=rng.uniform(0.2, 1.5)),
            "chosen": sharp(**numbers, start_ub=start, kappa=kappa),
            "alternative": sharp(**numbers, start_ub=start, cap_ub=cap, credit_lb=credit),
        }
        for name, bound in bounds.items():
            assert error <= bound[0] + ROUNDING, name
        assert bounds["alternative"][0] <= bounds["one"][0] * (1 + 1e-11)
        if error > 1e-9:
            reached.append([error / bound[0] for bound in bounds.values()])
    best = np.max(reached, axis=0)
    # a bound of nine tenths of any of them would be exceeded; the exact alternatives leave the triangle inequality
    assert (best > [0.9, 0.8, 0.95, 0.95]).all()


def test_never_above_the_closed_forms() -> None:
    """The root for kappa = 1 is at most the block bound, with alternatives at most theirs as well."""
    rng = np.random.default_rng(9)
    for _ in range(200):
        numbers, _, cap, credit = head(rng)
        closed = block_bound(
            mass_ub=numbers["mass_ub"],
            mass_lb=numbers["mass_lb"],
            key_delta_ub=numbers["delta_ub"],
            rounding_delta_ub=np.full_like(cap, 1e-15),
            radius_ub=numbers["radius_ub"],
            value_error_ub=np.zeros_like(cap),
            accumulation_ub=numbers["value_and_accumulation_ub"],
        ).bound
        root = sharp(**numbers, start_ub=np.array([1e6]))
        assert root[0] <= closed[0] * (1 + 1e-11) or closed[0] == numbers["radius_ub"].max()
        theirs = (cap.sum() + numbers["value_and_accumulation_ub"]) / credit.sum()
        assert (
            sharp(**numbers, start_ub=np.array([1e6]), cap_ub=cap, credit_lb=credit)[0]
            <= theirs[0] * (1 + 1e-11) + 2.0**-890
        )
        assert sharp(**numbers, start_ub=closed)[0] <= closed[0]


def best_of_three(mass: FloatArray, delta: FloatArray, radius: FloatArray) -> float:
    """Largest error over heads of three blocks, any tokens: the vertices of the linear program of the derivation.

    A token is an end ``w`` and a value ``+-R``; one constraint, ``sum a' x = 0``, so at most one block has two kinds.
    """
    kinds = [[(w, x) for w in (np.exp(d), np.exp(-d)) for x in (r, -r)] for d, r in zip(delta, radius, strict=True)]
    best = 0.0
    for split in range(3):
        others = [b for b in range(3) if b != split]
        for fixed in itertools.product(*(kinds[b] for b in others)):
            centre = sum(mass[b] * x for b, (_, x) in zip(others, fixed, strict=True))
            out = sum(mass[b] * w * x for b, (w, x) in zip(others, fixed, strict=True))
            weight = sum(mass[b] * w for b, (w, _) in zip(others, fixed, strict=True))
            for (w0, x0), (w1, x1) in itertools.permutations(kinds[split], 2):
                if x0 == x1:
                    continue
                share = (-centre / mass[split] - x1) / (x0 - x1)
                if 0.0 <= share <= 1.0:
                    first, second = mass[split] * share, mass[split] * (1 - share)
                    value = (out + first * w0 * x0 + second * w1 * x1) / (weight + first * w0 + second * w1)
                    best = max(best, value)
    return best


def test_the_best_kappa_gives_the_exact_worst_case() -> None:
    """Without other errors no smaller bound exists; choosing kappa loses at most 1e-3."""
    rng = np.random.default_rng(10)
    for _ in range(40):
        mass, delta, radius = (
            rng.dirichlet(np.ones(3)),
            rng.random(3) * rng.choice([0.1, 1.0, 2.0]),
            rng.random(3) + 0.1,
        )
        numbers = arrays(list(zip(mass, delta, radius, strict=True)), 0.0)
        start = np.array([100.0])
        bound = sharp(**numbers, start_ub=start, kappa=choose_kappa(**numbers, start_ub=start))[0]
        worst = best_of_three(mass, delta, radius)
        assert worst <= bound * (1 + 1e-12), "both are right only if the first is not larger"
        assert bound <= worst * (1 + 1e-3)


def test_unknown_leaves_the_start() -> None:
    bad = np.array([[np.nan, 0.2]])
    more = {"cap_ub": np.zeros((1, 2)), "credit_lb": np.full((1, 2), 0.5)}
    assert sharp(**inputs(), **more)[0] < 10.0
    for name in ("mass_ub", "mass_lb", "delta_ub", "radius_ub"):
        assert sharp(**inputs(**{name: bad}))[0] == 10.0, name
        assert sharp(**inputs(**{name: bad}), **more)[0] == 10.0, name
    for name in more:
        assert sharp(**inputs(), **{**more, name: bad})[0] == 10.0, name
    for value in (np.nan, np.inf):
        assert sharp(**inputs(value_and_accumulation_ub=np.array([value])))[0] == 10.0
        assert sharp(**inputs(), kappa=value)[0] == 10.0
        assert sharp(**inputs(start_ub=np.array([value])))[0] == np.inf
    assert sharp(**inputs(radius_ub=np.array([[np.inf, 1.0]])))[0] == 10.0
    assert sharp(**inputs(start_ub=np.array([1e-3])))[0] == 1e-3, "nothing below what T proves"
    assert sharp(**inputs(start_ub=np.array([0.0])))[0] == 0.0


def test_alternatives_bring_a_bound_where_the_radius_is_unknown() -> None:
    more = {"cap_ub": np.array([[0.3, 0.1]]), "credit_lb": np.array([[0.4, 0.4]])}
    found = sharp(**inputs(radius_ub=np.full((1, 2), np.inf)), **more)[0]
    assert 0.45 / 0.8 <= found <= 0.45 / 0.8 * (1 + 1e-11)
    # radius inf and Delta 0: 0 * inf says nothing, the alternative does
    assert sharp(**inputs(delta_ub=np.zeros((1, 2)), radius_ub=np.full((1, 2), np.inf)), **more)[0] == found


def test_settings() -> None:
    half = {"cap_ub": np.ones((1, 2)), "credit_lb": np.zeros((1, 2))}
    for name, numbers in half.items():
        with pytest.raises(SettingError, match="both or neither"):
            sharp(**inputs(), **{name: numbers})
    with pytest.raises(SettingError, match="kappa = 1"):
        sharp(**inputs(), **half, kappa=0.9)
    with pytest.raises(SettingError, match="kappa = 1"):
        sharp(**inputs(), **half, kappa=np.nan)


@pytest.mark.parametrize("delta", [90.0, 700.0, 705.0, 710.0, 1e6, np.inf])
def test_large_errors(delta: float) -> None:
    """Where E overflows, half of the mass may be anything: the radius of that block is what remains."""
    wild = inputs(delta_ub=np.array([[delta, 0.0]]), radius_ub=np.array([[1.0, 1.0]]), start_ub=np.array([1e300]))
    found = sharp(**wild, kappa=0.0)[0]
    assert 1.0 <= found <= 1.0 + 1e-4  # bisection only, where E is infinite
    one = sharp(**wild)[0]
    # the lowered end of kappa = 1: 0.5 R - 0.5 lambda + X <= 0 with R = 1
    assert 1.1 <= one <= 1.1 + 1e-3
    assert sharp(**wild | {"start_ub": np.array([1.0])})[0] == 1.0


def test_nothing_wrong_is_nothing() -> None:
    """Delta = 0 and no rest: what is left is the charge for underflow."""
    none = inputs(delta_ub=np.zeros((1, 2)), value_and_accumulation_ub=np.zeros(1))
    assert 0.0 < sharp(**none)[0] < 2.0**-890
    assert sharp(**none | {"mass_lb": np.zeros((1, 2))})[0] == 10.0, "without mass nothing is proved"


def test_a_head_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    mass = rng.dirichlet(np.ones(5), 7)
    many = {
        "mass_ub": mass,
        "mass_lb": mass,
        "delta_ub": rng.random((7, 5)),
        "radius_ub": rng.random((7, 5)) + 0.5,
        "value_and_accumulation_ub": rng.random(7),
        "start_ub": np.full(7, 50.0),
    }
    whole = sharp(**many)
    monkeypatch.setattr(module, "CHUNK", 11)
    # rounds are added while any head of a chunk needs them: a chunk changes the last digits of the search, at most
    np.testing.assert_allclose(sharp(**many), whole, rtol=1e-11)
    assert (whole < 50.0).all()


def test_alternatives_are_not_convex_and_the_search_minds() -> None:
    """T with alternatives can lie above its chord, so the safe step is not safe; what is returned is proved."""
    cap, credit = np.array([[0.5, 0.0]]), np.array([[0.0, 0.1]])
    # the first block switches from its alternative, flat at 0.5, to its own falling bracket
    given_ = inputs(
        mass_ub=np.array([[1.0, 0.1]]),
        mass_lb=np.array([[1.0, 0.1]]),
        delta_ub=np.array([[1.0, 0.0]]),
        radius_ub=np.array([[1.0, 0.0]]),
        value_and_accumulation_ub=np.zeros(1),
        start_ub=np.array([6.0]),
    )
    numbers = {name: value for name, value in given_.items() if name != "start_ub"}
    at = Function.of(**numbers, kappa=np.ones(1), cap_ub=cap, credit_lb=credit).at
    low, high = 0.0, 6.0
    t_low, t_high = (float(at(np.array([x]))[0][0]) for x in (low, high))
    step = low + (high - low) * t_low / (t_low - t_high)
    assert float(at(np.array([step]))[0][0]) > 0.0, "the chord's zero is not proved here"
    found = sharp(**given_, cap_ub=cap, credit_lb=credit)
    assert certifies(at, found).all()
    assert not certifies(at, found * (1 - 1e-9)).any()


def test_search_replaces_steps_that_leave_the_bracket() -> None:
    """Slopes that are wrong cost size only: every end is evaluated."""

    def at(x: FloatArray) -> tuple[FloatArray, FloatArray]:
        return 1.0 - x, np.array([np.nan, 0.0, 5.0, -1e-9])

    found = smallest_certified(at, np.full(4, 8.0), outward(1))
    assert (found >= 1.0).all()
    assert (found <= 1.0 + 1e-9).all()
    # and T that never falls to 0, or a start that is no number to begin with
    flat = smallest_certified(lambda x: (np.ones_like(x), np.zeros_like(x)), np.array([2.0, np.inf, 0.0]), 1.0)
    assert flat.tolist() == [2.0, np.inf, 0.0]
    assert certifies(at, np.array([np.inf, np.nan, -1.0, 1.0])).tolist() == [False, False, False, True]


def test_choice_of_kappa() -> None:
    """Of one Delta it is 1/cosh; it is finite and not negative whatever comes in."""
    delta = np.array([[0.1], [1.0], [3.0]])
    one = np.ones((3, 1))
    numbers = {
        "mass_ub": one,
        "mass_lb": one,
        "delta_ub": delta,
        "radius_ub": one,
        "value_and_accumulation_ub": np.zeros(3),
    }
    kappa = choose_kappa(**numbers, start_ub=np.full(3, 100.0))
    # golden section: 0.618**20 of 2 Delta, and T is flat to 2**-26 about its smallest
    np.testing.assert_allclose(kappa, 1 / np.cosh(delta[:, 0]), rtol=1e-3)
    for bad in (np.nan, np.inf, 0.0):
        strange = choose_kappa(**{**numbers, "delta_ub": bad * one}, start_ub=np.array([1.0, np.inf, np.nan]))
        assert np.isfinite(strange).all()
        assert (strange >= 0.0).all()
    assert (
        choose_kappa(
            **{name: x[:, :0] if x.ndim == 2 else x for name, x in numbers.items()}, start_ub=one[:, 0]
        ).tolist()
        == [1.0] * 3
    )
    assert uniform_kappa(np.array([0.0, 1e6])).tolist() == [1.0, 0.0]


def test_golden_section() -> None:
    found = golden_section(lambda x: (x - np.array([0.3, -2.0])) ** 2, np.array([-1.0, -1.0]), np.array([1.0, 1.0]))
    np.testing.assert_allclose(found, [0.3, -1.0], atol=2 * 0.6181**20 * 2)


PAGE = Path(__file__).resolve().parents[3] / "docs/derivations/sharp.md"


def figures(delta: float) -> list[float]:
    """Return a row of the table of the derivation, all columns after Delta."""
    e = np.exp(delta)
    one = arrays([(1.0, delta, 1.0)], 0.0)
    start = np.array([1e3])
    closed, root = e * (e - 1), float(sharp(**one, start_ub=start)[0])
    best = float(sharp(**one, start_ub=start, kappa=uniform_kappa(delta))[0])
    rng = np.random.default_rng(0)
    mass = rng.lognormal(size=(200, 64))
    mass /= mass.sum(axis=-1, keepdims=True)
    many = {
        "mass_ub": mass,
        "mass_lb": mass,
        "delta_ub": delta * rng.uniform(0.3, 1.0, mass.shape),
        "radius_ub": rng.lognormal(0.0, 0.3, mass.shape),
        "value_and_accumulation_ub": np.zeros(len(mass)),
    }
    raised = (mass * np.expm1(many["delta_ub"]) * many["radius_ub"]).sum(axis=-1)
    block = raised / (mass * np.exp(-many["delta_ub"])).sum(axis=-1) * (1 + 1e-9)
    kappa = choose_kappa(**many, start_ub=block)
    means = [np.exp(np.log(block / sharp(**many, start_ub=block, kappa=k)).mean()) for k in (1.0, kappa)]
    return [closed, root, best, closed / root, closed / best, *map(float, means)]


def test_the_page_shows_what_is_measured() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.read_text("utf-8").splitlines() if re.match(r"\| [.\d]+ \|", line)]
    assert [float(row[0]) for row in rows] == [0.1, 0.5, 1.0, 2.0]
    for delta, *shown in rows:
        # the page shows three or four digits
        np.testing.assert_allclose([float(x) for x in shown], figures(float(delta)), rtol=5e-3)
