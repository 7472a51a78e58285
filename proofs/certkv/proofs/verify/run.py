"""Run tasks, in several processes, in the order they were given."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

from certkv.proofs.verify.finding import Finding, Task
from certkv.proofs.verify.tasks import all_tasks

_BY_ID: dict[str, Task] = {}


def run_task(task: Task) -> Finding:
    """Run one task; whatever goes wrong in it is its outcome, and a failure."""
    begun = time.perf_counter()
    try:
        ok, by, detail = task.run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a broken task is a failure and ends nothing else
        ok, by, detail = False, "error", f"{type(error).__name__}: {error}"
    return Finding(ok, by, detail, time.perf_counter() - begun)


def _in_worker(identifier: str) -> Finding:
    """Look the task up again: tasks are closures and do not travel between processes."""
    if not _BY_ID:
        _BY_ID.update({task.id: task for task in all_tasks()})
    return run_task(_BY_ID[identifier])


def run_tasks(tasks: Sequence[Task], jobs: int) -> Iterator[tuple[Task, Finding]]:
    """Yield every task with its finding, as they finish in order.

    Parameters
    ----------
    tasks : sequence of Task
        With more than one job, tasks that `all_tasks` knows.
    jobs : int
        Number of processes; 1 runs everything here.
    """
    if jobs <= 1:
        for task in tasks:
            yield task, run_task(task)
        return
    # spawned, not forked: solvers and BLAS keep threads that a fork would lose
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context) as pool:
        futures = [(task, pool.submit(_in_worker, task.id)) for task in tasks]
        for task, future in futures:
            try:
                yield task, future.result()
            except Exception as error:  # noqa: BLE001 - a worker that died proved nothing
                yield task, Finding(False, "error", f"{type(error).__name__}: {error}", 0.0)
