"""The rounding of attend, its twin and the exact head, as charges on the certificate (theorem ``kernel_arithmetic``).

The reference states the theorem for any kernel (``bounds/kernel_arithmetic.py``) and says what its constants rest on
(``bounds/kernel_model.py``); here it is evaluated for ours, in float64, at most once per plan. Sizes are sums over
channels, ``size >= |scale| sum_c |q_c| s_c``, and Q is the largest number of the query's head. What is ours alone:

**Centred codes.** A score is ``sum_c (q_c s_c)(k_c - 128) + sum_c q_c (z_c + 128 s_c)``: the first sum is a chain of
the dot unit, with codes of at most 128; the second has n roundings on a path, in binary32. With E and e their growths::

    |x - exact| <= |scale| sum_c |q_c| ( (E + e + 4u) 128 s_c + (e + 2u) |z_c| )

so that ``max(e + 2u, 128/255 (E + e + 4u))`` times the size ``|scale| sum |q_c| (|z_c| + 255 s_c)`` covers it.

**Two operands.** Codes are multiplied with ``q_c s_c`` as two binary16 numbers. Their sum is exact down to 2^-25, in
units in which Q is in [32, 64) or larger; the unit sees at least the smallest normal number in place of a smaller
operand. Both are charged to the query: ``query`` times ``|scale| Q``. With bfloat16 the units are the block's, in which
the largest product is above 2^14, so that both are relative.

**Values** are ``(z + h s) sum P + s sum P (v - h)``, h = 8 or 128: sizes grow from ``|z| + levels s`` to ``|z| + 2 h
s``, and the sum of P has as many roundings as the tile has tokens.

**Groups**, of tokens for keys and of channels for values: `certkv.fast.grouped_arithmetic`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from certkv.fast.charges import LARGEST_OPERAND, LARGEST_SIZE, Charges, ScoreCharge
from certkv.fast.formats.base import Format, KeyFormat
from certkv.fast.grouped_arithmetic import Keys, Values, turned
from certkv.fast.numbers import outward
from certkv.fast.workspace import BIAS

U = 2.0**-24
"""Unit roundoff of binary32."""

U_P, P_LOSS = 2.0**-11, 2.0**-25
"""Rounding P to binary16: relative, and absolute where P is subnormal."""

EXP2 = 2.0**-22
"""Relative error of exp2, where the result is normal."""

STORED_CONSTANT = 2.0**-23
"""Relative error of ``|scale| log2 e``, formed in float64 and rounded once."""

LN2_UB = 0.6931471805599454
FAR_BITS, FAR = 140.0, 2.0**-138
"""Weights this many bits below the largest are charged absolutely, by less than FAR."""

CODES = 2.0**12
"""More than any number that stands for a code."""

LARGEST_BITS = 1.5 * LARGEST_SIZE
"""Scores, in bits, for which charges hold."""


def signed_constant(scale: float) -> tuple[float, float]:
    """Sign of the scale, and ``|scale| log2 e``, formed in binary64 and rounded to binary32."""
    return (-1.0 if scale < 0 else 1.0), float(torch.tensor(abs(scale) * math.log2(math.e), dtype=torch.float32))


@dataclass(frozen=True)
class Arithmetic:
    """What one implementation does to numbers; names and meanings are those of the reference's ``KernelModel``.

    Attributes
    ----------
    name : str
    step : int
        Products that the dot unit takes at once.
    step_error : float
        Relative error of a step.
    floor : float
        What a smaller binary16 operand counts as.
    flush : float
        Largest number that underflow may lose.
    fused_exponent : bool
        Whether ``x c - m`` rounds once.
    centred : bool
        Whether codes are centred and multiplied apart from their metadata; otherwise keys and values are decoded, with
        one rounding, before they are multiplied.
    """

    name: str
    step: int
    step_error: float
    floor: float
    flush: float
    fused_exponent: bool
    centred: bool

    def steps(self, products: int) -> int:
        """Length of a chain over so many products."""
        return -(-products // self.step)


def _tensor_core(width: int, bits: int) -> float:
    cut = (width + 1) * 2.0**-bits
    return cut + 2.0**-23 * (1.0 + cut)


TWIN = Arithmetic("twin", 1, U, 0.0, 2.0**-150, fused_exponent=False, centred=False)
"""IEEE binary32 throughout, in any order (torch on a CPU)."""

H200 = Arithmetic("h200", 16, _tensor_core(16, 25), 2.0**-14, 2.0**-126, fused_exponent=True, centred=True)
"""Hopper: 16 products and the accumulator aligned to 25 bits by exponent fields; exp2 and sums flush to zero."""

INTERPRETED = replace(H200, name="interpreted", step=1, step_error=U, floor=0.0, flush=2.0**-150, fused_exponent=False)
"""The kernel's operations in NumPy's arithmetic, as Triton's interpreter runs them."""


def grown(exponent: float) -> float:
    """Upper bound of ``prod (1 + e_i) - 1`` from x, the sum of the e_i; inf from 1/2 on."""
    return exponent / (1.0 - exponent) * outward(3) if 0.0 <= exponent < 0.5 else math.inf


@dataclass(frozen=True)
class Sums:
    """What a pass sums, and in which portions.

    Attributes
    ----------
    tokens : int
        N, at most.
    head_dim, block : int
    splits : int
        Of the coded blocks; resident tokens are one more.
    bits, group : int
        Of the value format.
    bfloat16 : bool
        Type of the originals.
    key_bits, key_group : int
        Of the key format.
    scaled : bool
        Whether tokens of keys have norms.
    rotated : (bool, bool)
        Whether codes are in the rotated basis, of keys and of values.
    """

    tokens: int
    head_dim: int
    block: int
    splits: int
    bits: int
    group: int
    bfloat16: bool
    key_bits: int = 8
    key_group: int = 0
    scaled: bool = False
    rotated: tuple[bool, bool] = (False, False)

    @property
    def keys(self) -> Keys:
        """Of a format of less than 8 bits."""
        grouped = self.key_group > 0
        return Keys(self.head_dim, 2**self.key_bits - 1, grouped, self.bfloat16, self.rotated[0], self.scaled)

    @property
    def values(self) -> Values:
        """Of a format with groups of channels."""
        return Values(self.head_dim, self.block, self.bits, self.group, self.bfloat16, self.rotated[1])

    @classmethod
    def of(
        cls, keys: KeyFormat, values: Format, *, tokens: int, head_dim: int, block: int, splits: int, bfloat16: bool
    ) -> Sums:
        """Say what a pass over such formats sums."""
        return cls(
            tokens,
            head_dim,
            block,
            splits,
            values.bits,
            values.group,
            bfloat16,
            key_bits=keys.bits,
            key_group=keys.group,
            scaled=keys.scope is not None,
            rotated=(keys.rotated, values.rotated),
        )

    @property
    def chunks(self) -> int:
        """Tiles of 64 channels."""
        return -(-self.head_dim // 64)

    @property
    def tiles(self) -> int:
        """Blocks per split, at most; the resident tokens are two."""
        return max(2, -(-max(1, -(-self.tokens // self.block)) // self.splits))

    def tile(self, model: Arithmetic) -> int:
        """Tokens that are summed from zero: a kernel's padded block; the twin's two blocks of resident tokens."""
        return max(16, 1 << (self.block - 1).bit_length()) if model.centred else 2 * self.block


def factors(sums: Sums) -> int:
    """Count the exp2 results that a weight is a product of: its own, one per update, one per merge."""
    return sums.tiles - 1 + 2


def exponent_error() -> float:
    """Bound ``|ln(1 + theta)|`` for the relative error of exp2."""
    return EXP2 / (1.0 - EXP2) * outward(2)


def weight_constant(model: Arithmetic, sums: Sums) -> float:
    """``eps_0`` but for the score itself, in nats: exponents, exp2, rescaling, merging and the weight's rounding."""
    far = U * (FAR_BITS + 2.0 * U * LARGEST_BITS + BIAS)
    exponent = far * (1.0 + U) + STORED_CONSTANT / (1.0 - STORED_CONSTANT) * FAR_BITS
    chain = factors(sums) * exponent_error() + (factors(sums) + 1) * model.flush
    underflow = 2.0 * model.flush * CODES * LARGEST_OPERAND * (2.0 * sums.head_dim + 4.0)
    return (LN2_UB * exponent + chain + underflow + U_P / (1.0 - U_P)) * outward(24)


def _rounded_product(model: Arithmetic) -> float:
    """Bound the rounding of ``x c`` before the maximum comes off, relative to the token's own score."""
    return 0.0 if model.fused_exponent else U


def coded_score(model: Arithmetic, sums: Sums) -> ScoreCharge:
    """Scores from codes; sizes take a key as ``|minimum| + 255 step``. `query_loss` comes on top."""
    after = _rounded_product(model)
    if sums.key_bits < 8 or sums.key_group:
        keys = sums.keys
        errors = keys.coded(_chain(model, keys.products), model.step_error) if model.centred else keys.decoded()
        return ScoreCharge((grown(errors) + after) * outward(8), weight_constant(model, sums))
    if not model.centred:
        relative = grown((model.steps(sums.head_dim) * model.step_error + U) * outward(1)) + after
        return ScoreCharge(relative * outward(8), weight_constant(model, sums))
    unit = _unit(model, sums)
    # metadata, product, sum over chunks, two sums of eight
    offset = grown((2 + sums.chunks + 7 + 7) * U)
    # the second operand is 2^-11 of the first, and has a chain of its own
    codes = unit * (1.0 + 2.0**-9) + offset + 4.0 * U
    if sums.bfloat16:
        # product with the step, two operands, and what they lose: 2^-25 and the floor's 2^-14 over 2^14
        codes += U + 2.0**-22 + sums.head_dim * (2.0**-38 + 2.0 * unit * 2.0**-28)
    relative = max(offset + 2.0 * U, 128.0 / 255.0 * codes) + after + 2.0 * unit * model.floor
    return ScoreCharge(relative * outward(8), weight_constant(model, sums))


def query_loss(model: Arithmetic, sums: Sums) -> float:
    """Bound what scores from codes lose absolutely, in units of ``|scale| max_c |q_c|``."""
    if model.centred and sums.key_bits < 8:
        return sums.keys.lost(_chain(model, sums.keys.products), model.step_error)
    if not model.centred or sums.bfloat16:
        return 0.0
    return sums.head_dim * 128.0 / 32.0 * (2.0**-25 + 2.0 * _unit(model, sums) * model.floor) * outward(8)


def original_score(model: Arithmetic, sums: Sums) -> ScoreCharge:
    """Scores from originals; sizes are ``|q_c k_c|``, each operand at least `Charges.floor`."""
    relative = _unit(model, sums) + 2.0 * U + _rounded_product(model)
    return ScoreCharge(relative * outward(8), weight_constant(model, sums))


def _unit(model: Arithmetic, sums: Sums) -> float:
    """Growth of a chain of the dot unit over the channels; a kernel pads them to chunks of 64."""
    return _chain(model, 64 * sums.chunks if model.centred else sums.head_dim)


def _chain(model: Arithmetic, products: int) -> float:
    """Growth of a chain of the dot unit."""
    return grown(model.steps(products) * model.step_error * outward(1))


def lost_weight(model: Arithmetic, sums: Sums) -> float:
    """Bound what a token's computed and effective weight differ by, in units of the largest weight."""
    own = 1.125 * P_LOSS * 2.0**-BIAS
    return (own + 2.0 * (factors(sums) + 1) * model.flush + FAR) * outward(6)


def output_error(model: Arithmetic, sums: Sums) -> float:
    """Relative error of o, against ``sum |weight| size``."""
    unit = _tile(model, sums)
    operands, top = 0.0, 0.0
    if not model.centred:
        extra = U + (turned(sums.head_dim) if sums.rotated[1] else 0.0)
    elif sums.group == 0:
        # the sum of P, times the metadata: z + h s, the products with s and with the sum, and sizes of 2 h for levels
        levels = 2.0**sums.bits - 1.0
        operands, extra = (levels + 1.0) / levels - 1.0, (sums.tile(model) + 3) * U
    else:
        extra, top = sums.values.relative(unit, model.step_error)
    joined = sums.tiles + sums.tiles + sums.splits + 3
    growth = grown((unit + extra + joined * U) * outward(8))
    return (growth * (1.0 + operands) + (1.0 + growth) * top) * outward(4)


def _tile(model: Arithmetic, sums: Sums) -> float:
    """Return the steps of a chain over a tile, times the error of one."""
    products = max(sums.tile(model), sums.values.products) if model.centred and sums.group else sums.tile(model)
    return model.steps(products) * model.step_error


def two_passes(model: Arithmetic, sums: Sums) -> float:
    """Relative difference of the weights in o and in l, where o is summed in a second pass of its own.

    There a weight meets one factor ``2^(reference - m)`` of its split, and in l one for each update of the maximum. The
    exponents of both add up to the same number; their magnitudes add up to at most the range of scores, twice.
    """
    if not model.centred or (sums.key_bits == 8 and sums.group == 0):
        return 0.0
    return grown(((factors(sums) + 1) * exponent_error() + 2.0 * LN2_UB * U * (FAR_BITS + BIAS)) * outward(6))


def sum_error(model: Arithmetic, sums: Sums) -> float:
    """Relative error of l."""
    summed = (sums.tile(model) + 2 * sums.tiles + sums.splits + 3) * U
    if model.centred and sums.group:
        # P is summed by the dot unit, beside the minima; in bfloat16 in two parts, and with a rounding more
        summed += _tile(model, sums) * (1.0 + 2.0**-6) + U
    return grown((summed + two_passes(model, sums)) * outward(6))


def mass_error(model: Arithmetic, sums: Sums) -> float:
    """Relative error of a computed share ``fl(fl(sum_b P) 2^(reference - M) / l)``."""
    chain = (factors(sums) + 1) * (exponent_error() + model.flush)
    total = (chain + 3.0 * LN2_UB * U * (FAR_BITS + BIAS) + (sums.block + 8) * U + sum_error(model, sums)) * outward(8)
    return grown(total)


def weight_error(model: Arithmetic, sums: Sums) -> float:
    """Relative error of ``P 2^(reference - m)`` as a token's weight in a merged state, whose P met other factors."""
    chain = (factors(sums) + 1) * (exponent_error() + model.flush)
    return grown((chain + 3.0 * LN2_UB * U * (FAR_BITS + BIAS)) * outward(8))


def smallest_operand(model: Arithmetic, sums: Sums) -> float:
    """Return `Charges.floor`, in the units of queries as they are: in bfloat16 these are multiplied by at least 2^-55.

    Scores of keys with groups are formed in units of a scaled query by all models, and what underflow loses after a
    token's norm is relative to the query, too.
    """
    least = 2.0**-64 if sums.key_group else 0.0
    return max(least, 2.0**-64 if sums.bfloat16 and model.floor else model.floor)


def charges(model: Arithmetic, sums: Sums, output: torch.dtype = torch.float32) -> Charges:
    """Evaluate the theorem for a pass of attend and merge.

    Parameters
    ----------
    model : Arithmetic
    sums : Sums
    output : torch.dtype
        What the output is rounded to.

    Returns
    -------
    Charges
        In float64. A denominator is at least half of the largest weight.
    """
    n, root = sums.tokens, math.sqrt(sums.head_dim)
    e_o, e_l = output_error(model, sums), sum_error(model, sums)
    lost = n * lost_weight(model, sums)
    least = 0.5
    floor = n * model.floor * 2.0**-BIAS / least
    underflow = 16.0 * root * n * model.flush * CODES / least
    # subnormal operands: values, or minima and, of base planes, steps
    small = (2.0 if sums.group else 1.0) * root * model.floor
    # weights with the steps of groups folded in
    grouped, units = 0.0, 0.0
    summed_floor = 0.0
    if model.centred and sums.group:
        unit, summed_floor = _tile(model, sums), (1.0 + e_l) * floor
        grouped = sums.values.lost(unit, model.step_error, n, BIAS) / least
        units = sums.values.absolute(unit, model.step_error, n, BIAS) / least
    relative = mass_error(model, sums)
    cast = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}[output]
    smallest = {torch.float32: 0.0, torch.float16: 2.0**-24, torch.bfloat16: 2.0**-133}[output]
    # with L >= 1/2 the sum of weights and y = N lost <= 1/8: (x L (1 + e) + lost) / (L - y) is at most
    # x (1 + e) (1 + 4 y) + 8 lost, and a block's mass at least x / ((1 + e) (1 + 4 y)) - 8 B lost
    one = (lost_weight(model, sums) + model.flush) * outward(2)
    known = n * one <= 0.125
    spread = (1.0 + relative) * (1.0 + 4.0 * n * one) * outward(12)
    return Charges(
        floor=smallest_operand(model, sums),
        coded=coded_score(model, sums),
        original=original_score(model, sums),
        resident=original_score(model, sums),
        share_up=spread,
        share_lost=max(8.0 * one, 2.0**-60) * outward(4) if known else math.inf,
        mass_down=1.0 / spread,
        mass_lost=8.0 * sums.block * one * outward(4) if known else math.inf,
        of_mean=e_o * outward(16),
        of_largest=(lost * 4.0 / least + e_o * floor + grouped + underflow) * outward(16),
        of_output=(e_l * (1.0 + summed_floor) + (1.0 + e_l) * U / (1.0 - U) + underflow) * outward(16),
        absolute=(units + e_o * small * (1.0 + floor) + underflow) * outward(16),
        cast_relative=cast * outward(12),
        cast_absolute=root * smallest * outward(12),
    )
