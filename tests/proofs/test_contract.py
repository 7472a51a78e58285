"""The two machines: searched, tied to their solver encodings, tied to the code, and every planted mistake noticed."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import z3
from hypothesis import given
from hypothesis import strategies as st

from certkv.proofs.contract import __main__ as command
from certkv.proofs.contract import ladder_model, ladder_terms, stateful
from certkv.proofs.contract.ladder_model import Order, Phase, Seen, State
from certkv.proofs.contract.models import MODELS, ROUNDS, Model
from certkv.proofs.contract.planted import PLANTED
from certkv.proofs.contract.search import explore, longest_path
from certkv.proofs.contract.twin import Twin
from certkv.proofs.lemmas import cache_life, ladder
from certkv.proofs.mutants.model import CheckFailed
from certkv.proofs.smt.check import prove, refute_broken
from certkv.proofs.smt.lemma import Lemma
from certkv.reference import Budget, HostMissingError, Naive, PaperPolicy, Step
from certkv.reference.ladder import Observation, next_action

LEMMAS = (*ladder.LEMMAS, *cache_life.LEMMAS)


@pytest.mark.parametrize("lemma", LEMMAS, ids=lambda lemma: lemma.id)
def test_lemma(lemma: Lemma) -> None:
    for result in (*prove(lemma), *refute_broken(lemma)):
        assert result.ok, f"{result.question}, {result.solver}: {result.outcome}"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_search_finds_nothing(model: Model) -> None:
    states, transitions = model.run()
    assert 0 < states < transitions


@pytest.mark.parametrize(
    ("model", "mistake"), [(m, name) for m in MODELS for name in m.broken], ids=lambda x: getattr(x, "id", x)
)
def test_search_finds_a_planted_mistake(model: Model, mistake: str) -> None:
    with pytest.raises(CheckFailed):
        model.broken[mistake]()


def test_the_longest_step() -> None:
    """All rounds, rung 3, and rung 4 because another head asks for it: the limit is reached."""
    _, longest = ladder_model.search(ROUNDS)
    assert longest == ROUNDS + 3


def test_search_reports_a_cycle_and_the_shortest_path() -> None:
    def nothing(_: int) -> None:
        return None

    def ring(n: int) -> list[tuple[str, int]]:
        return [("+1", (n + 1) % 5)]

    def line(n: int) -> list[tuple[str, int]]:
        return [("+1", n + 1), ("+2", n + 2)] if n < 6 else []

    def even(n: int) -> None:
        if n == 3:
            raise CheckFailed("three")

    with pytest.raises(CheckFailed, match="need not end"):
        longest_path(explore([0], ring, nothing))
    assert longest_path(explore([0], line, nothing)) == 6
    with pytest.raises(CheckFailed, match=r"three; after \+1 > \+2: 3"):
        explore([0], line, even)


# the solver's encoding is the searched machine ------------------------------------------------------------------------

NUMBERS = {
    (Order.AT_MOST, Order.ABOVE): (0.5, 1.0),
    (Order.ABOVE, Order.ABOVE): (2.0, 1.0),
    (Order.UNORDERED, Order.ABOVE): (math.nan, 1.0),
    (Order.AT_MOST, Order.AT_MOST): (-1.0, -0.0),
    (Order.ABOVE, Order.AT_MOST): (1.0, 0.0),
    (Order.UNORDERED, Order.AT_MOST): (math.nan, 0.0),
    (Order.UNORDERED, Order.UNORDERED): (1.0, math.nan),
}
"""(bound, tolerance) for every pair of orders that numbers can have: nothing but NaN compares with a NaN tolerance."""


def test_orders_are_those_of_the_numbers() -> None:
    for (bound, tolerance), (b, t) in NUMBERS.items():
        assert ladder_model.order(b, t) is bound
        assert ladder_model.order(t, 0.0) is tolerance


def test_solver_terms_are_the_machine() -> None:
    """Evaluate the terms in every state and for every input, and compare phase, rounds and backing."""
    state, seen = ladder_terms.state_terms(), ladder_terms.seen_terms()
    after = ladder_terms.transition(state, seen)
    joined = z3.Concat(after.phase, after.rounds_left, after.backing)
    phases, backings = list(ladder_terms.PHASES), list(ladder_terms.BACKINGS)
    seen_states = 0
    for phase, rounds, readable in itertools.product(
        (Phase.ATTEND, Phase.READ_HEAD, Phase.READ_LAYER), (0, 2), (False, True)
    ):
        concrete = State(phase, rounds, readable)
        for inputs in ladder_model.inputs(concrete):
            if (inputs.bound, inputs.tolerance) not in NUMBERS:
                continue
            wanted = ladder_model.transition(concrete, inputs)
            bound, tolerance = NUMBERS[inputs.bound, inputs.tolerance]
            values = [
                (state.phase, ladder_terms.PHASES[phase]),
                (state.rounds_left, z3.BitVecVal(rounds, 8)),
                (state.all_readable, z3.BoolVal(readable)),
                (state.backing, z3.BitVecVal(0, 2)),
                *((seen.flags[name], z3.BoolVal(getattr(inputs, name))) for name in ladder_terms.FLAGS),
                (seen.bound, z3.FPVal(bound, z3.Float64())),
                (seen.tolerance, z3.FPVal(tolerance, z3.Float64())),
                (seen.promotable, z3.BoolVal(inputs.promotable)),
                (seen.number, z3.BoolVal(inputs.number)),
                (seen.layer_dense, z3.BoolVal(inputs.layer_dense)),
            ]
            found = z3.simplify(z3.substitute(joined, *values)).as_long()
            assert phases[found >> 10] is wanted.phase, (concrete, inputs)
            assert (found >> 2) & 255 == wanted.rounds_left
            assert backings[found & 3] is wanted.backing
            seen_states += 1
    # 2 rounds x (both kinds of reading: 4 + 2 inputs, twice; attending: 7 pairs of orders x 128 or 256 flags)
    assert seen_states == 2 * (2 * (4 + 2) + 7 * (128 + 256))


# the code is the searched machine -------------------------------------------------------------------------------------


def test_ladder_of_the_code_is_the_machine() -> None:
    for flags in itertools.product([False, True], repeat=5):
        for (bound, tolerance), rounds in itertools.product(NUMBERS.values(), (0, 1, 255)):
            names = ("finite", "originals_present", "consistent", "ranked", "bounded")
            settings = dict(zip(names, flags, strict=True))
            seen = Observation(bound=bound, tolerance=tolerance, rounds_left=rounds, **settings)
            assert next_action(seen) is ladder_model.action(ladder_model.abstract(seen), rounds), seen


@given(st.floats(), st.floats(), st.integers(0, 5))
def test_ladder_of_the_code_is_the_machine_for_any_numbers(bound: float, tolerance: float, rounds: int) -> None:
    seen = Observation(bound=bound, tolerance=tolerance, rounds_left=rounds)
    assert next_action(seen) is ladder_model.action(ladder_model.abstract(seen), rounds)


def test_the_reference_does_what_the_machines_do() -> None:
    stateful.run(100, 20)


@pytest.mark.parametrize("what", PLANTED)
def test_a_planted_mistake_is_noticed(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with PLANTED[what](), pytest.raises(CheckFailed):
        stateful.run(100, 20)
    capsys.readouterr()  # Hypothesis prints the history


def tokens(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    k, v = np.random.default_rng(seed).standard_normal((2, count, 2, 8)).astype(np.float16)
    return k, v


def test_a_history_written_out() -> None:
    """Append, decode, lose, decode, reset: what happens is also what a reader expects."""
    q = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float16)
    twin = Twin(slots=2)
    twin.append(*tokens(1, 11))
    assert (twin.life.blocks, twin.life.tail) == (2, 3)
    naive = twin.decode(q, Naive())
    assert isinstance(naive, Step)
    assert naive.certificate.rung.tolist() == [0] * 4
    exact = twin.decode(q, Budget(0.0))
    assert isinstance(exact, Step)
    assert exact.certificate.rung.tolist() == [3] * 4
    twin.lose(kv_head=1, block=0)
    lost = twin.decode(q, Budget(0.05))
    assert isinstance(lost, HostMissingError)
    assert (lost.kv_head, lost.block) == (1, 0)
    assert isinstance(twin.decode(q, Naive()), Step)
    twin.reset()
    twin.append(*tokens(2, 8))
    twin.damage("codes", "keys", 0, 1, seed=3)
    dense = twin.decode(q, PaperPolicy(k_min=1000, k_max=1000))
    assert isinstance(dense, Step)
    assert dense.certificate.rung.tolist() == [4] * 4


def test_what_is_resident_is_served_though_the_host_tier_has_lost_it() -> None:
    """The one thing that scratch can change: no error where, without it, there is one. What is read stays the same."""
    q = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float16)
    everything = PaperPolicy(k_min=1000, k_max=1000, value_tolerance=0.0)
    twin = Twin(slots=8)
    twin.append(*tokens(1, 8))
    before = twin.decode(q, everything)
    twin.lose()
    after = twin.decode(q, everything)
    assert isinstance(before, Step)
    assert isinstance(after, Step)
    assert after.output.tobytes() == before.output.tobytes()
    assert after.moved_bytes == 0
    bare = Twin(slots=0)
    bare.append(*tokens(1, 8))
    bare.lose()
    assert isinstance(bare.decode(q, everything), HostMissingError)


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    quick = MODELS[1]
    monkeypatch.setattr(command, "MODELS", (quick,))
    monkeypatch.setattr(command, "PLANTED", {"a block encoded twice": PLANTED["a block encoded twice"]})
    assert command.main(["--examples", "3"]) == 0
    assert "0 failures" in capsys.readouterr().out
    blind = Model(quick.id, quick.statement, quick.run, {"nothing at all": quick.run})
    monkeypatch.setattr(command, "MODELS", (blind,))
    assert command.main(["--examples", "3"]) == 1
    assert "1 failures" in capsys.readouterr().out


def test_seen_defaults_are_what_naive_shows() -> None:
    """A policy that asks nothing accepts: no monitor, no tolerance."""
    assert ladder_model.action(Seen(), 0) is next_action(Observation())
