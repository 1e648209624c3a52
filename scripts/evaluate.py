"""Scores a trained model: `python scripts/evaluate.py ckpt_path=latest`; `--help` lists all keys."""

import sys

from logreg.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
