"""Identity ``decomposition``: what separates the exact output from any reported vector.

Statement. Let ``a'`` be weights with sum 1, ``w_t > 0``, ``W = sum a'_t w_t``, ``a_t = a'_t w_t / W``,
``e_t = V_t - V_hat_t``, ``O = sum a_t V_t`` and ``O_hat = sum a'_t V_hat_t``. For every vector c and number kappa

    O - c = ( sum_t a'_t (w_t - kappa) (V_t - c)  +  kappa sum_t a'_t e_t  +  kappa (O_hat - c) ) / W.

With ``w_t = e^{-delta_t}``, delta_t the total error of the logarithm of a weight, a is the exact softmax.

Source: ours; the two-term decomposition of arXiv 2605.20868 (Section 4) is `two_terms`. Form: exact identities. They
hold in any field, so the functions take arrays of `fractions.Fraction` as well as of float64.
Derivation: docs/derivations/decomposition.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from certkv.reference.numbers.types import AnyArray


@dataclass(frozen=True, eq=False)
class Terms:
    """The three terms over W, each [d]; their sum is ``O - c``.

    Attributes
    ----------
    key : array [d]
        ``sum a'_t (w_t - kappa)(V_t - c) / W``: the weights are wrong.
    value : array [d]
        ``kappa sum a'_t e_t / W``: the values are wrong.
    accumulation : array [d]
        ``kappa (O_hat - c) / W``: the sums are wrong.
    """

    key: AnyArray
    value: AnyArray
    accumulation: AnyArray


def identity(a_prime: AnyArray, w: AnyArray, v: AnyArray, v_hat: AnyArray, c: AnyArray, kappa: object = 1) -> Terms:
    """Evaluate the three terms.

    Parameters
    ----------
    a_prime : array [N]
        Executed weights, sum 1.
    w : array [N]
        ``e^{-delta_t}``: exact weight over executed weight, up to one common factor.
    v, v_hat : array [N, d]
        Original and decoded values.
    c : array [d]
        The reported output.
    kappa : number

    Returns
    -------
    Terms
    """
    total = a_prime @ w
    return Terms(
        key=(a_prime * (w - kappa)) @ (v - c) / total,
        value=kappa * (a_prime @ (v - v_hat)) / total,
        accumulation=kappa * (a_prime @ v_hat - c) / total,
    )


def two_terms(a: AnyArray, a_prime: AnyArray, v: AnyArray, v_hat: AnyArray) -> tuple[AnyArray, AnyArray]:
    """Split ``O_hat - O`` as the paper does, through ``sum a'_t V_t``.

    Parameters
    ----------
    a, a_prime : array [N]
        Exact and executed weights.
    v, v_hat : array [N, d]

    Returns
    -------
    key, value : array [d]
        ``sum (a'_t - a_t) V_t`` and ``sum a'_t (V_hat_t - V_t)``; their sum is ``O_hat - O``.
    """
    return (a_prime - a) @ v, a_prime @ (v_hat - v)
