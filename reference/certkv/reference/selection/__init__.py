"""Which blocks are read as originals."""

from certkv.reference.selection.coverage import Selection, select
from certkv.reference.selection.exploration import explore
from certkv.reference.selection.greedy import cheapest_levels, cheapest_until, largest_until

__all__ = ["Selection", "cheapest_levels", "cheapest_until", "explore", "largest_until", "select"]
