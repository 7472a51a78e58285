"""Policies and statuses of the kernel library are those of the reference: fields, defaults, refusals, their words."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from certkv.fast import certificate, policies
from certkv.fast.errors import SettingError
from certkv.reference import certificate as reference_certificate
from certkv.reference import errors as reference_errors
from certkv.reference import ladder
from certkv.reference import policies as reference_policies

NAMES = ("Naive", "PaperPolicy", "Budget")
VALUES: tuple[Any, ...] = (
    -1, 0, 1, 3, 255, 256, 2**70, 10**400, -0.5, 0.0, 0.3, 1.0, 2.5, float("nan"), float("inf"), float("-inf"), True,
    None, "1", "values", "output", "keys", 1j, np.float16(0.1), np.uint8(7), np.bool_(True), np.array(1), np.array([1]),
)  # fmt: skip


def outcome(module: Any, name: str, error: type[Exception], settings: dict[str, Any]) -> str:
    """What a policy holds, with the types, or the words of its refusal."""
    try:
        made = getattr(module, name)(**settings)
    except error as refused:
        return f"refused: {refused}"
    return repr([(field.name, getattr(made, field.name)) for field in fields(made)])


@pytest.mark.parametrize("name", NAMES)
def test_policies_are_the_same(name: str) -> None:
    ours, theirs = getattr(policies, name), getattr(reference_policies, name)
    assert [(f.name, f.default) for f in fields(ours)] == [(f.name, f.default) for f in fields(theirs)]
    assert ours.name == theirs.name
    refused = 0
    for field in fields(ours):
        for value in VALUES:
            settings = {field.name: value}
            said = outcome(policies, name, SettingError, settings)
            assert said == outcome(reference_policies, name, reference_errors.SettingError, settings)
            refused += said.startswith("refused")
    assert refused or not fields(ours), "nothing was refused, so nothing was compared"


def test_rounds_are_capped_alike() -> None:
    assert policies.MAX_ROUNDS == ladder.MAX_ROUNDS


def test_statuses_are_the_same() -> None:
    """But for the last one: only a graph, which cannot raise, has to say that a token had no room."""
    ours, theirs = certificate.Status, reference_certificate.Status
    assert [(s.name, s.value) for s in ours][:-1] == [(s.name, s.value) for s in theirs]
    assert list(ours)[-1] is certificate.Status.CAPACITY


def test_certificates_have_the_same_fields() -> None:
    ours, theirs = certificate.Certificate, reference_certificate.Certificate
    # kernels fill counts of fixed shape, of which `levels` is a view
    made = [f.name for f in fields(ours) if f.name != "finer"]
    assert made == [f.name for f in fields(theirs) if f.name != "levels"]
    assert isinstance(ours.levels, property)


def test_there_are_two_implementations() -> None:
    """Otherwise every comparison here would compare the reference with itself."""
    for name in NAMES:
        assert getattr(policies, name).__module__ != getattr(reference_policies, name).__module__
