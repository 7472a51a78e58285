"""What rotation and scaling are worth at 2 bits, and what a certificate of it says: ``python -m benchmarks.oscar``."""
