"""What a kernel does to numbers, as data: the constants that theorem ``kernel_arithmetic`` takes, and named kernels.

Every constant says what it rests on: ``proved`` (a lemma, or IEEE 754 itself), ``exhaustive`` (every input was tried),
or ``assumption`` (documentation or measurements of others; listed in docs/SOUNDNESS.md).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from certkv.reference.errors import SettingError
from certkv.reference.numbers import BFLOAT16, FLOAT16, FLOAT32, FloatType

Status = Literal["proved", "exhaustive", "assumption"]


@dataclass(frozen=True)
class Constant:
    """A number that a bound depends on, and why it may.

    Attributes
    ----------
    name : str
        The same name means the same fact, in every kernel.
    value : float
    status : {"proved", "exhaustive", "assumption"}
    source : str
        Where it comes from.
    """

    name: str
    value: float
    status: Status
    source: str


IEEE = "IEEE 754, round to nearest"
U_FP32 = Constant("fp32-rounding", 2.0**-24, "proved", f"{IEEE}: binary32 has 24 significant bits")
EXACT = Constant("exact", 0.0, "proved", "nothing is rounded here")


@dataclass(frozen=True)
class DotUnit:
    """A unit that computes ``c + sum a_i b_i`` over a chain of steps.

    One step takes at most ``step`` products and the accumulator, and errs by at most ``error.value`` times the sum of
    their sizes (plus underflow); the size of a product is ``max(|a|, floor) max(|b|, floor)``.

    Attributes
    ----------
    kind : {"fma", "tensor core"}
    step : int
    error : Constant
        Relative error of a step.
    floor : Constant
        What a smaller operand counts as: a subnormal one has the exponent field of the smallest normal number.
    constants : tuple of Constant
        What ``error`` was made of.
    """

    kind: Literal["fma", "tensor core"]
    step: int
    error: Constant
    floor: Constant
    constants: tuple[Constant, ...]

    @classmethod
    def fma(cls, roundoff: Constant) -> DotUnit:
        """Return a unit that rounds after every product or sum, fused or not, in any order.

        A chain of n fused steps has n roundings on a path; n products and a tree of sums have at most n as well.
        """
        return cls("fma", 1, roundoff, EXACT, (roundoff,))

    @classmethod
    def tensor_core(cls, step: Constant, fraction_bits: Constant, operands: FloatType = FLOAT16) -> DotUnit:
        """Return a unit that aligns the addends of a step to the largest exponent and cuts them off.

        A product's exponent is the sum of its operands' exponent *fields*. Each of the ``step + 1`` addends loses less
        than ``2**-f`` of the largest such power of two, f being the fraction bits that are kept; the sum, exact, is cut
        off to binary32, which loses less than ``2**-23`` of it.
        """
        cut = (step.value + 1) * 2.0**-fraction_bits.value
        # powers of two times small integers: exact for f <= 26 and step <= 64
        error = Constant("tensor-core-step", cut + 2.0**-23 * (1 + cut), "proved", "lemma kernel_arithmetic.cut_off")
        smallest_normal = operands.smallest_subnormal * 2.0 ** (operands.precision - 1)
        floor = Constant(f"{operands.name}-smallest-normal", smallest_normal, "proved", IEEE)
        return cls("tensor core", int(step.value), error, floor, (step, fraction_bits))

    def steps(self, products: int) -> int:
        """Return the length of a chain over so many products."""
        return -(-products // self.step)


@dataclass(frozen=True)
class Weights:
    """The type in which weights P meet the values.

    Attributes
    ----------
    type : FloatType
    parts : int
        1, or 2: what the first rounding left is rounded again and takes part as a second operand.
    roundoff : Constant
        u_P: P differs from p by at most ``u_P p`` above the range of subnormals.
    loss : Constant
        Largest absolute error of a smaller P, in units of P as stored.
    bias : int
        P stores ``p 2**bias``: exponents of small weights stay in range.
    """

    type: FloatType
    parts: int
    roundoff: Constant
    loss: Constant
    bias: int = 0

    def __post_init__(self) -> None:
        if self.parts not in (1, 2):
            raise SettingError(f"weights in {self.parts} parts; 1 and 2 are modelled")
        # the largest weight may be sqrt(2) (rounding of the running maximum), and rounding may add to it
        if not -100 <= self.bias <= 100 or 1.5 * 2.0**self.bias > self.type.max:
            raise SettingError(f"bias {self.bias}: the largest weight, 1.5 * 2**{self.bias}, must fit {self.type.name}")


def weights(ft: FloatType, bias: int = 0, parts: int = 1, flush: bool = False) -> Weights:
    """Weights rounded to nearest (once per part). FLOAT32 means that they are not rounded again.

    Parameters
    ----------
    flush : bool
        Whether subnormal weights become 0.
    """
    smallest_normal = ft.smallest_subnormal * 2.0 ** (ft.precision - 1)
    lost = smallest_normal if flush else ft.smallest_subnormal / 2
    lemma = "lemmas kernel_arithmetic.subnormal_float16 and kernel_arithmetic.two_parts"
    loss = Constant(f"{ft.name}-subnormal{'-flushed' if flush else ''}", lost, "proved", f"{IEEE}; {lemma}")
    if ft is FLOAT32:
        return Weights(ft, 1, EXACT, EXACT, bias)
    why = f"lemmas rounding.relative_{ft.name} and kernel_arithmetic.two_parts"
    roundoff = Constant(f"{ft.name}-rounding-{parts}", ft.unit_roundoff**parts, "proved", why)
    return Weights(ft, parts, roundoff, loss, bias)


@dataclass(frozen=True)
class KernelModel:
    """How one kernel computes attention: tiles of tokens, each split of them with a running maximum, then a merge.

    Attributes
    ----------
    name : str
    qk, pv : DotUnit
        Units of the scores and of the weighted values.
    weights : Weights
    exp2 : Constant
        Relative error of 2^y where the result is a normal number, and 2^0 = 1 exactly.
    roundoff : Constant
        u: relative error of one sum or product outside the dot units.
    division : Constant
        Relative error of o / l.
    scale_constant : Constant
        Relative error of the stored ``scale * log2(e)``.
    fused_exponent : bool
        Whether ``x c - m`` rounds once.
    key_rounding, query_rounding, value_rounding : Constant
        Relative errors of the operands, per element, relative to the size that operands were formed with.
    key_loss, query_loss, value_loss : Constant
        Absolute errors of the operands, per element, in the operand's units: where rounding them gives a subnormal.
    products : int
        Products per channel in a score; 2 where offsets of coded keys are added as products of their own.
    value_roundings : int
        Roundings per tile and channel besides the sum itself: scales and offsets of coded values applied afterwards.
    tile : int
        Tokens per tile.
    splits : int
    two_level : bool
        Whether each tile is summed from zero and then added; otherwise the unit goes on from the last tile's sum.
    merges : int
        exp2 factors that a split's state meets on its way to the end: 1 where all splits are merged at once.
    sum_depth : int or None
        Roundings on a path through the sum of one tile's weights; None: any order.
    sum_in_unit : bool
        Whether l is summed by the PV unit (a column of ones).
    sum_rounded : bool
        Whether l is the sum of the rounded P.
    flush : Constant
        Largest number that underflow replaces by 0 or by a subnormal number.
    output : FloatType
        Type of the result.
    """

    name: str
    qk: DotUnit
    pv: DotUnit
    weights: Weights
    exp2: Constant
    roundoff: Constant
    division: Constant
    scale_constant: Constant
    flush: Constant
    fused_exponent: bool = True
    key_rounding: Constant = EXACT
    query_rounding: Constant = EXACT
    value_rounding: Constant = EXACT
    key_loss: Constant = EXACT
    query_loss: Constant = EXACT
    value_loss: Constant = EXACT
    products: int = 1
    value_roundings: int = 0
    tile: int = 64
    splits: int = 1
    two_level: bool = True
    merges: int = 1
    sum_depth: int | None = None
    sum_in_unit: bool = False
    sum_rounded: bool = True
    output: FloatType = FLOAT32

    def __post_init__(self) -> None:
        for name in ("tile", "splits", "products"):
            if getattr(self, name) < 1:
                raise SettingError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("merges", "value_roundings"):
            if getattr(self, name) < 0:
                raise SettingError(f"{name} is {getattr(self, name)}; it must not be negative")
        if any(not 0.0 <= c.value <= 2.0**-6 for c in self.constants() if c.name not in COUNTS):
            raise SettingError(f"{self.name}: an error constant is negative, NaN or above 2**-6")

    def constants(self) -> tuple[Constant, ...]:
        """Return every constant that the model rests on, each once."""
        found: list[Constant] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Constant):
                found.append(value)
            elif isinstance(value, DotUnit):
                found += [value.error, value.floor, *value.constants]
            elif isinstance(value, Weights):
                found += [value.roundoff, value.loss]
        return tuple(dict.fromkeys(found))


COUNTS = frozenset({"tensor-core-width", "tensor-core-bits"})
"""Constants that are numbers of things, not errors."""

EX2 = Constant(
    "ex2-approx",
    2.0**-22,
    "exhaustive",
    "every number from -126 to 1/2 on an H200, 2^-22.7 (benchmarks/kernel_constants.py); PTX ISA: 2 ulp, 1 at +-0",
)
MEASURED = "bit for bit on 5 million dot products on an H200, mma.sync and wgmma (benchmarks/kernel_constants.py)"
TC_STEP = Constant(
    "tensor-core-width",
    16.0,
    "assumption",
    f"16-bit operands: 16 products and the accumulator are summed at once; {MEASURED}; H100: arXiv 2512.07004",
)
TC_BITS = Constant(
    "tensor-core-bits",
    25.0,
    "assumption",
    f"products are exact, 25 fraction bits survive the alignment by exponent fields; {MEASURED}; arXiv 2512.07004",
)
HALF_ULP_CONSTANT = Constant("scale-constant", 2.0**-23, "proved", "formed in float64, rounded once to binary32")
GRADUAL = Constant("gradual-underflow", 2.0**-150, "proved", f"{IEEE}: half of binary32's smallest number")
FLUSHED = Constant("flush-to-zero", 2.0**-126, "proved", "no result below binary32's smallest normal number is kept")

IEEE_FP32 = KernelModel(
    name="ieee-fp32",
    qk=DotUnit.fma(U_FP32),
    pv=DotUnit.fma(U_FP32),
    weights=weights(FLOAT32),
    exp2=Constant("library-exp2", 2.0**-22, "assumption", "exp2 of the CPU's vector library is within 2 ulp; tested"),
    roundoff=U_FP32,
    division=U_FP32,
    scale_constant=HALF_ULP_CONSTANT,
    flush=GRADUAL,
    fused_exponent=False,
)
"""The twin of a kernel on a CPU: IEEE binary32 throughout."""


def _h200(name: str, kept: Weights) -> KernelModel:
    """Hopper: tensor cores with 16-bit operands, ex2.approx.ftz, correctly rounded division, flush to zero."""
    unit = DotUnit.tensor_core(TC_STEP, TC_BITS)
    return KernelModel(
        name=name,
        qk=unit,
        pv=unit,
        weights=kept,
        exp2=EX2,
        roundoff=U_FP32,
        division=U_FP32,
        scale_constant=HALF_ULP_CONSTANT,
        flush=FLUSHED,
        splits=32,
    )


H200_FP16_P = _h200("h200-fp16-p", weights(FLOAT16, bias=14))
H200_BF16_P = _h200("h200-bf16-p", weights(BFLOAT16, flush=True))
H200_HILO_P = _h200("h200-hilo-p", weights(FLOAT16, bias=14, parts=2))

KERNELS = (IEEE_FP32, H200_FP16_P, H200_BF16_P, H200_HILO_P)
