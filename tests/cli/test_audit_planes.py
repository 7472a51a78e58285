"""Audits of formats of several levels, and with a residual window: what is read, held and shown of both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from certkv.reference import Budget, Cache, decode

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
    assert "planes" not in outcome.out
    assert "tokens coded at once" not in outcome.out


def test_planes_lie_where_they_are_told(tmp_path: Path, run: Run) -> None:
    capture = save(synthetic(tokens=150, d=64), tmp_path / "capture.safetensors")
    trees = {}
    for place in ("host", "device"):
        out, page = tmp_path / f"{place}.json", tmp_path / f"{place}.html"
        options = ("--policy", "budget", "--tolerance", "0.02", "--block", "16", "--keys", "int8+4", "--planes", place)
        outcome = run("audit", capture, *options, "--json", out, "--report", page, "--heads")
        assert outcome.code == 0, outcome.err
        assert f"the {place}" in outcome.out
        assert "levels" in outcome.out
        assert "planes lie on" in page.read_text("utf-8")
        assert "planes read" in page.read_text("utf-8")
        trees[place] = read_json(out)
    host, device = (trees[place]["summary"]["budget"] for place in ("host", "device"))
    # 9 blocks of 16 tokens, 4 bits for each number
    assert host["plane_bytes"] == device["plane_bytes"] == 9 * 16 * 64 / 2 / 150
    assert device["device_bytes"] == pytest.approx(host["device_bytes"] + host["plane_bytes"], abs=1e-9)
    for place, tree in trees.items():
        (layer,) = tree["config"]["policies"]["budget"]["layers"]
        assert (layer["planes"], layer["residual"]) == (place, 16)
        assert any(row["plane_bytes"] for row in tree["heads"])
        for row in tree["heads"]:
            fetched = row["plane_bytes"] if place == "host" else 0
            assert row["host_bytes"] == sum(row["promoted"]) * 16 * 64 * 2 + fetched
        summary, heads = tree["summary"]["budget"], tree["heads"]
        assert summary["plane_share"] == sum(row["plane_bytes"] for row in heads) / (8 * 150 * 64 * 4)
        levels = [[sum(row["levels"][side][i] for row in heads) / (9 * 8) for i in range(2)] for side in range(2)]
        assert summary["levels"] == levels
    assert device["host_share"] < host["host_share"]


def test_a_residual_window_is_what_every_query_sees(tmp_path: Path, run: Run) -> None:
    """Blocks of 16 that are coded four at a time: a causal query sees the cache of its time."""
    tensors = synthetic(queries=4, tokens=150) | {"q_positions": np.array([149, 63, 62, 140])}
    capture, out, page = save(tensors, tmp_path / "c.npz"), tmp_path / "out.json", tmp_path / "out.html"
    options = ("--policy", "naive,paper,budget", "--block", "16", "--residual", "64", "--json", out, "--report", page)
    outcome = run("audit", capture, *options)
    assert outcome.code == 0, outcome.err
    assert "tokens coded at once" in outcome.out
    assert "tokens coded at once" in page.read_text("utf-8")
    tree = read_json(out)
    for made in tree["config"]["policies"].values():
        (layer,) = made["layers"]
        assert [layer[name] for name in ("block", "residual", "planes", "blocks", "tail")] == [16, 64, None, 8, 22]
    # the query at 62 has no coded block, and that at 63 has four, of which a budget pins one
    assert tree["summary"]["naive"]["quantized"] == 3 * 4
    cache = Cache(kv_heads=2, head_dim=16, block=16, residual=64)
    cache.append(tensors["k"], tensors["v"])
    rows = [row for row in tree["heads"] if row["policy"] == "budget"]
    for query, position in enumerate((149, 63, 62, 140)):
        step = decode(tensors["q"][query], cache, Budget(0.05), scale=0.25, position=position, index=query)
        assert [row["bound"] for row in rows if row["query"] == query] == step.certificate.bound.tolist()


def test_shares_of_blocks_are_of_those_that_are_coded(tmp_path: Path, run: Run) -> None:
    capture, out = save(synthetic(tokens=150), tmp_path / "c.npz"), tmp_path / "out.json"
    options = ("--policy", "budget", "--tolerance", "1e-9", "--relative-to", "absolute", "--block", "16")
    assert run("audit", capture, *options, "--residual", "64", "--json", out).code == 0
    tree = read_json(out)
    promoted = [sum(row["promoted"][side] for row in tree["heads"]) for side in range(2)]
    summary = tree["summary"]["budget"]
    assert [summary["promoted_keys"], summary["promoted_values"]] == [count / (8 * 8) for count in promoted]
    assert min(promoted) > 0


REFUSED: list[tuple[tuple[str, ...], str]] = [
    (("--planes", "host"), "the default formats have none; give --keys int4+4, int8+4, oscar+2+4, or --values"),
    (("--planes", "device", "--keys", "oscar"), "--keys oscar has none"),
    (("--planes", "device", "--keys", "oscar", "--values", "int4"), "--keys oscar, --values int4 have none"),
    (("--planes", "disk", "--keys", "int8+4"), "invalid choice: 'disk'"),
    (("--residual", "0"), "--residual is 0; give a whole number of blocks"),
    (("--residual", "96", "--block", "64"), "--residual is 96, but --block is 64; give a multiple"),
    (("--residual", "48"), "--residual is 48, but policy naive has blocks of 64 tokens"),
    (("--residual", "64", "--keys", "oscar-g128"), "policy naive has blocks of 128 tokens"),
    (("--residual", "many"), "invalid int value"),
]


@pytest.mark.parametrize(("options", "part"), REFUSED, ids=[" ".join(options) for options, _ in REFUSED])
def test_what_does_not_fit_is_refused(options: tuple[str, ...], part: str, tmp_path: Path, run: Run) -> None:
    capture = save(synthetic(), tmp_path / "c.npz")
    run("audit", capture, *options).refused(part)


def test_a_report_runs_budgets_whose_blocks_must_fit_too(tmp_path: Path, run: Run) -> None:
    capture, page = save(synthetic(), tmp_path / "c.npz"), tmp_path / "page.html"
    options = ("--policy", "paper", "--residual", "48")
    assert run("audit", capture, *options).code == 0
    run("audit", capture, *options, "--report", page).refused("policy budget has blocks of 64 tokens")
    assert not page.exists()
