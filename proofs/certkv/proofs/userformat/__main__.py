"""``python -m certkv.proofs.userformat module:Class``: the same as ``certkv verify --format``, without files."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from certkv.proofs.userformat.command import show, sizes, verify_in_process
from certkv.proofs.verify.run import TASK_SECONDS
from certkv.reference.errors import SettingError


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify one format: 0 if everything holds, 1 if not, 2 if there is no such format."""
    parser = argparse.ArgumentParser(prog="python -m certkv.proofs.userformat", description=__doc__)
    parser.add_argument("format", metavar="module:Class", help="a class with encode and decode, or an object of one")
    parser.add_argument("--blocks", metavar="SIZES", help="tokens per block to try, as 16,64; see certkv verify --help")
    parser.add_argument("--head-dims", metavar="SIZES", help="head sizes to try")
    parser.add_argument("--no-mutants", action="store_true", help="only the checks")
    parser.add_argument(
        "--limit",
        type=_seconds,
        default=TASK_SECONDS,
        metavar="SECONDS",
        help="of wall time for each check; one that takes longer fails (default: %(default)g)",
    )
    chosen = parser.parse_args(arguments)
    try:
        blocks, head_dims = (None if text is None else sizes(text) for text in (chosen.blocks, chosen.head_dims))
        report = verify_in_process(chosen.format, blocks, head_dims, mutants=not chosen.no_mutants, limit=chosen.limit)
    except SettingError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    show(report)
    return 0 if report.ok else 1


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError("give a finite number of seconds above 0")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
