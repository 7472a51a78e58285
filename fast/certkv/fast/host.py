"""The originals of full blocks, in pinned host memory or on the device, and which of them are there."""

from __future__ import annotations

from typing import Literal

import torch

from certkv.fast.errors import SettingError

Place = Literal["host", "device"]
PLACES: tuple[Place, ...] = ("host", "device")


class Originals:
    """16-bit keys and values of full blocks; a block that is missing is an error wherever it is needed (B1, B5).

    Host memory is pinned where the device is a GPU, so that kernels read it through its pointer.

    Parameters
    ----------
    batch, kv_heads, max_blocks, block, head_dim : int
    dtype : torch.dtype
    place : {"host", "device"}
    device : torch.device
        Of the cache.

    Attributes
    ----------
    keys, values : T [batch, kv_heads, max_blocks, block, head_dim]
        NaN where nothing was stored, or where it was lost.
    present : uint8 [batch, kv_heads, max_blocks]
        1 where both are there; on the device, for kernels to check before they read.
    """

    def __init__(
        self,
        batch: int,
        kv_heads: int,
        max_blocks: int,
        block: int,
        head_dim: int,
        dtype: torch.dtype,
        place: Place,
        device: torch.device,
    ) -> None:
        if place not in PLACES:
            raise SettingError(f"originals is {place!r}; give one of {', '.join(PLACES)}")
        where = device if place == "device" else torch.device("cpu")
        pinned = place == "host" and device.type == "cuda"
        shape = (batch, kv_heads, max_blocks, block, head_dim)
        self.keys, self.values = (
            torch.full(shape, float("nan"), dtype=dtype, device=where, pin_memory=pinned) for _ in range(2)
        )
        self.present = torch.zeros(shape[:3], dtype=torch.uint8, device=device)
        self.place: Place = place

    @property
    def block_bytes(self) -> int:
        """Bytes of one block of one side and KV head."""
        return self.keys.shape[-2] * self.keys.shape[-1] * self.keys.element_size()

    @property
    def host_block_bytes(self) -> int:
        """Bytes that reading such a block moves from the host; 0 where originals are on the device."""
        return self.block_bytes if self.place == "host" else 0

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, wherever they are."""
        return self.keys.nbytes + self.values.nbytes

    def write(self, sequence: int, start: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Store blocks from ``start`` on; they count as present only once `mark` says so.

        Copies to the host are queued on the current stream; synchronise it before `mark`.

        Parameters
        ----------
        keys, values : T [blocks, kv_heads, block, head_dim]
        """
        stop = start + len(keys)
        for store, blocks in ((self.keys, keys), (self.values, values)):
            # head by head: each is contiguous on both sides, so it is one plain copy with no staging
            for head, source in enumerate(blocks.transpose(0, 1).contiguous()):
                store[sequence, head, start:stop].copy_(source, non_blocking=True)

    def mark(self, sequence: int, start: int, stop: int) -> None:
        """Say that blocks are there."""
        self.present[sequence, :, start:stop] = 1

    def erase(self, sequence: int, start: int, stop: int) -> None:
        """Forget blocks."""
        for store in (self.keys, self.values):
            store[sequence, :, start:stop] = float("nan")
        self.present[sequence, :, start:stop] = 0

    def lose(self, sequence: int | None = None, kv_head: int | None = None, block: int | None = None) -> None:
        """Lose originals, as a fault would: of one sequence, KV head or block, or (None) of all of them."""
        where = tuple(slice(None) if i is None else i for i in (sequence, kv_head, block))
        for store in (self.keys, self.values):
            store[where] = float("nan")  # what is lost must not be readable by accident
        self.present[where] = 0
