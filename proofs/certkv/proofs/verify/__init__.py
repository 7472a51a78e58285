"""Run every proof again and say what holds: the engine of ``certkv verify``."""
