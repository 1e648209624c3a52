"""Times a training epoch on rows in memory: 900,000 x 30 in batches of 1024, with validation.

Ours is the mean over a fit of 20 epochs: its logging, checkpoints and certificates are included.  It is compared with a
hand-written PyTorch loop over the same tensors.  The figures are seconds of one epoch; a ratio below 1 means that ours
is faster.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from common import Target, alternate, new_parser, positive, print_ratios, print_versions, silence_lightning
from training_loops import LR, HandWritten, OurRun, Rows, composed

BATCH_SIZE = 1024


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code 0, whatever the numbers are."""
    parser = new_parser(__doc__)
    parser.add_argument(
        "--rows", type=positive, default=1_000_000, metavar="N", help="train and val rows (default: 1000000)"
    )
    arguments = parser.parse_args(typed)
    print_versions()
    silence_lightning()
    run = (
        "dataset=blobs",
        "optimizer=sgd",
        f"dataset.rows={arguments.rows}",
        "dataset.features=30",
        "dataset.split.val=0.1",
        "dataset.split.test=0",
        f"batch_size={BATCH_SIZE}",
        f"lr={LR}",
    )
    with tempfile.TemporaryDirectory() as scratch:
        ours = OurRun(composed(run), Path(scratch, "runs"))
        rows = Rows.of_run(ours)
        arms = {"ours": ours.epochs, "hand-written loop": HandWritten(rows, BATCH_SIZE).epochs}
        print_ratios(
            f"epoch: seconds of an epoch, {rows.counts} of {rows.features.shape[1]} features, batches of "
            f"{BATCH_SIZE}, ours with all that a run does",
            alternate(arms, arguments.repeats),
            {"hand-written loop": Target(0.75)},
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
