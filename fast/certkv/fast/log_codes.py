"""Log codes: one byte per token for a nonnegative number, rounded up, relative to the largest of its block.

Code c in a block whose stored maximum is M means exactly ``M m[c % 8] / 2**16 / 2**(c // 8)``,
``m[j] = ceil(2**16 2**(-j/8))``; derivation: docs/derivations/log_codes.md.
"""

from __future__ import annotations

from functools import cache

import torch

PER_OCTAVE = 8
MANTISSA_BITS = 16
CODES = 256
MANTISSAS = (65536, 60097, 55109, 50536, 46341, 42495, 38968, 35734)
"""``ceil(2**16 2**(-j/8))``, j = 0 to 7."""


@cache
def ratios(device: torch.device) -> torch.Tensor:
    """Meaning of each code for a block maximum of 1, float64 [256]; decreasing, exact. Not to be written to."""
    meaning = [MANTISSAS[c % PER_OCTAVE] * 2.0 ** -(MANTISSA_BITS + c // PER_OCTAVE) for c in range(CODES)]
    return torch.tensor(meaning, dtype=torch.float64, device=device)


def encode(x: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    """Return the largest code whose meaning is at least x, by bisection; 0 if none is, or the maximum is infinite.

    Parameters
    ----------
    x : float64 [..., B]
        Nonnegative; at most the block's maximum.
    maximum : [...]
        As stored.

    Returns
    -------
    uint8 [..., B]
    """
    table = ratios(x.device)
    m = maximum.to(torch.float64)[..., None]
    code = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    for bit in (128, 64, 32, 16, 8, 4, 2, 1):
        # exact: 8 significant bits of a bfloat16 maximum times 16 of a mantissa
        code = torch.where(table[code | bit] * m >= x, code | bit, code)
    return torch.where(torch.isinf(m), 0, code).to(torch.uint8)


def decode(codes: torch.Tensor, maximum: torch.Tensor) -> torch.Tensor:
    """Return what the codes mean, exactly, float64 [..., B], from uint8 [..., B] and maxima [...]."""
    return ratios(codes.device)[codes.to(torch.int64)] * maximum.to(torch.float64)[..., None]
