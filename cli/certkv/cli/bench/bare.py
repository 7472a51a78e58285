"""The pass over a cache and its merge alone, without any certificate: for benchmarks, and for nothing else.

On a GPU this is a variant of the kernels of attend, compiled from their source without what only a certificate needs:
statistics of the blocks, and the executed weights and their references. What it writes is the output, which is judged
like every other. Twins, on a CPU, run as they are.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from certkv.fast import Naive, Plan, TieredCache
from certkv.fast.plan import plan

UNUSED = frozenset({"weights", "reference", "resident_weights", "resident_reference"})
"""Tensors of the workspace that only a certificate reads."""

PACKAGE = "certkv.fast.kernels"

Call = tuple[Callable[..., None], tuple[Any, ...], dict[str, Any]]


class Bare:
    """A pass over a cache; call it to run it.

    Parameters
    ----------
    cache : TieredCache
    q : T [batch, q_heads, head_dim]
    scale : float

    Attributes
    ----------
    output : float32 [batch, q_heads, head_dim]
        Written by every run.
    bound : float32 [batch, q_heads]
        How far it may be from exact attention: the certificate of a step that ran once, before, with the same query.
    variants : int
        Kernels that the last run used in the place of others.
    """

    def __init__(self, cache: TieredCache, q: torch.Tensor, scale: float) -> None:
        made = plan(cache, q.shape[1], Naive(), scale)
        self.calls = recorded(made, q, ("attend", "merge"))
        step = made.run(q, out=made.step())
        self.output, self.bound = made.ws.output, step.certificate.bound
        self.made = made  # its tensors are what the calls write to
        self.variants = 0

    def __call__(self) -> None:
        """Run; in kernels that store nothing for a certificate, where these are compiled."""
        with without_certificates(sys.modules) as self.variants:
            for call, arguments, named in self.calls:
                call(*arguments, **named)


def recorded(made: Plan, q: torch.Tensor, names: tuple[str, ...]) -> list[Call]:
    """Run a plan and return the first call of some of its parts, in the order in which they were made."""
    use, calls, seen = made.passes, [], set()

    def spy(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def called(*arguments: Any, **named: Any) -> None:
            if name not in seen:
                seen.add(name)
                calls.append((real, arguments, named))
            real(*arguments, **named)

        return called

    made.passes = use._replace(**{name: spy(name, getattr(use, name)) for name in names})
    try:
        made.run(q, out=made.step())
    finally:
        made.passes = use
    return calls


_VARIANTS: dict[int, Any] = {}


@contextmanager
def without_certificates(modules: dict[str, ModuleType]) -> Iterator[int]:
    """Put variants in the place of the kernels of attend; yield how many there are."""
    try:
        from triton.runtime.jit import JITFunction
    except ImportError:
        yield 0
        return
    swapped: list[tuple[ModuleType, str, Any]] = []
    for name, module in list(modules.items()):
        if name.startswith(PACKAGE) and "attend" in name.removeprefix(PACKAGE):
            for key, kernel in list(vars(module).items()):
                if isinstance(kernel, JITFunction) and (variant := variant_of(kernel)) is not None:
                    swapped.append((module, key, kernel))
                    setattr(module, key, variant)
    try:
        yield len(swapped)
    finally:
        for module, key, kernel in swapped:
            setattr(module, key, kernel)


def variant_of(kernel: Any) -> Any:
    """Return a kernel without its stores to `UNUSED` tensors; None where it has none."""
    if id(kernel) not in _VARIANTS:
        source = stripped(kernel.src)
        made = None
        if source is not None:
            kept = ("do_not_specialize", "do_not_specialize_on_alignment", "noinline")
            made = type(kernel)(kernel.fn, **{name: getattr(kernel, name) for name in kept})
            made._unsafe_update_src(source)
        _VARIANTS[id(kernel)] = made
    return _VARIANTS[id(kernel)]


def stripped(source: str) -> str | None:
    """Return a kernel's source without its stores to `UNUSED` tensors; None where it has none."""
    tree, stores = ast.parse(source), _Stores()
    changed = stores.visit(tree)
    return ast.unparse(ast.fix_missing_locations(changed)) + "\n" if stores.found else None


class _Stores(ast.NodeTransformer):
    """Take out ``tl.store(tensor + ..., ...)``."""

    found = 0

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        call = node.value
        if not (isinstance(call, ast.Call) and ast.unparse(call.func) == "tl.store" and call.args):
            return node
        target = call.args[0]
        while isinstance(target, ast.BinOp):
            target = target.left
        if not (isinstance(target, ast.Name) and target.id in UNUSED):
            return node
        self.found += 1
        return ast.copy_location(ast.Pass(), node)
