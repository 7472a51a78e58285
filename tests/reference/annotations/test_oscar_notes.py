"""Annotations of OScaR's formats against exact norms of residuals, roots to 200 bits."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest

from certkv.reference.annotations import annotate_keys, annotate_values
from certkv.reference.annotations.keys import residual_unit
from certkv.reference.formats import OSCAR_KEY_FORMATS, OSCAR_VALUE_FORMATS, Encoded, OscarKeys, OscarValues
from certkv.reference.numbers import FloatType

from ..formats.corners import CORNERS
from ..formats.oscar_definition import root_below, rotated_sums
from .exact import check_operator, check_upper, exact_blocks, squared_norms

AnyArray = npt.NDArray[np.object_]

SMALL = [(ft, name, x) for ft, name, x in CORNERS if x.shape[-1] <= 20]
corners = pytest.mark.parametrize(("ft", "name", "x"), SMALL, ids=[f"{ft.name}-{name}" for ft, name, _ in SMALL])
KEYS = [OSCAR_KEY_FORMATS[name] for name in ("oscar", "oscar-paper", "oscar-scaling", "oscar-4-g64")]


def exact_meaning(fmt: OscarKeys | OscarValues, encoded: Encoded) -> AnyArray:
    """``H n (minimum + step code)`` of one block [B, d], from its definition."""
    codes = fmt._codes(encoded)
    meaning = np.empty(codes.shape, dtype=object)
    for t in range(encoded.block):
        n = Fraction(float(encoded.norm[t])) if encoded.norm is not None and encoded.norm.shape[-1] else Fraction(1)
        row = []
        for c in range(encoded.head_dim):
            at = (t // fmt.group, c) if isinstance(fmt, OscarKeys) else (t, c // fmt.group)
            minimum, step = Fraction(float(encoded.minimum[at])), Fraction(float(encoded.step[at]))
            row.append(n * (minimum + step * Fraction(float(codes[t, c]))))
        sums = rotated_sums(row) if fmt.rotated else [(v, 1) for v in row]
        meaning[t] = [total * root_below(Fraction(1, size)) for total, size in sums]
    return meaning


@pytest.mark.parametrize("fmt", KEYS, ids=lambda f: f.name)
@corners
def test_key_notes_are_above_and_not_far(fmt: OscarKeys, ft: FloatType, name: str, x: AnyArray) -> None:
    encoded = fmt.encode(x)
    notes = annotate_keys(x, encoded, fmt)
    assert (residual_unit(encoded) == 1.0).all()
    for i in np.ndindex(x.shape[:-2]):
        one = encoded.take(i)
        meaning = exact_meaning(fmt, one)
        rows = exact_blocks(x[i]) - meaning
        # decoding is charged once in every element of a residual, and once more where it moves the computed one
        charged = 2.0 * float(fmt.decode_error_ub(one).max())
        norm = charged * math.sqrt(x.shape[-1])
        check_upper(notes.relative_max_ub[i], max(abs(r) for r in rows.ravel()) ** 2, charged)
        check_upper(notes.relative_norm_ub[i], max(squared_norms(rows)), norm)
        check_operator(notes.relative_operator_ub[i], rows, 4 * norm * math.sqrt(len(rows)))
        check_upper(notes.decoded_norm_ub[i], max(squared_norms(meaning)), norm)


@corners
def test_value_notes_are_above_and_not_far(ft: FloatType, name: str, x: AnyArray) -> None:
    fmt = OSCAR_VALUE_FORMATS["oscar"]
    encoded = fmt.encode(x)
    notes = annotate_values(x, encoded, fmt, np.zeros(x.shape[-1]))
    for i in np.ndindex(x.shape[:-2]):
        one = encoded.take(i)
        meaning = exact_meaning(fmt, one)
        rows = exact_blocks(x[i]) - meaning
        norm = 2.0 * float(fmt.decode_error_ub(one).max()) * math.sqrt(x.shape[-1])
        check_upper(notes.residual_norm_ub[i], max(squared_norms(rows)), norm)
        check_upper(notes.decoded_norm_ub[i], max(squared_norms(meaning)), norm)
        tokens = notes.take(i).token_residuals_ub()
        for bound, squared in zip(tokens.tolist(), squared_norms(rows), strict=True):
            assert bound == math.inf or Fraction(bound) ** 2 >= squared
