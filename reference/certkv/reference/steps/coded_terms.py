"""What the coded blocks of a pass add to a head's bound, by theorem ``spectral``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from certkv.reference.bounds import arithmetic, spectral
from certkv.reference.bounds.spectral import Heaviest, ScoreKnowledge
from certkv.reference.numbers.types import FloatArray
from certkv.reference.steps.attend import Attended
from certkv.reference.steps.distances import finer_radii, from_anchor, token_radii, token_radius
from certkv.reference.steps.group import Group, Levels
from certkv.reference.steps.used import residual_operators, token_residuals


@dataclass(frozen=True, eq=False)
class CodedTerms:
    """Terms of a bound, float64 [rows, blocks] (or one more for the tail).

    Attributes
    ----------
    key, pure_key : float64
        ``C_b`` with and without rounding in the score errors.
    value : float64
        ``U_b``.
    weight : float64
        ``D_b``.
    """

    key: FloatArray
    pure_key: FloatArray
    value: FloatArray
    weight: FloatArray

    def sharpened(self, other: CodedTerms) -> CodedTerms:
        """Take the better of two proved terms for every coded block; the tail and ``other``'s value terms stand."""
        blocks = slice(0, other.key.shape[-1])

        def join(mine: FloatArray, better: FloatArray) -> FloatArray:
            return np.concatenate([better, mine[:, blocks.stop :]], axis=-1)

        return CodedTerms(
            key=join(self.key, np.fmin(self.key[:, blocks], other.key)),
            pure_key=join(self.pure_key, np.fmin(self.pure_key[:, blocks], other.pure_key)),
            value=join(self.value, other.value),
            weight=join(self.weight, np.fmax(self.weight[:, blocks], other.weight)),
        )


def spectral_terms(
    group: Group,
    levels: Levels,
    seen: Attended,
    output: FloatArray,
    errors: ScoreKnowledge,
    rounding_ub: FloatArray,
) -> CodedTerms:
    """Evaluate the theorem for the coded blocks of some heads.

    Parameters
    ----------
    group : Group
        With at least one block.
    levels : Levels
        Arrays [rows, blocks].
    seen : Attended
    output : float64 [rows, head_dim]
        The reported output.
    errors : ScoreKnowledge
        Of the keys as used, [rows, blocks]; 0 where they are original.
    rounding_ub : float64 [rows, blocks]
        Log-weight error that rounding adds.

    Returns
    -------
    CodedTerms
        Arrays [rows, blocks].
    """
    notes = group.coded_value_notes
    tokens, block = group.view.tokens, group.view.cache.block
    share = arithmetic.mass_ub(seen.share, tokens)
    distance = notes.token_distances_ub()
    token = (share * distance).argmax(axis=-1)
    radius, radii = token_radius(group, levels.values, token, output), token_radii(group, levels.values, output)
    if levels.finer("values"):
        # the base plane bounds a distance at every level; a refined one bounds it better
        one, every = finer_radii(group, levels, token, output)
        radius, radii = np.fmin(radius, one), np.fmin(radii, every)
    heaviest = Heaviest(token, radius)
    operator = notes.anchored_operator_ub.astype(np.float64)
    gamma_ub = from_anchor(group, output)
    both = errors.and_rounding(rounding_ub, block)

    def key_terms(knowledge: ScoreKnowledge) -> FloatArray:
        about_anchor = spectral.key_terms(share, distance, operator, gamma_ub, knowledge, heaviest)
        return np.fmin(about_anchor, spectral.direct_key_terms(share, radii, knowledge))

    values = spectral.value_terms(share, token_residuals(group, levels), residual_operators(group, levels))
    mass_lb = arithmetic.mass_lb(seen.mass[:, :-1], tokens)
    return CodedTerms(
        key=key_terms(both),
        pure_key=key_terms(errors),
        value=np.where(levels.values, 0.0, values),
        weight=spectral.weight_lb(share, mass_lb, both),
    )
