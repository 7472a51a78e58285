"""Which blocks are read as originals."""

from certkv.reference.selection.coverage import Selection, select
from certkv.reference.selection.exploration import explore
from certkv.reference.selection.greedy import largest_until

__all__ = ["Selection", "explore", "largest_until", "select"]
