"""A capture: the queries, keys and values of one or more layers, checked before anything runs on them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

from certkv.cli.reader import read_tensors
from certkv.reference.errors import DTypeError, InputError, NonFiniteError, SettingError, ShapeError
from certkv.reference.numbers.dtypes import FloatType, float_type
from certkv.reference.numbers.rounding import round_nearest
from certkv.reference.numbers.types import AnyArray, IntArray
from certkv.reference.step import checked_scale

REQUIRED = ("q", "k", "v")
OPTIONAL = ("q_positions", "scale")
AXES = {
    "q": ("queries", "q_heads", "head_dim"),
    "k": ("tokens", "kv_heads", "head_dim"),
    "v": ("tokens", "kv_heads", "head_dim"),
}
ORIGINALS = (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))
FLOAT32 = np.dtype(np.float32)
ROUND_TO = ("float16", "bfloat16")

_LAYERED = re.compile(r"layers\.(0|[1-9][0-9]*)\.(\w+)")


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a capture.

    Attributes
    ----------
    index : int
        Number of the layer in the model; 0 where the file does not say.
    prefix : str
        What stands before ``q`` in the tensors' names: ``""`` or ``"layers.3."``.
    q : float16, bfloat16 or float32 [queries, q_heads, head_dim]
    k, v : float16 or bfloat16 [tokens, kv_heads, head_dim]
        The originals: what every error is measured against.
    positions : int64 [queries] or None
        Position of each causal query; None where every query sees every token.
    scale : float
        The softmax scale, a float64 number.
    scale_given : bool
        Whether the file holds it; otherwise it is ``1/sqrt(head_dim)``.
    rounded_from : str or None
        dtype in the file where ``--round-to`` rounded k or v.
    """

    index: int
    prefix: str
    q: AnyArray
    k: AnyArray
    v: AnyArray
    positions: IntArray | None
    scale: float
    scale_given: bool
    rounded_from: str | None

    @property
    def queries(self) -> int:
        """Number of queries."""
        return int(self.q.shape[0])

    @property
    def tokens(self) -> int:
        """Number of cached tokens."""
        return int(self.k.shape[0])

    def visible(self, query: int) -> int:
        """Return how many tokens a query sees."""
        return self.tokens if self.positions is None else int(self.positions[query]) + 1

    def seen_bytes(self, query: int) -> int:
        """Return the bytes of all the originals that one head sees at a query: its keys and values."""
        return 2 * self.visible(query) * int(self.k.shape[2]) * self.k.dtype.itemsize


@dataclass(frozen=True)
class Capture:
    """The layers of one file, in ascending order."""

    source: str
    layers: tuple[Layer, ...]


def load_capture(path: Path, round_to: str | None = None) -> Capture:
    """Read and check a capture file.

    Parameters
    ----------
    path : Path
    round_to : "float16", "bfloat16" or None
        Round float32 keys and values to this type, once; without it they are refused.

    Returns
    -------
    Capture

    Raises
    ------
    InputError
        Anything wrong with the file or a tensor in it: one line that names the file, the tensor, and what is expected.
    """
    try:
        return Capture(str(path), split_layers(read_tensors(path), round_to))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def split_layers(tensors: Mapping[str, AnyArray], round_to: str | None = None) -> tuple[Layer, ...]:
    """Group tensors by layer and check each group.

    Parameters
    ----------
    tensors : mapping of str to array
        ``q``, ``k``, ``v`` and optionally ``q_positions`` and ``scale``; or all of them behind ``layers.{i}.``.
    round_to : "float16", "bfloat16" or None

    Returns
    -------
    tuple of Layer
    """
    if not tensors:
        raise InputError("holds no tensors; q, k and v are expected")
    known = (*REQUIRED, *OPTIONAL)
    groups: dict[int, dict[str, AnyArray]] = {}
    plain: dict[str, AnyArray] = {}
    unknown: list[str] = []
    for name, array in tensors.items():
        match = _LAYERED.fullmatch(name)
        if name in known:
            plain[name] = array
        elif match and match[2] in known:
            groups.setdefault(int(match[1]), {})[match[2]] = array
        else:
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise InputError(
            f"unknown tensor {', '.join(unknown[:3])}{more}; only {', '.join(known)} are expected, "
            "for several layers as layers.0.q and so on"
        )
    if plain and groups:
        raise InputError(
            f"holds both {next(iter(plain))} and layers.{min(groups)}.{next(iter(groups[min(groups)]))}; "
            "expected is one layer (q, k, v) or all tensors named layers.0.q and so on"
        )
    if plain:
        return (_layer(0, "", plain, round_to),)
    return tuple(_layer(i, f"layers.{i}.", groups[i], round_to) for i in sorted(groups))


def _layer(index: int, prefix: str, tensors: Mapping[str, AnyArray], round_to: str | None) -> Layer:
    for name in REQUIRED:
        if name not in tensors:
            raise InputError(f"tensor {prefix}{name} is missing; {prefix}q, {prefix}k and {prefix}v are expected")
    for name in REQUIRED:
        _check_axes(prefix + name, tensors[name], AXES[name])
    q, k, v = (tensors[name] for name in REQUIRED)
    _check_against(prefix, q, k, v)
    if q.dtype not in (*ORIGINALS, FLOAT32):
        raise DTypeError(f"{prefix}q has dtype {q.dtype.name}, but float16, bfloat16 or float32 is expected")
    _check_finite(prefix + "q", q)
    rounded_from = next((x.dtype.name for x in (k, v) if x.dtype == FLOAT32), None)
    k, v = (_original(prefix + name, tensors[name], round_to) for name in ("k", "v"))
    if k.dtype != v.dtype:
        raise DTypeError(f"{prefix}k is {k.dtype.name} but {prefix}v is {v.dtype.name}; one dtype is expected for both")
    positions = _positions(prefix + "q_positions", tensors.get("q_positions"), len(q), len(k))
    scale = _scale(prefix + "scale", tensors.get("scale"), q.shape[2])
    return Layer(index, prefix, q, k, v, positions, scale, "scale" in tensors, rounded_from)


def _check_axes(name: str, array: AnyArray, axes: tuple[str, ...]) -> None:
    expected = f"[{', '.join(axes)}]"
    if array.ndim != len(axes):
        raise ShapeError(f"{name} has shape {list(array.shape)}, but {expected} is expected")
    for axis, size in zip(axes, array.shape, strict=True):
        if size == 0:
            raise ShapeError(f"{name} has shape {list(array.shape)}: no {axis}; at least one is expected in {expected}")


def _check_against(prefix: str, q: AnyArray, k: AnyArray, v: AnyArray) -> None:
    if v.shape != k.shape:
        raise ShapeError(
            f"{prefix}v has shape {list(v.shape)} but {prefix}k has {list(k.shape)}; "
            "the same [tokens, kv_heads, head_dim] is expected"
        )
    if q.shape[2] != k.shape[2]:
        raise ShapeError(
            f"{prefix}q has head size {q.shape[2]} but {prefix}k has {k.shape[2]}; the same last axis is expected"
        )
    if q.shape[1] % k.shape[1]:
        raise ShapeError(
            f"{prefix}q has {q.shape[1]} query heads but {prefix}k has {k.shape[1]} KV heads; "
            "a whole number of query heads per KV head is expected"
        )


def _check_finite(name: str, array: AnyArray) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        at = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise NonFiniteError(name, at, float(array[at]))


def _original(name: str, array: AnyArray, round_to: str | None) -> AnyArray:
    """Check a key or value tensor and round it if it is float32 and the user said to what."""
    if array.dtype not in (*ORIGINALS, FLOAT32):
        raise DTypeError(
            f"{name} has dtype {array.dtype.name}, but float16 or bfloat16 is expected (or float32 with --round-to)"
        )
    _check_finite(name, array)
    if array.dtype != FLOAT32:
        if round_to not in (None, array.dtype.name):
            raise DTypeError(f"{name} is {array.dtype.name} already; --round-to {round_to} is for float32 only")
        return array
    if round_to is None:
        raise DTypeError(
            f"{name} has dtype float32, but float16 or bfloat16 is expected; give --round-to float16 or "
            "--round-to bfloat16 to round it once and take the result as the original"
        )
    kind: FloatType = float_type(round_to)
    rounded: AnyArray = round_nearest(array.astype(np.float64), kind)
    if not np.isfinite(rounded).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(rounded))[0])
        raise InputError(
            f"{name}[{', '.join(map(str, at))}] is {float(array[at]):g}, beyond the largest {kind.name} "
            f"({kind.max:g}); a smaller value or --round-to bfloat16 is expected"
        )
    return rounded


def _positions(name: str, array: AnyArray | None, queries: int, tokens: int) -> IntArray | None:
    if array is None:
        return None
    if array.dtype.kind not in "iu":
        raise DTypeError(f"{name} has dtype {array.dtype.name}, but an integer type is expected")
    if array.shape != (queries,):
        raise ShapeError(f"{name} has shape {list(array.shape)}, but [{queries}] is expected, one position per query")
    outside = np.flatnonzero((array < 0) | (array >= tokens))
    if outside.size:
        at = int(outside[0])
        raise InputError(
            f"{name}[{at}] is {int(array[at])}, but a position from 0 to {tokens - 1} is expected ({tokens} tokens)"
        )
    return array.astype(np.int64)


def _scale(name: str, array: AnyArray | None, head_dim: int) -> float:
    if array is None:
        return checked_scale(None, head_dim)
    if array.size != 1:
        raise ShapeError(f"{name} has shape {list(array.shape)}, but one number is expected")
    if array.dtype.kind not in "fiu" and array.dtype not in ORIGINALS:
        raise DTypeError(f"{name} has dtype {array.dtype.name}, but a floating-point number is expected")
    try:
        return checked_scale(float(array.reshape(())), head_dim)
    except SettingError as error:
        raise InputError(f"{name}: {error}") from error
