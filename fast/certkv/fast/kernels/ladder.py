"""The ladder in one launch: certify, choose, promote, compute anew, finish; its programs do a part together, then meet.

A step whose heads are all accepted by the first tier costs the launch of a kernel that looks at one flag and leaves; it
is launched while the first tier still runs (`certkv.fast.kernels.early`).
Otherwise each part's places are dealt out to the programs, and between parts that read each other's results all
programs meet (`meet`). How often they go round, and whether rung 3 is needed, they read from what happens to the heads,
which no program changes before all have read it.

All programs must run at once, or those that wait would wait for ever: the launch is cooperative, so that the driver
starts all or none, and refuses a grid that does not fit. The parts are the kernels of other modules; policies that call
them one by one launch the same ones (`certkv.fast.plan`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_wait

from certkv.fast.certify import Pass
from certkv.fast.choose import EXACT_HEAD, REFINE
from certkv.fast.kernels import (
    certify,
    choose,
    exact_head,
    exact_terms,
    finish,
    merge,
    planes,
    refine,
    resident_terms,
    score_error,
    scratch,
    settle,
)
from certkv.fast.kernels.certify import certify_kernel
from certkv.fast.kernels.choose import choose_kernel, compact_kernel
from certkv.fast.kernels.early import early
from certkv.fast.kernels.exact_head import exact_head_kernel
from certkv.fast.kernels.exact_terms import exact_terms_kernel
from certkv.fast.kernels.finish import begin_kernel, finish_kernel
from certkv.fast.kernels.merge import merge_kernel
from certkv.fast.kernels.planes import finish_levels_kernel
from certkv.fast.kernels.refine import refine_kernel
from certkv.fast.kernels.resident_terms import resident_terms_kernel
from certkv.fast.kernels.score_error import score_error_kernel
from certkv.fast.kernels.scratch import fill_kernel, reserve_kernel
from certkv.fast.kernels.settle import keep_lost_kernel, settle_kernel
from certkv.fast.kernels.work import Work
from certkv.fast.ladder import warps_of
from certkv.fast.resident_terms import ResidentPass

if TYPE_CHECKING:
    from certkv.fast.ladder import Ladder

HEADS = 1024
"""Heads that are looked at at once."""

REFINED = tl.constexpr(REFINE)
GIVEN_UP = tl.constexpr(EXACT_HEAD)
MANY = tl.constexpr(HEADS)


@triton.jit(noinline=True)
def meet(arrived, programs):
    """Wait until all programs are here; then each sees what all have written.

    One thread's release, after a barrier of its program, covers what the program's other threads wrote before it; its
    acquire, before another such barrier, covers what they read after it: release and acquire at the scope of the GPU
    are cumulative, so that plain loads behind them may not return what an L1 still held (PTX ISA, "Memory consistency
    model"; the same pattern as ``grid.sync()`` of cooperative groups). Only loads through the cache of constants
    (``ld.global.nc``) would, and no kernel has any. The number only grows, so that nobody resets it.
    """
    tl.debug_barrier()
    ticket = tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu")
    all_here = (ticket // programs + 1) * programs
    # who waits must not empty the L1 of who works on the same multiprocessor: the acquire comes when it is over
    while tl.atomic_add(arrived, 0, sem="relaxed", scope="gpu") < all_here:
        pass
    while tl.atomic_add(arrived, 0, sem="acquire", scope="gpu") < all_here:
        pass
    tl.debug_barrier()


@triton.jit(noinline=True)
def share(kernel: tl.constexpr, part, turn, programs):
    """Do every ``programs``-th place of a part. As a function of its own it forms what it needs when it is called."""
    wide, high, deep = part[0]
    for place in range(tl.program_id(0), wide * high * deep, programs):
        kernel(*part[1], *part[2], *turn, (place % wide, place // wide % high, place // (wide * high)))


@triton.jit(noinline=True)
def once(kernel: tl.constexpr, part, turn):
    """Have one program do a part."""
    if tl.program_id(0) == 0:
        kernel(*part[1], *part[2], *turn)


@triton.jit(noinline=True)
def any_head(action, heads, WHAT: tl.constexpr):
    """Whether this happens to any head."""
    found = tl.full((), 0, tl.int32)
    for start in range(0, heads, MANY):
        row = start + tl.arange(0, MANY)
        is_so = tl.load(action + row, mask=row < heads, other=0xFF) == WHAT
        found = tl.maximum(found, tl.max(is_so.to(tl.int32), 0))
    return found != 0


@triton.jit
def pick(first, after, done):
    """Return the numbers of the first pass, or those of what was corrected."""
    picked = ()
    for i in tl.static_range(len(first)):
        # Triton adds tuples, it does not unpack them
        # the interpreter takes them for doubles
        picked = picked + (tl.where(done > 0, after[i], first[i]).to(tl.float32),)  # noqa: RUF005
    return picked


@triton.jit(do_not_specialize=["always", "rounds", "programs", "heads"])
def ladder_kernel(
    some,
    always,
    arrived,
    action,
    heads,
    rounds,
    programs,
    begin,
    errors,
    certified,
    resident,
    kept,
    chosen,
    listed,
    reserved,
    filled,
    refined,
    settled,
    exact,
    merged,
    exact_bound,
    finished,
    nearer,
    leveled,
    first,
    after,
    SCRATCH: tl.constexpr,
    LEVELS: tl.constexpr,
    EARLY: tl.constexpr,
):
    """Nothing, if no head is open."""
    if EARLY:
        gdc_wait()
    if (tl.load(some) != 0) | (always != 0):
        share(begin_kernel, begin, (), programs)
        share(score_error_kernel, errors, (), programs)
        if LEVELS:
            share(score_error_kernel, nearer, (), programs)
        meet(arrived, programs)
        if tl.program_id(0) == 0:
            tl.store(some, 0)
        done = tl.full((), 0, tl.int32)
        going = True
        while going:
            share(certify_kernel, certified, (pick(first[0], after[0], done),), programs)
            share(resident_terms_kernel, resident, (pick(first[1], after[1], done),), programs)
            meet(arrived, programs)
            if done > 0:
                share(keep_lost_kernel, kept, (), programs)
                # a head is this program's in both parts
                tl.debug_barrier()
            share(choose_kernel, chosen, (pick(first[2], after[2], done), rounds - done), programs)
            meet(arrived, programs)
            going = any_head(action, heads, REFINED)
            if going:
                share(compact_kernel, listed, (), programs)
                meet(arrived, programs)
                initial = (done == 0).to(tl.int32)
                if SCRATCH:
                    once(reserve_kernel, reserved, (initial,))
                    meet(arrived, programs)
                    share(fill_kernel, filled, (), programs)
                    meet(arrived, programs)
                share(refine_kernel, refined, (), programs)
                meet(arrived, programs)
                share(settle_kernel, settled, (initial,), programs)
                meet(arrived, programs)
            done += 1
        if any_head(action, heads, GIVEN_UP):
            share(exact_head_kernel, exact, (), programs)
            meet(arrived, programs)
            share(merge_kernel, merged, (), programs)
            meet(arrived, programs)
            share(exact_terms_kernel, exact_bound, (), programs)
            meet(arrived, programs)
        share(finish_kernel, finished, (), programs)
        if LEVELS:
            # a head is this program's in both parts
            tl.debug_barrier()
            share(finish_levels_kernel, leveled, (), programs)


def part(work: Work) -> tuple[Any, ...]:
    """Return grid, arguments and constants of a part; the interpreter makes variables of numbers, but for a list's."""
    constants = list(work.constants.values())
    interpreted = triton.knobs.runtime.interpret
    return work.grid, work.arguments, constants if interpreted else tuple(tl.constexpr(x) for x in constants)


def launch(given: Ladder) -> None:
    """Launch the kernel; see `certkv.fast.ladder.Ladder`."""
    q, coded, ws, parts = given.q, given.coded, given.ws, given.parts
    choice, terms, state, scale = parts.choice, parts.terms, given.state, given.scale
    passes = given.rounding.first, given.rounding.after
    levels = given.levels
    finer = None if levels is None else levels.finer
    seen = Pass(ws.weights, ws.reference, ws.m, ws.l, ws.output, ws.levels)
    certified = [certify.work(seen, coded, parts.errors, charges, terms, choice.action, finer) for charges in passes]
    held = ResidentPass(
        q,
        given.resident.keys,
        given.resident.values,
        ws.resident_weights,
        ws.resident_reference,
        ws.m,
        ws.l,
        ws.output,
    )
    resident = [
        resident_terms.work(held, coded, scale, charges, parts.resident_mass, terms, choice.action)
        for charges in passes
    ]
    chosen = [
        choose.work(
            terms,
            ws.levels,
            ws.output,
            charges,
            given.unit,
            given.tolerance,
            given.rounds,
            2 * ws.levels.shape[-1],
            parts.found,
            choice,
            None if levels is None else levels.prices,
        )
        for charges in passes
    ]
    turns = [tuple(works[i].turn["charges"] for works in (certified, resident, chosen)) for i in (0, 1)]
    originals, slots, moved = given.originals, given.scratch, given.moved
    exact = exact_head.work(q, coded, given.resident, originals, slots, moved, scale, ws, choice.action, EXACT_HEAD)
    exact_bound = exact_terms.work(
        q,
        coded,
        given.resident,
        originals.present,
        parts.errors.size,
        scale,
        given.rounding.exact,
        given.rounding.first,
        choice.action,
        ws.output,
        parts.exact_bound,
        parts.missing,
        parts.dense,
        EXACT_HEAD,
    )
    (batch, heads, head_dim), kv_heads = q.shape, coded.anchor.shape[1]
    warps, programs = warps_of(ws.levels.shape[-1], heads // kv_heads, head_dim), given.programs
    begin = finish.work_begin(ws.levels, choice, given.flags, moved, False)
    more = (begin, begin)
    if levels is not None:
        more = (
            score_error.finer_work(q, coded, scale, levels.finer.errors),
            planes.work_levels(ws.levels, choice, levels.read.planes, given.out.certificate),
        )
    works = (
        begin,
        score_error.work(q, coded, scale, given.rounding.first.floor, parts.errors, given.rounding.lost),
        certified[0],
        resident[0],
        settle.work_keep_lost(terms.partial, state, choice.action),
        chosen[0],
        choose.work_compact(choice),
        scratch.work_reserve(choice, ws.levels, originals, slots, True),
        scratch.work_fill(originals, slots, moved),
        refine.work_refine(
            q,
            scale,
            coded,
            originals,
            slots,
            parts.errors.delta,
            choice,
            state,
            parts.missing,
            moved,
            given.check,
            parts.corrections,
            None if levels is None else levels.read,
            brings=len(parts.corrections.brought) > 0,
        ),
        settle.work_settle(choice, state, parts.corrections, terms.partial, True),
        exact,
        merge.work(ws, choice.action, EXACT_HEAD),
        exact_bound,
        finish.work(
            q,
            coded,
            ws.output,
            ws.lse,
            parts.exact_bound,
            parts.found,
            ws.levels,
            None,
            choice,
            given.flags,
            originals.block_bytes,
            given.out,
        ),
        *more,
    )
    ladder_kernel[(programs,)](
        parts.opened.some,
        int(given.always),
        parts.met,
        choice.action,
        batch * heads,
        given.rounds,
        programs,
        *(part(work) for work in works),
        *turns,
        SCRATCH=slots.slots > 0,
        LEVELS=levels is not None,
        EARLY=early(),
        num_warps=warps,
        num_stages=1,
        enable_fp_fusion=False,
        launch_cooperative_grid=True,
        launch_pdl=early(),
    )
