"""Sum the terms of a head, compare with the tolerance, and choose what to promote: one program per head.

    bound  =  min( ( sum C + sum U + eps_acc ) / sum D,  max R ) + cast
    items  =  C_b without rounding + limit (rho_b - D_b),  U_b;   the largest that sum to need = numerator - limit sum D

The threshold is found by bisection over bit patterns, without sorting. A second kernel lists the chosen blocks of every
KV head. `certkv.fast.totals` and `certkv.fast.choose` have the twins and explain the arguments.
"""
# ruff: noqa: RUF005 (Triton adds tuples, it does not unpack them)
# mypy: disable-error-code="assignment"

from __future__ import annotations

import torch
import triton
import triton.language as tl

from certkv.fast.certify import Terms
from certkv.fast.charges import Charges
from certkv.fast.choose import ACCEPT, EXACT_HEAD, INFINITY_BITS, REFINE, Choice, Prices, warps_for
from certkv.fast.kernels.certify import distance_ub
from certkv.fast.kernels.outward_fp32 import DOWN, FACTOR, INFINITY, LOST, LOWERED, TINY, known, lowered
from certkv.fast.kernels.work import Work, place_of
from certkv.fast.levels import MOST_PLANES, SHIFT
from certkv.fast.outward_fp32 import LARGEST, LEAST_DENOMINATOR
from certkv.fast.totals import UNITS, Totals, Unit

ACCEPTED = tl.constexpr(ACCEPT)
REFINED = tl.constexpr(REFINE)
GIVEN_UP = tl.constexpr(EXACT_HEAD)
TOP = tl.constexpr(INFINITY_BITS)
LEAST = tl.constexpr(LEAST_DENOMINATOR)
MOST = tl.constexpr(LARGEST)
KEY_SHIFT, VALUE_SHIFT = (tl.constexpr(x) for x in SHIFT)
PLANES = tl.constexpr(MOST_PLANES)


@triton.jit
def over(numerator, denominator):
    """Upper bound of a quotient."""
    known_one = (denominator >= LEAST) & (denominator <= MOST)
    ratio = known((tl.div_rn(numerator, tl.where(known_one, denominator, 1.0)) + TINY) * FACTOR)
    return tl.where(known_one, ratio, INFINITY)


@triton.jit
def grown(numerator, growth):
    """Upper bound of a product with an upper bound."""
    return known(numerator * growth * FACTOR)


@triton.jit
def parts_of(bound, pure, keys, values, all_values):
    """Return key, value and arithmetic part of a bound: terms, and what they are over the masses; `totals.parts_of`."""
    key_part = tl.where(pure == 0.0, 0.0, tl.minimum(keys, bound))
    value_part = tl.where(values == 0.0, 0.0, tl.minimum(all_values, bound))
    rest = known(bound - key_part - value_part)
    slack = (bound + key_part + value_part) * 2.0**-21
    arithmetic = tl.where(bound < INFINITY, tl.maximum(rest, 0.0) + slack, INFINITY)
    return key_part, value_part, arithmetic


@triton.jit
def limit_of(scale_lb, norm, cast, share, UNIT: tl.constexpr):
    """Return the tolerance; `totals.tolerance_lb`."""
    if UNIT == 0:
        limit = scale_lb * share * DOWN
    elif UNIT == 1:
        limit = tl.maximum(lowered(norm) - cast, 0.0) * share * DOWN
    else:
        limit = share * DOWN
    if UNIT == 3:
        limit = tl.full((), float("inf"), tl.float32)
    else:
        limit = tl.minimum(tl.maximum(tl.where(limit == limit, limit, 0.0), 0.0), MOST)
    return tl.where(norm == norm, limit, limit)  # of one shape


@triton.jit
def head_totals(
    keys, pure, values, below, scale_lb, size, largest, radius, norm,
    of_mean, of_largest, of_output, absolute, cast_relative, cast_absolute, share,
    UNIT: tl.constexpr,
):  # fmt: skip
    """Return bound, key, value and arithmetic part, tolerance, need, and whether the tolerance is met; `totals`."""
    below = tl.where(below <= MOST, below, 0.0)
    accumulation = of_mean * size + of_largest * largest + of_output * norm + absolute
    cast = (cast_relative * norm + cast_absolute) * FACTOR
    numerator = keys + values + accumulation + LOST
    bound = known((tl.minimum(over(numerator, below), radius) + cast) * FACTOR)
    key_part, value_part, arithmetic = parts_of(bound, pure, over(pure, below), values, over(values, below))
    limit = limit_of(scale_lb, norm, cast, share, UNIT)
    accepted = (limit > 0.0) & (bound <= limit)
    need = known(numerator - tl.maximum(limit * DOWN - cast, 0.0) * below * LOWERED)
    need = tl.where(bound <= limit, 0.0, need)
    return bound, key_part, value_part, arithmetic, limit, need, accepted


@triton.jit
def at_price(near, whole, cost, price):
    """Level of every item of one side at a price, and its gain: its planes, then the original, whose cost is 1."""
    level = tl.zeros(whole.shape, tl.int32)
    best = tl.zeros(whole.shape, tl.float32)
    gained = tl.zeros(whole.shape, tl.float32)
    for j in tl.static_range(len(near)):
        left = near[j] - price * cost[j]
        better = left > best
        best = tl.where(better, left, best)
        level = tl.where(better, j + 1, level)
        gained = tl.where(better, near[j], gained)
    take = whole - price > best
    return tl.where(take, len(near) + 1, level), tl.where(take, whole, gained)


@triton.jit
def level_gain(whole, rest, wanted):
    """Return what a level takes off: nothing where it is not wanted, or what it leaves or takes off is infinite."""
    return tl.where(wanted & (whole < INFINITY) & (rest < INFINITY), tl.maximum(whole - rest, 0.0), 0.0)


@triton.jit
def cheapest(near_k, whole_k, cost_k, near_v, whole_v, cost_v, need):
    """Levels that gain at least ``need``, by gain per cost, and whether there are; twin: `choose.cheapest_until`."""
    low = tl.zeros((1,), tl.int32)
    high = low + TOP
    zero = low.to(tl.float32, bitcast=True)
    total = tl.sum(at_price(near_k, whole_k, cost_k, zero)[1] + at_price(near_v, whole_v, cost_v, zero)[1], 0)
    enough = total >= need
    for _ in range(31):
        middle = low + (high - low) // 2
        price = middle.to(tl.float32, bitcast=True)
        total = tl.sum(at_price(near_k, whole_k, cost_k, price)[1] + at_price(near_v, whole_v, cost_v, price)[1], 0)
        low, high = tl.where(total >= need, middle, low), tl.where(total >= need, high, middle)
    price = low.to(tl.float32, bitcast=True)
    dearer = tl.minimum(low + 1, TOP - 1).to(tl.float32, bitcast=True)
    cheap_k, more_k = at_price(near_k, whole_k, cost_k, price)
    cheap_v, more_v = at_price(near_v, whole_v, cost_v, price)
    dear_k, of_dear_k = at_price(near_k, whole_k, cost_k, dearer)
    dear_v, of_dear_v = at_price(near_v, whole_v, cost_v, dearer)
    # steps of one price, lowest index first, as many as are needed
    more_k = tl.where(cheap_k != dear_k, more_k - of_dear_k, 0.0)
    more_v = tl.where(cheap_v != dear_v, more_v - of_dear_v, 0.0)
    left = need - tl.sum(of_dear_k + of_dear_v, 0)
    before_k = tl.cumsum(more_k, 0) - more_k
    before_v = tl.cumsum(more_v, 0) - more_v + tl.sum(more_k, 0)
    level_k = tl.where((cheap_k != dear_k) & (before_k < left), cheap_k, dear_k)
    level_v = tl.where((cheap_v != dear_v) & (before_v < left), cheap_v, dear_v)
    return level_k, level_v, enough


@triton.jit
def choose_kernel(
    partial,
    mass,
    key_gain,
    value,
    weight,
    finer_key,
    finer_weight,
    finer_value,
    levels,
    output,
    bound_out,
    key_out,
    value_out,
    arithmetic_out,
    tolerance_out,
    need_out,
    action,
    chosen,
    share,
    most,
    max_blocks,
    entries,
    finer_stride,
    key_prices,
    value_prices,
    UNIT: tl.constexpr,
    D: tl.constexpr,
    DP: tl.constexpr,
    E: tl.constexpr,
    N: tl.constexpr,
    KEY_LEVELS: tl.constexpr,
    VALUE_LEVELS: tl.constexpr,
    charges,
    rounds_left,
    program=None,
):
    """Decide for a head of all sequences' heads."""
    row = place_of(program)[0].to(tl.int64)
    of_mean, of_largest, of_output, absolute, cast_relative, cast_absolute = charges
    block = tl.arange(0, N)
    inside = block < max_blocks
    to = row * max_blocks + block
    if tl.load(action + row) != REFINED:
        tl.store(chosen + to, tl.zeros((N,), tl.uint8), mask=inside)
    else:
        entry = tl.arange(0, E)
        some = entry < entries
        at = partial + (row * entries + entry) * 8
        keys = tl.sum(tl.load(at, mask=some, other=0.0), 0)
        pure = tl.sum(tl.load(at + 1, mask=some, other=0.0), 0)
        values = tl.sum(tl.load(at + 2, mask=some, other=0.0), 0)
        below = tl.sum(tl.load(at + 3, mask=some, other=0.0), 0)
        scale_lb = tl.sum(tl.load(at + 4, mask=some, other=0.0), 0)
        size = tl.sum(tl.load(at + 5, mask=some, other=0.0), 0)
        largest = tl.max(known(tl.load(at + 6, mask=some, other=0.0)), 0)
        radius = tl.max(known(tl.load(at + 7, mask=some, other=0.0)), 0)

        channel = tl.arange(0, DP)
        c = tl.load(output + row * D + channel, mask=channel < D, other=0.0)[None, :]
        norm = tl.sum(distance_ub(c, 0.0, D), 0)
        bound, key_part, value_part, arithmetic, limit, need, accepted = head_totals(
            keys, pure, values, below, scale_lb, size, largest, radius, norm,
            of_mean, of_largest, of_output, absolute, cast_relative, cast_absolute, share, UNIT,
        )  # fmt: skip
        tl.store(bound_out + row, bound)
        tl.store(key_out + row, key_part)
        tl.store(value_out + row, value_part)
        tl.store(arithmetic_out + row, arithmetic)
        tl.store(tolerance_out + row, limit)
        tl.store(need_out + row, need)

        if accepted | (need <= 0.0) | (rounds_left <= 0):
            tl.store(action + row, tl.where(accepted, ACCEPTED, GIVEN_UP).to(tl.uint8))
            tl.store(chosen + to, tl.zeros((N,), tl.uint8), mask=inside)
        else:
            level = tl.load(levels + to, mask=inside, other=3).to(tl.int32)
            back = tl.load(mass + to, mask=inside, other=0.0) - tl.load(weight + to, mask=inside, other=0.0)
            back = tl.where(back == back, back, INFINITY)
            gain_k = known(tl.load(key_gain + to, mask=inside, other=0.0) + limit * tl.maximum(back, 0.0))
            gain_k = tl.where((level & 1) == 0, gain_k, 0.0)
            gain_v = tl.where((level & 2) == 0, known(tl.load(value + to, mask=inside, other=0.0)), 0.0)
            infinite_k, infinite_v = gain_k == INFINITY, gain_v == INFINITY
            finite_k, finite_v = tl.where(infinite_k, 0.0, gain_k), tl.where(infinite_v, 0.0, gain_v)
            unbounded = tl.sum(infinite_k.to(tl.int32), 0) + tl.sum(infinite_v.to(tl.int32), 0)
            if KEY_LEVELS + VALUE_LEVELS > 0:
                # by level what it takes off, and the planes that are still to be read
                near_k = ()
                cost_k = ()
                price = tl.zeros((N,), tl.float32)
                for j in tl.static_range(KEY_LEVELS):
                    here = to + j * finer_stride
                    back = tl.load(mass + to, mask=inside, other=0.0)
                    back -= tl.load(finer_weight + here, mask=inside, other=0.0)
                    back = tl.where(back == back, back, INFINITY)
                    rest = known(tl.load(finer_key + here, mask=inside, other=0.0) + limit * tl.maximum(back, 0.0))
                    wanted = ((level & 1) == 0) & (((level >> KEY_SHIFT) & PLANES) <= j)
                    price += tl.where(wanted, key_prices[j], 0.0)
                    near_k = near_k + (level_gain(gain_k, rest, wanted),)
                    cost_k = cost_k + (price,)
                near_v = ()
                cost_v = ()
                price = tl.zeros((N,), tl.float32)
                for j in tl.static_range(VALUE_LEVELS):
                    rest = known(tl.load(finer_value + to + j * finer_stride, mask=inside, other=0.0))
                    wanted = ((level & 2) == 0) & (((level >> VALUE_SHIFT) & PLANES) <= j)
                    price += tl.where(wanted, value_prices[j], 0.0)
                    near_v = near_v + (level_gain(gain_v, rest, wanted),)
                    cost_v = cost_v + (price,)
                level_k, level_v, enough = cheapest(near_k, finite_k, cost_k, near_v, finite_v, cost_v, need)
                enough |= unbounded > 0
                level_k = tl.where(unbounded > 0, infinite_k.to(tl.int32) * (KEY_LEVELS + 1), level_k)
                level_v = tl.where(unbounded > 0, infinite_v.to(tl.int32) * (VALUE_LEVELS + 1), level_v)
                items = tl.sum((level_k > 0).to(tl.int32) + (level_v > 0).to(tl.int32), 0)
                refined = enough & (items > 0) & (items <= most)
                marks = tl.where(level_k > KEY_LEVELS, 1, level_k << KEY_SHIFT)
                marks |= tl.where(level_v > VALUE_LEVELS, 2, level_v << VALUE_SHIFT)
                tl.store(chosen + to, tl.where(refined, marks, 0).to(tl.uint8), mask=inside)
                tl.store(action + row, tl.where(refined, REFINED, GIVEN_UP).to(tl.uint8))
            else:
                enough = (unbounded > 0) | (tl.sum(finite_k, 0) + tl.sum(finite_v, 0) >= need)
                bits_k, bits_v = finite_k.to(tl.int32, bitcast=True), finite_v.to(tl.int32, bitcast=True)
                low = tl.zeros((1,), tl.int32)
                high = low + TOP
                for _ in range(31):
                    middle = low + (high - low) // 2
                    total = tl.sum(
                        tl.where(bits_k >= middle, finite_k, 0.0) + tl.where(bits_v >= middle, finite_v, 0.0), 0
                    )
                    low, high = tl.where(total >= need, middle, low), tl.where(total >= need, high, middle)
                larger_k, larger_v = bits_k > low, bits_v > low
                equal_k, equal_v = bits_k == low, bits_v == low
                left = need - tl.sum(tl.where(larger_k, finite_k, 0.0) + tl.where(larger_v, finite_v, 0.0), 0)
                threshold = low.to(tl.float32, bitcast=True)
                before_k = tl.cumsum(equal_k.to(tl.int32), 0) - 1
                before_v = tl.cumsum(equal_v.to(tl.int32), 0) - 1 + tl.sum(equal_k.to(tl.int32), 0)
                take_k = larger_k | (equal_k & (before_k.to(tl.float32) * threshold < left))
                take_v = larger_v | (equal_v & (before_v.to(tl.float32) * threshold < left))
                take_k = tl.where(unbounded > 0, infinite_k, take_k)
                take_v = tl.where(unbounded > 0, infinite_v, take_v)
                items = tl.sum(take_k.to(tl.int32), 0) + tl.sum(take_v.to(tl.int32), 0)
                refined = enough & (items > 0) & (items <= most)
                marks = take_k.to(tl.uint8) + take_v.to(tl.uint8) * 2
                tl.store(chosen + to, tl.where(refined, marks, 0).to(tl.uint8), mask=inside)
                tl.store(action + row, tl.where(refined, REFINED, GIVEN_UP).to(tl.uint8))


@triton.jit
def compact_kernel(chosen, work, counts, max_blocks, G: tl.constexpr, N: tl.constexpr, program=None):
    """List what any head of a KV head (of all sequences') has chosen."""
    kv = place_of(program)[0].to(tl.int64)
    block = tl.arange(0, N)
    inside = block < max_blocks
    marks = tl.zeros((N,), tl.int32)
    for g in range(G):
        marks |= tl.load(chosen + (kv * G + g) * max_blocks + block, mask=inside, other=0).to(tl.int32)
    wanted = (marks != 0).to(tl.int32)
    count = tl.sum(wanted, 0)
    place = tl.cumsum(wanted, 0) - 1
    tl.store(work + kv * max_blocks + place, block, mask=wanted != 0)
    tl.store(work + kv * max_blocks + block, tl.full((N,), -1, tl.int32), mask=inside & (block >= count))
    tl.store(counts + kv, count)


def work(
    terms: Terms,
    levels: torch.Tensor,
    output: torch.Tensor,
    charges: Charges,
    unit: Unit,
    tolerance: float,
    rounds_left: int,
    most: int,
    found: Totals,
    out: Choice,
    prices: Prices | None = None,
) -> Work:
    """Return what to launch; arguments as those of the twin, contiguous."""
    batch, heads, max_blocks = levels.shape
    head_dim, entries = output.shape[-1], terms.partial.shape[2]
    sides: tuple[tuple[float, ...], ...] = ((), ()) if prices is None else (prices.keys, prices.values)
    return Work(
        choose_kernel,
        (batch * heads, 1, 1),
        (
            terms.partial,
            terms.mass,
            terms.key_gain,
            terms.value,
            terms.weight_lb,
            *(terms[:3] if prices is None else prices.foreseen),
            levels,
            output,
            *found,
            out.action,
            out.chosen,
            tolerance / (1.0 + tolerance) if unit == "output" else tolerance,
            most,
            max_blocks,
            entries,
            terms.mass.numel(),
            *(costs or (1.0,) for costs in sides),
        ),
        {
            "UNIT": UNITS.index(unit),
            "D": head_dim,
            "DP": triton.next_power_of_2(head_dim),
            "E": triton.next_power_of_2(entries),
            "N": triton.next_power_of_2(max_blocks),
            "KEY_LEVELS": len(sides[0]),
            "VALUE_LEVELS": len(sides[1]),
        },
        {
            "charges": (
                charges.of_mean,
                charges.of_largest,
                charges.of_output,
                charges.absolute,
                charges.cast_relative,
                charges.cast_absolute,
            ),
            "rounds_left": rounds_left,
        },
    )


def work_compact(out: Choice) -> Work:
    """Return what to launch to list what was chosen."""
    (batch, kv_heads, max_blocks), heads = out.work.shape, out.action.shape[1]
    constants = {"G": heads // kv_heads, "N": triton.next_power_of_2(max_blocks)}
    return Work(compact_kernel, (batch * kv_heads, 1, 1), (out.chosen, out.work, out.counts, max_blocks), constants, {})


def choose(
    terms: Terms,
    levels: torch.Tensor,
    output: torch.Tensor,
    charges: Charges,
    unit: Unit,
    tolerance: float,
    rounds_left: int,
    most: int,
    found: Totals,
    out: Choice,
    prices: Prices | None = None,
) -> None:
    """Launch; arguments as those of the twin, contiguous."""
    warps = warps_for(levels.shape[-1])
    work(terms, levels, output, charges, unit, tolerance, rounds_left, most, found, out, prices).launch(warps)
    work_compact(out).launch(warps)
