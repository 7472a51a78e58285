"""Exact attention: enclosures to judge by, float64 with a proved error for size, mpmath to read."""

from certkv.reference.exact.enclosure import Enclosure, attention_enclosure, distance
from certkv.reference.exact.float64 import ExactFloat64, attention
from certkv.reference.exact.judge import Verdict, judge
from certkv.reference.exact.readable import attention_mp

__all__ = [
    "Enclosure",
    "ExactFloat64",
    "Verdict",
    "attention",
    "attention_enclosure",
    "attention_mp",
    "distance",
    "judge",
]
