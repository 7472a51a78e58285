"""What holds and what does not hold of the paper's key quantizer."""

from fractions import Fraction

import numpy as np
import pytest

from certkv.reference.formats import key_format
from certkv.reference.numbers import BFLOAT16, FLOAT16, FloatType


@pytest.mark.parametrize("ft", [FLOAT16, BFLOAT16], ids=lambda ft: ft.name)
def test_half_a_step_fails_in_floating_point(ft: FloatType) -> None:
    """|k - k_hat| <= s/2 is a statement of real arithmetic only (defect: it was relied on): ties exceed it."""
    fmt = key_format("int8-paper")
    x = np.random.default_rng(1).standard_normal((40, 16, 128)).astype(ft.dtype)
    encoded = fmt.encode(x)
    residual = np.abs(x.astype(np.float64) - fmt.decode(encoded))
    ratio = residual / encoded.step[..., None, :].astype(np.float64)
    worst = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
    block, _, channel = (int(i) for i in worst)
    step = Fraction(float(encoded.step[block, channel]))
    meaning = Fraction(float(encoded.minimum[block, channel])) + step * int(encoded.codes[worst])
    excess = abs(Fraction(float(x[worst])) - meaning) / step - Fraction(1, 2)
    assert 0 < excess <= 129 * Fraction(2) ** -23


def test_the_largest_bfloat16_range_overflows_into_the_right_code() -> None:
    x = np.array([[-BFLOAT16.max], [0.0], [BFLOAT16.max]]).astype(BFLOAT16.dtype)
    encoded = key_format("int8-paper").encode(x)
    step, offset = encoded.step[0], encoded.minimum[0]
    with np.errstate(over="ignore"):
        assert x[0, 0].astype(np.float32) - offset == -np.inf  # the case that the definition speaks of
    assert np.isfinite([step, offset]).all()
    assert encoded.codes[:, 0].tolist() == [-128, 0, 127]  # zero sits at -z/s = -1/2, a tie, which goes to even
