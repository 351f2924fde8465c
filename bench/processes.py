"""The processes, the device and the precision that a run really uses; refuses to go on when they are not what was asked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator

from bench.cores import cores_per_process
from bench.schema import RecipeError, Train

MIXED = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def check_launch(asked: int | None = None) -> int:
    """The number of processes that were started; refuses a launch that was asked for another number.

    `accelerate launch --cpu --num_processes 2` starts one process and says nothing; it does leave a rendezvous address
    without a world size. Call this before anything slow.

    Args:
        asked: the number of processes that the user expects, if they said so.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if asked is not None and started != asked:
        raise RecipeError(f"--num-processes: {asked} processes were asked for, {started} started{_HOW}")
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if by_accelerate and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise RecipeError(f"accelerate launch was asked for several processes and started one{_HOW}")
    return started


_HOW = ": without GPUs use torchrun --nproc_per_node N bench/run.py …, with GPUs accelerate launch --num_processes N"


@dataclass(frozen=True)
class Precision:
    """What was asked for and what is used: fp32, bf16 or fp16."""

    asked: str
    used: str


def choose_precision(train: Train, device: str) -> Precision:
    """The precision of a run: the recipe's; where that is `auto`, the launcher's; where that says nothing, bf16 on a GPU
    that has it, else fp32.

    Args:
        device: "cpu", "cuda" or "mps".

    Raises:
        RecipeError: recipe and launcher contradict each other, or the device lacks the precision.
    """
    # accelerate launch exports "no" also when nothing was asked, so "no" asks for nothing
    launcher = {v: k for k, v in MIXED.items()}.get(os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    if launcher is None:
        raise RecipeError(f"accelerate launch --mixed_precision: allowed are {', '.join(MIXED.values())}")
    used = train.precision
    if used == "auto":
        used = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        used = launcher if launcher != "fp32" else used
    elif launcher not in ("fp32", used):
        raise RecipeError(f"train.precision: the recipe says {used}, accelerate launch says {launcher}: drop one of them")
    if used == "fp16" and device != "cuda":
        raise RecipeError(f"train.precision: fp16 needs a GPU, this run is on {device}; allowed here: fp32, bf16")
    return Precision(train.precision, used)


def choose_device(train: Train) -> str:
    """ "cuda", "mps" or "cpu"; raises RecipeError when the asked one is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on"):
        if train.device not in ("auto", "cpu"):
            raise RecipeError(f"train.device: the recipe says {train.device}, accelerate launch says cpu: drop one of them")
        return "cpu"
    if train.device == "auto":
        return next(device for device, has in there.items() if has)
    if not there[train.device]:
        raise RecipeError(f"train.device: {train.device} was asked for, and this machine has none")
    return train.device


def choose_threads(train: Train) -> int | None:
    """Threads of a process that computes on a CPU, or None to leave torch as it is.

    `accelerate launch` and `torchrun` set OMP_NUM_THREADS=1 where the user set nothing, which leaves all cores but one
    idle. So under a launcher 1 counts as unset, and the cores are shared among the processes of the machine.
    """
    if train.threads is not None:
        return train.threads
    launched = "ACCELERATE_MIXED_PRECISION" in os.environ or "TORCHELASTIC_RUN_ID" in os.environ
    if not launched or os.environ.get("OMP_NUM_THREADS") != "1":
        return None
    return cores_per_process()


def make_accelerator(
    train: Train, trackers: Sequence[str] = (), folder: Path | None = None
) -> tuple[Accelerator, Precision]:
    """The Accelerator of a run, with one process group over all processes that were started.

    Args:
        trackers: names of those that it logs to, and the folder of the local ones' files.
    """
    device = choose_device(train)
    precision = choose_precision(train, device)
    if device == "cpu" and (threads := choose_threads(train)):
        torch.set_num_threads(threads)
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32, in every evaluation too; bf16 does not use it
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what torch asks for; read at cuBLAS' first use
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # settled above; accelerate would let it override the argument
    accelerator = Accelerator(
        mixed_precision=MIXED[precision.used], cpu=device == "cpu", log_with=list(trackers) or None, project_dir=folder
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise RecipeError(f"{started} processes were started, but {accelerator.num_processes} found each other{_HOW}")
    if accelerator.device.type != device:
        raise RecipeError(f"train.device: {device} was chosen, but accelerate runs on {accelerator.device.type}")
    return accelerator, precision
