"""Counts as rows of a file and as a table."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from benchmarks.faults.campaign import AFTER, OUTCOMES, Counts, Key

COLUMNS = ("when", "commit", "versions", "damage", "verify", "field", "faults", *OUTCOMES, "checksum", *AFTER)


def append(path: Path, when: str, commit: str, versions: str, counts: Counts) -> None:
    """Append one row per kind of damage, setting and field."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as out:
        writer = csv.writer(out, lineterminator="\n")
        if fresh:
            writer.writerow(COLUMNS)
        for key, found in counts.items():
            writer.writerow([when, commit, versions, *key, *(found[name] for name in COLUMNS[6:])])


def last_run(path: Path) -> Counts:
    """Read the newest run of a file."""
    with path.open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    newest = rows[-1]["when"]
    found: Counts = {}
    for row in rows:
        if row["when"] == newest:
            key = Key(row["damage"], "step" if row["verify"] == "step" else "off", row["field"])
            found[key] = Counter({name: int(row[name]) for name in COLUMNS[6:]})
    return found


def markdown(counts: Counts) -> str:
    """Tables of the page: by field, without and with checksums; then what follows a report."""
    text = []
    for damage in dict.fromkeys(key.damage for key in counts):
        mine = {key: found for key, found in counts.items() if key.damage == damage}
        names = list(dict.fromkeys(key.field for key in mine))
        text += [
            f"**{damage.capitalize()}**",
            "",
            "| field | off: faults | reported | within | **beyond** | crashed | step: faults | reported | within "
            "| **beyond** | crashed | dense | typed error | restored |",
            "|---|" + "---|" * 13,
        ]
        for name in [*names, "all"]:
            rows = [
                sum((found for key, found in mine.items() if key.verify == v and name in (key.field, "all")), Counter())
                for v in ("off", "step")
            ]
            after = [rows[1][name] for name in AFTER]
            cells = [row[name] for row in rows for name in ("faults", *OUTCOMES)] + after
            text.append(f"| {name} | " + " | ".join(f"{cell:,}" for cell in cells) + " |")
        text.append("")
    return "\n".join(text)
