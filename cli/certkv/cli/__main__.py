"""``python -m certkv.cli``."""

import sys

words = sys.argv[1:]
if words[:1] == ["bench"]:  # runs where torch, Triton and NumPy are all there is: the other commands import more
    from certkv.cli.bench.__main__ import main

    words = words[1:]
else:
    from certkv.cli.main import main

sys.exit(main(words))
