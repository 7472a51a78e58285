"""The command line: ``certkv audit`` and ``certkv demo``. Thin; the mathematics is in :mod:`certkv.reference`."""
