"""Which code a row of results is of, and where rows go.

A row names a commit, with a "+" where what it measures was changed since; what has no commit is not recorded.
"""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
UNKNOWN = "unknown"


def commit(*measured: str) -> str:
    """Return the checkout's commit, with a "+" where files under ``measured`` differ; "unknown" outside of git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--", *measured)
    return (git("rev-parse", "--short", "HEAD") or UNKNOWN) + ("+" if changed else "")


def add_arguments(parser: argparse.ArgumentParser, recorded: Path) -> None:
    """Add ``--out`` and ``--commit``."""
    parser.add_argument(
        "--out", type=Path, help=f"result file, appended to (default: {recorded.relative_to(ROOT)}; none with --small)"
    )
    parser.add_argument("--commit", help="what rows call the measured code (default: asked of git)")


def asked(
    parser: argparse.ArgumentParser, options: argparse.Namespace, recorded: Path, *measured: str
) -> tuple[Path | None, str]:
    """Return the file that rows are appended to, None for none, and the commit that they name.

    Raises
    ------
    SystemExit
        Rows are to be recorded, and nothing says of which code they are.
    """
    small = getattr(options, "small", False)
    out: Path | None = options.out or (None if small else recorded)
    of = options.commit or commit(*measured)
    measuring = not getattr(options, "report_only", False)
    if measuring and of == UNKNOWN and out is not None and out.resolve() == recorded.resolve():
        parser.error(
            "this is no git checkout, so recorded rows could not say which code they measure; "
            "give --commit NAME, or --out for a file of your own"
        )
    return out, of
