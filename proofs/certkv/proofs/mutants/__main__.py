"""Print the kill table; exit with 1 if a check fails on correct code, a mutant survives, or a check kills nothing."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from certkv.proofs.mutants.registry import CHECKS, MUTANTS, CheckFailed, Mutant, kill


def main() -> int:
    """Run every check unplanted, then every mutant; return the exit code."""
    failures: list[str] = []
    for check in CHECKS.values():
        try:
            check.run()
        except CheckFailed as seen:
            failures.append(f"check {check.id} fails on correct code: {seen}")
    widths = [max(len(row) for row in column) for column in zip(*map(cells, MUTANTS), strict=True)]
    write(("mutant", "defect", "check", "killed", "what is planted"), widths)
    effective: set[str] = set()
    for mutant in MUTANTS:
        outcome = kill(mutant)
        *names, what = cells(mutant)
        write((*names, "yes" if outcome.killed else "NO", what), widths)
        if outcome.killed:
            effective.add(mutant.check)
        else:
            failures.append(f"mutant {mutant.id} survives {mutant.check}")
    failures += [f"check {name} kills no mutant" for name in CHECKS if name not in effective]
    killed = len(MUTANTS) - sum(failure.startswith("mutant") for failure in failures)
    sys.stdout.write(f"\n{killed} of {len(MUTANTS)} mutants killed by {len(effective)} of {len(CHECKS)} checks\n")
    for failure in failures:
        sys.stdout.write(f"FAILED: {failure}\n")
    return 1 if failures else 0


def cells(mutant: Mutant) -> tuple[str, str, str, str]:
    """Return the columns that name a mutant."""
    return mutant.id, mutant.defect, mutant.check, mutant.what


def write(row: Sequence[str], widths: Sequence[int]) -> None:
    """Write one aligned row at once, so that a long run shows its progress."""
    sizes = (widths[0], 6, widths[2], 6, 0)
    sys.stdout.write("  ".join(cell.ljust(size) for cell, size in zip(row, sizes, strict=True)).rstrip() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
