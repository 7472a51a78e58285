"""Keys in halves of their channels and whole: other loops over the same numbers, judged as in `test_attend`."""

from __future__ import annotations

import pytest

from certkv.fast import arithmetic
from certkv.fast.coded import Coded
from certkv.fast.kernels import attend
from certkv.fast.kernels.merge import launch as launch_merge

from .attend_scene import judge, scene

CASES = [
    ("oscar", "oscar"),
    ("oscar-g64", "oscar-g64"),
    ("oscar-head", "oscar"),
    ("oscar-4", "oscar"),
    ("oscar-4", "oscar-4"),
    ("oscar-4-g64", "int8-g64"),
    ("oscar", "int8"),
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter")
@pytest.mark.parametrize(("keys", "values"), CASES)
@pytest.mark.parametrize("halves", [True, False])
def test_pieces(keys: str, values: str, halves: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    s = scene([150, 64], q_heads=3, kv_heads=1, head_dim=128, block=64, keys=keys, values=values)
    assert s.coded.in_halves
    monkeypatch.setattr(Coded, "in_halves", halves)
    out = s.workspace()
    attend.launch(s.q, s.coded, s.cache.resident, s.scale, out)
    launch_merge(out, None)
    judged = judge(s, out, arithmetic.INTERPRETED)
    assert max(judged) <= 1.0, judged
