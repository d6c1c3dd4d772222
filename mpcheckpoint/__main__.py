"""``python -m mpcheckpoint``: the command line."""

import sys

from mpcheckpoint._cli import main

if __name__ == "__main__":
    sys.exit(main())
