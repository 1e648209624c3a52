"""Predicted times of the parts of a fit, from which the method is chosen.

The times are those of one core of a common CPU in float32.  Only their ratios matter, and these change little from one
machine to another.  They depend on the shape of the problem alone, so the same fit takes the same path everywhere.
"""

from __future__ import annotations

from logreg.solvers.problem import Problem

SECONDS_PER_PASS = 3e-4
"""Fixed time of a pass: some tens of operations on small tensors."""

SECONDS_PER_NUMBER = 3e-10
"""Time to read a feature twice, for the logits and for the gradient: a matrix-vector product waits for the memory."""

SECONDS_PER_LOGIT = 4e-9
"""Time of the loss and its derivatives by one logit."""

SECONDS_PER_PRODUCT = 1.3e-10
"""Time of the multiplications of one feature for one output, for the logits and for the gradient: 30 GFLOP/s."""

SECONDS_PER_NONZERO = 1.6e-9
"""Time to read a sparse feature twice, with its column."""

SECONDS_PER_SPARSE_PRODUCT = 2e-10
"""Time of the multiplications of one sparse feature for one output."""

SECONDS_PER_GRAM_PRODUCT = 2e-11
"""Time of one multiplication of a Hessian: 100 GFLOP/s, as a product of large matrices."""

SECONDS_PER_GRAM_NUMBER = 1.2e-9
"""Time to weigh one feature of one output for a Hessian, and to read it again."""

SECONDS_PER_FACTOR_PRODUCT = 1e-10
"""Time of one multiplication of a Cholesky factorization or of triangular solves: 20 GFLOP/s."""


def pass_seconds(problem: Problem) -> float:
    """Time of one pass that evaluates the objective and its gradient."""
    d, k = problem.num_features, problem.num_outputs
    if problem.is_sparse:
        of_numbers = (SECONDS_PER_NONZERO + SECONDS_PER_SPARSE_PRODUCT * k) * problem.numel
        return SECONDS_PER_PASS + of_numbers + SECONDS_PER_LOGIT * k * problem.rows
    per_row = SECONDS_PER_NUMBER * d + SECONDS_PER_LOGIT * k + SECONDS_PER_PRODUCT * d * k
    return SECONDS_PER_PASS + problem.rows * per_row


def hessian_seconds(problem: Problem) -> float:
    """Time to form the Hessian and to factor it."""
    order, parameters = problem.hessian_order, problem.num_parameters
    gram = problem.rows * parameters * (SECONDS_PER_GRAM_NUMBER + SECONDS_PER_GRAM_PRODUCT * order)
    return SECONDS_PER_PASS + gram + SECONDS_PER_FACTOR_PRODUCT / 3 * order**2 * parameters


def blocks_seconds(problem: Problem, rows: int) -> float:
    """Time to form each output's own block of the Hessian from so many rows, and to factor the blocks."""
    d, k = problem.num_features, problem.num_outputs
    gram = rows * d * (SECONDS_PER_GRAM_NUMBER + SECONDS_PER_GRAM_PRODUCT / 2 * d)
    return pass_seconds(problem) + k * (SECONDS_PER_PASS + gram + SECONDS_PER_FACTOR_PRODUCT / 3 * d**3)
