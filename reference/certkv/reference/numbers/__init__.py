"""Floating-point types, correctly rounded conversions, and rounding-error bounds."""

from certkv.reference.numbers.dtypes import BFLOAT16, FLOAT16, FLOAT32, FloatType, float_type
from certkv.reference.numbers.error import U, gamma, norm_lb, norm_ub, outward
from certkv.reference.numbers.rounding import next_up, round_down, round_nearest, round_up

__all__ = [
    "BFLOAT16",
    "FLOAT16",
    "FLOAT32",
    "FloatType",
    "U",
    "float_type",
    "gamma",
    "next_up",
    "norm_lb",
    "norm_ub",
    "outward",
    "round_down",
    "round_nearest",
    "round_up",
]
