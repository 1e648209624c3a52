"""Predicts new rows: `python scripts/predict.py input=new.csv output=predictions.csv`; `--help` lists all keys."""

import sys

from logreg.commands.predict import main

if __name__ == "__main__":
    sys.exit(main())
