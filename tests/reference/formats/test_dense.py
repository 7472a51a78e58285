import numpy as np
import pytest

from certkv.reference.formats import key_format
from certkv.reference.numbers import FloatType

from .corners import CORNER_IDS, CORNERS, AnyArray


@pytest.mark.parametrize(("ft", "name", "x"), CORNERS, ids=CORNER_IDS)
def test_dense_is_the_originals_bit_for_bit(ft: FloatType, name: str, x: AnyArray) -> None:
    dense = key_format("dense")
    encoded = dense.encode(x)
    assert encoded.codes.dtype == ft.dtype
    assert encoded.codes.tobytes() == x.tobytes()
    assert np.array_equal(dense.decode(encoded), x.astype(np.float64))
    assert not dense.decode_error_ub(encoded).any()
