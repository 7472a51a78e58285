"""The query heads that share one KV head, with everything a step may read for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from certkv.reference.annotations import KeyAnnotations, ValueAnnotations
from certkv.reference.annotations.keys import residual_unit
from certkv.reference.bounds import score_error
from certkv.reference.cache import Side, View
from certkv.reference.errors import InputError
from certkv.reference.formats import Encoded, rotation
from certkv.reference.formats.rotated import RotatedFormat, extra_roundings
from certkv.reference.numbers import outward
from certkv.reference.numbers.types import BoolArray, FloatArray, IntArray
from certkv.reference.steps.finer import Finer
from certkv.reference.steps.levels import Levels, any_row

__all__ = ["Group", "Levels", "any_row"]


@dataclass(eq=False)
class Group:
    """Query heads of one KV head over one view of the cache.

    Attributes
    ----------
    q : float64 [heads, head_dim]
        Exact value of the queries.
    heads : int64 [heads]
        Their global indices.
    scale : float
    view : View
    pinned : int
        Number of leading blocks whose originals the policy keeps on the device (0 or 1).

    What is called ``coded_...``, and ``key_notes``, ``value_notes``, ``delta_ub`` and ``operator_ub``, is of the base
    plane; of finer levels there are lists, the first entry of which is level 1.
    """

    q: FloatArray
    heads: IntArray
    scale: float
    view: View
    pinned: int = 0
    coded_scores: FloatArray = field(init=False)
    tail_scores: FloatArray = field(init=False)
    coded_values: FloatArray = field(init=False)
    tail_keys: FloatArray = field(init=False)
    tail_values: FloatArray = field(init=False)
    key_notes: KeyAnnotations | None = field(init=False, default=None)
    value_notes: ValueAnnotations | None = field(init=False, default=None)
    key_norm_ub: FloatArray = field(init=False)
    delta_ub: FloatArray = field(init=False)
    operator_ub: FloatArray = field(init=False)
    finer: Finer = field(init=False)
    finer_key_notes: list[KeyAnnotations] = field(init=False, default_factory=list)
    finer_value_notes: list[ValueAnnotations] = field(init=False, default_factory=list)
    finer_errors: list[tuple[FloatArray, FloatArray]] = field(init=False, default_factory=list)
    _originals: dict[Side, FloatArray] = field(init=False, default_factory=dict)
    _have: dict[Side, BoolArray] = field(init=False, default_factory=dict)
    _exact_scores: FloatArray = field(init=False)

    def __post_init__(self) -> None:
        view, d = self.view, self.view.cache.head_dim
        shape = (view.blocks, view.cache.block, d)
        self.tail_keys, self.tail_values = view.tail_originals("keys"), view.tail_originals("values")
        self.tail_scores = self.scores(self.tail_keys)
        self.coded_values = np.empty(shape)
        self.coded_scores = np.empty((len(self.q), *shape[:2]))
        self.delta_ub, self.operator_ub = np.empty((2, len(self.q), view.blocks))
        self.key_norm_ub = np.empty(view.blocks)
        if view.blocks:
            self.coded_scores = self.scores_of_coded(view.encoded("keys"))
            self.coded_values = view.decoded("values")
            self.key_notes, self.value_notes = view.key_annotations(), view.value_annotations()
            self.delta_ub, self.operator_ub = self._score_errors(self.key_notes)
            self.key_norm_ub = self._key_norms(self.key_notes)
        self.finer = Finer(view, len(self.q), self.scores_of_coded)
        self.finer_key_notes = [view.key_annotations(level) for level in self.finer.levels("keys")]
        self.finer_value_notes = [view.value_annotations(level) for level in self.finer.levels("values")]
        self.finer_errors = [self._score_errors(notes) for notes in self.finer_key_notes]
        for side in ("keys", "values"):
            self._originals[side] = np.full(shape, np.nan)
            self._have[side] = np.zeros(view.blocks, np.bool_)
        self._exact_scores = np.full(self.coded_scores.shape, np.nan)

    @property
    def coded_value_notes(self) -> ValueAnnotations:
        """Annotations of the coded values; there must be a block."""
        if self.value_notes is None:
            raise InputError("no block is full yet, so nothing is coded; append more tokens")
        return self.value_notes

    @property
    def key_roundings(self) -> int:
        """What a rotation adds to the roundings of a score."""
        return extra_roundings(self.view.cache.format("keys"), self.q.shape[-1])

    @property
    def value_roundings(self) -> int:
        """What a rotation adds to the one rounding of a decoded value."""
        return extra_roundings(self.view.cache.format("values"), self.q.shape[-1])

    @property
    def block_bytes(self) -> int:
        """Bytes of one block's originals of one side."""
        return self.view.cache.host.block_bytes

    def scores(self, keys: FloatArray) -> FloatArray:
        """``scale * (q . k)`` in float64: dot product first, then the scale.

        Parameters
        ----------
        keys : float64 [..., head_dim]

        Returns
        -------
        float64 [heads, ...]
        """
        dots = self.q @ keys.reshape(-1, keys.shape[-1]).T
        return np.asarray(self.scale * dots.reshape(len(self.q), *keys.shape[:-1]))

    def scores_of_coded(self, encoded: Encoded) -> FloatArray:
        """Return the scores of coded keys; where they are stored rotated, the query is rotated and they are not.

        Returns
        -------
        float64 [heads, blocks, block]
        """
        fmt = self.view.cache.format("keys")
        if isinstance(fmt, RotatedFormat) and fmt.rotated:
            keys = fmt.decode_rotated(encoded)
            dots = rotation.rotate(self.q) @ keys.reshape(-1, keys.shape[-1]).T
            return np.asarray(self.scale * dots.reshape(len(self.q), *keys.shape[:-1]))
        return self.scores(fmt.decode(encoded))

    def originals(self, side: Side, wanted: BoolArray) -> FloatArray:
        """Make the originals of the wanted blocks available.

        Parameters
        ----------
        side : {"keys", "values"}
        wanted : bool [blocks]

        Returns
        -------
        float64 [blocks, block, head_dim]
            NaN in every block that no call has wanted.

        Raises
        ------
        HostMissingError
        """
        new = wanted & ~self._have[side]
        pinned = np.arange(len(new)) < self.pinned
        for which, read in ((new & pinned, self.view.resident), (new & ~pinned, self.view.originals)):
            blocks = np.flatnonzero(which)
            if blocks.size:
                self._originals[side][blocks] = read(side, blocks)
        if side == "keys" and new.any():
            self._exact_scores[:, new] = self.scores(self._originals["keys"][new])
        self._have[side] |= wanted
        return self._originals[side]

    def exact_scores(self, wanted: BoolArray) -> FloatArray:
        """Return scores from original keys, float64 [heads, blocks, block]; NaN where they were never wanted."""
        self.originals("keys", wanted)
        return self._exact_scores

    def _score_errors(self, notes: KeyAnnotations) -> tuple[FloatArray, FloatArray]:
        """Bound each block's score errors: the largest (the smaller of L1 and L2 form), and their norm."""
        unit = residual_unit(self.view.encoded("keys"))
        known = {name: array.astype(np.float64) for name, array in notes.arrays().items()}
        l1 = score_error.measured_l1(self.scale, self.q, unit, known["relative_max_ub"])
        l2 = score_error.measured_l2(self.scale, self.q, unit, known["relative_norm_ub"])
        norm = score_error.measured_operator(self.scale, self.q, unit, known["relative_operator_ub"])
        return np.fmin(l1, l2), norm

    def _key_norms(self, notes: KeyAnnotations) -> FloatArray:
        """Largest norm of each block's original keys: ``||k|| <= ||k_hat|| + max_c sigma_c ||X||``, [blocks]."""
        largest = residual_unit(self.view.encoded("keys")).max(axis=-1)
        with np.errstate(invalid="ignore", over="ignore"):
            residual = largest * notes.relative_norm_ub.astype(np.float64)
            norm = (notes.decoded_norm_ub.astype(np.float64) + residual) * outward(2)
        # a residual where every step is 0 has an infinite ratio: nothing is known then
        return np.asarray(np.where(np.isnan(norm), np.inf, norm))
