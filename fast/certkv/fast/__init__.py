"""The kernel library (torch, Triton). It imports no other part of certkv."""
