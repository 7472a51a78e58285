"""``certkv audit --backend triton`` on a GPU, over the capture that ships with the command.

    python benchmarks/gpu/audit_check.py [--formats int8/int4-g32,oscar/oscar] [--capture FILE] [--policy naive,budget]

It exits with 1 where an audit does not end with exit code 0, where one ran on something else than this GPU, or where a
budget took no promotion at all, which would show nothing. Without a GPU the twins are audited. Under a minute, most of
which is compiling; more formats take as long each.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "reference"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "fast"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "cli"))

from benchmarks.gpu.graphs import GPU, require, say

from certkv.cli.main import main as certkv

BUNDLED = Path(__file__).resolve().parents[2] / "cli/certkv/cli/data/capture.safetensors"


def audit(capture: Path, keys: str, values: str, policies: str, folder: Path) -> str:
    """Audit one pair of formats; return a line."""
    out, begun = folder / "audit.json", time.monotonic()
    backend = "triton" if GPU else "torch"
    options = ["--backend", backend, "--policy", policies, "--tolerance", "0.02", "--block", "64"]
    arguments = ["audit", str(capture), "--keys", keys, "--values", values, *options, "--json", str(out), "--quiet"]
    code = certkv(arguments)
    require(code == 0, f"{keys}, {values}: exit code {code} of certkv {' '.join(arguments)}")
    tree = json.loads(out.read_text())
    device, wanted = tree["config"]["versions"]["device"], torch.cuda.get_device_name() if GPU else "cpu"
    require(device == wanted, f"{keys}, {values}: ran on {device}, not on {wanted}")
    summaries = tree["summary"]
    require(all(found["violations"] == found["unmet"] == 0 for found in summaries.values()), f"{keys}, {values}")
    if "budget" in summaries:
        require(sum(summaries["budget"]["rungs"][1:]), f"{keys}, {values}: a budget of 2 % promoted nothing")
    told = "; ".join(
        f"{name}: {found['heads']} head-steps, rungs {'/'.join(map(str, found['rungs']))}, bound/error "
        f"{found['tightness']['geomean']:.1f}"
        for name, found in summaries.items()
        if found["tightness"]["geomean"] is not None
    )
    return f"ok   {keys:9s} {values:9s} {time.monotonic() - begun:5.1f} s  {told}"


def main() -> None:
    """Audit every pair."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--formats", default="int8/int4-g32", help="keys/values, comma-separated")
    parser.add_argument("--capture", type=Path, default=BUNDLED)
    parser.add_argument("--policy", default="naive,budget")
    options = parser.parse_args()
    say(f"{torch.cuda.get_device_name() if GPU else 'cpu, twins'}, torch {torch.__version__}, {options.capture.name}")
    with tempfile.TemporaryDirectory() as folder:
        for pair in options.formats.split(","):
            keys, _, values = pair.partition("/")
            say(audit(options.capture, keys, values, options.policy, Path(folder)))


if __name__ == "__main__":
    main()
