"""The command line: ``certkv audit``, ``bench``, ``demo``, ``memory``, ``verify``. Thin; no mathematics of its own."""
