"""``certkv memory``: what a cache and the plan of a step take, by part and place, without allocating any of it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import TYPE_CHECKING

from certkv.cli.kernel_library import require_fast
from certkv.cli.settings import POLICIES, whole_numbers
from certkv.reference import InputError, SettingError
from certkv.reference.formats import bytes_per_token, key_format, value_format
from certkv.reference.policies import PAPER

if TYPE_CHECKING:
    from certkv.cli.parser import Subparsers
    from certkv.fast.memory import MemoryTable

TOKENS = "8192,16384,32768,65536,131072"
MIB = 1 << 20

DESCRIPTION = """\
Print what the kernel library's cache of one layer, and the plan of a step over it, take on the device and on the host,
part by part, beside 16-bit keys and values and the storage of arXiv 2605.20868. The figures are those of
TieredCache.memory() and Plan.memory(), planned on tensors without storage: nothing is allocated, no GPU is needed."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "memory",
        help="what a cache and a step take on the device and on the host, without allocating it",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--tokens", default=TOKENS, metavar="N,N,..", help="capacities of a sequence (default %(default)s)")
    add("--batch", type=int, default=1, metavar="N", help="sequences (default %(default)s)")
    add("--q-heads", type=int, default=32, metavar="N", help="query heads (default %(default)s)")
    add("--kv-heads", type=int, default=8, metavar="N", help="KV heads (default %(default)s)")
    add("--head-dim", type=int, default=128, metavar="D", help="head size (default %(default)s)")
    add("--dtype", choices=("float16", "bfloat16"), default="float16", help="of the originals (default %(default)s)")
    add("--keys", default="int8", metavar="FORMAT", help="key format (default %(default)s)")
    add("--values", default="int4-g32", metavar="FORMAT", help="value format (default %(default)s)")
    add("--block", type=int, default=64, metavar="B", help="tokens per block (default %(default)s)")
    add("--originals", choices=("host", "device"), default="host", help="where they are kept (default %(default)s)")
    add("--scratch-bytes", type=int, default=0, metavar="BYTES", help="device pool of fetched originals (default 0)")
    add("--policy", choices=POLICIES, default="budget", help="of the step (default %(default)s)")
    add(
        "--multiprocessors",
        type=int,
        default=132,
        metavar="N",
        help="of the GPU: a step is split over them (default %(default)s, an H100 or H200)",
    )
    add("--bytes", action="store_true", help="to the byte, instead of MiB and shares")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the table.

    Raises
    ------
    InputError
        A setting that the kernel library refuses, with every reason.
    MissingLibraryError
        torch is not installed.
    """
    require_fast("certkv memory")
    tokens = whole_numbers("--tokens", arguments.tokens)
    if arguments.multiprocessors < 1:
        raise SettingError(f"--multiprocessors is {arguments.multiprocessors}; give at least 1")
    columns = [planned(arguments, capacity) for capacity in tokens]
    for line in table(columns, arguments.bytes):
        print(line)
    return 0


@dataclass(frozen=True)
class Column:
    """What a capacity takes.

    Attributes
    ----------
    tokens : int
        Of one sequence.
    memory : MemoryTable
    paper : float
        Bytes of codes and metadata that the formats of arXiv 2605.20868 take for as many tokens.
    heads : int
        KV heads times sequences: what is divided by to get bytes per token and KV head.
    """

    tokens: int
    memory: MemoryTable
    paper: float
    heads: int


def planned(arguments: argparse.Namespace, capacity: int) -> Column:
    """Plan a cache and a step on tensors that have shapes and no storage.

    Raises
    ------
    InputError
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    from certkv import fast
    from certkv.fast.plan import Plan

    policies = {policy.name: policy for policy in (fast.Naive, fast.PaperPolicy, fast.Budget)}
    try:
        with FakeTensorMode():
            cache = fast.TieredCache(
                batch=arguments.batch,
                kv_heads=arguments.kv_heads,
                head_dim=arguments.head_dim,
                capacity=capacity,
                dtype=getattr(torch, arguments.dtype),
                keys=arguments.keys,
                values=arguments.values,
                block=arguments.block,
                originals=arguments.originals,
                scratch_bytes=arguments.scratch_bytes,
            )
            policy = policies[arguments.policy]()
            checked = fast.plan(cache, arguments.q_heads, policy)
            sizes = checked.q_heads, policy, checked.scale, checked.out_dtype
            made = Plan(cache, *sizes, multiprocessors=arguments.multiprocessors)
            memory = made.memory()
    except fast.CertkvError as error:
        raise InputError(str(error)) from error
    formats = (key_format(PAPER.keys), value_format(PAPER.values))
    paper = float(sum(bytes_per_token(fmt, PAPER.block, arguments.head_dim) for fmt in formats))
    heads = arguments.batch * arguments.kv_heads
    return Column(capacity, memory, paper * heads * capacity, heads)


def table(columns: list[Column], exact: bool) -> list[str]:
    """Return the lines of a Markdown table: parts down, capacities across."""

    def cell(nbytes: float, column: Column) -> str:
        if exact:
            return f"{nbytes:,.0f}"
        return f"{nbytes / MIB:,.1f} ({nbytes / column.memory.dense:.2%})"

    def each(nbytes: float, column: Column) -> str:
        return f"{nbytes / (column.heads * column.tokens):.1f} B"

    rows: list[tuple[str, str, list[str]]] = []
    for index, part in enumerate(columns[0].memory.rows):
        rows.append((part.part, part.where, [cell(c.memory.rows[index].nbytes, c) for c in columns]))
    rows += [
        ("**all on the device**", "device", [cell(c.memory.device, c) for c in columns]),
        ("**all on the host**", "host", [cell(c.memory.host, c) for c in columns]),
        *(
            (f"{row.part}, on demand", row.where, [cell(c.memory.later[index].nbytes, c) for c in columns])
            for index, row in enumerate(columns[0].memory.later)
        ),
        ("16-bit keys and values", "", [cell(c.memory.dense, c) for c in columns]),
        ("codes and metadata of arXiv 2605.20868", "", [cell(c.paper, c) for c in columns]),
        ("per token and KV head: codes, metadata", "", [each(c.memory.rows[0].nbytes, c) for c in columns]),
        ("the same of arXiv 2605.20868", "", [each(c.paper, c) for c in columns]),
        ("the same of 16-bit keys and values", "", [each(c.memory.dense, c) for c in columns]),
    ]
    unit = "bytes" if exact else "MiB (share of 16 bit)"
    header = [f"{unit}, by tokens", "where", *(f"{c.tokens:,}" for c in columns)]
    lines = [f"| {' | '.join(header)} |", f"|---|---|{'---:|' * len(columns)}"]
    return lines + [f"| {name} | {where} | {' | '.join(cells)} |" for name, where, cells in rows]
