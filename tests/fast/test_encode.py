"""Encoding into pages: what is refused, what is skipped, and that twin and kernel take the same arguments."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch

from certkv.fast.encode import encode_keys, encode_keys_twin, encode_values, encode_values_twin
from certkv.fast.errors import DTypeError, ShapeError
from certkv.fast.formats import VALUE_FORMATS, PerTokenGroup
from certkv.fast.kernels import encode_keys as key_kernels
from certkv.fast.kernels import encode_values as value_kernels
from certkv.fast.pool import Pool, allocate

pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning:triton.runtime.interpreter"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:triton.runtime.interpreter"),
]

PAGES, HEADS, BLOCK, HEAD_DIM = 6, 2, 16, 40
FORMAT = "int4-g32"
FMT = VALUE_FORMATS[FORMAT]


Path = tuple[Callable[..., None], Callable[..., None]]


def pool() -> Pool:
    return allocate(PAGES, HEADS, BLOCK, HEAD_DIM, torch.bfloat16, FORMAT)


def blocks(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n)
    return torch.randn(n, HEADS, BLOCK, HEAD_DIM, generator=generator).to(torch.bfloat16)


def anchor(n: int) -> torch.Tensor:
    return torch.full((HEADS, HEAD_DIM), 0.25).expand(n, -1, -1)


def raw(p: Pool) -> dict[str, torch.Tensor]:
    return {field.name: getattr(p, field.name).view(torch.uint8) for field in fields(p)}


def same(one: Pool, other: Pool) -> bool:
    return all(torch.equal(a, b) for a, b in zip(raw(one).values(), raw(other).values(), strict=True))


def run(path: Path, x: torch.Tensor, pages: torch.Tensor) -> Pool:
    keys, values = path
    p = pool()
    keys(x, pages, p)
    values(x, pages, p, anchor(len(x)), FMT)
    return p


PATHS: dict[str, Path] = {
    "twin": (encode_keys_twin, encode_values_twin),
    "kernel": (key_kernels.encode_keys, value_kernels.encode_values),
    "dispatched": (encode_keys, encode_values),
}
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


@paths
def test_blocks_go_to_their_pages(path: Path) -> None:
    """In any order, and nothing else is written."""
    x = blocks(3)
    together = run(path, x, torch.tensor([4, 0, 2], dtype=torch.int32))
    untouched = raw(pool())
    for block, page in enumerate((4, 0, 2)):
        alone = run(path, x[block : block + 1], torch.tensor([page], dtype=torch.int32))
        for name, stored in raw(together).items():
            assert torch.equal(stored[page], raw(alone)[name][page]), name
    for name, stored in raw(together).items():
        for page in (1, 3, 5):
            assert torch.equal(stored[page], untouched[name][page]), name


@paths
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_negative_pages_are_skipped(path: Path, dtype: torch.dtype) -> None:
    x = blocks(3)
    some = run(path, x, torch.tensor([-1, 3, -7], dtype=dtype))
    assert same(some, run(path, x[1:2], torch.tensor([3], dtype=dtype)))
    assert same(run(path, x, torch.full((3,), -1, dtype=dtype)), pool())


@paths
def test_no_blocks(path: Path) -> None:
    assert same(run(path, blocks(2)[:0], torch.empty(0, dtype=torch.int32)), pool())


@paths
def test_strides_do_not_matter(path: Path) -> None:
    x, pages = blocks(2), torch.tensor([1, 2], dtype=torch.int32)
    expected = run(path, x, pages)
    by_token = x.permute(0, 2, 1, 3).contiguous().permute(0, 2, 1, 3)
    by_channel = x.transpose(2, 3).contiguous().transpose(2, 3)
    backwards = x.flip(0).contiguous().flip(0)
    for other in (by_token, by_channel, backwards):
        assert same(expected, run(path, other, pages))


def test_blocks_do_not_depend_on_each_other() -> None:
    """More items than programs: each program takes several."""
    x = blocks(5)
    pages = torch.arange(5, dtype=torch.int32)
    assert same(run(PATHS["kernel"], x, pages), run(PATHS["twin"], x, pages))


def test_refusals() -> None:
    x, pages, p = blocks(2), torch.tensor([0, 1], dtype=torch.int32), pool()
    with pytest.raises(DTypeError, match="float16"):
        encode_keys(x.to(torch.float16), pages, p)
    with pytest.raises(DTypeError, match="float32"):
        encode_values(x.to(torch.float32), pages, p, anchor(2), FMT)
    with pytest.raises(ShapeError, match="keys have shape"):
        encode_keys(x[:, :, :-1], pages, p)
    with pytest.raises(ShapeError, match="values have shape"):
        encode_values(x[0], pages, p, anchor(2), FMT)
    with pytest.raises(ShapeError, match="pages have shape"):
        encode_keys(x, pages[:1], p)
    with pytest.raises(DTypeError, match="pages are"):
        encode_keys(x, pages.to(torch.int16), p)
    with pytest.raises(ShapeError, match="expand"):
        encode_values(x, pages, p, anchor(1), FMT)
    with pytest.raises(DTypeError, match="anchor"):
        encode_values(x, pages, p, anchor(2).to(torch.float64), FMT)
    for other in ("int4", "int8", "int8-g64"):
        with pytest.raises(ShapeError, match="allocate the pool"):
            encode_values(x, pages, p, anchor(2), VALUE_FORMATS[other])
    with pytest.raises(ShapeError, match="no pages"):
        encode_values(x, pages, p, anchor(2), PerTokenGroup("int4-g8", 4, 8))
    with pytest.raises(ShapeError, match="device"):
        encode_keys(x, pages.to("meta"), p)
    assert same(p, pool())


def test_a_pool_that_is_not_contiguous_is_refused() -> None:
    wide = pool()
    p = replace(wide, key_codes=wide.key_codes.transpose(2, 3).contiguous().transpose(2, 3))
    with pytest.raises(ShapeError, match="contiguous"):
        encode_keys(blocks(1), torch.tensor([0]), p)
