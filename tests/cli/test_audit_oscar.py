"""Audits of OScaR's formats: sound, bytes to the fraction, a report where the paper's formula says nothing."""

from __future__ import annotations

from pathlib import Path

from .support import Run, read_json, save, synthetic


def test_an_audit_at_two_bits(tmp_path: Path, run: Run) -> None:
    capture = save(synthetic(tokens=150, d=64, kv_heads=2), tmp_path / "capture.safetensors")
    out, page = tmp_path / "out.json", tmp_path / "page.html"
    outcome = run("audit", capture, "--keys", "oscar", "--values", "oscar", "--json", out, "--report", page)
    assert outcome.code == 0, outcome.err
    assert "SOUND" in outcome.out
    tree = read_json(out)
    for summary in tree["summary"].values():
        assert summary["violations"] == 0
        assert summary["infinite_claims"] == summary["heads"]
    # keys 16 + 8 + 4/2 bytes, values 16 + 8: the norm is held once for both heads
    assert tree["summary"]["naive"]["coded_bytes"] == 50.0
    assert "oscar" in page.read_text("utf-8")


def test_an_unknown_format_lists_the_names(tmp_path: Path, run: Run) -> None:
    capture = save(synthetic(), tmp_path / "capture.safetensors")
    outcome = run("audit", capture, "--keys", "oscar-3")
    assert outcome.code == 2
    assert "oscar-4" in outcome.err


def test_blocks_are_as_long_as_the_groups_that_a_name_says(tmp_path: Path, run: Run) -> None:
    capture = save(synthetic(tokens=150, d=64, kv_heads=2), tmp_path / "capture.safetensors")
    out = tmp_path / "out.json"
    outcome = run("audit", capture, "--keys", "oscar-g128", "--json", out)
    assert outcome.code == 0, outcome.err
    storage = [s for of_policy in read_json(out)["config"]["policies"].values() for s in of_policy["layers"]]
    assert {s["block"] for s in storage} == {128}
    refused = run("audit", capture, "--keys", "oscar-g128", "--block", "64")
    refused.refused("--block is 64, but --keys oscar-g128 has groups of 128 tokens; give --block 128")
    assert run("audit", capture, "--keys", "oscar", "--block", "16").code == 0
