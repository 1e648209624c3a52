"""The choice of the method: `choose` is the whole decision, and the predicates that follow it are its conditions.

The choice depends on the shape of the problem alone, and on where its rows are: so the same fit takes the same path on
every machine and in any number of processes.  Within a method, `logreg.solvers.starting_point` chooses the start, and
`logreg.solvers.bounds.bound` the certificate.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple

import torch

from logreg.rows import MemoryRows, part_rows
from logreg.solvers.costs import hessian_seconds, pass_seconds
from logreg.solvers.problem import Problem
from logreg.terminal import counted

# Small and medium problems

MAX_SMALL_NUMEL = 2**17
"""Numbers in the features up to which a problem is small: 1 MiB in float64, which stays in the processor's cache."""

MAX_SMALL_FLOP = 5e6
"""Multiplications of one Newton step up to which a problem is small: about the time that the bookkeeping of a pass
takes."""

MAX_SMALL_SOFTMAX_NUMEL = 2**18
"""Numbers in the features, and in the logits, up to which a softmax is small: 2 MiB in float64.  Its steps form no
joint Hessian, so their work is that of few products with the rows."""

MAX_SMALL_SOFTMAX_FEATURES = 256
"""Features up to which a softmax is small: their Gram matrix has an eigendecomposition."""

MAX_MEDIUM_NUMEL = 2**28
"""Numbers in the features up to which a problem is of medium size, 1 GiB in float32: it keeps some numbers for each
row, beside rows that are in memory anyway."""

# Hessians

MAX_HELD_HESSIAN_PARAMETERS = 1024
"""Parameters of one Hessian matrix up to which Newton's method holds and factors it: 8 MB in float64."""

MAX_HELD_HESSIAN_WORK = 2e11
"""Rows times parameters times the parameters of one Hessian matrix up to which Newton's method forms the Hessian.

The product is the number of multiplications that one Hessian takes.
"""

HESSIAN_PASSES = {False: 2, True: 4}
"""Passes that a Hessian saves in about every fit: where it costs more, quasi-Newton steps are the faster way.

It saves more where rows are so many that a sample is a small part of them: then the Hessian of a sample bounds no gap,
and quasi-Newton steps go on until the gradient does."""

EXPENSIVE_HESSIAN_PASSES = 20
"""Time of a Hessian, in passes, above which conjugate gradients solve for the steps that follow quasi-Newton steps: a
step takes a few products, each a pass, where features are of one size, and far more where they are heavy-tailed."""

MAX_ROWS_PER_SAMPLED = 8
"""Rows for each row of the largest sample, above which the sample is a small part of them."""

# Few rows of many features

MIN_FEATURES_PER_ROW = 4
"""Features for each row from which the problem is solved in the span of its rows."""

MIN_SPARSE_FEATURES_PER_ROW = 2
"""Sparse features for each row from which the problem is solved in the span of its rows: their passes take little
longer than the operations on the coefficients."""

MAX_COUPLED_OUTPUTS = 512
"""Outputs of a softmax up to which sparse rows are solved in their span: each step inverts a matrix of that order."""

# Subspace descent

LOGITS_PER_OUTPUT = 3
"""Numbers that subspace descent caches for each row and output."""

LOGITS_MEMORY_FRACTION = 0.1
"""Largest size of the cache of logits, as a fraction of the numbers in the data: with the pairs of the limited-memory
inverse and the preconditioner, a fit then takes about a quarter of the data."""

SMALL_LOGITS_NUMEL = 8e6
"""Numbers that the cache of logits may have for data of any size: 32 MB in float32, half of the 64 MB that a fit may
take for data of any size."""

MIN_DATA_NUMEL = 6e5
"""Numbers in the data from which descent is used: in smaller data, which the cache of a processor holds, a step takes
longer than its passes, and products with the Hessian have less overhead."""

MIN_DATA_PER_SUBSPACE = 20
"""Numbers in the data for each squared output of a softmax from which the Hessian on the subspace, of order 2 K, is
decomposed in a small part of a pass."""


class Method(Enum):
    """A way to minimize f."""

    SMALL = auto()
    """Newton's method without passes: `logreg.solvers.small`."""
    MEDIUM = auto()
    """Quasi-Newton steps without passes: `logreg.solvers.methods.medium`."""
    WORKING_SETS = auto()
    """Proximal Newton steps on working sets of features: `logreg.solvers.methods.prox_newton`."""
    HELD_HESSIAN = auto()
    """Newton's method with a factored Hessian, from the optimum of a sample: `logreg.solvers.methods.newton`."""
    PLAIN_NEWTON = auto()
    """The same from the start as it is, which depends less on the data."""
    ROW_SPACE = auto()
    """Newton's method in the span of the rows: `logreg.solvers.dual`."""
    QUASI_NEWTON = auto()
    """Quasi-Newton steps, and Newton's method to finish: `logreg.solvers.methods.quasi_newton`."""
    SUBSPACE_DESCENT = auto()
    """The same with `logreg.solvers.methods.subspace_descent` where quasi-Newton steps are slow."""
    LBFGS = auto()
    """L-BFGS: `logreg.solvers.methods.lbfgs`."""


class Plan(NamedTuple):
    """The method for a problem."""

    method: Method
    second: Method | None = None
    """What follows where the method ends far from the optimum, which happens where some rows are far larger than most.
    It depends less on the data.  ``None`` where nothing does."""


def choose(problem: Problem, memory: MemoryRows | None = None) -> Plan:
    """The method for a problem.

    Args:
        problem: The problem.
        memory: The rows, where one process has all of them in memory; ``None`` where passes have to be requested.
            Where a method without passes ends without a certificate, the plan for ``None`` follows.
    """
    objective = problem.objective
    if memory is not None and is_small(problem, memory):
        return Plan(Method.SMALL)
    if memory is not None and is_medium(problem, memory):
        return Plan(Method.MEDIUM)
    if not has_fast_ways(problem):
        return Plan(Method.PLAIN_NEWTON if has_cheap_hessian(problem) and not objective.l1 else Method.LBFGS)
    if objective.l1:
        return Plan(Method.WORKING_SETS, Method.LBFGS)
    if has_cheap_hessian(problem):
        return Plan(Method.HELD_HESSIAN)
    if is_wide(problem):
        return Plan(Method.ROW_SPACE, Method.LBFGS)
    if not objective.l2:
        return Plan(Method.LBFGS, Method.LBFGS)
    return Plan(
        Method.SUBSPACE_DESCENT if uses_descent(problem) else Method.QUASI_NEWTON,
        Method.PLAIN_NEWTON if holds_hessian(problem) else Method.LBFGS,
    )


def reason(problem: Problem) -> str:
    """The method for a problem whose passes are requested, and why, in a few words for users."""
    method, outputs = choose(problem).method, problem.num_outputs
    hessian = f"a Hessian of {problem.num_parameters:,} parameters"
    match method:
        case Method.HELD_HESSIAN | Method.PLAIN_NEWTON:
            words = f"Newton with Cholesky, since {hessian} is cheap"
        case Method.WORKING_SETS:
            words = "Newton on working sets of features, since l1 holds most coefficients at 0"
        case Method.ROW_SPACE:
            words = f"Newton in {problem.rows:,} dimensions, since the optimal coefficients lie in the span of the rows"
        case Method.LBFGS if problem.objective.l1:
            words = "L-BFGS, since working sets of features need a convex loss with a known conjugate"
        case Method.LBFGS:
            words = f"L-BFGS, since {hessian} costs more than it saves"
        case _:
            words = f"Quasi-Newton steps, since {hessian} costs more than it saves"
    shape = f"{counted(problem.rows, 'row')} x {counted(problem.num_features, 'feature')}"
    return f"{words} [{shape}{f' x {outputs} outputs' if outputs > 1 else ''}]"


def is_small(problem: Problem, memory: MemoryRows) -> bool:
    """Whether bookkeeping, and not arithmetic, would take the time of a pass: little work, and a bound by duality.

    Such rows are dense, on the CPU, and have no offsets.
    """
    loss, objective, order, features = problem.loss, problem.objective, problem.hessian_order, problem.num_features
    if problem.coupled and not objective.l1:
        numel = problem.rows * max(features, problem.num_outputs)
        has_little_work = features <= MAX_SMALL_SOFTMAX_FEATURES and numel <= MAX_SMALL_SOFTMAX_NUMEL
    else:
        flop = problem.num_parameters * order * (problem.rows + order / 3)
        has_little_work = problem.rows * features <= MAX_SMALL_NUMEL and flop <= MAX_SMALL_FLOP
    return (
        memory.features.device.type == "cpu"
        and not problem.is_sparse
        and has_little_work
        and objective.has_penalty
        and loss.is_convex
        and loss.has_conjugate
        and problem.largest_offset is None
    )


def is_medium(problem: Problem, memory: MemoryRows) -> bool:
    """Whether there is one logistic output with l2, for which a Hessian is expensive, and one thread for the rows."""
    loss, objective, features = problem.loss, problem.objective, memory.features
    return (
        features.device.type == "cpu"
        and not problem.is_sparse
        and features.dtype in (torch.float32, torch.float64)
        and features.is_contiguous()
        and 0 < problem.numel <= MAX_MEDIUM_NUMEL
        and problem.num_outputs == 1
        and problem.largest_offset is None
        and objective.l2 > 0
        and not objective.l1
        and loss.is_convex
        and loss.has_conjugate
        and not is_wide(problem)
        and avoids_hessian(problem)
    )


def has_fast_ways(problem: Problem) -> bool:
    """Whether the loss is convex and, with l1, has the conjugate that working sets of features need."""
    return problem.loss.is_convex and (problem.loss.has_conjugate or not problem.objective.l1)


def has_cheap_hessian(problem: Problem) -> bool:
    """Whether Newton's method with a factored Hessian is the fastest way, if there is no l1."""
    return holds_hessian(problem) and not avoids_hessian(problem)


def holds_hessian(problem: Problem) -> bool:
    """Whether Newton's method forms and factors the Hessian; else it multiplies with it."""
    order = problem.hessian_order
    enough = problem.rows >= order or problem.objective.l1 > 0
    return (
        order <= MAX_HELD_HESSIAN_PARAMETERS
        and enough
        and problem.rows * order * problem.num_parameters <= MAX_HELD_HESSIAN_WORK
    )


def avoids_hessian(problem: Problem) -> bool:
    """Whether quasi-Newton steps come before Newton's method: where one Hessian costs more than a few passes.

    Without a penalty and with l1 they come too late to an end that can be certified, so a Hessian is held where it can.
    """
    if problem.objective.l1 or not problem.objective.l2 or is_wide(problem):
        return False
    many_rows = problem.rows > MAX_ROWS_PER_SAMPLED * part_rows(problem.num_features, torch.float32)
    return hessian_seconds(problem) > HESSIAN_PASSES[many_rows] * pass_seconds(problem)


def has_expensive_hessian(problem: Problem) -> bool:
    """Whether a Hessian can be held, but conjugate gradients take less time for a step than it takes."""
    is_expensive = hessian_seconds(problem) > EXPENSIVE_HESSIAN_PASSES * pass_seconds(problem)
    return holds_hessian(problem) and avoids_hessian(problem) and is_expensive


def is_wide(problem: Problem) -> bool:
    """Whether there are so few rows, and l2 alone, that the problem is solved in the span of its rows.

    The logits of such a solver are in that span, so rows have no offsets.
    """
    if not problem.objective.l2 > 0 or problem.objective.l1 or problem.largest_offset is not None:
        return False
    if problem.is_sparse:
        few = not problem.coupled or problem.num_outputs <= MAX_COUPLED_OUTPUTS
        return few and problem.num_features >= MIN_SPARSE_FEATURES_PER_ROW * problem.rows
    return problem.num_features >= MIN_FEATURES_PER_ROW * problem.rows


def uses_descent(problem: Problem) -> bool:
    """Whether subspace descent follows where quasi-Newton steps are slow.

    It does where a Hessian costs more than the passes it saves, where the data are large, and the cache of logits and
    the Hessian on the subspace are small beside them, and where the span of the rows does not give a faster way.  It
    cannot handle l1.
    """
    numel, data = LOGITS_PER_OUTPUT * problem.num_outputs * problem.rows, problem.numel
    fits_cache = numel <= max(LOGITS_MEMORY_FRACTION * data, SMALL_LOGITS_NUMEL)
    is_cheap = not problem.coupled or MIN_DATA_PER_SUBSPACE * problem.num_outputs**2 <= data
    return avoids_hessian(problem) and data >= MIN_DATA_NUMEL and fits_cache and is_cheap
