"""The command run in-process."""

from __future__ import annotations

import pytest

from certkv.cli.main import main

from .support import Outcome, Run


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*argv: object) -> Outcome:
        code = main([str(a) for a in argv])
        seen = capsys.readouterr()
        return Outcome(code, seen.out, seen.err)

    return call
