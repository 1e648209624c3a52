"""Exports a trained model: `python scripts/export.py format=onnx`; `--help` lists all keys."""

import sys

from logreg.commands.export import main

if __name__ == "__main__":
    sys.exit(main())
