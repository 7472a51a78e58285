"""What a good capture becomes, and that everything else is refused in one line."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certkv.cli.capture import load_capture, split_layers
from certkv.reference.errors import InputError

from .support import BFLOAT16, Run, Tensors, save, synthetic


@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_what_is_written_is_read(tmp_path: Path, dtype: object, suffix: str) -> None:
    tensors = synthetic(dtype=dtype)
    tensors["q_positions"] = np.array([7, 149], np.int32)
    tensors["scale"] = np.array(0.3, np.float32)
    path = tmp_path / f"a.{suffix}"
    if suffix == "npz" and dtype == BFLOAT16:
        with pytest.raises(InputError, match="npz cannot carry bfloat16; save the capture as safetensors"):
            load_capture(save(tensors, path))
        return
    (layer,) = load_capture(save(tensors, path)).layers
    for name in ("q", "k", "v"):
        read = getattr(layer, name)
        assert read.dtype == tensors[name].dtype
        assert read.tobytes() == tensors[name].tobytes()
    assert layer.positions is not None
    assert layer.positions.dtype == np.int64
    assert layer.positions.tolist() == [7, 149]
    assert layer.scale == float(np.float32(0.3))
    assert (layer.index, layer.prefix, layer.rounded_from) == (0, "", None)
    assert [layer.visible(i) for i in range(2)] == [8, 150]


def test_the_kind_of_file_is_decided_by_content(tmp_path: Path) -> None:
    path = save(synthetic(), tmp_path / "a.npz").rename(tmp_path / "a.safetensors")
    assert load_capture(path).layers[0].tokens == 150


def test_layers_come_in_numerical_order(tmp_path: Path) -> None:
    tensors = synthetic(prefix="layers.10.") | synthetic(prefix="layers.2.", tokens=9)
    layers = load_capture(save(tensors, tmp_path / "a.safetensors")).layers
    assert [layer.index for layer in layers] == [2, 10]
    assert [layer.tokens for layer in layers] == [9, 150]


def test_without_scale_and_positions(tmp_path: Path) -> None:
    (layer,) = load_capture(save(synthetic(), tmp_path / "a.npz")).layers
    assert layer.scale == 0.25  # 1/sqrt(16)
    assert layer.positions is None
    assert not layer.scale_given


def test_big_endian_npz(tmp_path: Path) -> None:
    swapped = {name: x.astype(x.dtype.newbyteorder(">")) for name, x in synthetic().items()}
    (layer,) = load_capture(save(swapped, tmp_path / "a.npz")).layers
    assert layer.k.dtype.isnative
    assert np.array_equal(layer.k, synthetic()["k"])


def test_float32_is_rounded_once_to_nearest_even() -> None:
    tensors = synthetic(dtype=np.float32)
    # Between the bfloat16 neighbours 1 and 1 + 2^-7: the tie goes to the even one, anything above it goes up.
    tensors["v"][0, 0, :3] = [1 + 2**-8, 1 + 2**-8 + 2**-20, 1 + 3 * 2**-8]
    (layer,) = split_layers(tensors, "bfloat16")
    assert layer.k.dtype == BFLOAT16
    assert layer.v[0, 0, :3].astype(float).tolist() == [1.0, 1 + 2**-7, 1 + 2**-6]
    assert layer.q.dtype == np.float32  # a query needs no rounding
    assert layer.rounded_from == "float32"


def with_(**changes: Any) -> Tensors:
    """The synthetic capture with tensors replaced, or removed (None)."""
    tensors = synthetic() | changes
    return {name: x for name, x in tensors.items() if x is not None}


def poked(name: str, index: tuple[int, ...], value: float) -> Tensors:
    tensors = synthetic()
    tensors[name][index] = value
    return tensors


def half(*shape: int) -> Any:
    return np.zeros(shape, np.float16)


REFUSED: dict[str, tuple[Tensors, tuple[str, ...]]] = {
    "no q": (with_(q=None), ("tensor q is missing", "q, k and v are expected")),
    "no k": (with_(k=None), ("tensor k is missing",)),
    "no v in a layer": (
        {k: x for k, x in synthetic(prefix="layers.3.").items() if k != "layers.3.v"},
        ("tensor layers.3.v is missing",),
    ),
    "unknown": (with_(mask=half(2)), ("unknown tensor mask", "q, k, v, q_positions, scale are expected")),
    "unknown in a layer": (synthetic(prefix="layers.0.") | {"layers.0.w": half(2)}, ("unknown tensor layers.0.w",)),
    "leading zero": (synthetic(prefix="layers.00."), ("unknown tensor layers.00.k", "and so on")),
    "many unknown": ({f"w{i}": half(1) for i in range(9)}, ("w0, w1, w2 and 6 more",)),
    "both schemes": (synthetic() | synthetic(prefix="layers.1."), ("holds both k and layers.1.k", "one layer")),
    "q with 2 axes": (with_(q=half(4, 16)), ("q has shape [4, 16]", "[queries, q_heads, head_dim] is expected")),
    "k with 4 axes": (with_(k=half(1, 150, 2, 16)), ("k has shape [1, 150, 2, 16]", "[tokens, kv_heads, head_dim]")),
    "v shorter": (with_(v=half(149, 2, 16)), ("v has shape [149, 2, 16] but k has [150, 2, 16]",)),
    "v wider": (with_(v=half(150, 2, 32)), ("v has shape [150, 2, 32]",)),
    "head sizes": (with_(q=half(2, 4, 8)), ("q has head size 8 but k has 16",)),
    "heads": (with_(q=half(2, 3, 16)), ("q has 3 query heads but k has 2 KV heads", "whole number")),
    "fewer q heads": (with_(q=half(2, 1, 16)), ("q has 1 query heads but k has 2 KV heads",)),
    "no queries": (with_(q=half(0, 4, 16)), ("no queries", "at least one")),
    "no tokens": (with_(k=half(0, 2, 16), v=half(0, 2, 16)), ("k has shape [0, 2, 16]", "no tokens")),
    "no channels": (with_(q=half(2, 4, 0), k=half(9, 2, 0), v=half(9, 2, 0)), ("no head_dim",)),
    "q float64": (with_(q=np.zeros((2, 4, 16))), ("q has dtype float64", "float16, bfloat16 or float32")),
    "k float64": (with_(k=np.zeros((150, 2, 16))), ("k has dtype float64", "float16 or bfloat16 is expected")),
    "k integers": (with_(k=np.zeros((150, 2, 16), np.int8)), ("k has dtype int8",)),
    "k float32": (with_(k=np.zeros((150, 2, 16), np.float32)), ("k has dtype float32", "--round-to float16")),
    "k and v differ": (with_(v=np.zeros((150, 2, 16), BFLOAT16)), ("k is float16 but v is bfloat16",)),
    "NaN in k": (poked("k", (17, 1, 5), np.nan), ("k[17, 1, 5] is nan", "must be finite")),
    "Inf in v": (poked("v", (149, 0, 15), -np.inf), ("v[149, 0, 15] is -inf",)),
    "NaN in q": (poked("q", (1, 3, 0), np.nan), ("q[1, 3, 0] is nan",)),
    "NaN in a layer": (
        {f"layers.7.{name}": x for name, x in poked("k", (0, 0, 0), np.nan).items()},
        ("layers.7.k[0, 0, 0] is nan",),
    ),
    "too few positions": (with_(q_positions=np.array([1])), ("q_positions has shape [1]", "[2] is expected")),
    "positions with 2 axes": (with_(q_positions=np.array([[1, 2]])), ("q_positions has shape [1, 2]",)),
    "position beyond": (with_(q_positions=np.array([0, 150])), ("q_positions[1] is 150", "0 to 149")),
    "position negative": (with_(q_positions=np.array([-1, 0])), ("q_positions[0] is -1",)),
    "position huge": (
        with_(q_positions=np.array([0, 2**64 - 1], np.uint64)),
        ("q_positions[1] is 18446744073709551615",),
    ),
    "positions real": (with_(q_positions=np.array([1.0, 2.0])), ("q_positions has dtype float64", "integer")),
    "scale NaN": (with_(scale=np.array(np.nan)), ("scale", "nan", "finite number")),
    "scale Inf": (with_(scale=np.array(np.inf)), ("scale", "inf", "finite number")),
    "scale zero": (with_(scale=np.array(0.0)), ("scale is 0.0",)),
    "two scales": (with_(scale=np.array([0.1, 0.1])), ("scale has shape [2]", "one number")),
    "no scale in it": (with_(scale=np.zeros(0)), ("scale has shape [0]", "one number")),
    "scale of bools": (with_(scale=np.array(True)), ("scale has dtype bool",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_tensors_are_refused_in_one_line(name: str, tmp_path: Path, run: Run) -> None:
    tensors, parts = REFUSED[name]
    for suffix in ("npz", "safetensors"):
        bfloat16_or_bool = any(x.dtype in (BFLOAT16, np.bool_) for x in tensors.values())
        if bfloat16_or_bool and suffix == ("npz" if name != "scale of bools" else "safetensors"):
            continue  # an npz cannot carry bfloat16, and the safetensors reader takes no bool: tested below
        path = save(tensors, tmp_path / f"a.{suffix}")
        run("audit", path).refused(str(path), *parts)


def test_round_to_does_not_touch_16_bits_and_says_what_overflows(tmp_path: Path, run: Run) -> None:
    path = save(synthetic(dtype=BFLOAT16), tmp_path / "a.safetensors")
    run("audit", path, "--round-to", "float16").refused("k is bfloat16 already", "float32 only")
    tensors = synthetic(dtype=np.float32)
    tensors["v"][3, 1, 2] = 65520.0  # the midpoint of 65504 and 65536: the first number that rounds to infinity
    path = save(tensors, tmp_path / "b.safetensors")
    run("audit", path, "--round-to", "float16").refused("v[3, 1, 2] is 65520", "65504", "--round-to bfloat16")
    tensors["v"][3, 1, 2] = np.nextafter(np.float32(65520.0), np.float32(0))
    assert split_layers(tensors, "float16")[0].v[3, 1, 2] == 65504


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def header(tree: object) -> bytes:
    text = json.dumps(tree).encode()
    return struct.pack("<Q", len(text)) + text


def test_foreign_files(tmp_path: Path, run: Run) -> None:
    expected = "with the tensors q, k and v is expected"
    good = save(synthetic(), tmp_path / "good.safetensors").read_bytes()
    zipped = save(synthetic(), tmp_path / "good.npz").read_bytes()
    cases: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "is empty (0 bytes)"),
        "short": (b"abc", "neither"),
        "zeros": (bytes(100), "neither"),
        "text": (b"q, k, v\n1, 2, 3\n" * 20, "neither"),
        "image": (b"\x89PNG\r\n\x1a\n" + bytes(64), "neither"),
        "npy": (b"\x93NUMPY\x01\x00" + bytes(64), "is a single .npy array"),
        "pickle": (pickle.dumps({"q": [1, 2, 3]}), "neither"),
        "truncated safetensors": (good[:-1], "neither"),
        "truncated header": (good[:50], "neither"),
        "longer safetensors": (good + b"\0", "neither"),
        "huge header": (struct.pack("<Q", 2**62) + b"{}", "neither"),
        "no tensors": (header({}), "holds no tensors"),
        "truncated npz": (zipped[:-30], "damaged npz"),
        "damaged npz": (zipped[:400] + b"\xff" * 40 + zipped[440:], "damaged"),
    }
    for name, (content, part) in cases.items():
        path = raw(tmp_path / name, content)
        outcome = run("audit", path)
        outcome.refused(str(path), part)
        if name != "no tensors":
            outcome.refused(expected)


def test_missing_file_directory_and_no_permission(tmp_path: Path, run: Run) -> None:
    run("audit", tmp_path / "none").refused("cannot be read: No such file or directory")
    run("audit", tmp_path).refused("is a directory")
    path = save(synthetic(), tmp_path / "a.npz")
    path.chmod(0)
    if os.geteuid() != 0:
        run("audit", path).refused("cannot be read: Permission denied")


class Bomb:
    """Loading this is noticed."""

    fired = False

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return (setattr, (Bomb, "fired", True))


def test_a_pickle_in_an_npz_is_never_loaded(tmp_path: Path, run: Run) -> None:
    tensors = synthetic()
    tensors["q"] = np.array([Bomb()], dtype=object)
    path = save(tensors, tmp_path / "a.npz")
    run("audit", path).refused("tensor q holds pickled Python objects", "plain numeric array")
    assert not Bomb.fired


def test_zip_files_that_are_no_npz(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    run("audit", path).refused("zip file but not an npz", "archive/data.pkl", "torch checkpoint")
    with zipfile.ZipFile(tmp_path / "empty.npz", "w"):
        pass
    run("audit", tmp_path / "empty.npz").refused("holds no tensors")
    with zipfile.ZipFile(tmp_path / "junk.npz", "w") as archive:
        archive.writestr("q.npy", b"not an array")
    run("audit", tmp_path / "junk.npz").refused("tensor q", "damaged")
    with zipfile.ZipFile(tmp_path / "two.npz", "w") as archive:
        archive.writestr("q.npy", b"1")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("q.npy", b"2")
    run("audit", tmp_path / "two.npz").refused("same tensor twice")


def test_an_array_too_large_for_any_memory(tmp_path: Path, run: Run) -> None:
    content = io.BytesIO()
    header_fields = {"descr": "<f2", "fortran_order": False, "shape": (10**13, 2, 16)}
    np.lib.format.write_array_header_1_0(content, header_fields)  # type: ignore[no-untyped-call]
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("q.npy", content.getvalue())
    run("audit", tmp_path / "a.npz").refused("not enough memory")


def test_names_from_outside_cannot_command_the_terminal(tmp_path: Path, run: Run) -> None:
    path = save(synthetic() | {"a\x1b[31m\nb": half(1)}, tmp_path / "c.safetensors")
    run("audit", path).refused(r"unknown tensor a\x1b[31m b")
    path = save(synthetic(), tmp_path / "c\x1b[31m.npz")
    outcome = run("audit", path)
    assert outcome.code == 0
    assert "\x1b" not in outcome.out


def test_safetensors_types_that_are_not_read(tmp_path: Path, run: Run) -> None:
    content = header({"q": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}) + bytes(4)
    run("audit", raw(tmp_path / "a", content)).refused("tensor q has dtype F8_E4M3", "float16 or bfloat16")
