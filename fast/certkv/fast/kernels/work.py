"""What a kernel of the ladder is launched with, so that it may be a launch of its own or a part of another.

Such a kernel takes its place as an argument, ``program``, which is None in a launch of its own. It has no early return,
and its parameters are in this order: arguments, constants, what differs from round to round, ``program``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
import triton.language as tl


@triton.jit
def place_of(program):
    """Return ``program``, or the program's place in its grid where that is None."""
    if program is None:
        return tl.program_id(0), tl.program_id(1), tl.program_id(2)
    else:
        return program[0], program[1], program[2]


class Work(NamedTuple):
    """A kernel with its arguments.

    Attributes
    ----------
    kernel : triton.JITFunction
    grid : (int, int, int)
    arguments : tuple
        The same in all rounds of a step.
    constants : dict
        In the order of the kernel's parameters.
    turn : dict
        What differs from round to round.
    """

    kernel: Any
    grid: tuple[int, int, int]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    turn: dict[str, Any]

    def launch(self, num_warps: int, **options: Any) -> None:
        """Launch it by itself, without fusion."""
        self.kernel[self.grid](
            *self.arguments,
            **self.constants,
            **self.turn,
            num_warps=num_warps,
            enable_fp_fusion=False,
            **options,
        )
