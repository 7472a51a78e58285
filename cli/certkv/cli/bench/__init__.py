"""``certkv bench``: how fast a step is on this GPU, once it was seen to be right on it.

Nothing here imports the reference: ``python -m certkv.cli.bench`` runs where torch, Triton and NumPy are all there is.
"""
