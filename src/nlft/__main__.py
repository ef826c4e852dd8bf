"""`python -m nlft`: the same as the `nlft` command."""

import sys

from nlft.cli import main

if __name__ == "__main__":
    sys.exit(main())
