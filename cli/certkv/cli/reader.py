"""Tensors out of a file: safetensors, or npz without pickle. What is in them is `certkv.cli.capture`'s business."""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path

import ml_dtypes  # noqa: F401  registers "bfloat16" with NumPy, which safetensors asks for by name
import numpy as np
from safetensors import SafetensorError, safe_open

from certkv.reference.errors import DTypeError, InputError
from certkv.reference.numbers.types import AnyArray

SAFETENSORS_TYPES = frozenset({"F16", "BF16", "F32", "F64", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"})
"""Element types read as they are; which tensor may have which is decided later, tensor by tensor."""

EXPECTED = "a safetensors file or an npz with the tensors q, k and v is expected"


def read_tensors(path: Path) -> dict[str, AnyArray]:
    """Read every tensor of a capture file; the kind of file is decided by its content, not by its name.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict of str to array
        In the machine's byte order.

    Raises
    ------
    InputError
        The file cannot be opened or is neither kind; the message is one line.
    DTypeError
        A tensor holds Python objects (pickle), or elements of a type that is not read.
    """
    if path.is_dir():
        raise InputError(f"is a directory; {EXPECTED}")
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}; {EXPECTED}") from error
    if not start:
        raise InputError(f"is empty (0 bytes); {EXPECTED}")
    if start.startswith(b"\x93NUMPY"):
        raise InputError(f"is a single .npy array; {EXPECTED} (numpy.savez writes an npz)")
    return _read_npz(path) if start.startswith(b"PK") else _read_safetensors(path)


def _read_safetensors(path: Path) -> dict[str, AnyArray]:
    try:
        with safe_open(path, framework="np") as file:
            tensors: dict[str, AnyArray] = {}
            for name in sorted(file.keys()):
                kind = str(file.get_slice(name).get_dtype())
                if kind not in SAFETENSORS_TYPES:
                    raise DTypeError(
                        f"tensor {name} has dtype {kind}, which is not read; save it as float16 or bfloat16"
                    )
                tensors[name] = np.asarray(file.get_tensor(name))
            return tensors
    except (SafetensorError, OSError, ValueError, UnicodeDecodeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"is neither a readable safetensors file ({_one_line(error)}) nor an npz; {EXPECTED}, complete"
        ) from error


def _read_npz(path: Path) -> dict[str, AnyArray]:
    damaged = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        foreign = [name for name in members if not name.endswith(".npy")]
        if foreign:
            raise InputError(
                f"is a zip file but not an npz (it holds {foreign[0]!r}; a torch checkpoint must be saved as "
                f"safetensors); {EXPECTED}"
            )
        if len(set(members)) < len(members):
            raise InputError("is an npz that holds the same tensor twice; every name is expected once")
        with np.load(path, allow_pickle=False) as file:
            return {name: _native(name, file, path) for name in sorted(file.files)}
    except damaged as error:
        raise InputError(f"is a damaged npz ({_one_line(error)}); {EXPECTED}, complete") from error


def _native(name: str, file: np.lib.npyio.NpzFile, path: Path) -> AnyArray:
    """Read one member of an npz and bring it to the machine's byte order."""
    try:
        member = file[name]
    except (ValueError, SyntaxError, tokenize.TokenError) as error:
        if "pickle" in str(error):
            raise DTypeError(
                f"tensor {name} holds pickled Python objects, which are never loaded; a plain numeric array is expected"
            ) from error
        raise InputError(f"tensor {name} of the npz is damaged ({_one_line(error)})") from error
    if not isinstance(member, np.ndarray):  # what does not start as an array comes back as raw bytes
        raise InputError(f"tensor {name} of the npz is damaged (it is no array)")
    array: AnyArray = member
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:
        raise DTypeError(
            f"tensor {name} has no element type (dtype {array.dtype.str}): an npz cannot carry bfloat16; "
            "save the capture as safetensors"
        )
    return np.asarray(array, array.dtype.newbyteorder("="))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
