"""Annotations: every number rounded outward, of the right block, against the right anchor."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import ml_dtypes
import numpy as np

from certkv.proofs.mutants.inputs import alike, ties, tilted
from certkv.proofs.mutants.model import Check, Mutant, patched, require
from certkv.proofs.mutants.scene import require_sound
from certkv.reference import Cache, Naive
from certkv.reference.annotations import annotate_values, blockwise
from certkv.reference.annotations import keys as key_notes
from certkv.reference.annotations import values as value_notes
from certkv.reference.annotations.measure import store_ub
from certkv.reference.cache.view import View
from certkv.reference.formats import value_format
from certkv.reference.numbers import BFLOAT16, round_nearest
from certkv.reference.numbers.types import AnyArray, FloatArray


def squared_norm(row: AnyArray) -> Fraction:
    """``sum x^2`` in rational arithmetic."""
    return sum((Fraction(float(x)) ** 2 for x in row), Fraction(0))


def annotations_round_outward() -> None:
    """Norms of originals in rational arithmetic against what is stored, in FP16 and at the edge of bfloat16."""
    rng = np.random.default_rng(11)
    normal = rng.normal(size=(20, 4, 16)).astype(np.float16)
    huge = (2.0**90 * rng.normal(size=(4, 4, 16))).astype(ml_dtypes.bfloat16)
    fmt = value_format("int4-g16")
    for where, v in (("normal", normal), ("huge", huge)):
        found = annotate_values(v, fmt.encode(v), fmt, np.zeros(16))
        for block, tokens in enumerate(v):
            squares = [squared_norm(token) for token in tokens]
            for upper in (found.norm_ub, found.anchored_norm_ub):
                require(Fraction(float(upper[block])) ** 2 >= max(squares), f"{where}: a norm is above its annotation")
            # every term of the mean is at least its own share, and the mean of equal tokens is one norm
            same = np.tile(tokens[:1], (1, 4, 1))
            mean = annotate_values(same, fmt.encode(same), fmt, np.zeros(16)).mean_norm_lb[0]
            require(Fraction(float(mean)) ** 2 <= squares[0], f"{where}: a mean norm is below its annotation")


def large_residuals_are_covered() -> None:
    """Residuals far beyond 2^8: bfloat16 values of 2^60."""
    v = np.tile(np.concatenate([[0.0, 15.0], np.full(30, 7.5)]) * 2.0**60, (8, 1))
    scene = alike(np.zeros(32), "int4-g32")
    scene = replace(scene, k=scene.k.astype(ml_dtypes.bfloat16), v=v.astype(ml_dtypes.bfloat16)[:, None])
    require_sound(scene, scene.decode(Naive()))


def each_block_has_its_own() -> None:
    """Give the heavy block of two all value residuals; then, the first block of two all key residuals."""
    scene = alike(ties(1, 15, 32, 0.0625), "int4-g32")
    k, v = scene.k.copy(), scene.v.copy()
    k[:4], v[4:] = 1.125, 0.0  # e^4 times the mass of the other block
    scene = replace(scene, k=k, v=v)
    require_sound(scene, scene.decode(Naive()), where="values")
    scene = tilted(0.05)
    require_sound(scene, scene.decode(Naive()), where="keys")


def anchor_is_kept() -> None:
    """Take values of 1 and -1, output 0; then a last block without mass whose values are 0, the output's own place."""
    scene = tilted(0.01)
    weightless, far = np.zeros_like(scene.v[:64]), scene.k[-64:].copy()
    far[..., 0] -= np.float16(40.0 / scene.q[0, 0])
    scene = replace(scene, k=np.concatenate([scene.k, far]), v=np.concatenate([scene.v, weightless]))
    cache = scene.empty_cache()
    for start in range(0, len(scene.k), 32):
        cache.append(scene.k[start : start + 32], scene.v[start : start + 32])
    require_sound(scene, scene.decode(Naive(), cache))


def nearest() -> AbstractContextManager[None]:
    """Round annotations to the nearest bfloat16 number."""

    def store(x: FloatArray) -> AnyArray:
        return round_nearest(x, BFLOAT16)

    return patched((key_notes, "store_ub", store), (value_notes, "store_ub", store))


def nearest_below() -> AbstractContextManager[None]:
    """Round the mean norm up."""
    return patched((value_notes, "store_lb", store_ub))


def saturating() -> AbstractContextManager[None]:
    """Store annotations in a type that ends at 2^8."""

    def store_small(x: FloatArray) -> AnyArray:
        return store_ub(np.minimum(x, 2.0**8))

    return patched((key_notes, "store_ub", store_small), (value_notes, "store_ub", store_small))


def shifted(name: str) -> AbstractContextManager[None]:
    """Read every block's annotations from its neighbour."""
    read = getattr(View, name)

    def from_neighbour(self: View) -> Any:
        notes: blockwise.Blockwise = read(self)
        return type(notes)(**{field: np.roll(array, 1) for field, array in notes.arrays().items()})

    return patched((View, name, from_neighbour))


def moving_anchor() -> AbstractContextManager[None]:
    """Use the mean of everything seen so far, while blocks were measured against the first."""

    def anchor(self: View) -> FloatArray | None:
        return None if self.blocks == 0 else np.asarray(self.decoded("values").mean(axis=(0, 1)))

    return patched((View, "anchor", anchor))


def renewed_anchor() -> AbstractContextManager[None]:
    """Take a new anchor whenever a block fills."""
    encode = Cache._encode

    def encode_renewed(self: Cache, k: AnyArray, v: AnyArray) -> None:
        self._anchor = None
        encode(self, k, v)

    return patched((Cache, "_encode", encode_renewed))


CHECKS = (
    Check("annotations-outward", "annotations are on the safe side of the exact norms", annotations_round_outward),
    Check("large-residuals", "annotations hold at any magnitude", large_residuals_are_covered),
    Check("own-annotations", "every block is certified by its own annotations", each_block_has_its_own),
    Check("anchor-kept", "the anchor in use is the one that was measured against", anchor_is_kept),
)

MUTANTS = (
    Mutant("annotations-nearest", "-", "annotations rounded to nearest", nearest, "annotations-outward"),
    Mutant("mean-rounded-up", "-", "the mean value norm rounded up", nearest_below, "annotations-outward"),
    Mutant("annotations-saturate", "-", "annotations end at 2^8", saturating, "large-residuals"),
    Mutant("value-notes-shifted", "-", "another block's eta", lambda: shifted("value_annotations"), "own-annotations"),
    Mutant(
        "key-notes-shifted", "-", "another block's key error", lambda: shifted("key_annotations"), "own-annotations"
    ),
    Mutant("anchor-moves", "-", "an anchor that blocks were not measured against", moving_anchor, "anchor-kept"),
    Mutant("anchor-renewed", "-", "the anchor replaced as blocks fill", renewed_anchor, "anchor-kept"),
)
