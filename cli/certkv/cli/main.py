"""Entry point of the ``certkv`` command: arguments in, exit code out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from certkv.cli import audit, demo, memory, verify
from certkv.cli.bench import command as bench
from certkv.cli.parser import Parser
from certkv.cli.text import printable
from certkv.cli.writer import certkv_version
from certkv.reference import CertkvError

INTERRUPTED = 130
WRONG_INPUT = 2
BROKEN_PIPE = 141  # what a shell shows of a process that SIGPIPE ended


def build_parser() -> Parser:
    """Return the parser of all subcommands."""
    parser = Parser(prog="certkv", description="Attention over a quantized KV cache that carries a proof.")
    parser.add_argument("--version", action="version", version=f"certkv {certkv_version()}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    audit.add_parser(subparsers)
    demo.add_parser(subparsers)
    verify.add_parser(subparsers)
    memory.add_parser(subparsers)
    bench.add_parser(subparsers)
    return parser


def complain(message: str) -> None:
    """Print one line to standard error, whatever the message holds."""
    print(f"certkv: error: {printable(message, sys.stderr.encoding)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str or None
        Arguments without the program's name; None for those of the process.

    Returns
    -------
    int
        0: all well. 1: an error exceeds its bound. 2: wrong input. 130: interrupted.
    """
    try:
        try:
            arguments = build_parser().parse_args(argv)
        except SystemExit as leave:  # argparse, after --help or --version
            return leave.code if isinstance(leave.code, int) else 0
        code: int = arguments.run(arguments)
        sys.stdout.flush()
        return code
    except SystemExit:  # code that was given to us, a format say, wants to end the process: not a success
        complain("the command was ended from inside by what it ran")
        return WRONG_INPUT
    except CertkvError as error:
        complain(str(error))
        return WRONG_INPUT
    except MemoryError:
        complain("not enough memory for this input; give fewer layers or tokens")
        return WRONG_INPUT
    except BrokenPipeError:
        # whoever read standard output has gone, as after `| head`; keep Python from complaining at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except OSError as error:
        complain(f"the output cannot be written: {error.strerror}")
        return WRONG_INPUT
    except KeyboardInterrupt:
        print("certkv: interrupted", file=sys.stderr)
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
