"""The work of a search for separation, counted as the time that it is predicted to take, not as the time that it takes.

So the same rows get the same answer on every machine, and however busy it is.
"""

from __future__ import annotations

SECONDS_PER_STEP = 2e-4
"""Fixed time of a step: some tens of operations on small tensors."""

SECONDS_PER_NUMBER = 2e-9
"""Time to read a number, to convert it to float64, to standardize it, and to multiply it once."""

SECONDS_PER_PRODUCT = 5e-11
"""Time of one multiplication of a product of large matrices: 40 GFLOP/s, as one core of a common CPU in float64."""


class TooMuchWork(Exception):
    """Separation cannot be decided within the limits of work, size or rounding."""


class Work:
    """The work that a search may still do.

    Attributes:
        left: Predicted seconds of one core of a common CPU.
    """

    def __init__(self, limit: float) -> None:
        """``limit`` is the work of the whole search, in the same unit."""
        self.left = limit

    def spend(self, numbers: float = 0, products: float = 0) -> None:
        """Counts a step that is about to be made.

        Args:
            numbers: Numbers that it reads or writes.
            products: Multiplications of its products of matrices.

        Raises:
            TooMuchWork: It is more work than is left; then nothing is left.
        """
        self.left -= SECONDS_PER_STEP + SECONDS_PER_NUMBER * numbers + SECONDS_PER_PRODUCT * products
        if self.left < 0:
            raise TooMuchWork

    @property
    def numbers_left(self) -> float:
        """Numbers that may still be read or written."""
        return self.left / SECONDS_PER_NUMBER
