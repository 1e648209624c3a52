"""The programs that start several processes together, and what each of them tells a process in its environment."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from logreg.errors import ConfigError


class _Variables(NamedTuple):
    """The variables of the environment that a launcher sets in each process."""

    rank: str
    size: str
    local_rank: str
    local_size: str
    nodes: str = ""
    """The list of machines, the first one first; empty where the launcher sets `ADDRESS` itself or not at all."""


LAUNCHERS = {
    "torchrun": _Variables("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # Kubeflow sets the first two
    # Those of a job step, which srun starts: a plain python in an allocation (sbatch, salloc) has SLURM_NTASKS, too.
    "SLURM": _Variables(
        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE", "SLURM_STEP_NODELIST"
    ),
    "LSF": _Variables(
        "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"
    ),
    "MPI": _Variables(
        "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"
    ),
}
"""The launchers by name."""

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
"""The machine of the first process, and a free port there, at which the processes meet."""

RESTARTS = "TORCHELASTIC_RESTART_COUNT"
"""The variable in which torchrun counts how often it has started the processes again."""

FIRST_SLURM_PORT, SLURM_PORTS = 15_000, 10_000
"""Ports of SLURM's job steps, one for each of the last four digits of a job's number, as Lightning has them."""


@dataclass(frozen=True)
class Placement:
    """The place of a process among those that a launcher started together.

    Attributes:
        rank: The number of the process, in [0, size).
        size: Number of processes.
        local_rank: The number of the process on its machine, from 0; also that of its GPU.
        local_size: Number of processes on its machine; on the first machine, where the launcher tells no other.
        launcher: A name of `LAUNCHERS`.
        address: Values of `ADDRESS`.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    launcher: str
    address: tuple[str, str]


def placement(environment: Mapping[str, str] = os.environ) -> Placement | None:
    """The place of this process among several; ``None`` where it is alone.

    Raises:
        ConfigError: The environment does not say where the processes meet, or a number in it is none.
    """
    for launcher, variables in LAUNCHERS.items():
        if environment.get(variables.size, "1") in ("", "0", "1"):
            continue
        rank, size, local_rank = (
            _whole(name, environment.get(name, "0" if name == variables.local_rank else ""))
            for name in (variables.rank, variables.size, variables.local_rank)
        )
        if rank >= size:
            raise ConfigError.broken(variables.rank, f"be below {variables.size}={size}", rank)
        # SLURM lists the number for each machine: "2(x3),1"
        first = re.match(r"\d+", environment.get(variables.local_size, ""))
        local_size = int(first[0]) if first else local_rank + 1
        return Placement(rank, size, local_rank, local_size, launcher, _address(launcher, variables, environment))
    return None


def _whole(name: str, text: str) -> int:
    if not text.isdecimal():
        raise ConfigError.broken(name, "be a whole number >= 0", text, "Unset it to run one process.")
    return int(text)


def _address(launcher: str, variables: _Variables, environment: Mapping[str, str]) -> tuple[str, str]:
    host, port = (environment.get(name, "") for name in ADDRESS)
    if variables.nodes:
        nodes = environment.get(variables.nodes, "")
        # "a[05-07,9],b" begins with a05
        host = host or re.sub(r"^([^,\[]*)(?:\[([^],-]*)[^]]*\])?.*", r"\1\2", nodes)
        job = environment.get("SLURM_JOB_ID", "")[-4:]
        port = port or str(FIRST_SLURM_PORT + int(job if job.isdecimal() else 0) % SLURM_PORTS)
    for name, value in zip(ADDRESS, (host, port), strict=True):
        if not value:
            raise ConfigError(
                f"`{name}` must be set in the environment where {launcher} starts several processes. Set MASTER_ADDR "
                "to the machine of the first process, and MASTER_PORT to a free port there."
            )
    return host, port
