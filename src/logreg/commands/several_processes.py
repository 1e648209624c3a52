"""Several processes that train together: starts them, and silences all but the first."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

from logreg.errors import ConfigError
from logreg.hardware import usable_cores
from logreg.launchers import ADDRESS, Placement

NODE_RANK = "NODE_RANK"
"""The variable of the environment with the number of this machine, from 0, as Lightning and Kubernetes name it."""

TORCH_LOG = "TORCH_CPP_LOG_LEVEL"
"""The variable in which torch looks, as it is imported, for the level of the messages of its compiled code: a machine
that is done first would warn the others."""

LAUNCHER_S = 5.0
"""Seconds in which a launcher ends all processes after one has failed: torchrun takes a tenth, others none at all."""

KILL_AFTER_S = 5
"""Seconds that the processes have to end after the first failure, before they are killed."""

OF_OTHER_RANKS = (
    "hydra.run.dir=.",
    "hydra.output_subdir=null",
    f"hydra.job_logging.handlers.file.filename={os.devnull}",
)
"""Settings of Hydra for all processes but the first: no folder and no log of their own."""


def start_together(devices: int, num_nodes: int, arguments: Sequence[str]) -> int:
    """Runs a command of Python in several processes, and waits for their end.

    The engine is torchrun's agent.  It watches the processes from outside: when one fails it ends the others, and a
    signal goes on to all.  The processes see the same environment as under torchrun.  (Lightning's launcher starts
    them out of the first process, which cannot see the others once it waits for them, and only when the fit begins.)

    Args:
        devices: Processes on this machine.
        num_nodes: Number of machines, on each of which the same command is run.
        arguments: What follows the interpreter in the command line.

    Returns:
        The exit code of the first process that failed; 0 where none did; that of shells after a signal.

    Raises:
        ConfigError: The environment does not say where the machines meet, or the port is taken.
    """
    import logging

    os.environ.setdefault(TORCH_LOG, "ERROR")
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from logreg.processes import not_met

    # The processes say themselves why they failed.
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).disabled = True
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, usable_cores() // devices)))
    host, port, numbers = "127.0.0.1", "0", dict[str, int]()  # any free port
    if num_nodes > 1:
        host, port, rank = (_variable(name, num_nodes) for name in (*ADDRESS, NODE_RANK))
        numbers = {"rank": int(rank)}
        if int(rank) >= num_nodes:
            raise ConfigError.broken(NODE_RANK, f"be below num_nodes={num_nodes}", int(rank))
    config = LaunchConfig(
        min_nodes=num_nodes,
        max_nodes=num_nodes,
        nproc_per_node=devices,
        run_id="logreg",
        max_restarts=0,
        rdzv_backend="static" if numbers else "c10d",
        rdzv_endpoint=f"{host}:{port}",
        rdzv_configs=numbers,
        local_addr=None if numbers else host,
        shutdown_timeout=KILL_AFTER_S,
    )
    try:
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as failed:
        first, failure = failed.get_first_failure()
        if failure.exitcode >= 0:
            return failure.exitcode
        name = failure.signal_name()
        hint = " The system does so where memory runs out." if name == "SIGKILL" else ""
        print(f"Stopped: the process of rank {first} was ended by {name}.{hint}", file=sys.stderr)
        return 128 - failure.exitcode
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except DistError as error:
        raise not_met((host, port), error) from error
    return 0


def _variable(name: str, num_nodes: int) -> str:
    """A variable of the environment that several machines need."""
    value = os.environ.get(name, "")
    if not value or (name != ADDRESS[0] and not value.isdecimal()):
        raise ConfigError(
            f"`num_nodes={num_nodes}` must go with {name} in the environment. On each machine set MASTER_ADDR to the "
            f"first one, MASTER_PORT to a free port there, and {NODE_RANK} to the number of the machine, from 0."
        )
    return value


@contextmanager
def silent_unless_first(placed: Placement | None) -> Iterator[None]:
    """Sends the output of all processes but the first one to nowhere; the traceback of a bug is printed later."""
    if placed is None or not placed.rank:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def speak_if_left() -> None:
    """Waits for the launcher to end this process, since another one has failed and says why; then lets it speak.

    A process that is left is the only one that knows of its mistake.
    """
    time.sleep(LAUNCHER_S)
    sys.stderr = sys.__stderr__ or sys.stderr
