"""The executable specification of certified attention over a quantized KV cache (NumPy, mpmath, python-flint)."""
