"""An adversary that optimises inputs towards ``error / bound = 1``, theorem by theorem, and keeps what it finds."""

from certkv.proofs.adversary.attack import Attack, Attained
from certkv.proofs.adversary.attacks import all_attacks
from certkv.proofs.adversary.corpus import CorpusResult, Stored, load, replay
from certkv.proofs.adversary.search import Found, search

__all__ = ["Attack", "Attained", "CorpusResult", "Found", "Stored", "all_attacks", "load", "replay", "search"]
