"""How many blocks the query heads of one layer select together, in expectation, if they select at random.

``U = n (1 - (1 - min(2 K_max, n) / n)^H_q)``, ``n = ceil(N / B)`` (arXiv 2605.20868). An estimate, not a bound:
heads that agree select fewer, and the factor 2 stands for rung 1, which doubles a selection.
"""

from __future__ import annotations


def expected_union(tokens: int, block: int, q_heads: int, k_max: int) -> float:
    """Return the expected number of blocks in the union of all heads' selections.

    Parameters
    ----------
    tokens, block : int
        Cached tokens and block size, both at least 1.
    q_heads : int
    k_max : int
        Largest selection of one head before rung 1 doubles it.

    Returns
    -------
    float
        Between 0 and ``ceil(tokens / block)``.
    """
    n = -(-tokens // block)
    chosen = min(2 * k_max, n) / n
    return n * (1.0 - (1.0 - chosen) ** q_heads)


def expected_share(tokens: int, block: int, q_heads: int, k_max: int) -> float:
    """`expected_union` as a share of all blocks."""
    return expected_union(tokens, block, q_heads, k_max) / -(-tokens // block)
