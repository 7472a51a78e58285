"""``certkv audit``: certified attention on captured tensors, with the true error beside every certificate."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from certkv.cli.capture import ROUND_TO, load_capture
from certkv.cli.measure import measure
from certkv.cli.progress import progress
from certkv.cli.report import print_report, violations
from certkv.cli.settings import BACKENDS, POLICIES, TOLERANCE, check_backend, parse_formats, parse_policies
from certkv.cli.writer import document, json_bytes, require_writable, saved_bytes, write
from certkv.reference import SettingError
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS
from certkv.reference.policies import RELATIVE_TO

if TYPE_CHECKING:
    from certkv.cli.parser import Subparsers

DESCRIPTION = """\
Run certified attention on captured queries, keys and values, measure the true error of every head at every step
against exact attention over the 16-bit originals, and show it beside the bound that the certificate promises.

FILE is a safetensors file, or an npz without pickle, with
  q            [queries, q_heads, head_dim]   float16, bfloat16 or float32
  k, v         [tokens, kv_heads, head_dim]   float16 or bfloat16 (float32: see --round-to), keys after RoPE
  q_positions  [queries], optional            integers; query i then sees tokens 0 to q_positions[i] (causal)
  scale        one number, optional           softmax scale; 1/sqrt(head_dim) without it
Several layers: layers.0.q, layers.0.k and so on."""

EPILOG = """\
exit codes: 0 no error exceeds its bound; 1 an error exceeds its bound; 2 wrong input (one line says what);
130 interrupted."""


def add_parser(subparsers: Subparsers) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "audit",
        help="audit captured tensors of a model: bound beside true error, per policy",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="the capture")
    add(
        "--policy",
        default=",".join(POLICIES),
        metavar="NAMES",
        help="comma-separated: naive (never promotes), paper (thresholds of arXiv 2605.20868), budget (enforces a "
        "tolerance); default %(default)s",
    )
    add("--tolerance", type=float, metavar="T", help=f"what the budget policy enforces; default {TOLERANCE}")
    add(
        "--relative-to",
        metavar="|".join(RELATIVE_TO),
        help="what T is a share of: the mass-weighted mean value norm, the output's norm, or nothing; default values",
    )
    add("--keys", metavar="FORMAT", help=f"{', '.join(KEY_FORMATS)}; default: the policy's own")
    add("--values", metavar="FORMAT", help=f"{', '.join(VALUE_FORMATS)}; default: the policy's own")
    add("--block", type=int, metavar="B", help="tokens per block; default: the policy's own")
    add("--round-to", choices=ROUND_TO, help="round float32 k and v once and take the result as the originals")
    add("--backend", default="reference", metavar="NAME", help=f"{', '.join(BACKENDS)} (the default)")
    add("--json", type=Path, metavar="OUT", help="write config, summary and every head as JSON")
    add("--save", type=Path, metavar="OUT.safetensors", help="write outputs and bounds of one policy in float64")
    add("--heads", action="store_true", help="print every head at every step as well")
    add("--quiet", action="store_true", help="print nothing but errors; the exit code tells")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command; return 1 where an error exceeds its bound, else 0.

    Raises
    ------
    InputError
        Wrong settings, an unusable capture, or an output that cannot be written.
    """
    source: Path = arguments.file
    check_backend(arguments.backend)
    policies = parse_policies(arguments.policy, arguments.tolerance, arguments.relative_to)
    formats = parse_formats(arguments.keys, arguments.values, arguments.block)
    if arguments.save and len(policies) > 1:
        raise SettingError(
            f"--save is for one policy, but {len(policies)} are to run ({arguments.policy}); "
            "add for example --policy budget"
        )
    targets = [(f"--{name}", path) for name in ("json", "save") if (path := getattr(arguments, name)) is not None]
    if len(targets) == 2 and targets[0][1].absolute() == targets[1][1].absolute():
        raise SettingError(f"--json and --save both name {targets[0][1]}; two files are expected")
    capture = load_capture(source, arguments.round_to)
    for option, path in targets:
        require_writable(option, path, source)

    total = len(policies) * sum(layer.queries * layer.q.shape[1] for layer in capture.layers)
    with progress(total, "head-steps", arguments.quiet) as tick:
        runs = measure(capture, policies, formats, tick)

    for option, path in targets:
        is_json = option == "--json"
        content = json_bytes(document(runs, capture, arguments.backend)) if is_json else saved_bytes(runs[0], capture)
        write(option, path, content)
    if not arguments.quiet:
        print_report(runs, capture, arguments.heads)
    return 1 if violations(runs) else 0
