"""Compares runs: `python scripts/compare.py RUN RUN`; `--help` says the rest."""

import sys

from logreg.commands.compare import main

if __name__ == "__main__":
    sys.exit(main())
