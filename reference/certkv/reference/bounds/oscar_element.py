"""Elements and scores of OScaR's codes, from stored metadata alone.

Statement. With D the stored step, Z the stored offset, L the largest code, u the unit roundoff and h half the smallest
number of E (the type of the originals), every number x of a group is off by

    |x - (Z + D code)| <= [D (1/2 + slack_L + L u) + u |Z|] (1 + 4 u) + (L + 2) h,    slack_3 = 2^-10, slack_15 = 2^-9,

where codes come from the stored metadata and the zero point is an integer (`formats.zero_point`);
`published_element_ub` is the same for codes from the metadata before they were stored, decoded in E (as OScaR's code
has it, arXiv 2605.19660), which only 2-bit codes have. With an exact minimum the theorem ``affine`` says more. Element
bounds e_c give a score ``|n <q~, x - x_hat>| <= n sum_c |q~_c| e_c``, and g channels that share one give a norm
``sqrt(g) e``.

No certificate rests on these: residuals are measured. They say what a group's metadata promise without its originals,
and what an encoder that exceeds them has done wrong. Derivation: docs/derivations/oscar_element.md.
"""

from __future__ import annotations

import numpy as np

from certkv.reference.errors import InputError
from certkv.reference.numbers import FloatType, norm_ub, outward
from certkv.reference.numbers.types import FloatArray

SLACK = {3: 2.0**-10, 15: 2.0**-9}
"""Rounding of ``min/s`` in binary32, in steps: at most ``2^(p-24) L``, 0.00037 and 0.0019, and what is left."""


def element_ub(step: FloatArray, shift: FloatArray, levels: int, ft: FloatType) -> FloatArray:
    """Return the bound for codes that come from the stored metadata.

    Parameters
    ----------
    step, shift : float64, of one shape
        As stored: numbers of `ft`.
    levels : int
        Largest code, 3 or 15.
    ft : FloatType
        E, float16 or bfloat16.

    Returns
    -------
    float64, shape of step
        In the units of what was quantized.

    Raises
    ------
    InputError
        Another number of levels: the slack is that of 2 and of 4 bits.
    """
    if levels not in SLACK:
        raise InputError(f"{levels} levels have no proved slack; give one of {', '.join(map(str, SLACK))}")
    u, half = ft.unit_roundoff, ft.smallest_subnormal / 2
    inside = step * (0.5 + SLACK[levels] + levels * u) + u * np.abs(shift)
    # two products and two sums; constants are exact, and a zero loses nothing
    return np.asarray((inside * (1.0 + 4.0 * u) + (levels + 2) * half) * outward(4))


def published_element_ub(step: FloatArray, shift: FloatArray, ft: FloatType) -> FloatArray:
    """Return the bound for 2-bit codes from unrounded metadata, decoded with one more rounding in E.

    Parameters and result as in `element_ub`, with ``u max(|Z|, |Z + 3 D|)`` for the decode and 6 h in all.
    """
    u, half = ft.unit_roundoff, ft.smallest_subnormal / 2
    largest = np.maximum(np.abs(shift), np.abs(shift + 3.0 * step))
    inside = step * (0.5 + SLACK[3] + 3 * u) + u * np.abs(shift) + u * largest
    return np.asarray((inside * (1.0 + 4.0 * u) + 6 * half) * outward(6))


def score_ub(norm: FloatArray, q: FloatArray, element: FloatArray) -> FloatArray:
    """Return ``n_t sum_c |q_c| e_c``: what codes of a group can do to the scores of its tokens.

    Parameters
    ----------
    norm : float64 [tokens]
        Stored norms, not negative.
    q : float64 [G, d]
        Rotated queries.
    element : float64 [d]
        Element bounds of the group.

    Returns
    -------
    float64 [G, tokens]
    """
    return np.asarray((np.abs(q) @ element)[:, None] * norm * outward(q.shape[-1] + 1))


def token_ub(element: FloatArray, group: int) -> FloatArray:
    """Return ``sqrt(g) ||(e_1, e_2, ...)||`` of tokens whose groups of g channels have element bounds [..., groups]."""
    return np.asarray(norm_ub(element, axis=-1) * np.sqrt(float(group)) * outward(2))
