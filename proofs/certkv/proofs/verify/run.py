"""Run tasks in processes of their own, in the order they were given: what does not come back with a finding failed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from queue import SimpleQueue

from certkv.proofs.verify.child import Child, LostError
from certkv.proofs.verify.finding import Finding, Task
from certkv.proofs.verify.tasks import all_tasks

TASK_SECONDS = 900.0
"""Wall time of one task, unless told otherwise. The slowest takes about ten seconds on an idle core."""

START_SECONDS = 300.0
"""Wall time that a process may take to import everything."""

Source = Callable[[], Sequence[Task]]


def run_task(task: Task) -> Finding:
    """Run one task; whatever goes wrong in it is its outcome, and a failure."""
    begun = time.perf_counter()
    try:
        ok, by, detail = task.run()
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # noqa: BLE001 - SystemExit too: a broken task is a failure and ends nothing else
        ok, by, detail = False, "error", f"{type(error).__name__}: {error}"
    return Finding(ok is True, by, detail, time.perf_counter() - begun)


def serve(pipe: Connection, source: Source) -> None:
    """Answer ids of tasks with findings: tasks are closures and do not travel between processes."""
    known = {task.id: task for task in source()}
    try:
        pipe.send("ready")
        while True:
            pipe.send(run_task(known[pipe.recv()]))
    except (EOFError, BrokenPipeError):
        return  # nobody asks any more


class Worker:
    """Runs one task after the other in a process, and in a new one where that one is lost."""

    def __init__(self, source: Source, limit: float) -> None:
        self._source, self._limit = source, limit
        self._child: Child | None = None
        self._lock = threading.Lock()
        self._closed = False

    def run(self, task: Task) -> Finding:
        """Return the finding of a task; never raises for what becomes of the process."""
        begun = time.perf_counter()
        try:
            child = self._running()
            child.send(task.id)
            finding = child.receive(self._limit)
            if isinstance(finding, Finding):
                return finding
            detail = f"not a finding: {finding!r}"
        except LostError as lost:
            detail = str(lost)
        except Exception as error:  # noqa: BLE001 - a process that cannot be started proves nothing
            detail = f"{type(error).__name__}: {error}"
        self._end()
        return Finding(False, "error", detail, time.perf_counter() - begun)

    def close(self) -> None:
        """End the process; no other is started."""
        with self._lock:
            self._closed = True
        self._end()

    def _running(self) -> Child:
        with self._lock:
            if self._closed:
                raise LostError("verification was ended")
            if self._child is not None:
                return self._child
            child = self._child = Child(serve, self._source)
        child.receive(START_SECONDS)
        return child

    def _end(self) -> None:
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.end()


def run_tasks(
    tasks: Sequence[Task], jobs: int, source: Source = all_tasks, limit: float = TASK_SECONDS
) -> Generator[tuple[Task, Finding], None, None]:
    """Yield every task with its finding, in order.

    Parameters
    ----------
    tasks : sequence of Task
        Some that `source` knows.
    jobs : int
        Number of processes, at least 1; nothing runs in this one.
    source : callable
        Where a process finds the tasks; a function that can be imported.
    limit : float
        Seconds of wall time for a task; one that takes longer has failed.
    """
    free: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker(source, limit) for _ in range(jobs)]
    for worker in workers:
        free.put(worker)

    def ask(task: Task) -> Finding:
        worker = free.get()
        try:
            return worker.run(task)
        finally:
            free.put(worker)

    with ThreadPoolExecutor(jobs) as threads:
        try:
            futures = [(task, threads.submit(ask, task)) for task in tasks]
            for task, future in futures:
                yield task, future.result()
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for worker in workers:
                worker.close()
