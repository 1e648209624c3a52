"""Times the answers that need no training: --help, --cfg job, and the error message for a mistyped key.

Each is timed as a whole process of scripts/train.py in an empty folder, from start to exit.  There is no reference; the
target is one second.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from common import SCRIPTS, alternate, met, new_parser, print_row, print_versions, process_seconds, spread

TRAIN = str(SCRIPTS / "train.py")

MOST_SECONDS = 1.0
"""Target for each answer."""


def main(typed: Sequence[str] | None = None) -> int:
    """Prints the table; returns the exit code 0, whatever the numbers are."""
    arguments = new_parser(__doc__).parse_args(typed)
    print_versions()
    seconds = alternate(
        {
            "--help": lambda: process_seconds([TRAIN, "--help"]),
            "--cfg job": lambda: process_seconds([TRAIN, "--cfg", "job"]),
            "lrr=0.1 (mistyped)": lambda: process_seconds([TRAIN, "lrr=0.1"], exit_code=2),
        },
        arguments.repeats,
    )
    print("\nstartup: seconds of a whole process")
    print_row("", "median", "min", "max", "", "target")
    for name, taken in seconds.items():
        median = statistics.median(taken)
        print_row(name, *spread(taken), "", f"<= {MOST_SECONDS:g} s", met(median <= MOST_SECONDS))
    return 0


if __name__ == "__main__":
    sys.exit(main())
