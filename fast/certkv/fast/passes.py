"""The parts of a step, twice: twins in torch, kernels in Triton. A plan takes one set; every part has one signature."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from certkv.fast import (
    attend,
    certify,
    choose,
    exact_head,
    exact_terms,
    finer_errors,
    finish,
    first_tier,
    merge,
    refine,
    resident_terms,
    scratch,
)
from certkv.fast import score_error as errors
from certkv.fast.finish import finish_levels_twin
from certkv.fast.ladder import Ladder


class Passes(NamedTuple):
    """Functions of one implementation; see the modules of the same names.

    ``ladder`` is all from ``begin`` to ``finish`` in one, under `Budget`; None where there is no such thing.
    """

    begin: Callable[..., None]
    score_error: Callable[..., None]
    attend: Callable[..., None]
    merge: Callable[..., None]
    first_tier: Callable[..., None]
    certify: Callable[..., None]
    resident_terms: Callable[..., None]
    choose: Callable[..., None]
    fetch: Callable[..., None]
    refine: Callable[..., None]
    keep_lost: Callable[..., None]
    exact_head: Callable[..., None]
    exact_terms: Callable[..., None]
    finish: Callable[..., None]
    finer_score_error: Callable[..., None]
    finish_levels: Callable[..., None]
    ladder: Callable[[Ladder], None] | None


def twins() -> Passes:
    """Return what runs on a CPU."""
    return Passes(
        begin=finish.begin_twin,
        score_error=errors.score_error,
        attend=attend.attend_twin,
        merge=merge.merge_twin,
        first_tier=first_tier.first_tier,
        certify=certify.certify,
        resident_terms=resident_terms.resident_terms,
        choose=choose.choose,
        fetch=scratch.fetch_twin,
        refine=refine.refine_twin,
        keep_lost=refine.keep_lost_twin,
        exact_head=exact_head.exact_head_twin,
        exact_terms=exact_terms.exact_terms_twin,
        finish=finish.finish_twin,
        finer_score_error=finer_errors.finer_score_error,
        finish_levels=finish_levels_twin,
        ladder=None,
    )


def kernels() -> Passes:
    """Return what runs on a GPU, and in Triton's interpreter."""
    from certkv.fast.kernels import (
        attend,
        certify,
        choose,
        exact_head,
        exact_terms,
        finish,
        first_tier,
        ladder,
        merge,
        planes,
        refine,
        scratch,
        settle,
    )
    from certkv.fast.kernels import resident_terms as resident
    from certkv.fast.kernels import score_error as errors

    return Passes(
        begin=finish.launch_begin,
        score_error=errors.score_error,
        attend=attend.launch,
        merge=merge.launch,
        first_tier=first_tier.first_tier,
        certify=certify.certify,
        resident_terms=resident.resident_terms,
        choose=choose.choose,
        fetch=scratch.launch,
        refine=refine.launch,
        keep_lost=settle.launch_keep_lost,
        exact_head=exact_head.launch,
        exact_terms=exact_terms.launch,
        finish=finish.launch,
        finer_score_error=errors.finer_score_error,
        finish_levels=planes.finish_levels,
        ladder=ladder.launch,
    )


def passes_for(device: torch.device) -> Passes:
    """Return what runs on a device."""
    return kernels() if device.type == "cuda" else twins()
