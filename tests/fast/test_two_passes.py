"""Keys in halves of their channels and whole: other loops over the same numbers, judged as in `test_attend`."""

from __future__ import annotations

import pytest
import torch

from certkv.fast import arithmetic
from certkv.fast.attend import scaled_squares
from certkv.fast.coded import Coded, grouped
from certkv.fast.kernels import attend
from certkv.fast.kernels.merge import launch as launch_merge
from certkv.fast.rounding import rounding
from certkv.fast.split_terms import ANY_LOST, ANY_UP

from .attend_scene import judge, scene
from .heads import of_heads

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


@pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter")
@pytest.mark.parametrize("name", ["oscar", "oscar-4"])
@pytest.mark.parametrize("q_heads", [3, 8])
def test_statistics(q_heads: int, name: str) -> None:
    """Of every block that a pass covers: those of the weights that it stored, summed in any order in binary32."""
    heads = q_heads // 3
    s = scene([150, 64], q_heads=q_heads, kv_heads=heads, head_dim=128, block=64, keys=name, values=name)
    out = s.workspace()
    costs = rounding(arithmetic.INTERPRETED, s.cache, s.splits, 0, torch.float32)
    attend.launch(s.q, s.coded, s.cache.resident, s.scale, out, costs)
    for sequence, tokens in enumerate(s.cache.tokens):
        n = tokens // 64
        p, found = (of_heads(x)[sequence, :, :n].double() for x in (out.weights, out.statistics))
        # 64 terms, one rounding each for the square and for the sum
        for i, exact in enumerate((p.sum(-1), p.square().sum(-1))):
            assert ((found[..., i] - exact).abs() <= 65 * 2.0**-24 * exact).all()
        largest = p.amax(-1)
        assert ((found[..., 2] <= largest) & (largest <= found[..., 2] * ANY_UP + ANY_LOST)).all()
        pages = s.cache.pages.table[sequence, :n]
        squares = scaled_squares(grouped(s.q, heads)[sequence], s.coded, pages).reshape(q_heads, n).double()
        # 128 terms on either side
        assert ((found[..., 3] - squares).abs() <= 2 * 129 * 2.0**-24 * squares).all()
