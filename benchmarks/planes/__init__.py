"""What planes save: bytes fetched under a tolerance, with originals alone and with levels between."""
