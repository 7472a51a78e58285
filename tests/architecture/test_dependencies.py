"""Dependencies point one way: reference knows nothing of the others, fast stands alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("reference", "proofs", "fast", "cli")
MAY_IMPORT = {
    "reference": {"reference"},
    "proofs": {"proofs", "reference"},
    "fast": {"fast"},
    "cli": set(PARTS),
}
NO_TORCH = ("reference", "proofs")


def imported(source: str) -> set[str]:
    """Dotted names that a module imports, wherever in the file; ``from a import b`` counts as ``a.b``."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"relative import in line {node.lineno}; write the whole name")
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names |= {str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)}
    return names


def forbidden(part: str, source: str) -> set[str]:
    """Imports of ``source`` that a module of ``part`` must not have."""
    bad = set()
    for name in imported(source):
        head, _, rest = name.partition(".")
        if head == "certkv" and rest.split(".")[0] not in MAY_IMPORT[part]:
            bad.add(name)
        if head in ("torch", "triton") and part in NO_TORCH:
            bad.add(name)
    return bad


def modules(part: str) -> list[Path]:
    """Python files of one part."""
    return sorted((ROOT / part / "certkv" / part).rglob("*.py"))


@pytest.mark.parametrize("part", PARTS)
def test_imports(part: str) -> None:
    found = modules(part)
    assert found, f"no module in {part}"
    bad = {str(path.relative_to(ROOT)): names for path in found if (names := forbidden(part, path.read_text("utf-8")))}
    assert not bad


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("fast", "from certkv.reference import decode"),
        ("fast", "import certkv.proofs.campaign"),
        ("reference", "from certkv import fast"),
        ("reference", "def f():\n    import torch"),
        ("reference", "import triton.language as tl"),
        ("proofs", "import importlib\nimportlib.import_module('certkv.fast')"),
        ("proofs", "from certkv.cli.main import main"),
    ],
)
def test_a_planted_import_is_seen(part: str, line: str) -> None:
    assert forbidden(part, line)


def test_namespace_has_no_init() -> None:
    """A ``certkv/__init__.py`` in any root would hide the other three."""
    assert not [part for part in PARTS if (ROOT / part / "certkv" / "__init__.py").exists()]


def test_all_four_parts_import() -> None:
    import certkv.cli
    import certkv.fast
    import certkv.proofs
    import certkv.reference

    origins = {Path(next(iter(module.__path__))).parents[1].name for module in (certkv.cli, certkv.fast)}
    assert origins == {"cli", "fast"}
