"""Remakes the pictures of docs/images by the runs that they show: `python docs/pictures.py` in the project folder.

MNIST must lie in `data`; for another folder type the setting: `python docs/pictures.py dataset.root=FOLDER`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).parents[1]

IMAGES = PROJECT / "docs" / "images"

RUNS: dict[str, dict[str, str]] = {
    "train": {"probability": "probability"},
    "train dataset=mnist optimizer=lbfgs l2=1e-4 max_epochs=30": {
        "coefficients": "coefficients",
        "confusion": "confusion",
        "loss": "loss",
        "mistakes": "mistakes",
        "reliability": "reliability",
    },
    "train dataset=breast_cancer l2=path": {"path": "path", "roc": "roc"},
    "train dataset=breast_cancer l1=path l1_ratio=0.5 cv=5 cv_rule=one_se": {
        "path": "cross-validation",
        "coefficient_paths": "coefficient-paths",
    },
    "sweep dataset=digits search.lr=log(1e-4,1) search.l2=log(1e-8,1) trials=30": {
        "history": "history",
        "importance": "importance",
    },
}
"""The command of each run, and its pictures: the name in its folder ``figures``, and the name in docs/images."""


def main() -> None:
    """Runs each command in a folder of its own, and copies the pictures."""
    for command, pictures in RUNS.items():
        name, *settings = command.split()
        if "dataset=mnist" in settings:
            root = next((word for word in sys.argv[1:] if word.startswith("dataset.root=")), "dataset.root=data")
            settings.append(f"dataset.root={Path(root.partition('=')[2]).resolve()}")
        with tempfile.TemporaryDirectory() as folder:
            words = [sys.executable, str(PROJECT / "scripts" / f"{name}.py"), *settings]
            subprocess.run(words, cwd=folder, check=True)
            for made, shown in pictures.items():
                (file,) = Path(folder).rglob(f"{made}.png")
                shutil.copyfile(file, IMAGES / f"{shown}.png")
    subprocess.run([sys.executable, str(PROJECT / "docs" / "links.py")], cwd=PROJECT, check=True)


if __name__ == "__main__":
    main()
