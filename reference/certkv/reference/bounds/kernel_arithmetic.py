"""Theorem ``kernel_arithmetic``: the rounding of a tiled, split attention kernel, as terms of the certificate.

The kernel is described by a `KernelModel`. Per split it keeps (m, l, o); a tile j computes ``y = fl(x c - m_j)``, ``p
= exp2(y)``, ``P = round(p 2^bias)``, ``l = l a + sum P``, ``o = o a + sum P v`` with ``a = exp2(m_{j-1} - m_j)``, where
m_j is the *rounded* maximum in bits and c the stored ``scale log2 e``; the splits are merged with ``exp2(m_s - M)`` and
the output is ``o / l``.

**Weights.** The effective weight of a token is the real product of its P and of all factors that its tile's sums met.
Exponents telescope: ``(x c - m_j) + sum (m_i - m_{i+1}) + (m_s - M) = x c - M`` whatever the m are, and their absolute
values add up to ``M - x c``. So with Y the range of scores in bits, e = exp2's error, n updates of the maximum,

    |ln omega - scale q.k - const| <= E_score |scale| ||q|| size_k + ln2 (u (Y + bias) + u_c Y) + (n + merges + 1) e
                                      + u_P.

**Losses.** A factor that leaves the normal range has no relative error; its effective value is the exact one, and the
difference, at most `lost_weight_ub` per token in units of the largest weight, is charged to the accumulation.

**Accumulation.** ``||c - sum omega v / sum omega|| <= E_o mean||v|| + E_l ||c|| + losses``: o is a sum of the same
weights with E_o the growth ``prod (1 + error) - 1`` over the longest chain, l likewise.
"""

from __future__ import annotations

import math

import numpy as np

from certkv.reference.bounds.kernel_model import KernelModel
from certkv.reference.errors import SettingError
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray, IntArray

LN2_UB = 0.6931471805599454
"""Above ln 2 = 0.693147180559945309..."""

FAR_BITS = 140.0
"""Weights this many bits below the largest are charged absolutely, and their exponents' rounding is not."""

FAR = 2.0**-138
"""More than a computed and an effective weight below ``2**-FAR_BITS`` together."""

TOP_BITS = 2.0**-1
"""Largest exponent of a weight: what rounding of the running maximum may leave above 0."""

LARGEST = 2.0**120
"""Scores and sums below this cannot overflow binary32 (2**128) however they are formed."""

CODES = 2.0**12
"""At least any integer code, offset included, that a dot unit is fed with (1024 + 255, in tricks with mantissas)."""


def grown(exponent: float) -> float:
    """Upper bound of ``prod (1 + e_i) - 1`` from x, the sum of the e_i: ``x / (1 - x) >= e^x - 1``; inf from 1/2 on."""
    return exponent / (1.0 - exponent) * outward(3) if 0.0 <= exponent < 0.5 else math.inf


def factors(model: KernelModel, updates: IntArray | int) -> IntArray:
    """Count the exp2 results that a weight is a product of: its own, one per update, one per merge."""
    return np.asarray(updates, dtype=np.int64) + 1 + (model.merges if model.splits > 1 else 0)


def exponent_error(model: KernelModel) -> float:
    """Bound ``|ln(1 + theta)|`` for the relative error of exp2."""
    return model.exp2.value / (1.0 - model.exp2.value) * outward(2)


def _check_updates(model: KernelModel, updates: IntArray | int) -> None:
    if np.any(factors(model, updates) * exponent_error(model) > 2.0**-4) or np.any(np.asarray(updates) < 0):
        raise SettingError(f"updates of the maximum: {np.max(updates)}; the losses are derived for 0 to 2^16 of them")


def log_weight_error_ub(
    model: KernelModel,
    *,
    scale: float,
    head_dim: int,
    q_norm_ub: FloatArray,
    key_size_ub: FloatArray,
    range_bits_ub: FloatArray,
    score_bits_ub: FloatArray,
    updates: IntArray | int,
    query_operand_ub: FloatArray | None = None,
    key_operand_ub: FloatArray | None = None,
    afterwards: float | None = None,
) -> FloatArray:
    """Upper bound of ``|ln(effective weight) - scale q . k_hat - const|`` over the tokens of each block (``eps_0``).

    Parameters
    ----------
    model : KernelModel
    scale : float
        Its sign is the query's business (exact); the running maximum is that of the scores as used.
    head_dim : int
    q_norm_ub : float64 [heads, 1]
    key_size_ub : float64 [heads, blocks]
        Largest norm of the sizes of keys as the kernel forms them: per channel the sum of the absolute values of what
        is added up, ``|minimum| + |step code|`` for a coded key that is taken apart; ``||k_hat||`` where it is not.
    range_bits_ub : float64 [heads, blocks]
        Range of scores in bits: largest ``|M - x c|`` in the block, M the final maximum.
    score_bits_ub : float64 [heads, 1]
        Largest ``|x c|`` over all tokens.
    updates : int or int64 [heads, 1]
        At least the number of times that the running maximum of a split rose after its first tile.
    query_operand_ub, key_operand_ub : float64 [heads, blocks], optional
        Norms of the operands as the dot unit sees them, where these are not the query and the key themselves: codes,
        and a query that was scaled. What operands lose absolutely is in these units.
    afterwards : float, optional
        At least what multiplies the dot product afterwards; ``|scale|`` where the operands are query and key.

    Returns
    -------
    float64 [heads, blocks]
        ``+inf`` where scores could overflow.

    Raises
    ------
    SettingError
    """
    _check_updates(model, updates)
    if not 0.0 <= abs(scale) < LARGEST:
        raise SettingError(f"scale {scale} is not below 2^120 in magnitude")
    u, flush, n = model.roundoff.value, model.flush.value, head_dim * model.products
    operands = model.key_rounding.value + model.query_rounding.value
    relative = grown(model.qk.steps(n) * model.qk.error.value * outward(1) + operands)
    bits = np.minimum(range_bits_ub, FAR_BITS)
    with np.errstate(over="ignore", invalid="ignore"):
        size = abs(scale) * q_norm_ub * key_size_ub
        rest = math.sqrt(head_dim) * (q_norm_ub + key_size_ub) + 2 * n
        score = relative * size + 2.0 * flush * CODES * (1.0 + abs(scale)) * rest
        left = q_norm_ub if query_operand_ub is None else query_operand_ub
        right = key_size_ub if key_operand_ub is None else key_operand_ub
        after = abs(scale) if afterwards is None else afterwards
        absolute = model.query_loss.value * right + model.key_loss.value * left
        small = math.sqrt(n) * model.qk.floor.value
        score = score + math.sqrt(n) * absolute * after * 2.0 * (1.0 + relative)
        score = score + relative * after * small * (left + right + small)
        exponent = u * (bits + 2.0 * u * score_bits_ub + abs(model.weights.bias))
        if not model.fused_exponent:
            exponent = exponent + u * score_bits_ub
        stored = model.scale_constant.value
        exponent = exponent * (1.0 + u) + stored / (1.0 - stored) * bits
        chain = factors(model, updates) * exponent_error(model) + (factors(model, updates) + 1) * flush
        total = score + LN2_UB * exponent + chain
        if model.sum_rounded:
            total = total + model.weights.roundoff.value / (1.0 - model.weights.roundoff.value)
        overflow = (q_norm_ub * key_size_ub >= LARGEST) | (size >= LARGEST) | (u * score_bits_ub >= TOP_BITS)
        zero = np.asarray(q_norm_ub) == 0.0
        # a dot product with a zero query is exact, also with keys beyond the annotation's range
        total = np.where(zero & ~np.isfinite(size), np.inf, total)
    return np.asarray(np.where(overflow | np.isnan(total), np.inf, total * outward(24)))


def lost_weight_ub(model: KernelModel, updates: IntArray | int) -> FloatArray:
    """Upper bound of what a token's computed and effective weight differ by, in units of the largest weight.

    The weight's own loss meets factors of at most ``1 + e`` afterwards, 1.125 in all; an exp2 result that is flushed
    meets a weight of at most 1.5 besides. What is far below the largest weight is charged whole.
    """
    _check_updates(model, updates)
    own = 1.125 * model.weights.loss.value * 2.0**-model.weights.bias
    return np.asarray((own + 2.0 * (factors(model, updates) + 1) * model.flush.value + FAR) * outward(6))


def tiles_per_split(model: KernelModel, tokens: int) -> int:
    """Return the largest number of tiles in a split."""
    return max(1, math.ceil(math.ceil(tokens / model.tile) / model.splits))


def _chain(model: KernelModel, tokens: int, updates: IntArray | int) -> int:
    """Count roundings on a path to o or l, besides sums of tiles: rescaling, then merging."""
    rescaled = min(int(np.max(updates)), tiles_per_split(model, tokens))
    return rescaled + (model.splits + 1 if model.splits > 1 else 0)


def output_error(model: KernelModel, tokens: int, updates: IntArray | int) -> float:
    """Bound the relative error of the sum o, against ``sum |weight| ||v||`` (``E_o``)."""
    tiles, u = tiles_per_split(model, tokens), model.roundoff.value
    joined = (tiles if model.two_level else 0) + model.weights.parts - 1 + model.value_roundings
    steps = model.pv.steps(model.tile) * (1 if model.two_level else tiles)
    unit = steps * model.pv.error.value
    # with two parts the addends' absolute values sum to at most (1 + 4 u16) of the weights, u16 the 16-bit roundoff
    parts = 4.0 * model.weights.type.unit_roundoff * unit if model.weights.parts > 1 else 0.0
    rounding = 0.0 if model.sum_rounded else model.weights.roundoff.value
    chain = (joined + _chain(model, tokens, updates)) * u
    return grown((unit + parts + chain + model.value_rounding.value + rounding) * outward(8))


def sum_error(model: KernelModel, tokens: int, updates: IntArray | int) -> float:
    """Bound the relative error of the sum l (``E_l``)."""
    tiles, u = tiles_per_split(model, tokens), model.roundoff.value
    depth = model.tile if model.sum_depth is None else model.sum_depth
    in_unit = model.pv.steps(model.tile) * model.pv.error.value
    per_tile = in_unit + tiles * u if model.sum_in_unit else (depth + tiles) * u
    if model.sum_in_unit and not model.two_level:
        per_tile = tiles * in_unit
    parts = (model.weights.parts - 1) * u
    return grown((per_tile + parts + _chain(model, tokens, updates) * u) * outward(6))


def denominator_lb(model: KernelModel, l_lb: FloatArray | float, tokens: int, updates: IntArray | int) -> FloatArray:
    """Lower bound of the sum of weights as used, in units of the largest, from a lower bound of the computed l.

    The largest weight itself is at least ``2^-1/2 (1 - e)(1 - u_P)``: 1/2 holds whatever l was.
    """
    shrunk = np.asarray(l_lb) * (1.0 - min(sum_error(model, tokens, updates), 1.0)) * (1.0 - 2.0**-40)
    return np.asarray(np.maximum(shrunk, 0.5))


def accumulation_ub(
    model: KernelModel,
    *,
    tokens: int,
    head_dim: int,
    mean_size_ub: FloatArray,
    max_size_ub: FloatArray,
    output_norm_ub: FloatArray,
    updates: IntArray | int,
    l_lb: FloatArray | float = 0.5,
) -> FloatArray:
    """Upper bound of ``||c - O_hat||``, c in binary32: summation, division and all losses (``eps_acc``).

    Parameters
    ----------
    model : KernelModel
    tokens : int
        N, of all tokens that the kernel sums.
    head_dim : int
    mean_size_ub : float64 [heads]
        Upper bound of the mean norm of values under the weights as used, ``sum_b rho_b nu_hat_b``. Norms of values are
        norms of sizes, as for keys, where the kernel takes coded values apart.
    max_size_ub : float64 [heads]
    output_norm_ub : float64 [heads]
        ``||c||``.
    updates : int or int64 [heads]
    l_lb : float64 [heads]
        Lower bound of the computed l over ``2**bias``.

    Returns
    -------
    float64 [heads]
        ``+inf`` where the sums could overflow.
    """
    mean, largest, output = (np.asarray(x, dtype=np.float64) for x in (mean_size_ub, max_size_ub, output_norm_ub))
    e_o, e_l = output_error(model, tokens, updates), sum_error(model, tokens, updates)
    quotient = e_l + (1.0 + e_l) * model.division.value / (1.0 - model.division.value)
    below = denominator_lb(model, l_lb, tokens, updates)
    # 2 max||v|| for the change of weights, and as much for the mean under other weights
    lost = tokens * lost_weight_ub(model, updates) * 4.0 * largest / below
    lost = lost + 2.0 * math.sqrt(head_dim) * model.value_loss.value
    # subnormal operands of the PV unit count as the smallest normal number: values in the mean, weights of every token
    small = math.sqrt(head_dim) * model.pv.floor.value
    floor = model.weights.parts * tokens * model.pv.floor.value * 2.0**-model.weights.bias / below
    lost = lost + e_o * (small + floor * (largest + small))
    if model.sum_in_unit:
        lost = lost + e_l * (1.0 + e_l) * floor * output
    # at most 16 N results per channel can underflow, each off by `flush` at a scale of at most 1, a value or the output
    underflow = 16.0 * math.sqrt(head_dim) * tokens * model.flush.value * CODES * (1.0 + largest + output) / below
    with np.errstate(over="ignore", invalid="ignore"):
        total = (e_o * mean + quotient * output + lost + underflow) * outward(16)
    overflow = tokens * 2.0 ** (model.weights.bias + 2) * largest * (1.0 + CODES) >= LARGEST
    return np.asarray(np.where(overflow | np.isnan(total), np.inf, total))


def output_cast_ub(model: KernelModel, output_norm_ub: FloatArray, head_dim: int) -> FloatArray:
    """Upper bound of what rounding c to the output's type adds, from the norm of c in binary32; 0 for binary32."""
    norm = np.asarray(output_norm_ub, dtype=np.float64)
    if model.output.precision >= 24:
        return np.zeros(norm.shape)
    cast = model.output.unit_roundoff * norm + math.sqrt(head_dim) * model.output.smallest_subnormal
    return np.asarray(np.where(norm < model.output.max, cast * outward(4), np.inf))


def mass_error_ub(
    model: KernelModel, *, tokens: int, block: int, range_bits_ub: FloatArray, updates: IntArray | int
) -> FloatArray:
    """Relative error of a computed share ``fl(fl(sum_b P) exp2(m_j - M) / l)``, losses apart (see `mass_ub`).

    The share carries one factor exp2(m_j - M) where effective weights carry a chain of them; tiles of one block may
    have different maxima, then each brings its factor.
    """
    _check_updates(model, updates)
    bits = np.minimum(range_bits_ub, FAR_BITS) + abs(model.weights.bias)
    u = model.roundoff.value
    chain = (factors(model, updates) + 1) * (exponent_error(model) + model.flush.value)
    total = chain + 3.0 * LN2_UB * u * bits + (block + 8) * u + sum_error(model, tokens, updates)
    if not model.sum_rounded:
        total = total + 2.0 * model.weights.roundoff.value
    total = total * outward(8)
    return np.asarray(np.where(total < 0.5, total / (1.0 - np.minimum(total, 0.5)) * outward(3), np.inf))


def _lost_mass(model: KernelModel, tokens: int, updates: IntArray | int) -> FloatArray:
    """Bound what losses do to a share; nothing is known where they could be an eighth of the largest weight."""
    lost = tokens * (lost_weight_ub(model, updates) + model.flush.value)
    return np.asarray(np.where(lost <= 0.125, 8.0 * lost * outward(6), np.inf))


def mass_ub(
    model: KernelModel, mass: FloatArray, error_ub: FloatArray, *, tokens: int, updates: IntArray | int
) -> FloatArray:
    """Upper bound of the effective mass of a block from its computed share; always positive."""
    return np.asarray((mass * (1.0 + error_ub) + _lost_mass(model, tokens, updates)) * outward(4))


def mass_lb(
    model: KernelModel, mass: FloatArray, error_ub: FloatArray, *, tokens: int, updates: IntArray | int
) -> FloatArray:
    """Lower bound of the effective mass of a block from its computed share; never negative."""
    return np.asarray(np.maximum(mass / ((1.0 + error_ub) * outward(4)) - _lost_mass(model, tokens, updates), 0.0))
