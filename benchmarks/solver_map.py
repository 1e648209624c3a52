"""Which part of the exact optimizers pays on which shape of problem.

For each part: seconds to a certified relative gap with the part, and with the next best way to the same gap.  The next
best way is the part switched off (a constant or a function replaced from here) or the other optimizer, whichever is
faster.  The ways take turns; the table has medians of process time, and of wall time in brackets.  Data are drawn by
seed.  Every fit must be certified; a fit that is not certified within ``CAP`` seconds is broken off.

    OMP_NUM_THREADS=1 python benchmarks/solver_map.py [--only PART] [--repeat N] [--tiny]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from logreg.losses.objective import Objective
from logreg.rows import MemoryRows
from logreg.solvers import fit as exact
from logreg.solvers.passes.base import PassRequests, drive
from logreg.solvers.passes.evaluate import Evaluate
from logreg.solvers.paths import l2_path
from logreg.solvers.problem import Coordinates, Problem
from logreg.solvers.state import gap_from_gradient
from logreg.solvers.steps.preconditioner import spikes_of

CAP = 10.0
"""Seconds of process time after which a fit is broken off."""

PAYS = 1.3
"""Ratio of the next best way's time to the part's from which the part pays."""

TINY = (400, 30, 20)
"""Rows, features and classes at most with --tiny."""

NEVER = 10**12
"""A count that no problem reaches."""


@dataclass(frozen=True)
class Data:
    """How features (N, D) and labels (N,) are drawn; the labels follow a logistic model of the features."""

    rows: int
    features: int
    classes: int = 2
    factors: int = 0
    """Common factors of the features, of standard deviation 10 / j; 0 for independent features."""
    common: int = 0
    """Common factors whose strengths go from 10 to 1/10, added to the features after the labels are drawn."""
    informative: int = 0
    """Features with a coefficient; 0 for all."""
    images: bool = False
    """Whether rows are like images: a prototype of their class and a hundred factors, cut off at 0 and 1."""

    def draw(self, tiny: bool) -> tuple[Tensor, Tensor]:
        """The features and the labels."""
        shape = self.rows, self.features, self.classes
        rows, columns, classes = map(min, shape, TINY) if tiny else shape
        source = torch.Generator().manual_seed(0)
        if self.images:
            labels = torch.randint(classes, (rows,), generator=source)
            prototypes = torch.randn(classes, columns, generator=source)
            factors = torch.randn(rows, 100, generator=source) / torch.arange(1, 101).sqrt()
            features = 0.6 * factors @ torch.randn(100, columns, generator=source)
            return (features + 0.3 * prototypes[labels] - 0.5).clamp(0, 1), labels
        features = torch.randn(rows, columns, generator=source)
        if self.factors:
            strengths = 10 / torch.arange(1, self.factors + 1)
            loadings = torch.randn(self.factors, columns, generator=source) * strengths.unsqueeze(1)
            features.mul_(0.3).addmm_(torch.randn(rows, self.factors, generator=source), loadings)
            features /= features.std(0)
        coef = torch.randn(columns, classes if classes > 2 else 1, generator=source)
        if self.informative:
            coef[self.informative :] = 0
        logits = features @ coef
        logits *= 2 / logits.std()
        noise = torch.rand(logits.shape, generator=source).clamp(1e-6, 1 - 1e-6)
        labels = (noise < logits.sigmoid())[:, 0].long() if classes == 2 else (logits - (-noise.log()).log()).argmax(1)
        if self.common:
            strengths = torch.logspace(1, -1, self.common)
            loadings = torch.randn(self.common, columns, generator=source)
            features.addmm_(torch.randn(rows, self.common, generator=source) * strengths, loadings)
        return features, labels

    def __str__(self) -> str:
        kind = ", correlated features" if self.factors else ", rows nearly alike" if self.common else ""
        kind += ", like images" if self.images else ""
        return f"{self.rows:,} x {self.features:,}, {self.classes} classes{kind}"


class Setting(NamedTuple):
    """A problem, and what solves it."""

    features: Tensor
    labels: Tensor
    objective: Objective
    tolerance: float
    optimizer: str
    threads: int


class LateError(Exception):
    """A fit took longer than ``CAP``."""


class Clock:
    """Process time since the start of a fit; raises once it is over ``CAP``."""

    def __init__(self) -> None:
        self.start = time.process_time()

    def __call__(self, *_: object) -> None:
        """Looks at the time.

        Raises:
            LateError: The cap is passed.
        """
        if time.process_time() - self.start > CAP:
            raise LateError


def one_fit(setting: Setting) -> bool:
    """A fit as a user calls it; whether it is certified."""
    fit = exact.fit(
        setting.features,
        setting.labels,
        setting.objective,
        optimizer=setting.optimizer,
        tolerance=setting.tolerance,
        watch=Clock(),
    )
    return fit.converged and fit.bound.rigorous


def in_float64(setting: Setting) -> bool:
    """A fit whose arithmetic is in float64 from its first pass; whether it is certified."""
    fit = exact.fit(
        setting.features,
        setting.labels,
        setting.objective,
        tolerance=setting.tolerance,
        dtype=torch.float64,
        watch=Clock(),
    )
    return fit.converged and fit.bound.rigorous


STRENGTHS = [10 ** (-step / 4) for step in range(4, 21)]
"""Of l2 along a path, from 0.1 to 1e-5."""


def whole_path(setting: Setting) -> bool:
    """A fit for each strength, each started from those before it; whether all are certified."""
    rows = MemoryRows(setting.features, setting.labels)
    problem = exact.problem_of(rows, setting.objective)
    points = drive(timed(l2_path.fit_path(problem, STRENGTHS, setting.tolerance)), rows)
    return all(point.converged for point in points)


def timed(requests: PassRequests[Any]) -> PassRequests[Any]:
    """The same passes, broken off when they take too long."""
    clock = Clock()
    try:
        while True:
            clock()
            yield next(requests)
    except StopIteration as end:
        return end.value


def cold_fits(setting: Setting) -> bool:
    """A fit for each strength, each started at zero; whether all are certified."""
    fits = []
    for l2 in STRENGTHS:
        objective = Objective(setting.objective.loss, l2=l2)
        fits.append(exact.fit(setting.features, setting.labels, objective, tolerance=setting.tolerance))
    return all(fit.converged for fit in fits)


@dataclass(frozen=True)
class Way:
    """A way to solve a problem: names within `logreg.solvers` and what replaces them, and the optimizer."""

    name: str
    replaced: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "newton"
    work: Callable[[Setting], bool] = one_fit


@dataclass(frozen=True)
class Case:
    """A part and a shape of problem on which it may pay."""

    part: str
    data: Data
    others: tuple[Way, ...]
    """Other ways to the same gap."""
    l2: float | None = None
    """Strength; ``None`` for 1 / N."""
    l1: float = 0.0
    tolerance: float = 1e-6
    optimizer: str = "newton"
    """The one that the part belongs to; "auto" where only `fit` of rows in memory has it."""
    replaced: Mapping[str, Any] = field(default_factory=dict)
    """What is replaced with the part as well as without it."""
    work: Callable[[Setting], bool] = one_fit
    threads: int = 1

    @property
    def shape(self) -> str:
        """The problem in words."""
        l2 = 1 / self.data.rows if self.l2 is None else self.l2
        if self.work is whole_path:
            penalty = f"path of {len(STRENGTHS)} strengths of l2"
        else:
            penalty = f"l1 = {self.l1:.0e}" if self.l1 else f"l2 = {l2:.0e}"
        return f"{self.data}, {penalty}, gap {self.tolerance:.0e}" + (", two threads" if self.threads > 1 else "")

    def setting(self, tiny: bool) -> Setting:
        """The problem itself."""
        features, labels = self.data.draw(tiny)
        l2 = (0.0 if self.l1 else 1 / len(labels)) if self.l2 is None else self.l2
        loss: str = "bce" if self.data.classes == 2 else "cross_entropy"
        objective = Objective(loss, l2=l2, l1=self.l1)
        return Setting(features, labels, objective, self.tolerance, self.optimizer, self.threads)


class Times(NamedTuple):
    """Seconds that one way took."""

    process: float
    wall: float
    certified: bool


def seconds(way: Way, setting: Setting) -> Times:
    """Solves once."""
    with ExitStack() as replaced:
        for name, value in way.replaced.items():
            replaced.enter_context(patch(f"logreg.solvers.{name}", value))
        process, wall = time.process_time(), time.perf_counter()
        try:
            certified = way.work(setting._replace(optimizer=way.optimizer))
        except LateError:
            certified = False
        return Times(time.process_time() - process, time.perf_counter() - wall, certified)


def measured(case: Case, repeat: int, tiny: bool) -> str:
    """A line of the table."""
    setting = case.setting(tiny)
    own = Way("with it", case.replaced, case.optimizer, case.work)
    ways = [own, *case.others]
    taken: dict[str, list[Times]] = {way.name: [] for way in ways}
    threads = torch.get_num_threads()
    torch.set_num_threads(case.threads)
    for _ in range(repeat):
        for way in ways:
            if all(times.certified for times in taken[way.name]):  # what came too late once is not tried again
                taken[way.name].append(seconds(way, setting))
    torch.set_num_threads(threads)
    medians = {
        name: Times(
            statistics.median(times.process for times in of_way),
            statistics.median(times.wall for times in of_way),
            all(times.certified for times in of_way),
        )
        for name, of_way in taken.items()
    }
    mine = medians.pop(own.name)
    # A way without a certificate comes after every way with one.
    name, best = min(medians.items(), key=lambda item: (not item[1].certified, item[1].process))
    wall = case.threads > 1  # several threads that wait for each other spend process time on nothing
    ratio = best.wall / mine.wall if wall else best.process / mine.process
    verdict = f"{'' if best.certified else '> '}{ratio:.2f}" if mine.certified else "not certified"
    cells = (case.part, case.shape, _cell(mine), f"{_cell(best)}: {name}", verdict)
    return f"| {' | '.join(cells)} |"


def _cell(times: Times) -> str:
    late = "" if times.certified else "not certified after "
    return f"{late}{times.process:.3f} s ({times.wall:.3f})"


def never(*_: object, **__: object) -> bool:
    """False, for a predicate that switches a part on."""
    return False


def nothing(*_: object) -> None:
    """None, for a kernel that is not there."""


def without_extrapolation(state: Any, now: Any) -> tuple[Tensor, float]:
    """The point itself, and the gap that its gradient predicts."""
    return state.point, gap_from_gradient(state, now.gradient, now.curvature)


def always_hessian(
    problem: Problem,
    coordinates: Coordinates,
    at: Tensor,
    dtype: torch.dtype,
    hessian: torch.dtype | None = None,
    since: Tensor | None = None,
) -> Evaluate:
    """An evaluation with a Hessian."""
    return Evaluate(problem, coordinates, at, dtype, hessian or problem.dtype)


def identity(state: Any, now: Any) -> PassRequests[Callable[[Tensor, Tensor], Tensor]]:
    """No preconditioner."""
    yield from ()
    return lambda gradient, _: gradient


def no_spikes(*arguments: Any, **settings: Any) -> Any:
    """No large eigenvalue of the curvature."""
    found = spikes_of(*arguments, **settings)
    return found._replace(values=found.values[:0], vectors=found.vectors[:, :0], rest=1.0)


def one_part(rows: Tensor) -> int:
    """All rows in one part."""
    return 1


def no_rows(*_: object) -> tuple[int, int]:
    """Too few rows for a sample."""
    return 0, 0


def no_passes(*_: object) -> PassRequests[None]:
    """A part that makes no pass."""
    yield from ()


LBFGS = Way("lbfgs", optimizer="lbfgs")
NO_DESCENT = {"methods.newton.uses_descent": never}
NO_QUASI_NEWTON = {"methods.newton.quasi_newton_steps": no_passes}
NO_HESSIAN = {"choose.HESSIAN_PASSES": {False: 0, True: 0}, "choose.MAX_HELD_HESSIAN_PARAMETERS": 0}
NO_MEMORY = {"steps.limited_memory.LimitedMemoryInverse.update": never}
NO_BLOCKS = {
    "steps.preconditioner.holds_blocks": never,
    "methods.subspace_descent.holds_blocks": never,
    "methods.quasi_newton.holds_blocks": never,
}
NO_SPAN = {"steps.preconditioner.MAX_SPAN_PASSES": -1.0}
DIAGONAL = {"steps.preconditioner.spikes_of": no_spikes, **NO_BLOCKS}
IDENTITY = {"methods.lbfgs._reduced_preconditioner": identity}
NOT_WIDE = {"choose.MIN_FEATURES_PER_ROW": NEVER}
GRAM_AT_ONCE = {"dual.row_space.MIN_TRIALS": NEVER}
NO_DIAGONAL_STEPS = {"dual.row_space.MAX_DIAGONAL_STEPS": 0}
NEW_INVERSES = {"paths.l2_path.MAX_INVERSE_STRENGTH_RATIO": 1.0, "paths.l2_path.MIN_LEARNED_MOVES": NEVER}

TALL = Data(1_000_000, 30)
MEDIUM = Data(10_000, 1500, factors=40)
SMALL = Data(569, 30, factors=10)
WIDE = Data(1000, 10_000, informative=50)
ALIKE = Data(600, 6000, common=50, informative=50)
OUTPUTS = Data(600, 20_000, 20, informative=50)
CLASSES = Data(12_000, 300, 10, factors=50)
EMBEDDINGS = Data(20_000, 512, 100, factors=50)
PIXELS = Data(20_000, 400, 10, images=True)

CASES = [
    Case("held Hessian", Data(200_000, 30), (Way("quasi-Newton steps or descent", NO_HESSIAN), LBFGS)),
    Case(
        "held Hessian, reused",
        TALL,
        (Way("new at each point", {"methods.newton.Evaluate": always_hessian}),),
        tolerance=1e-9,
    ),
    Case("held Hessian bounds the gap", TALL, (Way("other certificates", {"methods.newton.CHEAP_BOUND_TOL": 0.0}),)),
    Case("start: solve a sample", TALL, (Way("start at zero", {"starting_point.enough_rows": no_rows}),)),
    Case(
        "start: step by more rows",
        Data(1_000_000, 60),
        (Way("off", {"starting_point.EXTRA_ROWS_DIVISOR": NEVER}),),
        tolerance=1e-9,
    ),
    Case(
        "start: stochastic",
        PIXELS,
        (Way("start at zero", {"starting_point.MIN_STOCHASTIC_ROWS": NEVER}),),
        tolerance=1e-3,
    ),
    Case(
        "quasi-Newton steps",
        Data(100_000, 20, 20),
        (
            Way("subspace descent alone", NO_QUASI_NEWTON),
            Way("Newton at once", {"choose.HESSIAN_PASSES": {False: NEVER, True: NEVER}}),
            LBFGS,
        ),
    ),
    Case("small: steps without passes", SMALL, (Way("newton"), LBFGS), optimizer="auto"),
    Case("medium: steps without passes", Data(100_000, 100), (Way("newton"), LBFGS), optimizer="auto"),
    Case("float32 first", TALL, (Way("float64 from the start", work=in_float64),)),
    Case(
        "preconditioner: large eigenvalues",
        Data(5000, 2000, factors=40),
        (Way("diagonal", DIAGONAL),),
        replaced=NO_SPAN,
    ),
    Case(
        "preconditioner: blocks on a span",
        EMBEDDINGS,
        (Way("large eigenvalues", NO_SPAN), Way("diagonal", DIAGONAL)),
        l2=1e-6,
        tolerance=1e-3,
    ),
    Case(
        "preconditioner: sampled blocks",
        CLASSES,
        (
            Way("blocks on a span", NO_BLOCKS),
            Way("large eigenvalues", {**NO_BLOCKS, **NO_SPAN}),
            Way("diagonal", DIAGONAL),
        ),
    ),
    Case(
        "preconditioner: blocks made late",
        Data(5000, 2000),
        (Way("off", {"methods.subspace_descent.holds_blocks": never, "methods.quasi_newton.holds_blocks": never}),),
    ),
    Case(
        "limited-memory inverse",
        MEDIUM,
        (Way("off", NO_MEMORY), Way("quasi-Newton steps", NO_DESCENT), LBFGS),
        l2=1e-7,
        tolerance=1e-3,
    ),
    Case("subspace descent", MEDIUM, (Way("quasi-Newton steps", NO_DESCENT), LBFGS)),
    Case(
        "extrapolated point of least gradient",
        PIXELS,
        (
            Way(
                "off",
                {
                    "methods.subspace_descent.least_gradient_point": without_extrapolation,
                    "methods.quasi_newton.least_gradient_point": without_extrapolation,
                },
            ),
        ),
    ),
    Case("lbfgs", MEDIUM, (Way("newton"),), optimizer="lbfgs", tolerance=1e-9),
    Case(
        "lbfgs: preconditioner",
        MEDIUM,
        (Way("identity", IDENTITY, "lbfgs"), Way("diagonal", DIAGONAL, "lbfgs")),
        optimizer="lbfgs",
    ),
    Case("lbfgs with l1", Data(4000, 1500), (Way("newton"),), l1=1e-3, optimizer="lbfgs"),
    Case(
        "lbfgs with l1: preconditioner",
        SMALL,
        (Way("identity", IDENTITY, "lbfgs"), Way("diagonal", {"methods.lbfgs.MAX_BLOCK_FEATURES": -1}, "lbfgs")),
        l1=1e-3,
        optimizer="lbfgs",
    ),
    Case("l1 steps", SMALL, (LBFGS,), l1=1e-3),
    Case("working sets", Data(1000, 10_000, factors=40, informative=20), (LBFGS,), l1=3e-2),
    Case("row space", WIDE, (Way("off", NOT_WIDE), Way("off, lbfgs", NOT_WIDE, "lbfgs"))),
    Case("row space: steps before the Gram matrix", WIDE, (Way("Gram matrix at once", GRAM_AT_ONCE),)),
    Case("row space: steps by the Gram diagonal", OUTPUTS, (Way("Newton at once", NO_DIAGONAL_STEPS),)),
    Case("row space: Woodbury inverse", ALIKE, (Way("diagonal", {"dual.row_space.LimitedMemoryInverse": nothing}),)),
    Case(
        "row space: Cholesky factor of the Gram matrix",
        Data(700, 3000, 17, common=50, informative=50),
        (Way("off", {"dual.row_space._solve_at_cholesky_factor": no_passes}),),
    ),
    Case("path", CLASSES, (Way("each from zero", work=cold_fits),), work=whole_path, tolerance=1e-4),
    Case("path: inverse kept", CLASSES, (Way("anew", NEW_INVERSES, work=whole_path),), work=whole_path, tolerance=1e-4),
    Case("kernels: lower triangle", MEDIUM, (Way("the whole square", {"kernels.TRIANGLE_STRIP_COLUMNS": NEVER}),)),
    Case("kernels: rows split over threads", TALL, (Way("off", {"kernels._parts": one_part}),), threads=2),
    Case(
        "one thread for little work", Data(150, 4), (Way("two threads", {"threads.ONE_THREAD_FLOP": 0.0}),), threads=2
    ),
]
"""Rows of the table."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table; 2 where no part has the name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="PART", help="cases whose part contains this text")
    parser.add_argument("--repeat", type=int, default=5, help="turns of each way (default: 5)")
    parser.add_argument("--tiny", action="store_true", help="small data, one turn: whether each case runs")
    typed = parser.parse_args(arguments)
    cases = [case for case in CASES if typed.only is None or typed.only in case.part]
    if not cases:
        print(f"`--only` must be part of one of {', '.join(sorted({case.part for case in CASES}))}.", file=sys.stderr)
        return 2
    print("| part | shape | with: process s (wall) | next best: process s (wall) | ratio |")
    print("|---|---|---|---|---|")
    for case in cases:
        print(measured(case, 1 if typed.tiny else typed.repeat, typed.tiny), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
