"""Certifies coefficients: `python scripts/certify.py ckpt_path=latest`; `--help` lists all keys."""

import sys

from logreg.commands.certify import main

if __name__ == "__main__":
    sys.exit(main())
