"""Bits of a word as binary16 operands: every byte, in every place, means what the masks say it means."""

from __future__ import annotations

import pytest
import torch

from certkv.fast.kernels.fields import _key_word, _mask, _value_words


def half(pattern: int) -> float:
    return float(torch.tensor([pattern], dtype=torch.int32).to(torch.int16).view(torch.float16)[0])


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_field_in_place_is_a_subnormal_number_exactly(bits: int) -> None:
    low = (1 << bits) - 1
    for byte in range(256):
        for field in range(8 // bits):
            code = (byte >> (bits * field)) & low
            pattern = byte & (int(_mask(bits, field), 16) & 0xFFFF)
            assert half(pattern) == code * 2.0 ** (bits * field - 24)


def run(text: str, words: list[int]) -> list[int]:
    """Interpret the few instructions that are used: 16-bit outputs of 32-bit inputs, which follow them."""
    body = text.strip("{} ").replace("{", "").replace("}", "")
    lines = [line.strip() for line in body.split(";") if line.strip() and not line.strip().startswith(".reg")]
    outputs: dict[str, int] = {}
    for line in lines:
        if line.startswith("mov.b32"):
            first, second, _ = line.removeprefix("mov.b32").replace(" ", "").split(",")
            outputs[first] = outputs[second] = 0
    registers = {f"${len(outputs) + i}": word for i, word in enumerate(words)}
    for line in lines:
        name, rest = line.split(" ", 1)
        to, *sources = rest.replace(" ", "").split(",")
        values = [registers[x] if x in registers else int(x, 0) for x in sources] if name != "mov.b32" else []
        if name == "shr.u32":
            registers[to] = values[0] >> values[1]
        elif name == "and.b32":
            registers[to] = values[0] & values[1]
        elif name == "prmt.b32":
            both = values[0] | values[1] << 32
            registers[to] = sum((both >> 8 * ((values[2] >> 4 * i) & 7) & 0xFF) << 8 * i for i in range(4))
        elif name == "mov.b32":
            word = registers[sources[1]]
            outputs[to], outputs[sources[0]] = word & 0xFFFF, word >> 16
        else:
            raise AssertionError(line)
    return [outputs[f"${i}"] for i in range(len(outputs))]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_words_of_keys(bits: int) -> None:
    """Every byte in every channel: four halves per field, channels 0, 2, 1, 3."""
    for byte in range(256):
        word = sum(((byte * (2 * i + 1) + 37 * i) & 0xFF) << (8 * i) for i in range(4))
        found = run(_key_word(bits), [word])
        assert len(found) == 4 * (8 // bits)
        for field in range(8 // bits):
            keep = ((1 << bits) - 1) << (bits * field)
            for k, channel in enumerate((0, 2, 1, 3)):
                assert found[4 * field + k] == (word >> (8 * channel)) & keep


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_words_of_values(bits: int) -> None:
    """Every byte in every channel of two rows: the two rows side by side, per channel and field."""
    fields = 8 // bits
    for byte in range(256):
        rows = [sum(((byte * (2 * i + 1) + 91 * i + 53 * j) & 0xFF) << (8 * i) for i in range(4)) for j in range(2)]
        found = run(_value_words(bits), rows)
        assert len(found) == 8 * fields
        for channel in range(4):
            for field in range(fields):
                keep = ((1 << bits) - 1) << (bits * field)
                for j, row in enumerate(rows):
                    assert found[2 * (channel * fields + field) + j] == (row >> (8 * channel)) & keep
