"""Planted defects and the checks that must catch them; ``python -m certkv.proofs.mutants`` prints the kill table."""
