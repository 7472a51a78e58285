"""``python -m certkv.cli.bench``: the command alone, without what the others need."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from certkv.cli.bench.command import DESCRIPTION, execute
from certkv.cli.bench.options import RefusedError, add_arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="certkv bench", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    try:
        return execute(parser.parse_args(argv))
    except RefusedError as error:
        print(f"certkv: error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
