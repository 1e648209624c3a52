"""Predicts new rows: `python scripts/predict.py input=new.csv output=predictions.csv`; `--help` lists all keys."""

from logreg.commands.predict import main
from logreg.commands.process import run_process

if __name__ == "__main__":
    run_process(main)
