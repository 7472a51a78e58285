"""Small attention problems that are judged by enclosures: ordinary ones, and those in which a wrong number shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from certkv.proofs.userformat.subject import Subject
from certkv.reference.numbers.types import AnyArray, FloatArray


@dataclass(frozen=True, eq=False)
class Scene:
    """Originals and queries.

    Attributes
    ----------
    name : str
    q : float32 [q_heads, d]
    k, v : float16 or bfloat16 [tokens, kv_heads, d]
    block : int
    scale : float
    """

    name: str
    q: AnyArray
    k: AnyArray
    v: AnyArray
    block: int
    scale: float


REAL = ("uneven blocks", "needle")
"""Scenes that are also played at the sizes that the format meets in use, both sides in the format."""


def scenes(subject: Subject) -> Sequence[Scene]:
    """Return the scenes at the largest block and head size that were asked for; two KV heads, two query heads each."""
    return _scenes(max(subject.blocks), max(subject.head_dims))


def real_scenes(subject: Subject) -> Sequence[Scene]:
    """Return some scenes at each of the subject's sizes in use."""
    return [s for b, d in subject.real for s in _scenes(b, d) if s.name.partition(" (")[0] in REAL]


def _scenes(block: int, d: int) -> Sequence[Scene]:
    tokens = 3 * block + max(block // 2, 1)
    rng = np.random.default_rng([block, d])
    shape = (tokens, 2, d)

    def normal() -> FloatArray:
        return rng.standard_normal(shape)

    needle_k, needle_v = 0.2 * normal(), 0.05 * normal()
    needle_k[block + block // 2], needle_v[block + block // 2] = 3.0, 5.0 * normal()[0]
    offset = 3.0 * rng.standard_normal((1, 2, d))
    # blocks whose sizes differ, so that the numbers of one are wrong for another
    uneven = np.repeat([0.2, 4.0, 1.0, 2.0], block)[:tokens, None, None]
    made = {
        "normal": (normal(), normal()),
        "uneven blocks": (0.5 * normal(), uneven * normal()),
        "needle": (needle_k, needle_v),
        "two values": (rng.choice([-0.7, 0.4], shape), rng.choice([-1.3, 0.9], shape)),
        "offset": (offset + 0.1 * normal(), offset + 0.1 * normal()),
        "equal tokens": (np.broadcast_to(normal()[:1], shape), np.broadcast_to(normal()[:1], shape)),
    }
    found = []
    for index, (name, (k, v)) in enumerate(made.items()):
        dtype = np.dtype(np.float16) if index % 2 == 0 else np.dtype(ml_dtypes.bfloat16)
        q = rng.standard_normal((4, d)).astype(np.float32)
        found.append(Scene(f"{name} ({dtype.name})", q, k.astype(dtype), v.astype(dtype), block, 1.0 / d**0.5))
    return found
