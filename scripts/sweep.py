"""Tunes hyper-parameters: `python scripts/sweep.py dataset=digits "search.lr=log(1e-4,1)"`; `--help` lists all keys."""

from logreg.commands.process import run_process
from logreg.commands.sweep import main

if __name__ == "__main__":
    run_process(main)
