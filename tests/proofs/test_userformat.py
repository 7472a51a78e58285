"""Formats of users: the documented ones are sound, the documented mistakes are found, and so is every planted one."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from certkv.proofs.userformat import Adapted, Report, registered, verify_format
from certkv.proofs.userformat import __main__ as command
from certkv.proofs.userformat import mutants as mutants_module
from certkv.proofs.userformat.adapter import held_bytes
from certkv.proofs.userformat.mutants import MUTANTS, FormatMutant, planted
from certkv.proofs.userformat.report import verdict
from certkv.proofs.userformat.subject import Subject
from certkv.proofs.userformat.verify import CHECKS
from certkv.reference import Budget, Cache, Naive, decode
from certkv.reference.annotations import annotate_keys
from certkv.reference.errors import DTypeError, NonFiniteError, SettingError, ShapeError
from certkv.reference.formats import KEY_FORMATS, VALUE_FORMATS, concatenate, key_format, value_format
from certkv.reference.formats.registry import register, unregister

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "verify_your_format.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
SMALL: dict[str, Any] = {"blocks": (1, 4), "head_dims": (1, 8)}


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """The classes of the document, each block run in order; the two that run things are tested by themselves."""
    space: dict[str, Any] = {"__name__": "my_formats"}
    for block in BLOCKS:
        if "class " in block:
            exec(compile(block, str(DOCUMENT), "exec"), space)
    return space


@pytest.fixture
def taken() -> Iterator[None]:
    """Take away what a test has registered."""
    before = {*KEY_FORMATS, *VALUE_FORMATS}
    yield
    for name in {*KEY_FORMATS, *VALUE_FORMATS} - before:
        unregister(name)


def failures(report: Report) -> dict[str, str]:
    return {row.id: row.detail for row in report.failures}


# what the document says ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Ternary", "Symmetric8"])
def test_documented_formats_are_sound(documented: dict[str, Any], name: str) -> None:
    report = verify_format(documented[name])
    assert report.ok, failures(report)
    noticed = [row for row in report.rows if row.kind == "mutant" and row.result == "pass"]
    # without exact() and bytes_per_block() there is nothing to understate there
    assert len(noticed) == len(MUTANTS) - (2 if name == "Ternary" else 0)


@pytest.mark.parametrize("line", [line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith("| `")])
def test_document_and_code_name_the_same_checks(line: str) -> None:
    names = {check.id for check in CHECKS}
    first = re.findall(r"`([^`]+)`", line)
    listed = first[0] in names
    hooks = ("name", "kind", "default_block", "step", "exact", "decode_error_ub", "bytes_per_block")
    examples = ("HalfScale", "Remembering", "Dithered", "Claims")
    assert listed or first[0].split("(")[0] in (*hooks, *examples)


def test_document_lists_every_check() -> None:
    listed = set(re.findall(r"^\| `([^`(]+)` \|", DOCUMENT.read_text("utf-8"), re.MULTILINE))
    assert {check.id for check in CHECKS} <= listed


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("HalfScale", "decoded nan"),
        ("Remembering", "other blocks were encoded|for a block"),
        ("Dithered", "encoded twice"),
        ("Claims", "decode_error_ub says 0"),
    ],
)
def test_documented_mistakes_are_found(documented: dict[str, Any], name: str, seen: str) -> None:
    report = verify_format(documented[name], **SMALL, mutants=False)
    row = next(line for line in DOCUMENT.read_text("utf-8").splitlines() if line.startswith(f"| `{name}`"))
    fails = set(re.findall(r"`([^`]+)`", row.split("|")[2]))
    assert set(failures(report)) == fails
    assert re.search(seen, report.failures[0].detail)


def test_documented_use_runs(capsys: pytest.CaptureFixture[str], taken: None) -> None:
    space: dict[str, Any] = {"__name__": "my_formats"}
    for block in BLOCKS:
        exec(compile(block, str(DOCUMENT), "exec"), space)
    assert "True []" in capsys.readouterr().out
    assert (space["step"].certificate.bound <= space["step"].certificate.tolerance).all()


# our own formats, as a user would give them -------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted({*KEY_FORMATS, *VALUE_FORMATS}))
def test_our_formats_pass(name: str) -> None:
    fmt = {**VALUE_FORMATS, **KEY_FORMATS}[name]
    report = verify_format(fmt, **SMALL)
    assert report.ok, failures(report)
    lossless = {row.id for row in report.rows if row.detail == "changes nothing for this format"}
    assert ("residual-halved" in lossless) == (name == "dense")


def test_adapted_is_the_format_itself() -> None:
    """The same meaning, annotations and certificates as without the adapter."""
    plain = key_format("int8")
    wrapped = Adapted(plain, "again")
    x = np.random.default_rng(0).standard_normal((3, 2, 4, 8)).astype(np.float16)
    encoded = wrapped.encode(x)
    assert wrapped.decode(encoded).tobytes() == plain.decode(plain.encode(x)).tobytes()
    assert wrapped.decode_error_ub(encoded).tobytes() == plain.decode_error_ub(plain.encode(x)).tobytes()
    assert wrapped.decode(encoded.take((1, 0))).shape == (4, 8)
    assert concatenate([encoded, encoded]).leading == (6, 2)
    ours = annotate_keys(x, encoded, wrapped).arrays()
    for name, array in annotate_keys(x, plain.encode(x), plain).arrays().items():
        assert ours[name].tobytes() == array.tobytes()
    assert wrapped.bytes_per_block(4, 8) == plain.bytes_per_block(4, 8)


# every check can fail, and each planted mistake is noticed by its own -----------------------------------------------


def test_every_check_has_a_mutant() -> None:
    assert {mutant.check for mutant in MUTANTS} == {check.id for check in CHECKS}
    assert len({mutant.id for mutant in MUTANTS}) == len(MUTANTS)


def test_a_mistake_that_nobody_notices_fails_the_report(
    documented: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from certkv.proofs.userformat import verify

    harmless = FormatMutant("harmless", "nothing", mutants_module._wrap(lambda _: {}), "total")
    monkeypatch.setattr(verify, "MUTANTS", (harmless,))
    report = verify_format(documented["Ternary"], **SMALL)
    assert failures(report) == {"harmless": "total does not notice it"}


def test_planting_ends_with_the_block(documented: dict[str, Any]) -> None:
    from certkv.reference.cache import cache as cache_module

    before = vars(cache_module)["annotate_keys"]
    subject = Subject.of(documented["Ternary"], (4,), (8,))
    mutant = next(m for m in MUTANTS if m.id == "residual-halved")
    with planted(mutant, subject):
        assert vars(cache_module)["annotate_keys"] is not before
    assert vars(cache_module)["annotate_keys"] is before


# formats that go wrong in other ways --------------------------------------------------------------------------------


class Plain:
    """Loses nothing."""

    def encode(self, x: Any) -> Any:
        return x.astype(np.float64)

    def decode(self, stored: Any) -> Any:
        return stored.copy()


class Raises(Plain):
    def encode(self, x: Any) -> Any:
        if (x == 0).all():
            raise ZeroDivisionError("empty range")
        return super().encode(x)


class WrongShape(Plain):
    def decode(self, stored: Any) -> Any:
        return stored.T.copy()


class SharesItsResult(Plain):
    def decode(self, stored: Any) -> Any:
        return stored


class WorksInPlace(Plain):
    def encode(self, x: Any) -> Any:
        x *= x.dtype.type(2)
        return x.astype(np.float64) / 2


class OneWorkspace(Plain):
    """Every block is stored in the same array."""

    def __init__(self) -> None:
        self.space = np.zeros((64, 64))

    def encode(self, x: Any) -> Any:
        self.space[: x.shape[0], : x.shape[1]] = x
        return self.space[: x.shape[0], : x.shape[1]]


class TooFewBytes(Plain):
    def bytes_per_block(self, block: int, head_dim: int) -> int:
        return block * head_dim


class TooSmallSteps(Plain):
    def step(self, stored: Any) -> Any:
        return np.full(stored.shape[1], 1e-300)


@pytest.mark.parametrize(
    ("broken", "first", "seen"),
    [
        (Raises, "total", "encode of zeros .*ZeroDivisionError: empty range"),
        (WrongShape, "total", r"decode returned \(8, 1\) for a block \(1, 8\)"),
        (SharesItsResult, "stable", "decode returns an array that it keeps"),
        (WorksInPlace, "input-kept", "encode changed its argument"),
        (OneWorkspace, "self-contained", "after other blocks were encoded"),
        (TooFewBytes, "bytes", "8 bytes held, 1 claimed"),
        (TooSmallSteps, "total", "step must be"),
    ],
)
def test_other_mistakes_are_found(broken: type, first: str, seen: str) -> None:
    report = verify_format(broken, **SMALL, mutants=False)
    assert first in failures(report)
    assert re.search(seen, failures(report)[first]), failures(report)[first]


class LongBlocks(Plain):
    """Right up to 16 tokens; from there on it decodes what was encoded last, at its own default block too."""

    default_block = 64

    def encode(self, x: Any) -> Any:
        self.last = super().encode(x)
        return self.last

    def decode(self, stored: Any) -> Any:
        return (stored if len(stored) < 17 else self.last).copy()


class WideHeads(Plain):
    """Channel numbers in five bits."""

    def decode(self, stored: Any) -> Any:
        return stored[:, np.arange(stored.shape[1]) % 32].copy()

    def exact(self, stored: Any) -> Any:
        return [[Fraction(float(e)) for e in row] for row in stored]


class OwnBlock(Plain):
    """Breaks at 48 tokens only, its default."""

    default_block = 48

    def decode(self, stored: Any) -> Any:
        return stored[::-1] * np.nan if len(stored) == 48 else stored.copy()


@pytest.mark.parametrize(
    ("broken", "first", "seen", "asked"),
    [
        (LongBlocks, "self-contained", r"64 x 64\): decodes differently after other blocks", {}),
        (LongBlocks, "self-contained", r"64 x 8\): decodes differently after other blocks", SMALL),
        (WideHeads, "meaning", r"\(float16, 7 x 64\) at \[0, 32\]", {}),
        (OwnBlock, "total", r"48 x 64\): decoded nan", {}),
        (OwnBlock, "total", r"48 x 8\): decoded nan", SMALL),
    ],
)
def test_sizes_in_use_are_tried(broken: type, first: str, seen: str, asked: dict[str, Any]) -> None:
    report = verify_format(broken, **asked, mutants=False)
    assert first in failures(report)
    assert re.search(seen, failures(report)[first]), failures(report)[first]


def test_sizes_that_are_tried() -> None:
    assert Subject.of(Plain).real == ((7, 64), (64, 64))
    assert Subject.of(OwnBlock).tried == "1, 4, 7 x 1, 8, 20; 7 x 64; 48 x 64; 64 x 64"
    assert Subject.of(OwnBlock, (16,), (64, 128)).tried == "16 x 64, 128; 48 x 128"
    assert Subject.of(OwnBlock, (48,), (64,)).real == ()
    for bad in ((), (0,)):
        with pytest.raises(SettingError, match="at least 1"):
            Subject.of(Plain, bad)


class WithExact(Plain):
    def exact(self, stored: Any) -> Any:
        return [[Fraction(float(e)) for e in row] for row in stored]


def claims(number: float, base: type = WithExact) -> type:
    """Claim one number as the error of the element [0, 1], and 0 of the others."""

    def decode_error_ub(_: Any, stored: Any) -> Any:
        claimed = np.zeros(stored.shape)
        claimed[0, 1:2] = number
        return claimed

    return type("Claims", (base,), {"decode_error_ub": decode_error_ub})


def means(number: Any) -> type:
    """Say that this is what the first element of a block means."""

    def exact(self: Any, stored: Any) -> Any:
        given = WithExact.exact(self, stored)
        given[0][0] = number
        return given

    return type("Means", (Plain,), {"exact": exact})


@pytest.mark.parametrize(
    ("broken", "check", "seen"),
    [
        (claims(np.nan), "meaning", r"8\) at \[0, 1\]: decode_error_ub says nan, which is not a finite number"),
        (claims(np.inf), "meaning", r"at \[0, 1\]: decode_error_ub says inf"),
        (claims(-np.inf), "meaning", r"at \[0, 1\]: decode_error_ub says -inf"),
        (claims(-1e-30), "meaning", r"at \[0, 1\]: decode_error_ub says -1e-30"),
        (claims(np.nan, Plain), "meaning", r"at \[0, 1\]: decode_error_ub says nan"),
        (type("Flat", (WithExact,), {"decode_error_ub": lambda *_: np.zeros(3)}), "meaning", r"returned \(3,\) for a"),
        (means(np.nan), "meaning", r"exact returned nan at \[0, 0\], which is no rational"),
        (means(np.inf), "meaning", r"exact returned inf at \[0, 0\]"),
        (means(None), "meaning", r"exact returned None at \[0, 0\]"),
        (means(10**400), "meaning", r"at \[0, 0\]: decode is off by more than the largest float64"),
        (
            type("Inf", (WithExact,), {"decode": lambda _, s: s / 0.0}),
            "meaning",
            r"decode returned -?(inf|nan)",
        ),
        (type("Steps", (Plain,), {"step": lambda _, s: np.full(s.shape[1], np.nan)}), "total", "step must be"),
        (type("Bytes", (Plain,), {"bytes_per_block": lambda *_: np.nan}), "bytes", "nan, which is no integer"),
    ],
)
def test_what_is_no_number_fails_a_check(broken: type, check: str, seen: str) -> None:
    """Each is a failure of the format, with its position, and nothing raises."""
    report = verify_format(broken, **SMALL, mutants=False)
    assert check in failures(report)
    assert re.search(seen, failures(report)[check]), failures(report)[check]


def test_an_error_inside_a_check_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    from certkv.proofs.userformat import verify

    def breaks(_: Subject) -> str:
        raise ValueError("planted")

    monkeypatch.setattr(verify, "CHECKS", (verify.FormatCheck("total", "", breaks),))
    assert failures(verify_format(Plain, mutants=False)) == {"total": "ValueError: planted"}


@pytest.mark.parametrize("block", [0, -1, 2.5, float("nan"), None])
def test_a_default_block_that_is_none_is_refused(block: Any) -> None:
    with pytest.raises(SettingError, match="default_block is"):
        verify_format(type("Odd", (Plain,), {"default_block": block}))


def test_an_inherited_name_is_shown_with_the_class(documented: dict[str, Any]) -> None:
    report = verify_format(documented["Claims"], **SMALL, mutants=False)
    assert report.title == "symmetric8 (class Claims)"
    assert verdict(report).startswith("symmetric8 (class Claims): FAILED: meaning, annotations (tokens per block")


def test_plain_is_sound_as_an_object_too() -> None:
    report = verify_format(Plain(), **SMALL)
    assert report.ok, failures(report)
    assert report.title == report.name == "Plain"


def test_an_unsound_certificate_is_found_in_the_steps(documented: dict[str, Any]) -> None:
    """A decoder that is right while blocks are measured and wrong while they are attended to."""

    base: Any = documented["Ternary"]

    class Late(base):  # type: ignore[misc]
        calls = 0

        def decode(self, stored: Any) -> Any:
            type(self).calls += 1
            wrong = type(self).calls % 97 == 0
            return super().decode(stored) * (3.0 if wrong else 1.0)

    report = verify_format(Late, **SMALL, mutants=False)
    assert {"self-contained", "stable"} & set(failures(report))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (object(), "has no method encode"),
        (type("Half", (), {"encode": lambda self, x: x}), "has no method decode"),
        (type("Odd", (Plain,), {"kind": {"queries"}}), "kind is"),
        (type("Needs", (Plain,), {"__init__": lambda self, bits: None}), "pass an object instead"),
    ],
)
def test_what_is_no_format_is_refused(given: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        verify_format(given)


# adapter and registry -----------------------------------------------------------------------------------------------


def test_adapter_refuses_what_a_cache_does_not_store() -> None:
    fmt = Adapted(Plain())
    x = np.zeros((2, 4, 8), np.float16)
    x[1, 2, 3] = np.nan
    with pytest.raises(NonFiniteError, match=r"x\[1, 2, 3\] is nan"):
        fmt.encode(x)
    with pytest.raises(DTypeError):
        fmt.encode(np.zeros((4, 8)))
    with pytest.raises(ShapeError):
        fmt.encode(np.zeros(8, np.float16))


def test_a_step_per_channel_tightens_the_bound(documented: dict[str, Any]) -> None:
    """Keys with one huge channel that the query does not look at: only the form by channels sees that."""

    base: Any = documented["Symmetric8"]

    class WithoutStep(base):  # type: ignore[misc]
        name = "without step"
        step = None

    k, v = np.random.default_rng(0).standard_normal((2, 64, 1, 8)).astype(np.float16)
    k[..., 0] *= np.float16(1000)
    q = np.ones((1, 8), np.float16)
    q[..., 0] = 0
    bounds = []
    for inner in (documented["Symmetric8"](), WithoutStep()):
        with registered(Adapted(inner)) as name:
            cache = Cache(kv_heads=1, head_dim=8, keys=name, values="dense")
            cache.append(k, v)
            bounds.append(float(decode(q, cache, Naive()).certificate.bound[0]))
    assert bounds[0] < bounds[1] / 10


def test_registry(taken: None) -> None:
    fmt = Adapted(Plain(), "mine")
    register(fmt)
    assert key_format("mine") is fmt
    assert value_format("mine") is fmt
    for name in ("mine", "int8", "int4-g16"):
        with pytest.raises(SettingError, match="there is already a format"):
            register(Adapted(Plain(), name))
    unregister("mine")
    for name in ("mine", "int8"):
        with pytest.raises(SettingError, match="not a format that was registered"):
            unregister(name)
    with pytest.raises(SettingError, match="unknown key format 'mine'"):
        key_format("mine")


def test_a_format_for_one_side_is_registered_for_it(taken: None) -> None:
    class Keys(Plain):
        kind = frozenset({"keys"})

    register(Adapted(Keys(), "mine"))
    assert "mine" in KEY_FORMATS
    assert "mine" not in VALUE_FORMATS
    empty = Adapted(Plain(), "other")
    empty.kind = frozenset()
    with pytest.raises(SettingError, match="kind"):
        register(empty)


def test_verifying_leaves_nothing_registered() -> None:
    before = {*KEY_FORMATS, *VALUE_FORMATS}
    verify_format(Plain, **SMALL)
    assert {*KEY_FORMATS, *VALUE_FORMATS} == before


def test_held_bytes() -> None:
    one = np.zeros(3, np.float32)
    assert held_bytes({"a": one, "b": [b"abc", (one, None)]}) == 12 + 3 + 12
    assert held_bytes(np.float16(1)) == 2
    assert held_bytes(1.5) == 8
    assert held_bytes(value_format("int4").encode(np.zeros((4, 8), np.float16))) == 2 * 8 + 2 * 2 * 8


def test_budget_decodes_with_a_user_format(documented: dict[str, Any]) -> None:
    with registered(Adapted(documented["Ternary"]())) as name:
        cache = Cache(kv_heads=2, head_dim=8, keys=name, values=name, block=4)
        k, v = np.random.default_rng(0).standard_normal((2, 30, 2, 8)).astype(np.float16)
        cache.append(k, v)
        step = decode(np.ones((4, 8), np.float16), cache, Budget(0.1))
    assert ((step.certificate.bound <= step.certificate.tolerance) | (step.certificate.rung == 3)).all()


# the command --------------------------------------------------------------------------------------------------------


def test_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    source = "\n".join(block for block in BLOCKS if "class " in block)
    (tmp_path / "documented_formats.py").write_text(source, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sizes = ["--blocks", "1,4", "--head-dims", "8"]
    assert command.main(["documented_formats:Ternary", *sizes]) == 0
    out = capsys.readouterr().out
    assert "residual-halved" in out
    assert "Ternary: sound" in out
    assert command.main(["documented_formats:HalfScale", *sizes, "--no-mutants"]) == 1
    assert "HalfScale: FAILED: total, annotations" in capsys.readouterr().out


@pytest.mark.parametrize("where", ["nothing", "no_such_module:X", "numpy:no_such_name", "numpy:pi"])
def test_command_says_what_it_cannot_load(where: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([where]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("sizes", ["0", "a", "", "4,"])
def test_command_refuses_sizes(sizes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["numpy:pi", "--blocks", sizes]) == 2
    assert "give sizes of at least 1" in capsys.readouterr().err


def test_command_runs_as_a_module(tmp_path: Path) -> None:
    """The process that it starts must find what it is to run, which is not in ``__main__``."""
    (tmp_path / "lossless.py").write_text(
        "class Lossless:\n def encode(self, x): return x.astype('f8')\n def decode(self, s): return s.copy()\n"
    )
    called = [sys.executable, "-m", "certkv.proofs.userformat", "lossless:Lossless", "--blocks=1", "--head-dims=1"]
    done = subprocess.run([*called, "--no-mutants"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Lossless: sound (tokens per block x channels tried: 1 x 1; 64 x 1)" in done.stdout
