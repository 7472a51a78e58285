"""The paper's total: ``2 V_max e^{2D} alpha_hat (e^{2D} - 1) + sum_b rho_b eta_b`` (arXiv 2605.20868, Section 4.5).

Form: as stated, so that its numbers can be reproduced. In real arithmetic it bounds the distance to the same kernel
fed with originals, if D bounds every score error and rho_b are the executed masses: the mass theorem turns the
estimated tail ``alpha_hat`` into ``e^{2D} alpha_hat``, the tail lemma multiplies by ``e^{2D} - 1``, the key theorem
by ``2 V_max``. It says nothing about the kernel's rounding and is loose by two to three orders of magnitude; no
certificate of ours uses it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from certkv.reference.bounds.value_blocks import blockwise
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import FloatArray


def key_term(delta: ArrayLike, tail_mass: ArrayLike, v_max: ArrayLike) -> FloatArray:
    """``2 V_max e^{2D} alpha_hat (e^{2D} - 1)``.

    Parameters
    ----------
    delta : float64 [...]
        D: the largest score error over the tail blocks.
    tail_mass : float64 [...]
        ``alpha_hat``: estimated mass of the blocks whose keys are coded.
    v_max : float64 [...]
        Largest value norm, in the units of V.

    Returns
    -------
    float64 [...]
        Rounded up; 0 where the tail is empty, ``inf`` where the exponentials overflow.
    """
    delta, tail_mass, v_max = (np.asarray(x, dtype=np.float64) for x in (delta, tail_mass, v_max))
    with np.errstate(over="ignore", invalid="ignore"):
        # exp and expm1 within 4 ulp are 8 roundings each; 4 products.
        bound = outward(20) * (2.0 * v_max * np.exp(2.0 * delta) * tail_mass * np.expm1(2.0 * delta))
    empty = (tail_mass == 0.0) & np.isfinite(delta)
    return np.asarray(np.where(empty, 0.0, np.where(np.isnan(bound), np.inf, bound)))


def total(
    delta: ArrayLike,
    tail_mass: ArrayLike,
    v_max: ArrayLike,
    mass: FloatArray,
    eta: FloatArray,
) -> FloatArray:
    """Key term plus value term.

    Parameters
    ----------
    delta, tail_mass, v_max : float64 [...]
        As in `key_term`.
    mass, eta : float64 [..., n]
        ``rho_b`` and ``eta_b`` of `certkv.reference.bounds.value_blocks`; eta 0 where values are original.

    Returns
    -------
    float64 [...]
    """
    return np.asarray(outward(1) * (key_term(delta, tail_mass, v_max) + blockwise(mass, eta)))
