"""The place of a process among others, from the variables that each launcher sets."""

from __future__ import annotations

import pytest

from logreg.errors import ConfigError
from logreg.launchers import Placement, placement

AT = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "2999"}

STEP = {
    "SLURM_JOB_ID": "1234567",
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "7",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "gpu[07-09,11],cpu1",
}
"""What srun sets in a step of seven tasks."""

PLACES = {
    "torchrun": (
        {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **AT},
        Placement(3, 4, 1, 2, "torchrun", ("10.0.0.1", "2999")),
    ),
    "Kubeflow": ({"RANK": "1", "WORLD_SIZE": "2", **AT}, Placement(1, 2, 0, 1, "torchrun", ("10.0.0.1", "2999"))),
    "SLURM": (STEP, Placement(5, 7, 1, 2, "SLURM", ("gpu07", "19567"))),
    "SLURM, one machine": (
        {**STEP, "SLURM_STEP_NODELIST": "node-3"},
        Placement(5, 7, 1, 2, "SLURM", ("node-3", "19567")),
    ),
    "SLURM, an address that is set": ({**STEP, **AT}, Placement(5, 7, 1, 2, "SLURM", ("10.0.0.1", "2999"))),
    "LSF": (
        {"JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "2", "JSM_NAMESPACE_LOCAL_RANK": "1", **AT},
        Placement(1, 2, 1, 2, "LSF", ("10.0.0.1", "2999")),
    ),
    "MPI": (
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_SIZE": "2", **AT},
        Placement(0, 2, 0, 2, "MPI", ("10.0.0.1", "2999")),
    ),
}


@pytest.mark.parametrize("launcher", PLACES)
def test_the_place_of_a_process(launcher: str) -> None:
    environment, place = PLACES[launcher]
    assert placement(environment) == place


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_NODELIST": "a"},  # sbatch, salloc
        {**STEP, "SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"},  # srun of one task; the shell of salloc
        {"RANK": "0", "WORLD_SIZE": "1", **AT},
    ],
)
def test_a_process_that_is_alone(environment: dict[str, str]) -> None:
    assert placement(environment) is None


def test_processes_need_a_place_to_meet() -> None:
    with pytest.raises(ConfigError, match="`MASTER_PORT` must be set in the environment where MPI starts"):
        placement({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "MASTER_ADDR": "a"})


@pytest.mark.parametrize(("rank", "rest"), [("one", "be a whole number >= 0"), ("2", "be below WORLD_SIZE=2")])
def test_a_rank_that_cannot_be(rank: str, rest: str) -> None:
    with pytest.raises(ConfigError, match=f"`RANK` must {rest}"):
        placement({"RANK": rank, "WORLD_SIZE": "2", **AT})
