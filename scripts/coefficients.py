"""Standard errors, intervals and tests: `python scripts/coefficients.py ckpt_path=latest`; `--help` lists all keys."""

from logreg.commands.coefficients import main
from logreg.commands.process import run_process

if __name__ == "__main__":
    run_process(main)
