"""``python -m tagvisor`` is the command line."""

import sys

from tagvisor.cli import main

if __name__ == "__main__":
    sys.exit(main())
