"""``python -m certkv.cli``."""

import sys

from certkv.cli.main import main

sys.exit(main())
