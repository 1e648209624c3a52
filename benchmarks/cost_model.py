"""A cost model of passes in several processes, and simulations of slow and of lost machines.  It measures nothing.

The time of a pass is that of the process with the most rows, plus that of one all-reduce:

    max_i rows_i * (numbers read, products, logits, ...) * seconds of each + rounds * latency + bytes / bandwidth.

Processes of one machine share its caches and its memory: each doubling of those that run at once slows them by some
part.  They add up in memory that they share: each copies the reduced bytes, and for each part of these that fits into
its slot they meet twice.

Between machines a ring, as of gloo, takes 2 (P - 1) rounds for P processes; recursive halving and doubling takes
2 log2(P).  In both each process sends 2 (P - 1) / P times the reduced bytes.

References:
    Thakur, Rabenseifner and Gropp (2005), Optimization of collective communication operations in MPICH.
    Young (1974), A first order approximation to the optimum checkpoint interval.
    Daly (2006), A higher order estimate of the optimum checkpoint interval for restart dumps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize_scalar, nnls

from logreg.shared_memory import SLOT_NUMBERS
from logreg.solvers import costs
from logreg.solvers.kernels import MIN_ONEDNN_FEATURES, TRIANGLE_STRIP_COLUMNS

Constants = Mapping[str, float]
"""Seconds of one unit of each of `UNITS`."""

ASSUMED: Constants = {
    "pass": costs.SECONDS_PER_PASS,
    "step": 2e-5,
    "step logit": 2e-9,
    "number": costs.SECONDS_PER_NUMBER,
    "logit": costs.SECONDS_PER_LOGIT,
    "product": costs.SECONDS_PER_PRODUCT,
    "wide product": costs.SECONDS_PER_PRODUCT,
    "sparse row": 0.0,
    "nonzero": costs.SECONDS_PER_NONZERO,
    "sparse product": costs.SECONDS_PER_SPARSE_PRODUCT,
    "Hessian product": costs.SECONDS_PER_GRAM_PRODUCT,
    "Hessian number": costs.SECONDS_PER_GRAM_NUMBER,
    "meeting": 1e-5,
    "switch": 1e-5,
    "copied byte": 5e-10,
    "round": 5e-5,
    "byte": 1e-9,
}
"""The constants of `logreg.solvers.costs`, by which solvers choose their method; of a step and of messages, which these
do not have, rough ones.  There a sparse row costs nothing beyond its non-zero features, and a product of wide rows as
much as any other."""

NOT_OF_SOLVERS = ("step", "step logit", "sparse row", "meeting", "switch", "copied byte", "round", "byte")
"""The units that `logreg.solvers.costs` does not have."""

UNITS = tuple(ASSUMED)
"""What a pass consists of; `Work.units` counts them."""

OF_MESSAGES = ("meeting", "switch", "copied byte", "round", "byte")
"""The units of an all-reduce: of one in shared memory, and of a ring."""

MEETINGS = 2
"""How often processes meet for each part of an all-reduce in shared memory; see `logreg.shared_memory`."""


class Work(NamedTuple):
    """A pass, or a step, over rows that several processes share."""

    kind: str
    """A pass for the "gradient" or, with it, the "hessian"; a first-order "step"; or numbers that are added up in
    shared memory ("sum") or by gloo around a ring ("all-reduce")."""
    rows: int
    """N; of a step those of the batch; of sums 0."""
    features: int
    """D; of sums the numbers that are added up."""
    outputs: int = 1
    """K."""
    nonzeros: int | None = None
    """Non-zero features of a row; ``None`` for dense rows."""

    @property
    def is_message(self) -> bool:
        """Whether numbers are added up alone."""
        return self.kind in ("sum", "all-reduce")

    @property
    def parameters(self) -> int:
        """K * (D + 1)."""
        return self.outputs * (self.features + 1)

    @property
    def reduced_bytes(self) -> int:
        """Bytes of the sums, which are reduced in float64."""
        if self.is_message:
            return 8 * self.features
        joint = self.outputs**2 if self.kind != "step" and self.outputs > 1 else 0
        return 8 * (self.parameters + joint + (self.parameters**2 if self.kind == "hessian" else 0))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row in float32, with a column of 4 bytes for each non-zero feature."""
        return 4 * self.features if self.nonzeros is None else 8 * self.nonzeros

    @property
    def gram_products(self) -> int:
        """Multiplications of a row for the Hessian: those of strips of the lower triangle; see `add_lower_triangle`."""
        order, strip = self.parameters, TRIANGLE_STRIP_COLUMNS
        return sum((order - first) * min(strip, order - first) for first in range(0, order, strip))

    def sent_bytes(self, processes: int) -> float:
        """Bytes that each process sends for an all-reduce between machines."""
        return 2 * (processes - 1) / processes * self.reduced_bytes

    def units(self, processes: int) -> dict[str, float]:
        """The number of each of `UNITS` for the process that has most rows."""
        rows, d, k = -(-self.rows // processes), self.features, self.outputs
        units = dict.fromkeys(UNITS, 0.0)
        if self.kind == "all-reduce":
            return units | {"round": ring_rounds(processes), "byte": self.sent_bytes(processes)}
        if processes > 1:
            parts = -(-self.reduced_bytes // (8 * SLOT_NUMBERS))
            units["meeting"], units["copied byte"] = MEETINGS * parts, self.reduced_bytes
        if self.kind == "sum":
            return units
        one, logit = ("step", "step logit") if self.kind == "step" else ("pass", "logit")  # a step needs no curvature
        units[one], units[logit] = 1, rows * k
        if self.nonzeros is None:
            product = "wide product" if d >= MIN_ONEDNN_FEATURES else "product"  # another kernel, and longer rows
            units["number"], units[product] = rows * d, rows * d * k
        else:
            units["sparse row"] = rows
            units["nonzero"], units["sparse product"] = rows * self.nonzeros, rows * self.nonzeros * k
        if self.kind == "hessian":  # a sparse row is made dense for it
            units["Hessian number"] = rows * self.parameters
            units["Hessian product"] = rows * self.gram_products
        return units

    def __str__(self) -> str:
        if self.is_message:
            return f"{self.kind} of {self.features:,}"
        sparse = "" if self.nonzeros is None else f", {self.nonzeros} non-zero"
        outputs = "" if self.outputs == 1 else f" x {self.outputs}"
        return f"{self.kind}, {self.rows:,} x {self.features:,}{outputs}{sparse}"


class Measured(NamedTuple):
    """The measured time of a pass."""

    work: Work
    processes: int
    seconds: float
    """The median."""
    spread: float = 0.0
    """The difference of the quartiles, relative to the median."""


def ring_rounds(processes: int) -> int:
    """Messages that follow each other in an all-reduce around a ring."""
    return 2 * (processes - 1)


def halving_rounds(processes: int) -> int:
    """Messages that follow each other in an all-reduce by recursive halving and doubling."""
    return 2 * math.ceil(math.log2(processes))


def scaled_units(work: Work, processes: int, cores: int, slowdown: float = 0.0) -> dict[str, float]:
    """The units of a pass on one machine, where more processes than cores take turns and switch at each meeting.

    Args:
        work: The pass.
        processes: Number of processes.
        cores: Cores of the machine.
        slowdown: The part by which each doubling of the number of processes that run at once slows their work.
    """
    turns, slower = max(1.0, processes / cores), 1 + slowdown * math.log2(min(processes, cores))
    units = work.units(processes)
    scaled = {unit: number * turns * (1 if unit in OF_MESSAGES else slower) for unit, number in units.items()}
    return scaled | {"switch": scaled["meeting"] - units["meeting"]}


def seconds_of(units: Mapping[str, float], constants: Constants) -> float:
    """Predicted seconds of so many units."""
    return sum(number * constants[unit] for unit, number in units.items())


def fitted(measured: Sequence[Measured], cores: int) -> tuple[dict[str, float], float]:
    """The constants >= 0 of least squared relative errors; 0 for a unit that nothing measured has; and the slowdown."""

    def constants(slowdown: float) -> tuple[Any, float]:
        rows = [[*scaled_units(one.work, one.processes, cores, slowdown).values()] for one in measured]
        matrix = np.array(rows) / np.array([[one.seconds] for one in measured])
        size = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)  # the units differ by many powers of ten
        found, error = nnls(matrix / size, np.ones(len(measured)))
        return found / size, error

    best = minimize_scalar(lambda slowdown: constants(slowdown)[1], bounds=(0, 1), method="bounded")
    return dict(zip(UNITS, constants(best.x)[0], strict=True)), float(best.x)


@dataclass(frozen=True)
class Cluster:
    """Machines with one process each, which uses all cores.

    Attributes:
        machines: Number of machines.
        cores: Cores of each.
        memory: Bytes of each that rows may take.
        memory_bandwidth: Bytes that it reads from memory in a second.
        storage_bandwidth: Bytes that it reads from its disk in a second.
        network_bandwidth: Bytes that it sends in a second.
        latency: Seconds of a small message.
    """

    machines: int
    cores: int
    memory: float
    memory_bandwidth: float
    storage_bandwidth: float
    network_bandwidth: float
    latency: float

    def share_bytes(self, work: Work) -> float:
        """Bytes of the rows of a machine."""
        return work.rows / self.machines * work.row_bytes

    def work_seconds(self, work: Work, constants: Constants) -> float:
        """Time for the rows of a machine: that of its cores, or that of reading where this takes longer."""
        units = work.units(self.machines)
        computing = (
            seconds_of({unit: n for unit, n in units.items() if unit not in OF_MESSAGES}, constants) / self.cores
        )
        size = self.share_bytes(work)
        return max(computing, size / (self.memory_bandwidth if size <= self.memory else self.storage_bandwidth))

    def reduce_seconds(self, work: Work, rounds: int) -> float:
        """Time of the all-reduce in so many rounds."""
        return rounds * self.latency + work.sent_bytes(self.machines) / self.network_bandwidth

    def gather_seconds(self, size: float) -> float:
        """Time to gather an object of ``size`` bytes from each process on all: around a ring, its length first."""
        others = self.machines - 1
        return 2 * others * self.latency + others * size / self.network_bandwidth


def factor_seconds(work: Work) -> float:
    """Time of a Cholesky factorization of the Hessian, which each process makes."""
    return costs.SECONDS_PER_FACTOR_PRODUCT / 3 * float(work.parameters) ** 3


def slowest(processes: int, deviation: float, passes: int, seed: int = 0) -> float:
    """Mean time of a pass whose processes each take exp(deviation * normal), simulated: the slowest one counts."""
    draw = np.random.default_rng(seed)
    return float(np.exp(deviation * draw.standard_normal((passes, processes)).max(axis=1)).mean())


@dataclass(frozen=True)
class Failures:
    """A long computation on machines that fail at random; all start again from the last checkpoint.

    Attributes:
        work: Seconds that it takes without failures and without checkpoints.
        checkpoint: Seconds to write a checkpoint.
        restart: Seconds from a failure until the computation goes on.
        between: Mean seconds between two failures of any machine.
    """

    work: float
    checkpoint: float
    restart: float
    between: float

    @property
    def young_interval(self) -> float:
        """Seconds of work between two checkpoints that take the least time, to first order (Young)."""
        return math.sqrt(2 * self.checkpoint * self.between)

    def expected(self, interval: float) -> float:
        """Expected seconds with a checkpoint after each ``interval`` seconds of work (Daly)."""
        segment, mean = interval + self.checkpoint, self.between
        return mean * math.exp(self.restart / mean) * math.expm1(segment / mean) * self.work / interval

    def simulated(self, interval: float, draw: np.random.Generator) -> float:
        """Seconds of one run with a checkpoint after each ``interval`` seconds of work; it may fail while it starts."""
        segment, left, spent, starting = interval + self.checkpoint, self.work, 0.0, 0.0
        while True:
            needed = starting + left + math.ceil(left / interval) * self.checkpoint
            up = draw.exponential(self.between)
            if up >= needed:
                return spent + needed
            spent += up
            left -= interval * (max(up - starting, 0.0) // segment)
            starting = self.restart
