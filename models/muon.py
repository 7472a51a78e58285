"""Muon for stacks of equally shaped matrices: momentum, then an orthogonalised step (Newton-Schulz iteration).

Source: Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), with decoupled weight decay.
"""

from __future__ import annotations

import torch
from torch import Tensor


def orthogonalise(stack: Tensor) -> Tensor:
    """Bring the singular values of every matrix in `stack [n, rows, columns]` near 1, in bfloat16."""
    x = stack.bfloat16()
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.transpose(1, 2)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.transpose(1, 2)
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.transpose(1, 2) if tall else x).float()


class Muon:
    """The optimizer; its state is one momentum tensor per shape."""

    def __init__(self, matrices: list[torch.nn.Parameter], momentum: float = 0.95, weight_decay: float = 0.1) -> None:
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        self.groups = [[matrix for matrix in matrices if tuple(matrix.shape) == shape] for shape in shapes]
        self.buffers = [torch.zeros_like(torch.stack(list(group))) for group in self.groups]
        self.momentum, self.weight_decay = momentum, weight_decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        """Update the matrices from their gradients and clear those."""
        for group, buffer in zip(self.groups, self.buffers, strict=True):
            gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            buffer.lerp_(gradient, 1 - self.momentum)
            update = orthogonalise(gradient.lerp(buffer, self.momentum))
            scale = max(1.0, buffer.shape[1] / buffer.shape[2]) ** 0.5
            torch._foreach_mul_(group, 1 - rate * self.weight_decay)
            torch._foreach_add_(group, list(update.unbind()), alpha=-rate * scale)
            for matrix in group:
                matrix.grad = None

    def state(self) -> list[Tensor]:
        """Return the momentum, in bfloat16 to keep checkpoints small."""
        return [buffer.bfloat16().cpu() for buffer in self.buffers]

    def restore(self, state: list[Tensor]) -> None:
        """Take up a saved momentum."""
        for buffer, saved in zip(self.buffers, state, strict=True):
            buffer.copy_(saved)
