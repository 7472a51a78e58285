"""The split of the training text."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    """Import a script of models/, which is no package."""
    file = Path(__file__).parents[2] / "models" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


corpus = _load("corpus")


def test_split_is_fixed() -> None:
    """The figures in the model card belong to this split; a changed hash would silently train on held-out text."""
    assert [corpus.split_of(path) for path in ("turtle.py", "statistics.py", "unittest/mock.py")] == ["held_out"] * 3
    assert [corpus.split_of(path) for path in ("json/decoder.py", "typing.py", "ast.py")] == ["train"] * 3


def test_split_shares() -> None:
    splits = [corpus.split_of(f"package/module_{number}.py") for number in range(10_000)]
    # Binomial(10000, p): five standard deviations are 109 for p = .05 and 50 for p = .01.
    assert abs(splits.count("held_out") - 500) <= 109
    assert abs(splits.count("validation") - 100) <= 50


def _write(root: Path, path: str, text: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(text)


def test_corpus_leaves_out_what_it_should(tmp_path: Path) -> None:
    _write(tmp_path, "ast.py", b"train = 1\n")
    _write(tmp_path, "turtle.py", b"held_out = 1\n")
    _write(tmp_path, "typing.py", b"held_out = 1\n")  # a training path with held-out bytes
    _write(tmp_path, "empty.py", b"")
    _write(tmp_path, "site-packages/other.py", b"foreign = 1\n")
    _write(tmp_path, "__pycache__/ast.py", b"cached = 1\n")
    parts = corpus.read_corpus(tmp_path)
    assert parts.train == [corpus.Module("ast.py", b"train = 1\n")]
    assert parts.held_out == [corpus.Module("turtle.py", b"held_out = 1\n")]
    assert corpus.join(parts.train + parts.held_out) == b"train = 1\n\0held_out = 1\n\0"


def test_no_library(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--stdlib"):
        corpus.read_corpus(tmp_path)
