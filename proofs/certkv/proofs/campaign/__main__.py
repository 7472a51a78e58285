"""``python -m certkv.proofs.campaign``."""

import os
import sys

# One thread per process, set before NumPy loads: the campaign is parallel over cases.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from certkv.proofs.campaign.command import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
