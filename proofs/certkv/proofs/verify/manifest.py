"""How much evidence there is meant to be: what is missing is a failure, and nothing else would notice it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import resources

from certkv.proofs.verify.finding import Task
from certkv.proofs.verify.tasks import all_tasks

FILE = "manifest.json"


def counts(tasks: Sequence[Task]) -> dict[str, int]:
    """Count tasks by theorem and kind, planted mistakes apart."""
    counted = Counter(f"{task.theorem} {task.kind}{' planted' if task.id.endswith('!') else ''}" for task in tasks)
    return dict(sorted(counted.items()))


def expected() -> dict[str, int]:
    """Read the counts that ship with the package."""
    text = (resources.files("certkv.proofs.verify") / FILE).read_text("utf-8")
    return {str(name): int(count) for name, count in json.loads(text).items()}


def differences(tasks: Sequence[Task]) -> list[str]:
    """Return what is missing or surplus, one line each; nothing where all is as it was shipped."""
    there, meant = counts(tasks), expected()
    return [
        f"{name}: {there.get(name, 0)} tasks instead of {meant.get(name, 0)}"
        for name in sorted(there.keys() | meant.keys())
        if there.get(name, 0) != meant.get(name, 0)
    ]


if __name__ == "__main__":  # python -m certkv.proofs.verify.manifest > proofs/certkv/proofs/verify/manifest.json
    sys.stdout.write(json.dumps(counts(all_tasks()), indent=1) + "\n")
