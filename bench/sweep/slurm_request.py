"""What a sweep asks a Slurm cluster for: the command line's options, and the parameters of submitit that they become."""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.cli import TIMESTAMPS
from bench.config.schema import RecipeError
from bench.cores import CORES

MAX_ARRAY_JOBS = 1000  # Slurm's own default for MaxArraySize, less one
MIN_RUN_SECONDS = 30  # that a job has before the signal that its time is up
RESERVED = re.compile(  # options of sbatch that the sweep sets
    "array|dependency|kill_on_invalid_dep|signal|requeue|no_requeue|time|job_name|output|error|open_mode|nodes|ntasks"
    "|ntasks_per_node|wait|parsable|test_only|wrap"
)
LIMITS = {"gpus_per_run": 0, "cpus_per_run": 1, "memory": 0.001, "array_parallelism": 1, "lead_time": 1}  # lower


def add_slurm_options(parser: argparse.ArgumentParser) -> None:
    """The options that choose a cluster and what each run gets there."""
    parser.add_argument("--executor", choices=["local", "slurm"], default="local", help="this machine or a cluster (local)")
    group = parser.add_argument_group("--executor slurm", "docs/cluster.md")
    detach = "submit and exit; the same command without it follows the jobs"
    group.add_argument("--detach", action="store_true", help=detach)
    group.add_argument("--time", metavar="T", help="time until a run is requeued, as for sbatch: minutes, H:MM:SS, … (240)")
    group.add_argument("--lead-time", type=int, metavar="S", help="a run saves its state S seconds before --time (120)")
    group.add_argument("--cpus-per-run", type=int, metavar="N", help="(the cluster's default)")
    group.add_argument("--memory", type=float, metavar="GB", help="(the cluster's default)")
    group.add_argument("--array-parallelism", type=int, metavar="N", help="most runs of an array at the same time")
    sbatch, setup = (
        "any option of sbatch, for example partition=gpu",
        "shell line before a run, for example 'module load cuda'",
    )
    group.add_argument("--slurm", action="append", default=[], metavar="KEY[=VALUE]", help=sbatch)
    group.add_argument("--slurm-setup", action="append", default=[], metavar="LINE", help=setup)


@dataclass(frozen=True)
class SlurmRequest:
    """What each job asks the cluster for. The fields are the options; `time` is in minutes, `lead_time` in seconds."""

    gpus_per_run: int = 1
    cpus_per_run: int | None = None
    memory: float | None = None
    time: int = 240
    lead_time: int = 120
    array_parallelism: int | None = None
    slurm_setup: Sequence[str] = ()
    slurm: Sequence[tuple[str, str | bool]] = ()

    @classmethod
    def from_options(cls, arguments: argparse.Namespace) -> SlurmRequest:
        """The request of a command line. Raises RecipeError for one that no cluster can fulfil."""
        if arguments.runs_per_gpu is not None:
            raise RecipeError("--runs-per-gpu: goes with --executor local")
        given = {f.name: getattr(arguments, f.name) for f in fields(cls) if getattr(arguments, f.name) not in (None, [])}
        for name, lowest in LIMITS.items():
            if name in given and not lowest <= given[name] < 1e6:
                raise RecipeError(f"{_option(name)} {given[name]}: allowed from {lowest} to 999999")
        if "time" in given:
            given["time"] = parse_minutes(given["time"])
        given["slurm"] = [_sbatch_option(text) for text in arguments.slurm]
        request = cls(**given)
        most = request.time * 60 - MIN_RUN_SECONDS
        if request.lead_time > most:
            raise RecipeError(
                f"--lead-time {request.lead_time}: a limit of {request.time} min (--time) allows {most} s at most"
            )
        return request

    def parameters(self, name: str, is_teacher: bool, after: str | None) -> dict[str, Any]:
        """The parameters of submitit's SlurmExecutor for jobs. after: id of the job that must succeed before they start."""
        root = shlex.quote(str(Path(__file__).parents[2]))
        setup = [
            f"export PYTHONPATH={root}${{PYTHONPATH:+:$PYTHONPATH}}",
            f"export {TIMESTAMPS}=1",
            f"export {CORES}=${{SLURM_CPUS_ON_NODE:-1}}",  # where jobs are not bound to their cores
            *self.slurm_setup,
        ]
        parameters = {
            "array_parallelism": self.array_parallelism or MAX_ARRAY_JOBS,
            "job_name": name,
            "time": self.time,
            "signal_delay_s": self.lead_time,
            "setup": setup,
            "stderr_to_stdout": True,
            "additional_parameters": {"requeue": True, **dict(self.slurm)},  # sites may not requeue by default
        }
        if after:
            parameters["additional_parameters"] |= {"dependency": f"afterok:{after}", "kill_on_invalid_dep": "yes"}
        if gpus := min(1, self.gpus_per_run) if is_teacher else self.gpus_per_run:
            parameters["gpus_per_node"] = gpus
        if self.cpus_per_run:
            # srun does not take it from sbatch
            parameters |= {"cpus_per_task": self.cpus_per_run, "srun_args": [f"--cpus-per-task={self.cpus_per_run}"]}
        if self.memory:
            parameters["mem"] = f"{round(self.memory * 1024)}MB"
        return parameters


def refuse_slurm_options(arguments: argparse.Namespace) -> None:
    """Raise RecipeError if an option of the cluster is given without `--executor slurm`."""
    for name in ("detach", *(f.name for f in fields(SlurmRequest) if f.name != "gpus_per_run")):
        if getattr(arguments, name) not in (None, False, []):
            raise RecipeError(f"{_option(name)}: goes with --executor slurm")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _sbatch_option(text: str) -> tuple[str, str | bool]:
    """(key, value) of a `--slurm` option."""
    key, equals, value = text.partition("=")
    key = key.removeprefix("--").replace("-", "_")
    if RESERVED.fullmatch(key) or not re.fullmatch(r"[a-z][a-z0-9_]*", key):
        raise RecipeError(f"--slurm {text}: must be KEY or KEY=VALUE of sbatch, except those that the sweep sets")
    return key, value if equals else True


def parse_minutes(text: str) -> int:
    """The minutes of a time limit in a format of sbatch: M, M:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS; seconds round up."""
    found = re.fullmatch(r"(?:(\d{1,3})-)?(\d{1,6})(?::(\d{1,2}))?(?::(\d{1,2}))?", text)
    days, *parts = (int(part) for part in found.groups("0")) if found else (0, 0)
    if found and found[1] is None and found[4] is None:
        parts = [0, *parts[:2]]  # without days, one or two numbers begin with minutes
    seconds = days * 86400 + sum(number * unit for number, unit in zip(parts, (3600, 60, 1), strict=False))
    if not seconds:
        raise RecipeError(f"--time {text}: must be M, M:SS, H:MM:SS, D-H, D-H:MM or D-H:MM:SS, as for sbatch")
    return -(-seconds // 60)
