"""Triton kernels with their launchers; the twins in torch stand beside the formulas outside of this folder."""
