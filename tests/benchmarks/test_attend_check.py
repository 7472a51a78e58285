"""The check of attend on a GPU: a small run of interpreted kernels, and that it ends at what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks.gpu import attend_check  # noqa: E402

from certkv.fast.workspace import Workspace  # noqa: E402


def test_a_small_run_as_a_user_starts_it() -> None:
    command = [sys.executable, "benchmarks/gpu/attend_check.py", "--quick", "--check-only"]
    of = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=of, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok   interpreted") == 2


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter")
@pytest.mark.parametrize("wrong", ["value_step", "key_minimum", "value_codes"])
def test_it_ends_at_a_wrong_number(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    case = attend_check.Case(1, 100, 2, 1, 64, 64, "int8-g64", torch.float16)
    attend_check.check(case, case.workspace(2), "as it is")
    run = case.run

    def falsified(out: Workspace) -> None:
        run(out)
        x = getattr(case.pool, wrong)
        x[...] = 255 - x if x.dtype == torch.uint8 else 1.5 * x  # the truth is of other numbers

    monkeypatch.setattr(case, "run", falsified)
    with pytest.raises(SystemExit):
        attend_check.check(case, case.workspace(2), wrong)
