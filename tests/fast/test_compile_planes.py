"""The kernels that know levels compile for compute capability 9.0, hardly spill, and flush no subnormals."""

from __future__ import annotations

from collections import Counter

from .compiled import SHARED_MEMORY, compiled

SPILLED = {"refine_kernel": 16}
"""Bytes, loads and stores together, that a kernel may spill: of refine an address, with BF16 values of 96 channels.

It is launched alone under `PaperPolicy`, which reads no planes; `Budget` has it in the ladder."""


def test_spills_and_flushing() -> None:
    kernels: Counter[str] = Counter()
    for line in compiled("planes_launches.py"):
        name, registers, spills, shared, flushed = line
        kernels[name] += 1
        # joining corrections takes one logarithm, of a number that is no bound
        assert spills <= SPILLED.get(name, 0), line
        assert flushed == 0 or name == "settle_kernel", line
        assert registers <= 255, line
        assert shared <= SHARED_MEMORY, line
    every: tuple[str, ...] = ("certify_kernel", "choose_kernel", "compact_kernel", "refine_kernel", "settle_kernel")
    every += ("finish_levels_kernel", "mark_kernel", "write_filled_kernel", "verify_kernel")
    # six settings; in five of them keys have planes, and in five values do, of two in two settings
    counted = dict.fromkeys(every, 6) | {"score_error_kernel": 5, "encode_plane_kernel": 14, "level_norm_kernel": 14}
    assert kernels == counted
