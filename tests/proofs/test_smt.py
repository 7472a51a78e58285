"""The framework: only ``unsat`` is a proof, and nothing that goes wrong passes for one."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import z3

from certkv.proofs.lemmas import all_lemmas
from certkv.proofs.smt import __main__ as command
from certkv.proofs.smt import solvers
from certkv.proofs.smt.check import WANTED, ProofResult, prove, refute_broken
from certkv.proofs.smt.engines import Answer
from certkv.proofs.smt.lemma import Goal, Lemma, constants, smtlib, smtlib_hypotheses
from certkv.proofs.smt.solvers import SOLVERS, Outcome, solve, versions
from certkv.proofs.smt.terms import at_most, between, inverse, norm_at_most, real, reals

SQUARE = "(set-logic QF_NRA)\n(declare-const x Real)\n(assert (< (* x x) {}))\n(check-sat)\n"
BITS = "(set-logic QF_BV)\n(declare-const x (_ BitVec 8))\n(assert ({} (bvadd x x) (bvshl x #x01)))\n(check-sat)\n"


def am_gm() -> Goal:
    x, y = reals("x y")
    return real(2 * x * y <= x * x + y * y)


def too_strong() -> Goal:
    x, y = reals("x y")
    return real(2 * x * y < x * x + y * y)


def contradictory() -> Goal:
    x, y = reals("x y")
    return real(x > y, x > 1, x * x < 1, y >= 0)


def raises() -> Goal:
    raise ZeroDivisionError("no goal")


GOOD = Lemma("smt.good", "2xy <= x^2 + y^2", am_gm, too_strong)

HARD = (
    "(set-logic QF_NRA)\n"
    + "".join(f"(declare-const {x} Real)\n" for x in "abcdef")
    + "(assert (< (+ (* a a a a b b) (* b b b b c c) (* c c c c d d) (* d d d d e e) (* e e e e f f) (* f f f f a a))"
    + " (* 6 a a b b c c d d e e f f)))\n(assert (< (* a b c d e f) 1))\n(check-sat)\n"
)


def wrong(results: list[ProofResult]) -> list[ProofResult]:
    return [result for result in results if not result.ok]


@pytest.mark.parametrize("solver", ["z3", "cvc5"])
def test_reals(solver: str) -> None:
    assert solve(SQUARE.format(0), solver).answer == "unsat"
    found = solve(SQUARE.format(4), solver)
    assert found.answer == "sat"
    assert "x = " in found.detail
    assert found.seconds > 0


@pytest.mark.parametrize("solver", SOLVERS)
def test_bits(solver: str) -> None:
    assert solve(BITS.format("distinct"), solver).answer == "unsat"
    assert solve(BITS.format("="), solver).answer == "sat"


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    "text",
    [
        "(set-logic QF_BV)\n(assert (= unknown_name 1))\n(check-sat)\n",
        "(set-logic QF_BV)\n(declare-const x (_ BitVec 8)\n(check-sat)\n",
        "(set-logic QF_BV)\n(declare-const x (_ BitVec 8))\n(assert (bvnothing x))\n(check-sat)\n",
        "(set-logic QF_BV)\n(assert false)\n",  # no question
        "(set-logic QF_BV)\n(check-sat)\n(assert false)\n(check-sat)\n",  # two
        "",
    ],
)
def test_a_bad_text_is_an_error(solver: str, text: str) -> None:
    outcome = solve(text, solver)
    assert outcome.answer == "error"
    assert outcome.detail


@pytest.mark.parametrize("solver", ["z3", "cvc5"])
def test_out_of_effort_is_unknown(solver: str) -> None:
    assert solve(HARD, solver, limit=1000).answer == "unknown"


def test_out_of_time_is_unknown() -> None:
    factors = (
        "(set-logic QF_BV)\n(declare-const x (_ BitVec 64))\n(declare-const y (_ BitVec 64))\n"
        "(assert (= (bvmul ((_ zero_extend 64) x) ((_ zero_extend 64) y)) #x0000000000000000b3a2f5f4fd4d9e2cb1c5))\n"
    ).replace("#x0000000000000000b3a2f5f4fd4d9e2cb1c5", "(_ bv340282366920938460843936948965011886881 128)")
    far = "(assert (bvugt x (_ bv1 64)))\n(assert (bvugt y x))\n(check-sat)\n"
    assert solve(factors + far, "bitwuzla", limit=20).answer == "unknown"


def test_a_solver_that_does_not_come_back_is_unknown() -> None:
    """Where cvc5's nonlinear solver spends hours it counts no step: the triangle inequality in one piece."""
    x1, x2, y1, y2, X, Y = reals("x1 x2 y1 y2 X Y")
    triangle = real(norm_at_most([x1 + y1, x2 + y2], X + Y), norm_at_most([x1, x2], X), norm_at_most([y1, y2], Y))
    outcome = solve(smtlib(triangle), "cvc5", wall=1.0)
    assert outcome.answer == "unknown"
    assert outcome.detail == "ended after 1 s of wall time"
    assert 1.0 <= outcome.seconds < 10.0
    assert solve(SQUARE.format(0), "cvc5").answer == "unsat"  # and the next question is answered


def test_a_solver_that_dies_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = solvers._Engines()
    monkeypatch.setattr(solvers, "_ENGINES", engines)
    assert solve(SQUARE.format(0), "z3").answer == "unsat"
    process = engines._process
    assert process is not None
    process.kill()
    while process.poll() is None:
        time.sleep(0.01)
    assert solve(SQUARE.format(0), "z3").answer == "unsat"  # noticed, and started again
    monkeypatch.setattr(sys, "executable", "/bin/false")
    engines._close()
    dead = solve(SQUARE.format(0), "z3")
    assert dead.answer == "error"
    assert "took its process down" in dead.detail


def test_no_such_solver() -> None:
    with pytest.raises(ValueError, match="no solver 'oracle'"):
        solve(SQUARE.format(0), "oracle")


@pytest.mark.parametrize("answer", ["sat", "unsat", "unknown", "error"])
def test_only_the_wanted_answer_counts(answer: Answer) -> None:
    for question, wanted in WANTED.items():
        assert ProofResult("x", question, "z3", Outcome(answer, 0.0)).ok == (answer == wanted)
    assert WANTED == {"proof": "unsat", "hypotheses": "sat", "broken": "sat"}


def test_a_good_lemma() -> None:
    results = prove(GOOD)
    assert [(r.question, r.solver) for r in results] == [("proof", "z3"), ("proof", "cvc5"), ("hypotheses", "z3")]
    assert not wrong(results)
    assert [r.solver for r in refute_broken(GOOD)] == ["z3", "cvc5"]
    assert not wrong(refute_broken(GOOD))


def test_a_false_lemma_fails() -> None:
    results = wrong(prove(replace(GOOD, build=too_strong)))
    assert [(r.question, r.outcome.answer) for r in results] == [("proof", "sat")] * 2


def test_a_broken_variant_that_holds_fails() -> None:
    assert [r.outcome.answer for r in wrong(refute_broken(replace(GOOD, broken=am_gm)))] == ["unsat"] * 2


def test_contradictory_hypotheses_fail() -> None:
    """Both solvers "prove" it; the vacuity check is what stops it."""
    results = prove(replace(GOOD, build=contradictory))
    assert [(r.question, r.ok) for r in results] == [("proof", True), ("proof", True), ("hypotheses", False)]
    assert results[-1].outcome.answer == "unsat"


def test_too_little_effort_fails() -> None:
    hard = next(lemma for lemma in all_lemmas() if lemma.id == "decomposition.three_tokens")
    results = prove(hard, limit=1)
    assert all(r.outcome.answer == "unknown" for r in results if r.question == "proof")
    assert not any(r.ok for r in results if r.question == "proof")


def test_an_error_in_building_fails() -> None:
    for results in (prove(replace(GOOD, build=raises)), refute_broken(replace(GOOD, broken=raises))):
        assert [r.outcome.answer for r in results] == ["error"] * 2
        assert "ZeroDivisionError: no goal" in results[0].outcome.detail


def test_no_solver_is_refused() -> None:
    with pytest.raises(ValueError, match="no solver listed"):
        replace(GOOD, solvers=())


def test_a_solver_listed_twice_is_refused() -> None:
    """It would look like two independent proofs."""
    with pytest.raises(ValueError, match="lists a solver twice"):
        replace(GOOD, solvers=("z3", "cvc5", "z3"))


@pytest.mark.timeout(60)
def test_shared_terms_are_entered_once() -> None:
    """A term of 200 nodes whose tree has 2^100 leaves: walking the tree would never end."""
    x, y = reals("x y")
    term = x
    for _ in range(100):
        term = term + term * y
    assert {constant.sexpr() for constant in constants([term >= 0, z3.Bool("b")])} == {"x", "y", "b"}
    assert len(constants([x > y, y > x, x == 1])) == 2
    text = smtlib(Goal("QF_NRA", [], term >= 0))
    assert text.count("declare-const") == 2
    assert constants([z3.RealVal(1) > 0, z3.BoolVal(True)]) == []


def test_no_such_logic_is_refused() -> None:
    with pytest.raises(ValueError, match="QF_MAGIC"):
        Goal("QF_MAGIC", [], z3.BoolVal(True))


def test_one_text_with_negated_conclusion() -> None:
    x = z3.Real("x")
    text = smtlib(Goal("QF_LRA", [x >= 1], x >= 0))
    assert text == (
        "(set-logic QF_LRA)\n(declare-const x Real)\n(assert (>= x 1.0))\n(assert (not (>= x 0.0)))\n(check-sat)\n"
    )
    assert smtlib_hypotheses(Goal("QF_LRA", [x >= 1], x >= 0)).count("assert") == 1
    assert smtlib_hypotheses(Goal("QF_LRA", [], x >= 0)).count("(check-sat)") == 1


def test_terms() -> None:
    x, y, E, F = reals("x y E F")
    assert solve(smtlib(real(at_most(-x, y), at_most(x, y))), "z3").answer == "unsat"
    assert solve(smtlib(real(y >= 0, at_most(x, y))), "z3").answer == "unsat"
    assert solve(smtlib(real(x <= 2, between(x, y, 1))), "z3").answer == "unsat"
    assert solve(smtlib(real(F <= 1, inverse(E, F))), "z3").answer == "unsat"
    assert solve(smtlib(real(F < 1, inverse(E, F))), "z3").answer == "sat"


def test_versions() -> None:
    assert set(versions()) == set(SOLVERS)
    assert all(version[0].isdigit() for version in versions().values())


def test_ids_are_unique(monkeypatch: pytest.MonkeyPatch) -> None:
    from certkv.proofs.lemmas import decomposition

    assert len({lemma.id for lemma in all_lemmas()}) == len(all_lemmas())
    monkeypatch.setattr(decomposition, "LEMMAS", (GOOD, GOOD))
    with pytest.raises(ValueError, match=r"defined twice: smt\.good"):
        all_lemmas()


def test_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.main(["decomposition"]) == 0
    assert "decomposition.step" in capsys.readouterr().out
    assert command.main(["no_such_stem"]) == 2
    monkeypatch.setattr(command, "all_lemmas", lambda: (replace(GOOD, build=contradictory), GOOD))
    assert command.main([]) == 1
    out = capsys.readouterr().out
    assert "FAILED smt.good: hypotheses" in out
    assert "2 lemmas, 1 failures" in out or "2 lemmas, 2 failures" in out


def test_command_writes_the_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "all_lemmas", lambda: (GOOD, replace(GOOD, id="smt.slow", quick=False)))
    assert command.main(["smt", "--quick", "--write", str(tmp_path)]) == 0
    texts = {path.name: path.read_text("utf-8") for path in tmp_path.iterdir()}
    assert set(texts) == {"smt.good.smt2", "smt.good.broken.smt2"}
    assert solve(texts["smt.good.smt2"], "cvc5").answer == "unsat"
    assert solve(texts["smt.good.broken.smt2"], "cvc5").answer == "sat"
