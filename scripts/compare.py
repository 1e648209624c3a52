"""Compares runs: `python scripts/compare.py RUN RUN`; `--help` lists all keys."""

from logreg.commands.compare import main
from logreg.commands.process import run_process

if __name__ == "__main__":
    run_process(main)
