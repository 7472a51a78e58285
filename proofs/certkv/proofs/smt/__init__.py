"""Lemmas for SMT solvers: stated once as SMT-LIB text, accepted only where every listed solver answers ``unsat``."""
