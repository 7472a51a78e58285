"""What the rounding of a pass costs, as the few numbers that certify needs; an arithmetic model fills them in."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

from certkv.fast.errors import SettingError
from certkv.fast.outward_fp32 import above, below

LARGEST_OPERAND = 2.0**60
"""Operands above this have no certificate: what underflow loses of their products is not charged."""

LARGEST_QUERY = 127.0
"""Binary16 queries above this may overflow in products with steps, which are at most 514: 127 * 514 < 65504."""

LARGEST_STEP = 1023.0
"""Binary16 steps of keys of few bits above this may overflow in products with a query, whose largest number is brought
to [32, 64): 64 * 1023 < 65504. Then a block's size (`ScoreCharge`) is at least ``1.5 * 1023 |scale| ||q||``: of three
steps or more between a channel's smallest and largest number, one of the two is at least half away from zero."""

LEAST_STEP = 2.0**-12
"""Steps of keys with groups of tokens count as so much more, before a token's norm multiplies them: what scores lose
absolutely in these units is relative to that."""

LARGEST_SIZE = 2.0**20
"""Scores larger than this, in nats, have no certificate: the error of their own exponent is not charged."""


@dataclass(frozen=True)
class ScoreCharge:
    """``|ln(effective weight) - scale q . k - const| <= relative * size + constant`` for every token of a block.

    ``size >= |scale| sum_c max(|q_c|, floor) max(s_c, floor)``, s_c what the kernel adds up in channel c: ``|minimum| +
    |step code|``, or |k|; every s_c and |q_c| is below `LARGEST_OPERAND`.

    Attributes
    ----------
    relative : float
    constant : float
        In nats: rounding of the exponent at 140 bits, of exp2, of rescaling and merging, and of the weight itself.
    """

    relative: float
    constant: float


@dataclass(frozen=True)
class Charges:
    """Rounding of one pass over N tokens: bounds, valid for every head.

    Attributes
    ----------
    floor : float
        What a smaller operand of the dot unit counts as; 0 where there is no such thing.
    coded, original, resident : ScoreCharge
        Tokens scored from codes, from originals that refinement read, and from originals on the device.
    share_up, share_lost : float
        The effective share of a token is at most ``share_up x + share_lost``, x its computed share.
    mass_down, mass_lost : float
        The effective mass of a block is at least ``mass_down x - mass_lost``, x the sum of computed shares.
    of_mean, of_largest, of_output, absolute : float
        ``eps_acc <= of_mean * (mean size of values) + of_largest * (largest) + of_output * ||c|| + absolute``.
    cast_relative, cast_absolute : float
        Rounding c to the output's type moves it by at most ``cast_relative ||c|| + cast_absolute``; 0 for binary32.
    """

    floor: float
    coded: ScoreCharge
    original: ScoreCharge
    resident: ScoreCharge
    share_up: float
    share_lost: float
    mass_down: float
    mass_lost: float
    of_mean: float
    of_largest: float
    of_output: float
    absolute: float
    cast_relative: float = 0.0
    cast_absolute: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 < self.mass_down <= 1.0 or not self.share_up >= 1.0:
            raise SettingError(f"share_up {self.share_up} must be at least 1, mass_down {self.mass_down} in (0, 1]")
        # below 2^-60 squares of shares would leave the range of binary32
        if not 2.0**-60 <= self.share_lost <= 1.0:
            raise SettingError(f"share_lost {self.share_lost} must be from 2^-60 to 1")
        flat = [x for c in (self.coded, self.original, self.resident) for x in (c.relative, c.constant)]
        rest = [getattr(self, f.name) for f in fields(self) if f.name not in ("coded", "original", "resident")]
        if not all(math.isfinite(x) and x >= 0.0 for x in flat + rest):
            raise SettingError("every charge must be finite and at least 0; the model has no bound for this setting")

    def rounded(self) -> Charges:
        """Return the same in binary32, rounded outward."""

        def charge(c: ScoreCharge) -> ScoreCharge:
            return ScoreCharge(above(c.relative), above(c.constant))

        up = {
            f.name: above(getattr(self, f.name))
            for f in fields(self)
            if f.name not in ("coded", "original", "resident")
        }
        up["mass_down"] = below(self.mass_down)
        return replace(
            self, coded=charge(self.coded), original=charge(self.original), resident=charge(self.resident), **up
        )
