"""What a sweep asks a Slurm cluster for: options of the command line, and the parameters of submitit that they become."""

from __future__ import annotations

import argparse
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.config.schema import RecipeError

LARGEST = 1000  # elements of an array: Slurm's own default for MaxArraySize, less one
START = 30  # s that a job has at least before it is told that its time is up
OURS = re.compile(
    "array|dependency|kill_on_invalid_dep|signal|requeue|no_requeue|time|job_name|output|error|open_mode|nodes|ntasks"
    "|ntasks_per_node|wait|parsable|test_only|wrap"
)
OPTIONS = ("detach", "time", "lead_time", "cpus_per_run", "memory", "array_parallelism", "partition", "account", "qos")
OPTIONS += ("slurm", "slurm_setup")


@dataclass(frozen=True)
class Request:
    """What each job asks the cluster for; The limit is in minutes, `lead` in seconds, memory in GB."""

    gpus: int = 1
    cpus: int | None = None
    memory: float | None = None
    minutes: int = 240
    lead: int = 120
    parallel: int | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    setup: tuple[str, ...] = ()
    more: tuple[tuple[str, str | bool], ...] = ()

    @classmethod
    def from_options(cls, arguments: argparse.Namespace) -> Request:
        """Raises RecipeError for what cannot be asked."""
        if arguments.runs_per_gpu is not None:
            raise RecipeError("--runs-per-gpu: goes with --executor local")
        least = {"gpus_per_run": 0, "cpus_per_run": 1, "memory": 0.001, "array_parallelism": 1, "lead_time": 1}
        for option, lowest in least.items():
            if (value := getattr(arguments, option)) is not None and not lowest <= value < 1e6:
                raise RecipeError(f"--{option.replace('_', '-')} {value}: allowed from {lowest} to 999999")
        limit = cls.minutes if arguments.time is None else minutes(arguments.time)
        lead = cls.lead if arguments.lead_time is None else arguments.lead_time
        if lead > limit * 60 - START:
            raise RecipeError(f"--lead-time {lead}: a limit of {limit} min (--time) allows {limit * 60 - START} s at most")
        more = {}
        for text in arguments.slurm:
            key, equals, value = text.partition("=")
            key = key.removeprefix("--").replace("-", "_")
            if OURS.fullmatch(key) or not re.fullmatch(r"[a-z][a-z0-9_]*", key):
                raise RecipeError(f"--slurm {text}: must be KEY or KEY=VALUE of sbatch, and none that the sweep sets")
            more[key] = value if equals else True
        return cls(
            gpus=arguments.gpus_per_run,
            cpus=arguments.cpus_per_run,
            memory=arguments.memory,
            minutes=limit,
            lead=lead,
            parallel=arguments.array_parallelism,
            partition=arguments.partition,
            account=arguments.account,
            qos=arguments.qos,
            setup=tuple(arguments.slurm_setup),
            more=tuple(more.items()),
        )

    def parameters(self, name: str, is_teacher: bool, after: str | None) -> dict[str, Any]:
        """What submitit's SlurmExecutor takes.

        Args:
            after: the id of the job that must have done well before these start.
        """
        gpus = min(1, self.gpus) if is_teacher else self.gpus
        root = shlex.quote(str(Path(__file__).parents[2]))
        setup = [f"export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}", *self.setup]
        if not gpus:
            setup.insert(0, "export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}")  # as in a slot of this machine
        asked = {"cpus_per_task": self.cpus, "gpus_per_node": gpus or None, "array_parallelism": self.parallel or LARGEST}
        asked |= {"mem": self.memory and f"{round(self.memory * 1024)}MB"}
        asked |= {"partition": self.partition, "account": self.account, "qos": self.qos}
        depends = {"dependency": f"afterok:{after}", "kill_on_invalid_dep": "yes"} if after else {}
        return {
            **{key: value for key, value in asked.items() if value is not None},
            "job_name": name,
            "time": self.minutes,
            "signal_delay_s": self.lead,
            "setup": setup,
            "stderr_to_stdout": True,
            "srun_args": [f"--cpus-per-task={self.cpus}"] if self.cpus else [],  # which srun does not take from sbatch
            "additional_parameters": {"requeue": True, **dict(self.more), **depends},  # a site's default may be not to
        }


def refuse_options(arguments: argparse.Namespace) -> None:
    """Raise RecipeError where something is asked of a cluster, and none is to run anything."""
    for option in OPTIONS:
        if getattr(arguments, option) not in (None, False, []):
            raise RecipeError(f"--{option.replace('_', '-')}: goes with --executor slurm")


def minutes(text: str) -> int:
    """Of a time limit: minutes, H:MM or D-HH:MM."""
    found = re.fullmatch(r"(?:(?:(\d{1,3})-)?(\d{1,4}):(?=\d\d$))?(\d{1,6})", text)
    if not found or not (total := sum(int(n or 0) * unit for n, unit in zip(found.groups(), (1440, 60, 1), strict=True))):
        raise RecipeError(f"--time {text}: must be minutes, H:MM or D-HH:MM")
    return total
