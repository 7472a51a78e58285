"""``python -m certkv.proofs.userformat module:Class``: verify a format of yours and print what became of it."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from certkv.proofs.userformat.report import table
from certkv.proofs.userformat.verify import verify_format
from certkv.reference.errors import CertkvError


def load(where: str) -> Any:
    """Import ``module:name``; modules of the current directory count.

    Raises
    ------
    ValueError
        Not of that form, or nothing of that name.
    """
    module, colon, name = where.partition(":")
    if not colon or not module or not name:
        raise ValueError(f"{where!r} is not of the form module:Class")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"cannot import {where!r}: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify one format: 0 if everything holds, 1 if not, 2 if there is no such format."""
    parser = argparse.ArgumentParser(prog="python -m certkv.proofs.userformat", description=__doc__)
    parser.add_argument("format", metavar="module:Class", help="a class with encode and decode, or an object of one")
    parser.add_argument("--blocks", type=_sizes, default=(1, 4, 7), help="tokens per block to try (default: 1,4,7)")
    parser.add_argument("--head-dims", type=_sizes, default=(1, 8, 20), help="head sizes to try (default: 1,8,20)")
    parser.add_argument("--no-mutants", action="store_true", help="only the checks")
    chosen = parser.parse_args(arguments)
    errors = Console(stderr=True)
    try:
        given = load(chosen.format)
        with errors.status("verifying") as status:
            report = verify_format(
                given,
                blocks=chosen.blocks,
                head_dims=chosen.head_dims,
                mutants=not chosen.no_mutants,
                progress=lambda what: status.update(what),
            )
    except (ValueError, CertkvError) as error:
        errors.print(str(error), style="red", markup=False)
        return 2
    console = Console(width=None if sys.stdout.isatty() else 180)
    console.print(table(report))
    failed = ", ".join(row.id for row in report.failures)
    console.print(f"{report.name}: {'sound' if report.ok else f'FAILED: {failed}'}")
    return 0 if report.ok else 1


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(int(part) for part in text.split(","))
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError("give sizes of at least 1, separated by commas")
    return sizes


if __name__ == "__main__":
    sys.exit(main())
