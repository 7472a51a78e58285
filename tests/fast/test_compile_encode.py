"""The encoding kernels compile for compute capability 9.0, without spills and without flushing subnormals."""

from __future__ import annotations

from collections import Counter

import pytest

from .compiled import SHARED_MEMORY, compiled

LAUNCHES = {
    # six formats of values with two operator norms each, twice keys with one
    "encode_launches.py": {"encode_keys_kernel": 2, "encode_values_kernel": 6, "operator_norm_kernel": 14},
    # three operator norms each; one format has no norms of tokens
    "encode_oscar_launches.py": {
        "token_norm_kernel": 3,
        "encode_oscar_keys_kernel": 4,
        "encode_oscar_values_kernel": 4,
        "operator_norm_kernel": 12,
    },
}


@pytest.mark.parametrize("launches", LAUNCHES)
def test_no_spills_and_no_flushing(launches: str) -> None:
    kernels: Counter[str] = Counter()
    for line in compiled(launches):
        name, registers, spills, shared, flushed = line
        kernels[name] += 1
        assert (spills, flushed) == (0, 0), line
        assert registers <= 255, line
        assert shared <= SHARED_MEMORY, line
    assert kernels == LAUNCHES[launches]
