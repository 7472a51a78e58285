"""``python -m certkv.proofs.adversary``."""

import os
import sys

# One thread, set before NumPy loads: the products are tiny, and the order of sums is part of what is attacked.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from certkv.proofs.adversary.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
