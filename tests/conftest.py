"""Hypothesis profiles, the roots for subprocesses, and kernels that are interpreted."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent
ROOTS = [str(ROOT / part) for part in ("reference", "proofs", "fast", "cli")]

# pytest's `pythonpath` does not reach subprocesses
os.environ["PYTHONPATH"] = os.pathsep.join([*ROOTS, *filter(None, [os.environ.get("PYTHONPATH")])])

# Triton reads this when a kernel is defined, so it holds for a whole process: the tests interpret, and what compiles a
# kernel does it in a subprocess without this variable. Set it to 0 to run the tests of the fast path on a GPU.
os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores already
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile("ci", derandomize=True, deadline=None, max_examples=50, print_blob=True)
settings.register_profile(
    "deep", deadline=None, max_examples=2_000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
