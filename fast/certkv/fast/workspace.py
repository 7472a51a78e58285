"""What the kernels of a step hand to each other: planned once, so that a step allocates nothing."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

from certkv.fast.errors import SettingError

BIAS = 14
"""The largest weight of a block is about ``2**BIAS`` when it is rounded: small weights stay in binary16's range."""

STATISTICS = 4
"""Numbers per block and head that the first tier of a certificate rests on."""

PART_TERMS = 16
"""Room for the numbers per split and head that it reads; see `certkv.fast.split_terms.COLUMNS`."""


@dataclass(frozen=True, eq=False)
class Workspace:
    """Executed weights, partial and merged softmax states; H KV heads of G query heads each, Hq in all, S splits.

    A weight is ``P = fp16(2**(x - reference))``, x the token's score in bits: exactly what multiplied the value codes
    and went into l. References are in bits, and BIAS below the running maximum of their block. A state ``(m, l, o)``
    stands for ``sum P 2**(reference - m)`` and the same with values; a state without tokens is ``(-inf, 0, 0)``.

    Attributes
    ----------
    weights : float16 [batch, H, max_blocks, G, B]
        Blocks that a pass does not cover (beyond the length, or pinned) are left as they were. The heads of a group lie
        side by side, here, in ``reference`` and in ``statistics``, so that a program of attend, which has a group,
        writes whole lines one behind the other: `certkv.fast.coded.by_head` is the other view.
    reference : float32 [batch, H, max_blocks, G]
    resident_weights : float16 [batch, Hq, 2, B]
        0 for tokens that are not there.
    resident_reference : float32 [batch, Hq, 2]
        -inf for a slot without tokens.
    resident_sums : float32 [batch, Hq, 2]
        Sum of P of a slot, for the first tier.
    statistics : float32 [batch, H, max_blocks, G, 4]
        Of every block: the sum of P, the sum of its squares, P of a token with the largest score; the square of
        ``||s q'||``, s its key steps and q' the query times the power of two of `scaled_query`. Read by the programs of
        a pass that have written them, and by nobody else.
    part_m, part_l : float32 [batch, Hq, S + 1]
        The last split is the resident tokens.
    part_o : float32 [batch, Hq, S + 1, d]
    part_terms : float32 [batch, Hq, S, 16]
        What the blocks of a split add to the head's bound, in the unit of its state; l, and numbers of the query:
        `certkv.fast.split_terms.COLUMNS`.
    m, l : float32 [batch, Hq]
        Of all tokens.
    o : float32 [batch, Hq, d]
        Unnormalised.
    output : float32 [batch, Hq, d]
        ``o / l``.
    lse : float32 [batch, Hq]
        Natural logarithm of the sum of ``exp(score)``.
    levels : uint8 [batch, Hq, max_blocks]
        Bit 0: keys are original; bit 1: values are.
    flags : uint8 [batch, Hq]
        Heads to be computed from their originals.
    """

    weights: torch.Tensor
    reference: torch.Tensor
    resident_weights: torch.Tensor
    resident_reference: torch.Tensor
    resident_sums: torch.Tensor
    statistics: torch.Tensor
    part_m: torch.Tensor
    part_l: torch.Tensor
    part_o: torch.Tensor
    part_terms: torch.Tensor
    m: torch.Tensor
    l: torch.Tensor  # noqa: E741 (the softmax state's name)
    o: torch.Tensor
    output: torch.Tensor
    lse: torch.Tensor
    levels: torch.Tensor
    flags: torch.Tensor

    @property
    def splits(self) -> int:
        """Splits of the coded blocks, S."""
        return int(self.part_m.shape[-1]) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(getattr(self, field.name).nbytes for field in fields(self))


def plan_workspace(
    batch: int,
    q_heads: int,
    kv_heads: int,
    head_dim: int,
    block: int,
    max_blocks: int,
    splits: int,
    device: torch.device | str = "cpu",
) -> Workspace:
    """Allocate; floats are NaN, so that what was not written shows, but for weights, which are 0.

    Raises
    ------
    SettingError
        A size below 1, or query heads that do not share the KV heads evenly.
    """
    sizes = {
        "batch": batch,
        "q_heads": q_heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "block": block,
        "max_blocks": max_blocks,
        "splits": splits,
    }
    wrong = [f"{name} is {size}" for name, size in sizes.items() if size < 1]
    if wrong:
        raise SettingError(f"{', '.join(wrong)}; give at least 1")
    if q_heads % kv_heads:
        raise SettingError(f"{q_heads} query heads do not share {kv_heads} KV heads; give a multiple of the KV heads")
    heads, blocks = (batch, q_heads), (batch, kv_heads, max_blocks, q_heads // kv_heads)

    def floats(*shape: int, of: tuple[int, ...] = heads) -> torch.Tensor:
        return torch.full((*of, *shape), float("nan"), dtype=torch.float32, device=device)

    def weights(*shape: int) -> torch.Tensor:
        return torch.zeros((*shape, block), dtype=torch.float16, device=device)

    def bytes_(*shape: int) -> torch.Tensor:
        return torch.zeros((*heads, *shape), dtype=torch.uint8, device=device)

    return Workspace(
        weights=weights(*blocks),
        reference=floats(of=blocks),
        resident_weights=weights(*heads, 2),
        resident_reference=floats(2),
        resident_sums=floats(2),
        statistics=floats(STATISTICS, of=blocks),
        part_m=floats(splits + 1),
        part_l=floats(splits + 1),
        part_o=floats(splits + 1, head_dim),
        part_terms=floats(splits, PART_TERMS),
        m=floats(),
        l=floats(),
        o=floats(head_dim),
        output=floats(head_dim),
        lse=floats(),
        levels=bytes_(max_blocks),
        flags=bytes_(),
    )
