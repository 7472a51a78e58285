import numpy as np
import pytest

from certkv.reference.formats.packing import pack4, packed_rows, unpack4


@pytest.mark.parametrize("block", [1, 2, 3, 7, 8, 16, 63, 64])
def test_packing_is_a_bijection(block: int) -> None:
    codes = np.random.default_rng(block).integers(0, 16, size=(2, 3, block, 5), dtype=np.uint8)
    packed = pack4(codes)
    assert packed.shape == (2, 3, packed_rows(block), 5)
    assert packed.dtype == np.uint8
    assert np.array_equal(unpack4(packed, block), codes)
    assert np.array_equal(pack4(unpack4(packed, block)), packed)


def test_all_256_bytes() -> None:
    packed = np.arange(256, dtype=np.uint8).reshape(1, 256)
    codes = unpack4(packed, 2)
    assert len(np.unique(codes, axis=1).T) == 256
    assert np.array_equal(pack4(codes), packed)


def test_layout_of_an_odd_block() -> None:
    codes = np.array([[1], [2], [3]], dtype=np.uint8)  # half = 2: tokens 0 and 2 share a byte; token 3 is absent
    assert pack4(codes).tolist() == [[1 + 16 * 3], [2]]


def test_packing_leaves_its_input_alone() -> None:
    codes = np.full((4, 3), 15, dtype=np.uint8)
    pack4(codes)
    assert (codes == 15).all()
