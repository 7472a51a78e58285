"""Theorem ``log_codes``: decoding a log code in binary32 rounds nothing, unless the block's maximum is tiny."""

from __future__ import annotations

from functools import partial

import z3

from certkv.proofs.lemmas.floats_terms import FP32, RNE, brain, chain, exact, floats, read, unsigned, value, vector
from certkv.proofs.smt.lemma import Goal, Lemma


def _decoded(*, smallest: int = 95) -> Goal:
    """8 significant bits times at most 17, then a power of two from 2^-47 to 2^-16, which stays above 2^-149."""
    maximum, mantissa, octave = brain("maximum"), vector("mantissa", 32), vector("octave", 32)
    product = z3.fpMul(RNE, maximum, z3.fpMul(RNE, unsigned(mantissa, FP32), value(2.0**-16, FP32)))
    power = read((127 - octave) << 23, FP32)
    facts = z3.And(
        exact(z3.fpMul, maximum, z3.fpMul(RNE, unsigned(mantissa, FP32), value(2.0**-16, FP32))),
        exact(z3.fpMul, product, power),
    )
    largest = value((2.0 - 2.0**-7) * 2.0**127, FP32)
    return floats(
        facts,
        chain(value(2.0**-smallest, FP32), maximum, largest),
        z3.ULE(2**15, mantissa),
        z3.ULE(mantissa, 2**16),
        z3.ULE(octave, 31),
    )


LEMMAS = (
    Lemma(
        "log_codes.decoded_float32",
        "bfloat16 M >= 2^-95, 2^15 <= m <= 2^16, k <= 31: (M (m 2^-16)) 2^-k is exact in float32",
        _decoded,
        partial(_decoded, smallest=96),
        ("z3", "cvc5", "bitwuzla"),
    ),
)
