"""The training text: the Python standard library's source, split by module."""

from __future__ import annotations

import hashlib
import sysconfig
from pathlib import Path
from typing import NamedTuple

EXCLUDED_FOLDERS = frozenset({"site-packages", "dist-packages", "__pycache__"})
SEPARATOR = b"\0"  # between modules; also the model's start token. No source file of the library contains it.


class Module(NamedTuple):
    """One source file: path relative to the library's root, with forward slashes, and its bytes."""

    path: str
    text: bytes


class Corpus(NamedTuple):
    """The three parts of the library: `train` teaches, `validation` steers, `held_out` is measured once."""

    train: list[Module]
    validation: list[Module]
    held_out: list[Module]


def split_of(path: str) -> str:
    """Say which part a module belongs to, from its path alone: 5 % held out, 1 % validation, the rest train."""
    bucket = int.from_bytes(hashlib.sha256(path.encode()).digest()[:8], "big") % 100
    if bucket < 5:
        return "held_out"
    return "validation" if bucket == 5 else "train"


def default_stdlib() -> Path:
    """Return the folder of this interpreter's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_corpus(stdlib: Path) -> Corpus:
    """Read every non-empty `*.py` below `stdlib`, in order of path, and split it by module.

    A training module whose bytes equal those of a validation or held-out module is dropped.

    Raises
    ------
    ValueError
        If the folder holds no Python source.
    """
    parts: dict[str, list[Module]] = {"train": [], "validation": [], "held_out": []}
    for file in sorted(stdlib.rglob("*.py")):
        relative = file.relative_to(stdlib)
        if EXCLUDED_FOLDERS.isdisjoint(relative.parts):
            text = file.read_bytes()
            if text and SEPARATOR not in text:
                parts[split_of(relative.as_posix())].append(Module(relative.as_posix(), text))
    if not parts["train"] or not parts["held_out"]:
        raise ValueError(f"{stdlib} holds too little Python source to train on; name the library with --stdlib DIR")
    kept_apart = {module.text for module in parts["validation"] + parts["held_out"]}
    parts["train"] = [module for module in parts["train"] if module.text not in kept_apart]
    return Corpus(**parts)


def join(modules: list[Module]) -> bytes:
    """Concatenate modules, each followed by the separator."""
    return b"".join(module.text + SEPARATOR for module in modules)
