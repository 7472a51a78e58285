"""Verify a user's format: every check, then every planted mistake, as one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from certkv.proofs.mutants.model import CheckFailed
from certkv.proofs.userformat import cache_checks, storage_checks
from certkv.proofs.userformat.mutants import MUTANTS, FormatMutant, planted
from certkv.proofs.userformat.report import Report, Result, Row
from certkv.proofs.userformat.subject import Subject


@dataclass(frozen=True)
class FormatCheck:
    """A statement about a format.

    Attributes
    ----------
    id, what : str
    run : callable
        Returns what was looked at, or None where the format gives nothing to look at; raises `CheckFailed`.
    otherwise : str
        What holds where there is nothing to look at.
    """

    id: str
    what: str
    run: Callable[[Subject], str | None]
    otherwise: str = ""


CHECKS: tuple[FormatCheck, ...] = (
    FormatCheck("total", "every finite block has a finite float64 meaning of its shape", storage_checks.total),
    FormatCheck("input-kept", "encode leaves its argument as it was", storage_checks.input_kept),
    FormatCheck(
        "deterministic",
        "a block is encoded to the same meaning again, by this object and by a fresh one",
        storage_checks.deterministic,
    ),
    FormatCheck(
        "self-contained",
        "what is stored is all that decode needs: not what was encoded since, nor the object that encoded",
        storage_checks.self_contained,
    ),
    FormatCheck("stable", "decode changes nothing, and its result is the caller's", storage_checks.stable),
    FormatCheck(
        "meaning",
        "|decode - exact| <= decode_error_ub and <= 2^-53 |decode|, in rational arithmetic; all are finite",
        storage_checks.meaning,
        "neither exact() nor decode_error_ub(): what decode returns is the meaning",
    ),
    FormatCheck(
        "bytes",
        "bytes_per_block is at least what is held",
        storage_checks.bytes_counted,
        "no bytes_per_block(): what is held is counted",
    ),
    FormatCheck(
        "annotations",
        "measured residuals and norms are never below the true ones, in rational arithmetic",
        cache_checks.measured_truly,
    ),
    FormatCheck(
        "encoded-once",
        "however tokens arrive, a block is encoded once, and its meaning is the same and stays",
        cache_checks.encoded_once,
    ),
    FormatCheck(
        "naive",
        "under Naive every error is within a finite bound, judged by enclosures",
        cache_checks.naive_steps,
    ),
    FormatCheck(
        "budget",
        "under Budget too, and the bound meets the tolerance or the head comes from the originals",
        cache_checks.budget_steps,
    ),
)


def verify_format(
    given: Any,
    *,
    blocks: Sequence[int] | None = None,
    head_dims: Sequence[int] | None = None,
    mutants: bool = True,
    progress: Callable[[str], None] = lambda _: None,
    finished: Callable[[Row], None] = lambda _: None,
) -> Report:
    """Run a format through every check, and through every planted mistake.

    Parameters
    ----------
    given : class or object
        With ``encode(x)`` and ``decode(stored)``; see docs/verify_your_format.md. A class is called without arguments;
        an object is copied, so it should not have encoded anything yet.
    blocks, head_dims : sequence of int or None
        Tokens per block and channels to try, if the format is not made for all. None for small odd sizes and 64. The
        format's ``default_block`` is always tried.
    mutants : bool
        Whether to plant mistakes after the checks.
    progress : callable
        Called with the id of what runs next.
    finished : callable
        Called with each row of the report when it is known.

    Returns
    -------
    Report
        Never raises for what the format does: that is a failure in the report.

    Raises
    ------
    SettingError
        Not a format at all: ``encode`` or ``decode`` is missing, or ``kind`` or ``default_block`` says nothing known;
        or a size is below 1.
    """
    subject = Subject.of(given, blocks, head_dims)
    fmt = subject.adapted()
    rows: list[Row] = []
    for check in CHECKS:
        progress(check.id)
        rows.append(_run(check, subject))
        finished(rows[-1])
    if mutants:
        held = {row.id for row in rows if row.result == "pass"}
        for row in _mutants(subject, held, progress):
            rows.append(row)
            finished(row)
    return Report(fmt.name, type(fmt.inner).__name__, subject.tried, tuple(rows))


def _run(check: FormatCheck, subject: Subject) -> Row:
    start = time.perf_counter()
    result: Result = "pass"
    try:
        found = check.run(subject)
        detail = check.otherwise if found is None else found
        result = "pass" if found is not None else "not applicable"
    except CheckFailed as failure:
        result, detail = "fail", str(failure)
    except Exception as error:  # noqa: BLE001 - whatever the format made of a check, the check does not hold
        result, detail = "fail", f"{type(error).__name__}: {error}"
    return Row("check", check.id, check.what, result, detail, time.perf_counter() - start)


def _mutants(subject: Subject, held: set[str], progress: Callable[[str], None]) -> Iterator[Row]:
    checks = {check.id: check for check in CHECKS}
    for mutant in MUTANTS:
        progress(mutant.id)
        start = time.perf_counter()
        result, detail = _plant(mutant, subject, checks[mutant.check], held)
        yield Row("mutant", mutant.id, mutant.what, result, detail, time.perf_counter() - start)


def _plant(mutant: FormatMutant, subject: Subject, check: FormatCheck, held: set[str]) -> tuple[Result, str]:
    applies = _applies(mutant, subject)
    if not applies:
        return "not applicable", "changes nothing for this format"
    if check.id not in held and mutant.check != "bytes":
        return "not applicable", f"{check.id} does not hold without it"
    with planted(mutant, subject) as changed:
        row = _run(check, changed)
    if row.result == "fail":
        return "pass", f"{check.id}: {row.detail}"
    return "fail", f"{check.id} does not notice it"


def _applies(mutant: FormatMutant, subject: Subject) -> bool:
    try:
        return mutant.applies(subject)
    except (Exception, SystemExit):  # noqa: BLE001 - a format that cannot be tried has failed its checks, which say why
        return False
