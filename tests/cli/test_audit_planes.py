"""Audits of formats of several levels: levels and bytes of planes in the JSON."""

from __future__ import annotations

from pathlib import Path

from .support import Run, read_json, save, synthetic


def test_levels_and_bytes_of_planes_are_in_the_json(tmp_path: Path, run: Run) -> None:
    capture = save(synthetic(tokens=150), tmp_path / "capture.safetensors")
    out = tmp_path / "out.json"
    formats = ("--keys", "int4+4", "--values", "oscar+2+4", "--block", "16")
    outcome = run("audit", capture, "--policy", "budget,naive", "--tolerance", "0.02", *formats, "--json", out)
    assert outcome.code == 0, outcome.err
    tree = read_json(out)
    heads = {name: [row for row in tree["heads"] if row["policy"] == name] for name in ("budget", "naive")}
    for row in tree["heads"]:
        assert [len(side) for side in row["levels"]] == [3, 3]
        assert [side[-1] for side in row["levels"]] == row["promoted"]
        assert row["levels"][0][1] == 0, "keys have one plane"
    assert any(row["plane_bytes"] > 0 for row in heads["budget"])
    assert all(row["plane_bytes"] == 0 and row["levels"] == [[0] * 3] * 2 for row in heads["naive"])
    summary = tree["summary"]
    assert summary["naive"]["refined_keys"] == summary["naive"]["refined_values"] == 0
    assert summary["budget"]["refined_keys"] == sum(sum(row["levels"][0][:2]) for row in heads["budget"]) / (9 * 8)
    assert "at levels between: keys, values" in outcome.out
    d = tree["config"]["layers"][0]["head_dim"]
    for row in heads["budget"]:
        # planes lie in host memory, and so are among its bytes
        assert row["host_bytes"] == sum(row["promoted"]) * 16 * d * 2 + row["plane_bytes"]


def test_formats_of_one_level_have_no_such_row(tmp_path: Path, run: Run) -> None:
    outcome = run("audit", save(synthetic(), tmp_path / "capture.safetensors"), "--policy", "budget")
    assert outcome.code == 0
    assert "levels between" not in outcome.out
