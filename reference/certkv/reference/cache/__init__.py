"""The life of a cache: append, tail, full block, promotion through scratch, host tier."""

from certkv.reference.cache.cache import Cache
from certkv.reference.cache.host import HostTier, Side
from certkv.reference.cache.planes import Place, PlaneStore
from certkv.reference.cache.scratch import Scratch
from certkv.reference.cache.view import View

__all__ = ["Cache", "HostTier", "Place", "PlaneStore", "Scratch", "Side", "View"]
