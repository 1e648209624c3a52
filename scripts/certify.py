"""Certifies coefficients: `python scripts/certify.py ckpt_path=latest`; `--help` lists all keys."""

from logreg.commands.certify import main
from logreg.commands.process import run_process

if __name__ == "__main__":
    run_process(main)
