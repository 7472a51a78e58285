"""What a workspace keeps block by block, head by head."""

from __future__ import annotations

import torch

from certkv.fast.coded import by_head


def of_heads(x: torch.Tensor) -> torch.Tensor:
    """Copy weights, references or statistics, [batch, H, blocks, G, ...] -> [batch, Hq, blocks, ...]."""
    return by_head(x).flatten(1, 2)
