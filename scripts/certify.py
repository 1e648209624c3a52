"""Says how far coefficients are from the optimum: `python scripts/certify.py ckpt_path=latest`; or `--help`."""

import sys

from logreg.commands.certify import main

if __name__ == "__main__":
    sys.exit(main())
