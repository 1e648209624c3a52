"""Times `python scripts/train.py` with all defaults: three students, 1000 epochs.

Ours writes TensorBoard curves, checkpoints, pictures and report.html.  It is compared with
  - a process that only imports lightning.pytorch and torchvision, and
  - the plain PyTorch script of the tutorials, which trains the same model and writes nothing.
All are whole processes.  A ratio below 1 means that ours is faster.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from common import SCRIPTS, Target, alternate, new_parser, print_ratios, print_versions, process_seconds

IMPORTS = "import lightning.pytorch, torchvision"

PLAIN_SCRIPT = """
import torch
from torch import nn

hours = torch.tensor([[1.0], [2.0], [3.0]])
passed = torch.tensor([[0.0], [0.0], [1.0]])

model = nn.Linear(1, 1)
cost = nn.BCEWithLogitsLoss(reduction="sum")
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

for epoch in range(1000):
    optimizer.zero_grad()
    loss = cost(model(hours), passed)
    loss.backward()
    optimizer.step()
    if (epoch + 1) % 200 == 0:
        print(f"epoch {epoch + 1}: loss {loss.item():.4f}")

with torch.no_grad():
    print(torch.sigmoid(model(torch.tensor([[4.0]]))).item())
"""
"""The tutorials' script: three students, no logs, no checkpoints, no picture."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code 0, whatever the numbers are."""
    arguments = new_parser(__doc__).parse_args(typed)
    print_versions()
    seconds = alternate(
        {
            "ours": lambda: process_seconds([str(SCRIPTS / "train.py")]),
            "import lightning, torchvision": lambda: process_seconds(["-c", IMPORTS]),
            "the tutorial's plain script": lambda: process_seconds(["-c", PLAIN_SCRIPT]),
        },
        arguments.repeats,
    )
    print_ratios(
        "default_run: seconds of a whole process; 1000 epochs, TensorBoard, checkpoints, pictures, report.html",
        seconds,
        {"import lightning, torchvision": Target(1.45)},
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
