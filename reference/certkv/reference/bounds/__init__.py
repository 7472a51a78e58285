"""One file per theorem: pure functions on float64 that return upper bounds, rounded outward."""

from certkv.reference.bounds import (
    arithmetic,
    block_bound,
    certificate_state,
    decomposition,
    full_tv,
    gqa_union,
    hull,
    key_tv,
    mass,
    paper_total,
    score_error,
    tail_tv,
    value_blocks,
)

__all__ = [
    "arithmetic",
    "block_bound",
    "certificate_state",
    "decomposition",
    "full_tv",
    "gqa_union",
    "hull",
    "key_tv",
    "mass",
    "paper_total",
    "score_error",
    "tail_tv",
    "value_blocks",
]
