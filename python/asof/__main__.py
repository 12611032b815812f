"""``python -m asof``: the command, where it is not on the path."""

import sys

from ._launcher import main

sys.exit(main())
