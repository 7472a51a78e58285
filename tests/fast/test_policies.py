"""Policies check what they are given, and hold plain Python numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from certkv.fast.errors import SettingError
from certkv.fast.policies import Budget, PaperPolicy


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        (Budget, {"tolerance": float("nan")}, "tolerance is nan; give a finite number of at least 0"),
        (Budget, {"tolerance": -0.1}, "tolerance is -0.1"),
        (Budget, {"tolerance": float("inf")}, "tolerance is inf"),
        (Budget, {"tolerance": torch.tensor(0.1)}, r"tolerance is tensor\(0\.1"),
        (Budget, {"tolerance": "0.1"}, "tolerance is '0.1'; give a number"),
        (Budget, {"relative_to": "keys"}, "relative_to is 'keys'; give one of values, output, absolute"),
        (Budget, {"rounds": 256}, "rounds is 256; give 0 to 255"),
        (Budget, {"rounds": 1.0}, "rounds is 1.0; give a whole number"),
        (Budget, {"tolerance": 10**400}, "tolerance is too large"),
        (PaperPolicy, {"coverage": 1.01}, "coverage is 1.01"),
        (PaperPolicy, {"k_min": 3, "k_max": 2}, "need 1 <= k_min <= k_max"),
        (PaperPolicy, {"value_budget": float("nan")}, "value_budget is nan"),
        (PaperPolicy, {"rank": True}, "rank is True; give a whole number"),
    ],
)
def test_bad_settings_are_refused(policy: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        policy(**settings)


def test_numpy_scalars_become_python_numbers() -> None:
    policy = Budget(np.float16(0.1), rounds=np.uint8(255))  # type: ignore[arg-type]
    assert type(policy.tolerance) is float
    assert type(policy.rounds) is int
    assert policy.tolerance == float(np.float16(0.1))
