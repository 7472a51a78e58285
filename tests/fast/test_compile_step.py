"""The kernels that are a step's own compile for compute capability 9.0, without spills and flushing no subnormals."""

from __future__ import annotations

from collections import Counter

from .compiled import SHARED_MEMORY, compiled


def test_no_spills_and_no_flushing() -> None:
    kernels: Counter[str] = Counter()
    for line in compiled("step_launches.py"):
        name, registers, spills, shared, flushed = line
        kernels[name] += 1
        # joining corrections takes one logarithm, of a number that is no bound
        assert (spills, 0 if name == "settle_kernel" else flushed) == (0, 0), line
        assert registers <= 255, line
        assert shared <= SHARED_MEMORY, line
    own = ("begin_kernel", "refine_kernel", "keep_lost_kernel", "exact_terms_kernel", "finish_kernel")
    # six settings; corrections are joined in the first round and in later ones
    assert kernels == dict.fromkeys(own, 6) | {"refine_kernel": 12, "settle_kernel": 12}
