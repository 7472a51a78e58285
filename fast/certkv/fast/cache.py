"""One layer of a batch of sequences: coded blocks in pages, what the device keeps in 16 bits, and the originals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from certkv.fast.anchor import first_block_mean
from certkv.fast.append import Split, assemble, split
from certkv.fast.append_one_host import OneTokenAppends
from certkv.fast.checks import ORIGINALS, Reasons, check_tensor, known_device, require_finite, size, whole_number
from certkv.fast.checksum import Checksums, owners
from certkv.fast.damage import Damage, find, repair
from certkv.fast.encode import encode_keys, encode_values
from certkv.fast.encode_planes import encode_planes
from certkv.fast.errors import CapacityError, InputError, SettingError, ShapeError
from certkv.fast.formats.planar import base_of
from certkv.fast.formats.registry import key_format, value_format
from certkv.fast.host import PLACES, Originals, Place
from certkv.fast.memory import MemoryTable, Row, in_memory, measured_peak
from certkv.fast.pages import PageTable
from certkv.fast.planes import Planes
from certkv.fast.pool import allocate
from certkv.fast.resident import Resident
from certkv.fast.scratch import Scratch, slots_for

_ENCODED_AT_ONCE = 1 << 22
"""Elements that a twin encodes at once: it computes in float64, some ten numbers per element."""


class TieredCache(OneTokenAppends):
    """A quantized KV cache with its originals, for one layer and a batch of sequences.

    Tokens enter the tail as originals. As soon as a block is full it is encoded, once, its annotations are measured
    against what was stored, and its originals go to the tier behind. The anchor of a sequence's certificates is the
    mean value of its first full block, fixed from then on.

    Parameters
    ----------
    batch, kv_heads, head_dim : int
    capacity : int
        Most tokens of one sequence.
    dtype : torch.float16 or torch.bfloat16
        Of the originals.
    keys, values : str
        Names of the formats.
    block : int
        Tokens per block, which is a page.
    originals : {"host", "device"}
        Where the originals of full blocks are kept.
    scratch_bytes : int
        Most bytes of the device pool of recently fetched originals; 0 for none.
    device : torch.device or str
    pages : int or None
        Pages in the pool, shared by the sequences; None for as many as all of them can fill.
    planes : {"host", "device"}
        Where the refinement planes of formats of several levels lie.
    residual : int or None
        Newest tokens that may be originals before they are encoded at once: one block, and nothing else here.

    Attributes
    ----------
    pool : Pool
        Codes, metadata and annotations, by page.
    pages : PageTable
        ``pages.table`` is the page table on the device.
    lengths : int32 [batch]
        Tokens of each sequence, on the device; `tokens` is the mirror on the host.
    refusals : Refusals
        Why `append_one` appends no more to a sequence.
    anchor : float32 [batch, kv_heads, head_dim]
        0 until the first block is full: with nothing coded no distance from it counts.
    resident : Resident
        Originals that stay on the device: first block and tail, with the largest norm of their values.
    originals : Originals
        Originals of full blocks, and which are there.
    scratch : Scratch
        Which of them are on the device as well.
    planes : Planes
        Refinement planes of full blocks; none where both formats have one level.
    checksums : Checksums
        Of all of it, taken when it is written.

    Raises
    ------
    SettingError
        Listing everything that is wrong.
    OutOfMemoryError
    """

    @in_memory("the cache")
    @torch.inference_mode(False)  # tensors made in that mode could not be appended to outside of it
    def __init__(
        self,
        batch: int,
        kv_heads: int,
        head_dim: int,
        capacity: int,
        dtype: torch.dtype,
        keys: str = "int8",
        values: str = "int4-g32",
        block: int = 64,
        originals: Place = "host",
        scratch_bytes: int = 0,
        device: torch.device | str = "cpu",
        pages: int | None = None,
        planes: Place = "host",
        residual: int | None = None,
    ) -> None:
        reasons = Reasons()
        given = {"batch": batch, "kv_heads": kv_heads, "head_dim": head_dim, "capacity": capacity, "block": block}
        given |= {} if pages is None else {"pages": pages}
        sizes = {name: reasons.catch(size, name, number) for name, number in given.items()}
        wanted = reasons.catch(size, "scratch_bytes", scratch_bytes, 0)
        block_bytes = 2 * (sizes["block"] or 0) * (sizes["head_dim"] or 0)
        slots = reasons.catch(slots_for, wanted or 0, block_bytes, originals) or 0
        of_keys, of_values = reasons.catch(key_format, keys), reasons.catch(value_format, values)
        if dtype not in ORIGINALS:
            reasons.add(SettingError(f"dtype is {dtype!r}; give torch.float16 or torch.bfloat16"))
        if originals not in PLACES:
            reasons.add(SettingError(f"originals is {originals!r}; give one of {', '.join(PLACES)}"))
        if planes not in PLACES:
            reasons.add(SettingError(f"planes is {planes!r}; give one of {', '.join(PLACES)}"))
        window = None if residual is None else reasons.catch(size, "residual", residual)
        if window is not None and window != sizes["block"]:
            wanted_block = f"residual is {window}; blocks are encoded one by one here, so give block={window}"
            reasons.add(SettingError(f"{wanted_block}, or leave residual out"))
        where = reasons.catch(known_device, device)
        least = 1 if of_keys is None else of_keys.least_block
        if (tokens := sizes["block"]) is not None and tokens < least:
            reasons.add(SettingError(f"keys {keys} have groups of {least} tokens, and blocks of {tokens} hold none"))
        reasons.raise_all()
        if where is None or of_keys is None or of_values is None:
            raise SettingError(f"device is {device!r}; give one that torch knows")

        self.batch, self.kv_heads, self.head_dim, self.capacity, self.block = (
            int(sizes[name] or 0) for name in ("batch", "kv_heads", "head_dim", "capacity", "block")
        )
        self.dtype, self.device, self.keys, self.values = dtype, where, keys, values
        self.max_blocks = max(1, self.capacity // self.block)
        count = int(sizes.get("pages") or self.batch * self.max_blocks)
        self.pool = allocate(count, self.kv_heads, self.block, self.head_dim, dtype, values, where, keys)
        self.pages = PageTable(self.batch, self.max_blocks, count, where)
        self.lengths = torch.zeros(self.batch, dtype=torch.int32, device=where)
        self.anchor = torch.zeros(self.batch, self.kv_heads, self.head_dim, dtype=torch.float32, device=where)
        self.resident = Resident.empty(self.batch, self.kv_heads, self.block, self.head_dim, dtype, where)
        self.originals = Originals(
            self.batch, self.kv_heads, self.max_blocks, self.block, self.head_dim, dtype, originals, where
        )
        self.planes = Planes.allocate(
            of_keys, of_values, self.pages, count, self.kv_heads, self.block, self.head_dim, planes, where
        )
        slots = min(slots, 2 * self.batch * self.kv_heads * self.max_blocks)
        self.scratch = Scratch.empty(
            slots, self.batch, self.kv_heads, self.max_blocks, self.block, self.head_dim, dtype, where
        )
        self._begin_appends()
        self.checksums = Checksums.empty(self.batch, self.kv_heads, self.max_blocks, count, where)
        self.checksums.take(self.lengths, self.anchor, self.resident)

    @in_memory("what append adds")
    @torch.no_grad()
    def append(self, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int] | torch.Tensor | None = None) -> None:
        """Add tokens; every block that fills is encoded at once. On an error the cache is as it was. Synchronises.

        Parameters
        ----------
        k, v : T [batch, tokens, kv_heads, head_dim]
            Post-RoPE keys, and values, on the cache's device.
        lengths : whole numbers [batch] or None
            How many tokens of each row are added; what follows them in ``k`` and ``v`` is padding and never read. None
            for all.

        Raises
        ------
        ShapeError, DTypeError, SettingError, InputError
            With all reasons.
        NonFiniteError
            A NaN or infinity, with the position of the first.
        CapacityError
            More tokens than a sequence, or more blocks than the pool, has room for.
        OutOfMemoryError
            While tokens are encoded.
        CaptureError
            A graph is being captured; `append_one` is for that.
        """
        added = self._checked(k, v, lengths)
        self.sync()
        ragged = len(set(added)) > 1 or max(added) < k.shape[1]
        valid = None
        if ragged:
            limit = torch.tensor(added, device=self.device)
            valid = torch.arange(k.shape[1], device=self.device) < limit[:, None]
        require_finite(valid, k=k, v=v)
        over = [s for s in range(self.batch) if self._tokens[s] + added[s] > self.capacity]
        if over:
            each = ", ".join(f"sequence {s}: {self._tokens[s]} + {added[s]}" for s in over)
            raise CapacityError(f"the cache holds {self.capacity} tokens per sequence ({each}); nothing was appended")
        plan = split(self._tokens, added, self.block)
        pages = self.pages.next(plan.full)
        before = [tokens // self.block for tokens in self._tokens]
        firsts = [s for s in plan.filling if before[s] == 0]
        self.checksums.release(self.lengths, self.anchor, self.resident)
        try:
            # everything that takes memory or time comes before anything that counts
            moves = torch.tensor(plan.growing(), dtype=torch.int64).to(self.device)
            anchor = self._encode(k, v, plan, pages) if plan.filling else None
            norms = self.resident.norms_after(k, v, plan, firsts, moves)
            self.resident.grow(k, v, moves)
            if plan.filling:
                self._settle()
        except BaseException:
            self.pool.poison(pages)
            self.planes.erase(pages)
            for s in plan.filling:
                self.originals.erase(s, before[s], before[s] + plan.full[s])
                self.checksums.forget(pages, s, before[s], before[s] + plan.full[s])
            self.resident.shrink(plan)
            self.checksums.take(self.lengths, self.anchor, self.resident)
            raise
        for s in plan.filling:
            count = plan.full[s]
            mine, pages = pages[:count], pages[count:]
            self.originals.mark(s, before[s], before[s] + count)
            self.pages.assign(s, mine)
        if anchor is not None:
            self.anchor.copy_(anchor)
        self.resident.turn_over(k, v, plan, firsts)
        self.resident.norms.copy_(norms)
        self._tokens = [have + new for have, new in zip(self._tokens, added, strict=True)]
        self.lengths.copy_(torch.tensor(self._tokens, dtype=torch.int32))
        self.checksums.take(self.lengths, self.anchor, self.resident)

    def reset(self, sequence: int) -> None:
        """Forget every token of a sequence, its anchor included; its pages, reserved ones too, are free for any.

        Raises
        ------
        InputError
            No such sequence.
        """
        s = self._sequence(sequence)
        used = self.blocks(s)
        self._settle()  # the host erases at once what steps before this may still read
        self._tokens[s] = 0
        self.lengths[s] = 0
        pages = self.pages.release(s)
        self.pool.poison(pages)
        self.planes.erase(pages)
        self.originals.erase(s, 0, used)
        self.scratch.clear(s)
        self.anchor[s].zero_()
        self.resident.clear(s)
        self.refusals.forget(s)
        self.checksums.forget(pages, s, 0, used)
        self.checksums.start(s, self.anchor, self.resident)

    @torch.no_grad()
    def verify(self, originals: bool = False) -> None:
        """Compare all that is stored with its checksums. Synchronises, and reads everything once.

        Parameters
        ----------
        originals : bool
            Whether to read the originals too, over the bus where they are in host memory.

        Raises
        ------
        CorruptionError
            With sequence, block and KV head of the first thing that is not what was written. `repair` restores it.
        """
        found = find(self, originals)
        if found:
            raise found[0].error()

    @torch.no_grad()
    def repair(self) -> list[Damage]:
        """Restore what is damaged: tables from what the host knows, all else from the originals. Synchronises.

        Blocks are encoded again from their originals, which gives the same bits.

        Returns
        -------
        list of Damage
            What was restored.

        Raises
        ------
        CorruptionError
            Something is the only copy: an original, or the tail. All else was restored; reset the sequence.
        """
        return repair(self)

    def memory(self) -> MemoryTable:
        """Return what the cache takes, to the byte, by part and place."""
        tables = (self.pages.table, self.lengths, self.anchor, self.originals.present, self.refusals, self.order)
        work = () if self._work is None else (Row("append without the host", "device", self._work.nbytes),)
        scratch = (Row("scratch", "device", self.scratch.nbytes),) if self.scratch.slots else ()
        planes: tuple[Row, ...] = ()
        if self.planes.some:
            planes = (
                Row("refinement planes", self.planes.place, self.planes.nbytes),
                Row("which planes are there", "device", self.planes.table_bytes),
            )
        rows = (
            Row("codes and metadata", "device", self.pool.nbytes - self.pool.note_bytes),
            Row("annotations", "device", self.pool.note_bytes),
            Row("checksums", "device", self.checksums.nbytes),
            Row("first blocks and tails", "device", self.resident.nbytes),
            Row("tables, lengths, anchors", "device", sum(table.nbytes for table in tables)),
            *work,
            *scratch,
            Row("originals", self.originals.place, self.originals.nbytes),
            *planes,
        )
        dense = 4 * self.batch * self.capacity * self.kv_heads * self.head_dim
        return MemoryTable(rows, self.batch * self.capacity, dense, measured_peak(self.device))

    def __copy__(self) -> TieredCache:
        """Refuse: both copies would write to the same pages."""
        raise SettingError("a shallow copy would share pages and originals; make another cache and append to it")

    def _settle(self) -> None:
        """Wait for what was queued before: copies to the host, and kernels that read host memory."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _sequence(self, sequence: int) -> int:
        s = whole_number("sequence", sequence)
        if not 0 <= s < self.batch:
            raise InputError(f"sequence {s} is not there; the cache has sequences 0 to {self.batch - 1}")
        return s

    def _checked(self, k: torch.Tensor, v: torch.Tensor, lengths: Sequence[int] | torch.Tensor | None) -> list[int]:
        """Return how many tokens each sequence gets.

        Raises
        ------
        ShapeError, DTypeError, SettingError, InputError
        """
        reasons = Reasons()
        for name, tensor in (("k", k), ("v", v)):
            expected = (self.batch, "tokens", self.kv_heads, self.head_dim)
            check_tensor(reasons, name, tensor, expected, self.dtype, self.device)
        reasons.raise_all()
        tokens = k.shape[1]
        if v.shape[1] != tokens:
            reasons.add(ShapeError(f"v has {v.shape[1]} tokens, but k has {tokens}"))
        if lengths is None:
            reasons.raise_all()
            return [tokens] * self.batch
        if not isinstance(lengths, Iterable):
            raise SettingError(f"lengths is {lengths!r}; give a number of tokens for each sequence, or None for all")
        listed = lengths.tolist() if isinstance(lengths, torch.Tensor) else list(lengths)
        if len(listed) != self.batch:
            reasons.add(ShapeError(f"lengths has {len(listed)} numbers, but there are {self.batch} sequences"))
        counts = [reasons.catch(whole_number, f"lengths[{s}]", number) for s, number in enumerate(listed)]
        for s, count in enumerate(counts):
            if count is not None and not 0 <= count <= tokens:
                reasons.add(InputError(f"lengths[{s}] is {count}; give 0 to {tokens}, the tokens of k and v"))
        reasons.raise_all()
        return [count or 0 for count in counts]

    def _encode(self, k: torch.Tensor, v: torch.Tensor, plan: Split, pages: list[int]) -> torch.Tensor:
        """Encode the blocks that fill, write them to their pages and their originals behind; return all anchors."""
        anchor = self.anchor.clone()
        done = 0
        for s in plan.filling:
            before = self._tokens[s] // self.block
            held = [assemble(x, old, plan, s) for x, old in zip((k, v), self.resident.tails(s), strict=True)]
            # head by head, as they are stored
            sides = [x.transpose(0, 1).contiguous() for x in held]
            blocks = [x.transpose(0, 1) for x in sides]
            self.checksums.write_originals(s, before, *sides)
            self.originals.write(s, before, *blocks)
            if before == 0:
                anchor[s] = first_block_mean(blocks[1][0])
            count = plan.full[s]
            to = torch.tensor(pages[done : done + count], dtype=torch.int32, device=self.device)
            self._encode_blocks(blocks[0], blocks[1], to, anchor[s])
            owner = owners(s, torch.arange(before, before + count, device=self.device), self.max_blocks)
            self.checksums.write_blocks(self.pool, to.to(torch.int64), owner)
            self.planes.write_sums(to.to(torch.int64), owner)
            done += count
        return anchor

    def _encode_blocks(self, k: torch.Tensor, v: torch.Tensor, to: torch.Tensor, anchor: torch.Tensor) -> None:
        """Encode blocks [n, kv_heads, block, head_dim] of one sequence."""
        at_once = max(1, _ENCODED_AT_ONCE // k[0].numel()) if self.device.type == "cpu" else len(k)
        of_keys, of_values = key_format(self.keys), value_format(self.values)
        base_keys, base_values = base_of(of_keys), base_of(of_values)
        for start in range(0, len(k), at_once):
            part = slice(start, start + at_once)
            pages = to[part]
            encode_keys(k[part], pages, self.pool, base_keys)
            encode_values(v[part], pages, self.pool, anchor.expand(len(pages), -1, -1), base_values)
            encode_planes(k[part], v[part], pages, self.pool, self.planes, of_keys, of_values)
