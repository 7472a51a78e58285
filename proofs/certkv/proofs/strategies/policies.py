"""Policies, over the whole range of every field."""

from __future__ import annotations

from hypothesis import strategies as st

from certkv.reference import Budget, Naive, PaperPolicy, Policy
from certkv.reference.policies import RELATIVE_TO

TOLERANCES = (0.0, 1e-12, 1e-3, 0.05, 0.3, 1.0, 1e3, 1e30)


def budgets() -> st.SearchStrategy[Budget]:
    """Any tolerance in any unit, up to three rounds of promotion."""
    return st.builds(Budget, st.sampled_from(TOLERANCES), st.sampled_from(RELATIVE_TO), st.integers(0, 3))


@st.composite
def paper_policies(draw: st.DrawFn) -> PaperPolicy:
    """Thresholds of the paper or any others; exploration and the value budget included."""
    k_min = draw(st.integers(1, 3))
    return PaperPolicy(
        coverage=draw(st.sampled_from((0.995, 0.0, 0.5, 1.0))),
        k_min=k_min,
        k_max=k_min + draw(st.sampled_from((0, 1, 126))),
        tail_threshold=draw(st.sampled_from((0.02, 0.0, 0.5, 1.0))),
        expansion=draw(st.sampled_from((2.0, 1.0, 1.5))),
        value_tolerance=draw(st.sampled_from((0.05, 0.0, 1e-3, 1e9))),
        value_budget=draw(st.sampled_from((None, 0.0, 0.01, 1e6))),
        rank=draw(st.integers(1, 3)),
        guard=draw(st.sampled_from((1e-6, 0.0, 1.0))),
        exploration=draw(st.sampled_from((0.0, 0.5, 1.0))),
        seed=draw(st.integers(0, 3)),
    )


def policies() -> st.SearchStrategy[Policy]:
    """Every policy."""
    return st.one_of(st.just(Naive()), paper_policies(), budgets())
