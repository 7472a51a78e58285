"""Passkey prompts: a number hidden in filler text and asked for at the end.

The two sentences below are part of the bundled model's interface: it was trained on them, word for word, so the
trainer, the evaluation, the capture tool and the demo all take them from here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

DIGITS = 6
NEEDLE = b"\n# The passkey is %s. Remember it.\n"
QUESTION = b"\n# What is the passkey? The passkey is "
NEEDLE_BYTES = len(NEEDLE % (b"0" * DIGITS))


class Prompt(NamedTuple):
    """A passkey prompt and its answer.

    Attributes
    ----------
    text
        The bytes to feed (without the start token); the model should continue them with `answer`.
    answer
        The digits that were hidden.
    needle_start
        Index in `text` of the first byte of the needle sentence.
    """

    text: bytes
    answer: bytes
    needle_start: int


def random_key(rng: np.random.Generator) -> bytes:
    """Draw `DIGITS` independent uniform decimal digits."""
    return bytes(48 + int(digit) for digit in rng.integers(0, 10, DIGITS))


def build(filler: bytes, length: int, depth: float, key: bytes) -> Prompt:
    """Hide `key` in `filler` so that the prompt is exactly `length` bytes long.

    Parameters
    ----------
    filler
        Text to hide the key in; its first bytes are used.
    length
        Bytes of the whole prompt, question included and answer excluded.
    depth
        Where the needle goes: 0 is the start of the filler, 1 its end, right before the question. The needle moves
        back to the start of its line, so that it never splits one.
    key
        `DIGITS` ASCII digits.

    Returns
    -------
    Prompt

    Raises
    ------
    ValueError
        If `key` is not `DIGITS` digits, `depth` is outside [0, 1], or the filler is too short for `length`.
    """
    if len(key) != DIGITS or not key.isdigit():
        raise ValueError(f"a passkey is {DIGITS} ASCII digits, got {key!r}")
    if not 0.0 <= depth <= 1.0:
        raise ValueError(f"depth is a fraction between 0 and 1, got {depth!r}")
    room = length - NEEDLE_BYTES - len(QUESTION)
    if room < 0 or len(filler) < room:
        raise ValueError(
            f"a prompt of {length} bytes needs {max(room, 0)} bytes of filler and at least "
            f"{NEEDLE_BYTES + len(QUESTION)} bytes for its two sentences; got {len(filler)} bytes of filler"
        )
    text = filler[:room]
    cut = round(depth * room)
    if cut < room:
        # rfind gives -1 when the needle falls into the first line: it then goes to the very start.
        cut = text.rfind(b"\n", 0, cut) + 1
    return Prompt(text[:cut] + NEEDLE % key + text[cut:] + QUESTION, key, cut)
