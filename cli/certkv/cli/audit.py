"""``certkv audit``: certified attention on captured tensors, with the true error beside every certificate."""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import TYPE_CHECKING

from certkv.cli.backends import BACKENDS, backend
from certkv.cli.capture import ROUND_TO, load_capture
from certkv.cli.measure import head_steps, measure
from certkv.cli.page.library import require_matplotlib
from certkv.cli.progress import progress
from certkv.cli.report import print_report, violations
from certkv.cli.settings import POLICIES, TOLERANCE, parse_formats, parse_policies, require_whole_blocks
from certkv.cli.sweep import asked_budget, missing, readings_of, sweep, sweep_size, tolerances
from certkv.cli.writer import document, json_bytes, require_writable, saved_bytes, write
from certkv.reference import SettingError
from certkv.reference.cache.planes import PLACES
from certkv.reference.formats import (
    KEY_FORMATS,
    OSCAR_KEY_FORMATS,
    OSCAR_VALUE_FORMATS,
    PLANAR_KEY_FORMATS,
    PLANAR_VALUE_FORMATS,
    VALUE_FORMATS,
)
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
    key_names = ", ".join((*KEY_FORMATS, *PLANAR_KEY_FORMATS, *OSCAR_KEY_FORMATS))
    value_names = ", ".join((*VALUE_FORMATS, *PLANAR_VALUE_FORMATS, *OSCAR_VALUE_FORMATS))
    add("--keys", metavar="FORMAT", help=f"{key_names}; default: the policy's own")
    add("--values", metavar="FORMAT", help=f"{value_names}; default: the policy's own")
    add("--block", type=int, metavar="B", help="tokens per block; default: the policy's own")
    add(
        "--residual",
        type=int,
        metavar="R",
        help="tokens that are coded at once, a whole number of blocks: fewer wait as originals and attend exactly; "
        "default: one block",
    )
    add(
        "--planes",
        choices=PLACES,
        help="where the refinement planes of formats that have some lie; on the host they are fetched and counted like "
        "originals; default host",
    )
    add("--round-to", choices=ROUND_TO, help="round float32 k and v once and take the result as the originals")
    add(
        "--backend",
        default="reference",
        metavar="|".join(BACKENDS),
        help="what computes: the reference in float64 (the default), the kernel library's torch twins on the CPU, or "
        "its Triton kernels on a GPU; the latter two need certkv[fast]",
    )
    add("--json", type=Path, metavar="OUT", help="write config, summary and every head as JSON")
    add("--save", type=Path, metavar="OUT.safetensors", help="write outputs and bounds of one policy in float64")
    add(
        "--report",
        type=Path,
        metavar="OUT.html",
        help="write one self-contained page with plots (needs certkv[report]). For its plot of bytes by tolerance, the "
        "budget policy is run again at 1, 2, 5 and 10 %% (absolute tolerances: at T/5, 2T/5 and 2T), without computing "
        "any true error",
    )
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
    engine = backend(arguments.backend)
    policies = parse_policies(arguments.policy, arguments.tolerance, arguments.relative_to)
    formats = parse_formats(arguments.keys, arguments.values, arguments.block, arguments.residual, arguments.planes)
    if arguments.save and len(policies) > 1:
        raise SettingError(
            f"--save is for one policy, but {len(policies)} are to run ({arguments.policy}); "
            "add for example --policy budget"
        )
    names = ("json", "save", "report")
    targets = [(f"--{name}", path) for name in names if (path := getattr(arguments, name)) is not None]
    for (one, path), (other, place) in itertools.combinations(targets, 2):
        if path.absolute() == place.absolute():
            raise SettingError(f"{one} and {other} both name {path}; two files are expected")
    if arguments.report:
        require_matplotlib()
    capture = load_capture(source, arguments.round_to)
    engine.check(capture, formats)
    budgets = tolerances(asked_budget(policies)) if arguments.report else []
    require_whole_blocks(formats, [*policies, *budgets], engine)
    for option, path in targets:
        require_writable(option, path, source)

    again = missing(budgets, policies)
    total = len(policies) * head_steps(capture) + sweep_size(capture, again)
    with progress(total, "head-steps", arguments.quiet) as tick:
        runs = measure(capture, policies, formats, tick, engine)
        readings = [*readings_of(runs), *sweep(capture, again, formats, tick, engine)]

    for option, path in targets:
        if option == "--json":
            content = json_bytes(document(runs, capture, engine))
        elif option == "--save":
            content = saved_bytes(runs[0], capture)
        else:
            from certkv.cli.page.build import page_bytes  # matplotlib is needed from here on, and only here

            readings.sort(key=lambda reading: reading.budget.tolerance)
            content = page_bytes(runs, readings, capture, engine)
        write(option, path, content)
    if not arguments.quiet:
        print_report(runs, capture, arguments.heads, note=engine.note)
    return 1 if violations(runs) else 0
