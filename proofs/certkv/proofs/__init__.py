"""Evidence that the bounds of :mod:`certkv.reference` are sound: campaigns and planted defects."""
