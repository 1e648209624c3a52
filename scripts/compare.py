"""Compares runs: `python scripts/compare.py RUN RUN`; `--help` lists all keys."""

import sys

from logreg.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
