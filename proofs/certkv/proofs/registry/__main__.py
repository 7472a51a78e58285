"""``python -m certkv.proofs.registry``: print docs/THEOREMS.md."""

from __future__ import annotations

import sys

from certkv.proofs.registry.document import theorems_page

if __name__ == "__main__":
    sys.stdout.write(theorems_page())
