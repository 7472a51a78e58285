"""Refinement planes in a cache: what is said of one that was lost."""

from __future__ import annotations

import numpy as np
import pytest

from certkv.reference import Cache, HostMissingError
from certkv.reference.cache.planes import Place


@pytest.mark.parametrize(("place", "tier"), [("device", "device memory"), ("host", "the host tier")])
def test_a_lost_plane_is_missing_where_it_lay(place: Place, tier: str) -> None:
    cache = Cache(kv_heads=2, head_dim=8, keys="int8+4", values="int4-g32+4", block=4, planes=place)
    x = np.random.default_rng(0).standard_normal((8, 2, 8)).astype(np.float16)
    cache.append(x, x)
    cache.planes.lose(kv_head=1, block=0)
    message = f"refinement plane 1 of the values of block 0, KV head 1, is not in {tier}; append its tokens again"
    with pytest.raises(HostMissingError, match=message) as caught:
        cache.planes.read("values", 0, 1, np.array([1, 0]))
    assert (caught.value.kv_head, caught.value.block) == (1, 0)
    assert cache.planes.read("values", 0, 0, np.array([1, 0])).any()
