"""Fits a logistic regression: `python scripts/train.py dataset=mnist lr=0.1`; `--help` lists all keys."""

from logreg.commands.process import run_process
from logreg.commands.train import main

if __name__ == "__main__":
    run_process(main)
