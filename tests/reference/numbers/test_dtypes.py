from typing import Any

import ml_dtypes
import numpy as np
import pytest

from certkv.reference.errors import DTypeError
from certkv.reference.numbers import BFLOAT16, FLOAT16, FLOAT32, FloatType, float_type

TYPES = [FLOAT16, BFLOAT16, FLOAT32]


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
def test_constants_agree_with_the_type(ft: FloatType) -> None:
    info: Any = ml_dtypes.finfo(ft.dtype)  # type: ignore[no-untyped-call]
    assert ft.max == float(info.max)
    assert ft.smallest_subnormal == float(info.smallest_subnormal)
    assert ft.precision == info.nmant + 1
    assert ft.unit_roundoff == float(info.eps) / 2
    assert ft.itemsize == ft.bits_dtype.itemsize


@pytest.mark.parametrize("ft", TYPES, ids=lambda ft: ft.name)
def test_found_by_name_dtype_and_scalar_type(ft: FloatType) -> None:
    for key in (ft, ft.name, ft.dtype, ft.dtype.type):
        assert float_type(key) is ft


@pytest.mark.parametrize("key", ["float64", np.float64, np.dtype(np.int16), "half", np.uint16])
def test_anything_else_is_refused(key: object) -> None:
    with pytest.raises(DTypeError, match="float16, bfloat16, float32"):
        float_type(key)
