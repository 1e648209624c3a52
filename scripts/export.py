"""Exports a trained model: `python scripts/export.py format=onnx`; `--help` lists all keys."""

from logreg.commands.export import main
from logreg.commands.process import run_process

if __name__ == "__main__":
    run_process(main)
