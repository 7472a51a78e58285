"""Tables of times in the pages: those of the newest rows on file, and nothing about what was not timed."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # benchmarks/ is run from the checkout and installed nowhere

from benchmarks import speed  # noqa: E402

from certkv.cli.bench.command import columns  # noqa: E402


def row(**changes: object) -> speed.Row:
    made = dict.fromkeys(columns(), "") | speed.SHAPE
    made |= {"commit": "a", "device": "NVIDIA H200", "torch": "2", "triton": "3", "batch": "1", "tokens": "8192"}
    made |= {"keys": "int8", "values": "int4", "policy": "budget", "tolerance": "met", "scratch": "off"}
    made |= {"originals": "host", "step_us": "30.04", "dense_us": "1234.5", "floor_us": "3.2"}
    return made | {name: str(value) for name, value in changes.items()}


def table(*rows: speed.Row) -> list[dict[str, str]]:
    """Rows of the table of the kernel library's page, by column."""
    lines = speed.speed(speed.groups(speed.newest(rows))).split("\n\n")[0].splitlines()
    header, _, *body = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [dict(zip(header, cells, strict=True)) for cells in body]


def test_the_pages_are_those_of_the_results() -> None:
    assert speed.read(speed.RESULTS)
    for page, content in speed.PAGES.items():
        text = page.read_text("utf-8")
        assert speed.filled(text, content()) == text


def test_the_file_has_the_columns_that_the_command_writes() -> None:
    with speed.RESULTS.open(newline="") as file:
        assert tuple(next(csv.reader(file))) == columns()


def test_the_newest_rows_count() -> None:
    (only,) = table(row(step_us=10), row(step_us=20), row(device="cpu, 1 threads", step_us=1))
    assert only["`Budget`, nothing promoted"] == "20.0"
    assert (only["batch"], only["tokens"], only["keys, values"]) == ("1", "8,192", "int8, int4")
    assert only["dense SDPA"] == "1,234"  # ties to even
    assert "pass alone" not in only  # nothing in the column


def test_rows_of_two_commits_are_not_put_together() -> None:
    naive = row(policy="naive", tolerance="", step_us=70)
    assert table(naive, row())[0]["`Naive`"] == "70.0"
    (only,) = table(naive, row(commit="b"))
    assert "`Naive`" not in only
    (only,) = table(naive, row(commit="b"), row(commit="a", step_us=11))
    assert (only["`Naive`"], only["`Budget`, nothing promoted"]) == ("70.0", "11.0")


def test_rows_are_in_order_and_of_one_shape() -> None:
    rows = [row(tokens=131072), row(batch=16), row(), row(head_dim=64), row(scratch="warm")]
    rows += [row(batch=8, originals="device", rung=0), row(batch=2, originals="device", rung=2)]
    shown = [(r["batch"], r["tokens"]) for r in table(*rows)]
    assert shown == [("1", "8,192"), ("1", "131,072"), ("8", "8,192"), ("16", "8,192")]


def test_oscar_has_a_section_once_it_was_timed() -> None:
    int8 = row(bare_us=25, bare_speedup=4, certificate=12.4)
    assert speed.oscar(speed.groups([int8])) == ""
    found = speed.groups([int8, row(keys="oscar", values="oscar", bare_us=25, bare_speedup=4.5, certificate=12.4)])
    section = speed.oscar(found)
    assert section.startswith("## On a GPU\n")
    assert "| oscar, oscar | 1,234 | 3.2 | 25.0 | 4.50x | 30.0 |" in section
    assert "| 12 % |" in section
    assert "int8" not in section
    assert "oscar" not in speed.speed(found)


def test_markers_are_needed() -> None:
    text = "a\n<!-- speed: generated -->\nold\n<!-- end -->\nb\n"
    assert speed.filled(text, "") == "a\n<!-- speed: generated -->\n<!-- end -->\nb\n"
    assert speed.filled(text, "new\\1") == text.replace("old", "new\\1")
    with pytest.raises(ValueError, match="exactly once"):
        speed.filled(text.replace("speed", "y"), "")


def test_what_tolerances_cost_is_a_mean_over_heads() -> None:
    """Of times a geometric mean, of shares an arithmetic one; rows of another commit and of a CPU are left out."""

    def of(head: str, step: float, fetched: float, **changes: str) -> speed.Row:
        made = {"commit": "b", "gpu": "H200", "versions": "torch 2", "tokens": "8192", "system": "oscar planes"}
        made |= {"tolerance": "0.05", "dense_us": "20", "head": head, "step_us": str(step), "fetched": str(fetched)}
        made |= {"plane_bytes": str(fetched / 4)}
        return made | changes

    rows = [of("local", 9, 1, commit="a"), of("sink", 1000, 1), of("sink", 40, 0.02), of("local", 90, 0.04)]
    section = speed.progressive([*rows, of("local", 10, 0.01, tolerance="0.1"), of("sink", 1, 1, gpu="cpu, twins")])
    assert section.startswith("## What they cost on a GPU\n")
    header = "| tokens | system | heads | dense | step at 5 % | step at 10 % |"
    assert f"{header} fetched; planes at 5 % | fetched; planes at 10 % |" in section
    assert "| 8,192 | oscar planes | sink, local | 20.0 | 60.0 | 10.0 | 3; 0.75 | 1; 0.25 |" in section
    assert "H200, torch 2; commit b." in section
    assert speed.progressive([of("sink", 1, 1, gpu="cpu, twins")]) == ""
