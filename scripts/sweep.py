"""Tunes hyper-parameters: `python scripts/sweep.py dataset=digits "search.lr=log(1e-4,1)"`; `--help` lists all keys."""

import sys

from logreg.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main())
