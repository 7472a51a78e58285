"""How tight the certificates are, and what a tolerance costs: ``python -m benchmarks.tightness``, from the checkout."""
