#!/usr/bin/env python3
"""Set up a private environment and run a task in it: ``python3 dev.py TASK``. Standard library only.

The environment is ``.venv`` beside this file. It is made on first use and brought up to date whenever
``pyproject.toml`` or ``constraints.txt`` changed. Needs python3 (3.11 or newer) and pip 22.3 or newer; no ensurepip.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / ("python.exe" if os.name == "nt" else "python")
STAMP = VENV / "certkv-installed"

CPU_INDEX = "https://download.pytorch.org/whl/cpu"
"""PyTorch's own index of builds for machines without a GPU: a tenth of the size of the default build."""

TASKS = {
    "demo": "set up, then run certified attention on the bundled capture of a trained model",
    "test": "set up, lint, type-check and run the test suite",
    "lint": "ruff (lint and format) and mypy --strict",
    "campaign": "random and adversarial head-steps, judged; arguments go to python -m certkv.proofs.campaign",
    "setup": "only make or update the environment",
}


def die(message: str) -> None:
    """Print one line and leave with exit code 2."""
    print(f"dev.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def run(*command: str | Path) -> None:
    """Run a command in the checkout; leave with its exit code if it fails."""
    code = subprocess.call([str(part) for part in command], cwd=ROOT)
    if code:
        raise SystemExit(code)


def wanted_state() -> str:
    """Digest of everything that decides what is installed."""
    digest = hashlib.sha256(f"{ROOT} {sys.version}".encode())
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return digest.hexdigest()


def torch_for_cpu(pip: list[str | Path], version: str) -> bool:
    """Install a CPU build of torch where one is wanted and found, and say where it came from.

    Only CPU builds for Linux and Windows carry the local version ``+cpu``, so no other build can be taken by accident.
    """
    if shutil.which("nvidia-smi"):
        print("torch: there is a GPU here, so the build of the default index is taken", flush=True)
        return False
    if sys.platform == "darwin":
        return False  # the default index has nothing but CPU builds
    report = VENV / "torch.json"
    command = [*pip, "-q", "--retries", "1", "--timeout", "15", "--extra-index-url", CPU_INDEX, "--no-deps"]
    command += ["--report", report, f"torch=={version}+cpu"]
    done = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"torch: no CPU build of {version} from {CPU_INDEX}; the default index's is taken, which is large")
        return False
    for item in json.loads(report.read_text("utf-8"))["install"]:
        print(f"torch: CPU build from {item['download_info']['url']}", flush=True)
    return True


def install(pip: list[str | Path], extra: str) -> int:
    """Install certkv, editable, with the dependencies of ``extra``; return pip's exit code."""
    pins = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if extra:
        (version,) = (pin.removeprefix("torch==") for pin in pins if pin.startswith("torch=="))
        if not torch_for_cpu(pip, version):
            # a build with CUDA names the one version of Triton that it works with
            pins = [pin for pin in pins if not pin.startswith("triton==")]
    constraints = VENV / "constraints.txt"
    constraints.write_text("".join(f"{pin}\n" for pin in pins), "utf-8")
    command = [*pip, "-q", "-c", constraints, "-e", f".[{extra}]" if extra else "."]
    return subprocess.call([str(part) for part in command], cwd=ROOT)


def set_up(extra: str) -> None:
    """Create ``.venv`` and install certkv, editable, with the dependencies of ``extra`` ("" or "dev")."""
    have = dict(line.split("=", 1) for line in STAMP.read_text().split()) if STAMP.exists() else {}
    state = wanted_state()
    if PYTHON.exists() and have.get(extra or "base", have.get("dev")) == state:
        return
    if sys.version_info < (3, 11):
        die(f"certkv needs Python 3.11 or newer; this is {sys.version.split()[0]} ({sys.executable})")
    probe = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, text=True, check=False)
    if probe.returncode:
        die(f"{sys.executable} has no pip; install it (on Debian: apt-get install python3-pip) and run this again")
    version = tuple(int(part) for part in re.findall(r"\d+", probe.stdout)[:2])
    if version < (22, 3):
        die(f"pip {version[0]}.{version[1]} is too old; pip 22.3 or newer is needed")
    print(f"setting up {VENV} ...", flush=True)
    STAMP.unlink(missing_ok=True)  # an interrupted set-up is done again
    venv.create(VENV, with_pip=False, clear=not PYTHON.exists(), symlinks=os.name != "nt")
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", PYTHON]
    pip += ["--disable-pip-version-check", "install", "--no-user"]
    if install(pip, extra):
        die("the installation failed, see above; it needs a package index, once")
    STAMP.write_text("".join(f"{key}={state}\n" for key in ({"base", extra} - {""})))


def lint() -> None:
    """Lint, formatting and types."""
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")
    run(PYTHON, "-m", "mypy")


def main() -> None:
    """Parse the task and run it; further arguments go to the task's own command."""
    lines = "\n".join(f"  {name:9} {what}" for name, what in TASKS.items())
    parser = argparse.ArgumentParser(
        description="Set-up and tasks of certkv.",
        epilog=f"tasks:\n{lines}\n\nFurther arguments go to the task's command, e.g. dev.py test -k ladder",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", choices=sorted(TASKS), metavar="TASK")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="arguments of the task's own command")
    arguments = parser.parse_args()
    task, rest = arguments.task, arguments.rest
    if rest and task in ("setup", "lint"):
        die(f"{task} takes no further arguments, but got {' '.join(rest)}")
    set_up("dev" if task in ("test", "lint") else "")
    if task == "demo":
        run(PYTHON, "-m", "certkv.cli.main", "demo", *rest)
    elif task == "campaign":
        run(PYTHON, "-m", "certkv.proofs.campaign", *rest)
    elif task == "lint":
        lint()
    elif task == "test":
        if not rest:
            lint()
        run(PYTHON, "-m", "pytest", *(rest or ["-n", "auto", "-q"]))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("dev.py: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except OSError as error:
        die(str(error))
