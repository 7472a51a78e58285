"""Everything that can be checked, from every source of evidence, as one list."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

from certkv.proofs.adversary.attacks import attack_by_id
from certkv.proofs.adversary.corpus import Stored, load, replay
from certkv.proofs.campaign.generators import GENERATORS
from certkv.proofs.campaign.plan import Job, planned_jobs
from certkv.proofs.campaign.run import run_job
from certkv.proofs.campaign.tally import Tally
from certkv.proofs.contract.models import MODELS, Model
from certkv.proofs.contract.planted import PLANTED
from certkv.proofs.contract.stateful import run as drive
from certkv.proofs.exhaustive import FACTS
from certkv.proofs.lemmas import all_lemmas
from certkv.proofs.mutants.model import CheckFailed
from certkv.proofs.smt.check import ProofResult, prove, refute_broken
from certkv.proofs.smt.lemma import Lemma
from certkv.proofs.verify.finding import Task

Run = Callable[[], tuple[bool, str, str]]

QUICK, FULL = 0.001, 0.01
"""Shares of the full campaign."""

SEED = 1
"""Another one than the campaign's own default, so that verifying looks at cases of its own."""

HISTORIES = 40
"""Histories of the reference driven beside its model."""


def all_tasks() -> tuple[Task, ...]:
    """Every task.

    Raises
    ------
    ValueError
        If two tasks share an id.
    """
    tasks = tuple(task for source in SOURCES for task in source())
    ids = [task.id for task in tasks]
    if twice := sorted({name for name in ids if ids.count(name) > 1}):
        raise ValueError(f"tasks defined twice: {', '.join(twice)}")
    return tasks


def must_fail(call: Callable[[], object], by: str) -> Run:
    """Turn a check of a planted mistake into a task: it succeeds if the mistake is noticed."""

    def run() -> tuple[bool, str, str]:
        try:
            call()
        except CheckFailed:
            return True, by, ""
        return False, by, "a planted mistake was not noticed"

    return run


def solver_lemmas() -> Iterator[Task]:
    """Each lemma, and each broken variant: a procedure that accepts one of these would accept anything."""
    for lemma in all_lemmas():
        broken = f"broken on purpose, must be refuted: {lemma.statement}"
        yield Task(lemma.id, lemma.stem, "smt", lemma.statement, lemma.quick, _proof(lemma))
        yield Task(f"{lemma.id}!", lemma.stem, "smt", broken, lemma.quick, _refutation(lemma))


def _said(results: list[ProofResult]) -> tuple[bool, str, str]:
    """Summarise what the solvers answered."""
    wrong = [f"{r.question}, {r.solver}: {r.outcome.answer} {r.outcome.detail}".strip() for r in results if not r.ok]
    by = ", ".join(dict.fromkeys(r.solver for r in results if r.question != "hypotheses"))
    return not wrong, by, "; ".join(wrong)


def _proof(lemma: Lemma) -> Run:
    return lambda: _said(prove(lemma))


def _refutation(lemma: Lemma) -> Run:
    return lambda: _said(refute_broken(lemma))


def exhaustive_facts() -> Iterator[Task]:
    """Facts with finitely many cases, and the planted mistakes that their checks must notice."""
    for fact in FACTS:
        name = f"exhaustive:{fact.id}"
        yield Task(name, fact.theorem, "exhaustive", fact.statement, fact.quick, _every_case(fact.run))
        broken = f"planted mistake, must be noticed: {fact.statement}"
        yield Task(f"{name}!", fact.theorem, "exhaustive", broken, fact.quick, must_fail(fact.broken, "every case"))


def _every_case(check: Callable[[], None]) -> Run:
    def run() -> tuple[bool, str, str]:
        try:
            check()
        except CheckFailed as failure:
            return False, "every case", str(failure)
        return True, "every case", ""

    return run


def contract_machines() -> Iterator[Task]:
    """List the contract's machines: searched to the last state, and driven beside the reference."""
    for model in MODELS:
        yield Task(f"model:{model.id}", model.stem, "model", model.statement, True, _searched(model))
        for mistake, call in model.broken.items():
            what = f"planted mistake, must be noticed: {mistake}"
            name = f"model:{model.id}:{mistake}!"
            yield Task(name, model.stem, "model", what, True, must_fail(call, "search"))
    what = f"the reference does what the machines do, over {HISTORIES} histories of appends, steps and faults"
    yield Task("model:reference", "cache_life", "model", what, True, _driven())
    for mistake, plant in PLANTED.items():
        said = f"planted in the reference, must be noticed: {mistake}"
        yield Task(
            f"model:reference:{mistake}!", "cache_life", "model", said, False, must_fail(_drive(plant), "histories")
        )


def _searched(model: Model) -> Run:
    def run() -> tuple[bool, str, str]:
        try:
            states, transitions = model.run()
        except CheckFailed as failure:
            return False, "search", str(failure)
        return True, "search", f"{states} states, {transitions} transitions"

    return run


def _drive(plant: Callable[[], AbstractContextManager[None]] = nullcontext) -> Callable[[], None]:
    def call() -> None:
        with plant():
            drive(HISTORIES, 20)

    return call


def _driven() -> Run:
    def run() -> tuple[bool, str, str]:
        try:
            _drive()()
        except CheckFailed as failure:
            return False, "histories", str(failure)
        return True, "histories", f"{HISTORIES} histories"

    return run


def adversary_corpus() -> Iterator[Task]:
    """List the worst inputs that an optimising adversary has found, played again."""
    for number, stored in enumerate(load()):
        attack = attack_by_id(stored.attack)
        what = f"worst input found for {attack.bound} ({stored.origin}): error/bound {stored.ratio:.4g}"
        yield Task(f"corpus:{stored.attack}:{number}", attack.theorem, "enclosure", what, True, _played(stored))


def _played(stored: Stored) -> Run:
    def run() -> tuple[bool, str, str]:
        (result,) = replay([stored])
        return result.ok, "arb", result.detail or f"error/bound {result.attained.ratio:.6g}"

    return run


def campaign_generators() -> Iterator[Task]:
    """Take a share of the soundness campaign, one task per generator; the full run has a larger share."""
    for fraction, quick in ((QUICK, True), (FULL, False)):
        jobs: dict[str, list[Job]] = {name: [] for name in GENERATORS}
        for job in planned_jobs(GENERATORS, fraction):
            jobs[job.generator].append(job)
        for name, mine in jobs.items():
            if mine:
                what = f"head-steps of the generator {name}: no error above its bound, no promise broken"
                yield Task(f"campaign:{name}:{fraction:g}", "step", "enclosure", what, quick, _campaigned(mine))


def _campaigned(jobs: list[Job]) -> Run:
    def run() -> tuple[bool, str, str]:
        tally = Tally()
        for job in jobs:
            tally.merge(run_job(job, SEED))
        if not tally.head_steps:
            return False, "float64, arb", "no head-step was taken"
        bad = [*tally.violations, *tally.breaks, *tally.warnings, *tally.undecided]
        figures = f"{tally.head_steps} head-steps, {tally.enclosed} by enclosures"
        return not bad, "float64, arb", "; ".join([figures, *bad])

    return run


SOURCES: tuple[Callable[[], Iterator[Task]], ...] = (
    solver_lemmas,
    exhaustive_facts,
    contract_machines,
    adversary_corpus,
    campaign_generators,
)
