"""Tunes hyper-parameters: `python scripts/sweep.py dataset=digits "search.lr=log(1e-4,1)"`; `--help` says the rest."""

import sys

from logreg.commands.sweep import main

if __name__ == "__main__":
    sys.exit(main())
