"""A blank certificate promises nothing."""

from __future__ import annotations

from dataclasses import fields

import torch

from certkv.fast.certificate import Certificate, Status


def test_blank_promises_nothing() -> None:
    made = Certificate.blank(2, 3)
    for name in ("bound", "key", "value", "arithmetic", "tolerance"):
        tensor = getattr(made, name)
        assert (tensor.dtype, tuple(tensor.shape)) == (torch.float32, (2, 3))
        assert torch.isposinf(tensor).all()
    assert tuple(made.promoted.shape) == (2, 3, 2)
    assert made.host_bytes.dtype == torch.int64
    for tensor in (made.rung, made.status, made.promoted):
        assert tensor.dtype == torch.int32
    for tensor in (made.rung, made.status, made.promoted, made.host_bytes):
        assert not tensor.any()
    assert made.nbytes == 6 * (5 * 4 + 2 * 4 + 2 * 4 + 2 * 8)


def test_clear_writes_in_place() -> None:
    """A captured graph holds on to the tensors."""
    made = Certificate.blank(1, 2)
    before = {field.name: getattr(made, field.name).data_ptr() for field in fields(made)}
    for field in fields(made):
        getattr(made, field.name).fill_(Status.CHECKSUM)
    made.clear()
    assert before == {field.name: getattr(made, field.name).data_ptr() for field in fields(made)}
    assert torch.isposinf(made.bound).all()
    assert not made.status.any()
