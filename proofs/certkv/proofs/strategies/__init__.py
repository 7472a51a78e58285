"""Hypothesis strategies for decode steps, biased to the corners that break attention, quantizers and bounds.

For use in anybody's tests; needs the ``proofs`` extra. `head_steps` draws everything a step depends on::

    from hypothesis import given
    from certkv.proofs.strategies import head_steps

    @given(head_steps())
    def test_parts_add_up(case):
        c = case.decode().certificate
        assert (c.key + c.value + c.arithmetic >= c.bound).all()

`PROPERTIES` are the contract as functions of such a step; each raises where it does not hold.
"""

from certkv.proofs.strategies.head_steps import HeadStep, critical_steps, head_steps, originals, scenes
from certkv.proofs.strategies.policies import budgets, paper_policies, policies
from certkv.proofs.strategies.properties import PROPERTIES, Property
from certkv.proofs.strategies.textures import TEXTURES, rounded

__all__ = [
    "PROPERTIES",
    "TEXTURES",
    "HeadStep",
    "Property",
    "budgets",
    "critical_steps",
    "head_steps",
    "originals",
    "paper_policies",
    "policies",
    "rounded",
    "scenes",
]
