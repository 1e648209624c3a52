"""Fits a logistic regression: `python scripts/train.py dataset=mnist lr=0.1`; `--help` lists all keys."""

import sys

from logreg.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
