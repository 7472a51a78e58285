"""A process of our own for code that may crash, leave or never come back: what it does not say was not done."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

# spawned, not forked: solvers and BLAS keep threads that a fork would lose
_CONTEXT = multiprocessing.get_context("spawn")


class LostError(Exception):
    """The process ended, or its time was up, before it said what was asked."""


def _enter(pipe: Connection, serve: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """Run in the new process: a session of its own, so that what it starts can be ended with it."""
    if hasattr(os, "setsid"):
        os.setsid()
    serve(pipe, *arguments)


class Child:
    """A process, and the pipe to it.

    Parameters
    ----------
    serve : callable
        Runs in the process, as ``serve(pipe, *arguments)``. Found by its name there, as are the arguments' classes.
    *arguments

    Raises
    ------
    OSError
        No process can be started.
    """

    def __init__(self, serve: Callable[..., None], *arguments: object) -> None:
        self._pipe, theirs = _CONTEXT.Pipe()
        self._process = _CONTEXT.Process(target=_enter, args=(theirs, serve, arguments))
        try:
            self._process.start()
        except BaseException:
            self._pipe.close()
            raise
        finally:
            theirs.close()  # so that the end of the process is the end of the pipe

    def send(self, message: object) -> None:
        """Send one message; whether it arrives is seen by the answer."""
        with suppress(OSError):
            self._pipe.send(message)

    def receive(self, seconds: float) -> Any:
        """Return the next message.

        Raises
        ------
        LostError
            None came in time, or none can come any more.
        """
        if not wait([self._pipe, self._process.sentinel], seconds):
            raise LostError(f"no answer after {seconds:g} s of wall time")
        try:
            if self._pipe.poll():
                return self._pipe.recv()
        except Exception as error:  # noqa: BLE001 - an answer that cannot be read is none
            said = "" if isinstance(error, EOFError | OSError) else f", {type(error).__name__}: {error}"
        else:
            said = ""
        self._process.join(10.0)
        raise LostError(f"the process ended without an answer (exit code {self._process.exitcode}{said})")

    def end(self) -> None:
        """End the process and whatever it started, and reap it."""
        if self._process.pid is not None and hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.join()
        self._pipe.close()
