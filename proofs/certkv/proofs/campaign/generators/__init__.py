"""Every generator by name, with the number of cases of each size in a full campaign."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from certkv.proofs.campaign.generators import (
    attained,
    climb,
    degenerate,
    ordinary,
    residuals,
    rounding,
    spectral,
    values,
)
from certkv.proofs.campaign.generators.base import Data, GeneratorOfCases, Rng, unchanged
from certkv.proofs.campaign.setting import Setting

__all__ = ["GENERATORS", "Data", "GeneratorOfCases"]

Adjust = Callable[[Rng, Setting], Setting]

EVERYWHERE = {"small": 200, "enclosed": 60, "medium": 4, "wide": 13, "large": 3}
NO_LARGE = {"small": 200, "enclosed": 60, "medium": 4, "wide": 13}
ATTACK = {"small": 200, "enclosed": 60, "medium": 4, "wide": 13}
QUICK = {**NO_LARGE, "wide": 40}
DOUBTFUL = {**NO_LARGE, "wide": 3}  # errors so close to their bounds that only enclosures tell, at 10 ms each
SHORT = {"small": 200, "enclosed": 60}
ATTACK_LARGE = {**ATTACK, "large": 3}
CLIMB = {"small": 150, "enclosed": 6}


def bfloat16(rng: Rng, s: Setting) -> Setting:
    """Originals with a wide exponent range, and an ordinary scale."""
    del rng
    return replace(s, dtype="bfloat16", query_dtype="float32", scale=None)


def _all() -> list[GeneratorOfCases]:
    def entry(
        make: Callable[[Rng, Setting], Data], cases: Mapping[str, int], adjust: Adjust = unchanged
    ) -> GeneratorOfCases:
        return GeneratorOfCases(make.__name__, make, MappingProxyType(dict(cases)), adjust)

    return [
        entry(ordinary.gaussian, EVERYWHERE),
        entry(ordinary.rope_topics, EVERYWHERE),
        entry(ordinary.outlier_channels, EVERYWHERE),
        entry(ordinary.lognormal_norms, EVERYWHERE),
        entry(ordinary.sinks, EVERYWHERE),
        entry(ordinary.needles, {**EVERYWHERE, "wide": 40}),
        entry(ordinary.local, EVERYWHERE),
        entry(degenerate.equal_tokens, DOUBTFUL),
        entry(degenerate.ties, QUICK),
        entry(degenerate.constant_channels, DOUBTFUL),
        entry(degenerate.one_token_takes_all, NO_LARGE),
        entry(degenerate.two_valued, QUICK),
        entry(degenerate.far_offset, DOUBTFUL),
        entry(degenerate.subnormals, NO_LARGE),
        entry(degenerate.huge, DOUBTFUL),
        entry(degenerate.mixed_magnitudes, NO_LARGE),
        entry(degenerate.random_bits, NO_LARGE),
        entry(degenerate.underflow_edge, ATTACK, bfloat16),
        entry(degenerate.underflowing_products, ATTACK, bfloat16),
        entry(degenerate.brute, SHORT, degenerate.tiny),
        entry(residuals.residual_aligned, ATTACK, residuals.quantized_keys),
        entry(residuals.residual_difference, ATTACK, residuals.quantized_keys),
        entry(residuals.sign_groups, ATTACK, residuals.quantized_keys),
        entry(residuals.orthogonal, SHORT, residuals.few_tokens),
        entry(attained.half_steps, ATTACK_LARGE, attained.exact_grid),
        entry(attained.mass_flip, ATTACK_LARGE, attained.exact_grid),
        entry(values.value_residuals, ATTACK_LARGE, values.lossy_values),
        entry(values.one_token_blocks, SHORT, values.single),
        entry(rounding.rounded_scores, SHORT, rounding.few_channels),
        entry(rounding.cancelling_values, ATTACK, rounding.dense),
        entry(spectral.rank_one, ATTACK_LARGE, spectral.blocks_of_any_size),
        entry(spectral.aligned_values, ATTACK_LARGE, spectral.lossy_per_channel),
        entry(spectral.peaked_blocks, ATTACK_LARGE, spectral.lossy_per_channel),
        entry(spectral.log_range, ATTACK, spectral.per_token_errors),
        entry(spectral.infinite_annotations, {**SHORT, "medium": 6}, spectral.wide_exponents),
        entry(spectral.uneven_errors, EVERYWHERE, spectral.lossy),
        entry(climb.hill_climb, CLIMB, climb.small_dimension),
    ]


GENERATORS: Mapping[str, GeneratorOfCases] = MappingProxyType({generator.name: generator for generator in _all()})
