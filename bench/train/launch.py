"""Processes, device, precision and threads of a run. A run that would not use what was asked for is refused."""

from __future__ import annotations

import os
import time
import timeit
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch.nn.attention import SDPBackend, sdpa_kernel

from bench.config.schema import RecipeError, Train
from bench.cores import cores_per_process
from bench.runs.environment import peak_resident_mib, processor
from bench.runs.record import Hardware, Precision

# our names of precisions: accelerate's
MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}
MATRIX_SIZE, MATRIX_REPEATS = 1024, 5  # of the product that compares precisions: 30 ms in fp32 on one core
MIN_GAIN = 1.2  # by bf16, to be worth a note
_HOW_TO_LAUNCH = (
    ": without GPUs use torchrun --nproc_per_node N bench/run.py …, with GPUs accelerate launch --num_processes N"
)


def check_launch(asked: int | None = None) -> int:
    """The number of processes that were started. Raises RecipeError for another number than `asked`, if it is not None."""
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if asked is not None and started != asked:
        raise RecipeError(f"--num-processes: {asked} processes were asked for, {started} started{_HOW_TO_LAUNCH}")
    by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    # with --cpu --num_processes 2 it silently starts one process, with a rendezvous address but no world size
    if by_accelerate and "MASTER_PORT" in os.environ and "WORLD_SIZE" not in os.environ:
        raise RecipeError(f"accelerate launch was asked for several processes and started one{_HOW_TO_LAUNCH}")
    return started


def choose_precision(train: Train, device: str) -> Precision:
    """The precision of a run: the recipe's; for `auto` the launcher's; without that, bf16 on a GPU that has it, else fp32.

    Args:
        device: "cpu", "cuda" or "mps".

    Raises:
        RecipeError: recipe and launcher contradict each other, or the device lacks the precision.
    """
    # accelerate launch exports "no" also if nothing was asked for
    launcher = {v: k for k, v in MIXED_PRECISION.items()}.get(os.environ.get("ACCELERATE_MIXED_PRECISION", "no"))
    if launcher is None:
        raise RecipeError(f"accelerate launch --mixed_precision: allowed are {', '.join(MIXED_PRECISION.values())}")
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
    """The device type of a run: "cuda", "mps" or "cpu". Raises RecipeError if this machine lacks the one asked for."""
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes", "on"):
        if train.device not in ("auto", "cpu"):
            raise RecipeError(f"train.device: the recipe says {train.device}, accelerate launch says cpu: drop one of them")
        return "cpu"
    if train.device == "auto":
        return next(device for device, has in available.items() if has)
    if not available[train.device]:
        raise RecipeError(f"train.device: {train.device} was asked for, and this machine has none")
    return train.device


def choose_threads(train: Train) -> int:
    """Number of threads of a process: the recipe's, else its share of the cores.

    OMP_NUM_THREADS does not count, since launchers set it: the result of a run on a CPU depends on the number of threads.
    """
    return train.threads or cores_per_process()


def set_arithmetic(train: Train) -> None:
    """Let this process compute as a run does: its threads, fp32 without TF32, and deterministic operations if asked."""
    torch.set_num_threads(choose_threads(train))
    # fp32 means no TF32, in every evaluation too; hide torch's advice to use TF32, and its note on a newer setting
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores|Please use the new API settings to control TF32")
    torch.backends.cudnn.allow_tf32 = False
    torch.set_float32_matmul_precision("highest")  # the default, which a variable of some containers changes
    if train.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # required by torch; read when cuBLAS is first used
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # only helps to find bugs; costs a launch per tensor
        torch.backends.cudnn.benchmark = False


def make_accelerator(
    train: Train, trackers: Sequence[str] = (), folder: Path | None = None
) -> tuple[Accelerator, Precision]:
    """The Accelerator of a run, with one process group over all processes that were started. folder: of local trackers."""
    device = choose_device(train)
    precision = choose_precision(train, device)
    set_arithmetic(train)
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # decided above; accelerate would prefer it to the argument
    accelerator = Accelerator(
        mixed_precision=MIXED_PRECISION[precision.used],
        cpu=device == "cpu",
        dynamo_backend="no",  # the recipe says what is compiled, and the launcher's setting would add TF32
        log_with=list(trackers) or None,
        project_dir=folder,
    )
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != started:
        raise RecipeError(
            f"{started} processes were started, but {accelerator.num_processes} found each other{_HOW_TO_LAUNCH}"
        )
    if accelerator.device.type != device:
        raise RecipeError(f"train.device: {device} was chosen, but accelerate runs on {accelerator.device.type}")
    if device == "cuda" and precision.used != "fp32" and torch.backends.cuda.cudnn_sdp_enabled():  # no earlier try failed
        _try_cudnn_attention(accelerator.device, torch.bfloat16 if precision.used == "bf16" else torch.float16)
    return accelerator, precision


def _try_cudnn_attention(device: torch.device, dtype: torch.dtype) -> None:
    """Turn cuDNN's attention off if it fails: torch prefers it on some GPUs, and takes flash attention without it."""
    tokens = torch.zeros(1, 3, 197, 64, dtype=dtype, device=device, requires_grad=True)
    try:
        with warnings.catch_warnings(), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
            warnings.simplefilter("ignore")  # of kernels that do not fit
            F.scaled_dot_product_attention(tokens, tokens, tokens).sum().backward()
        torch.cuda.synchronize(device)
    except RuntimeError:
        torch.backends.cuda.enable_cudnn_sdp(False)


def bf16_note(used: str, device: str) -> str | None:
    """A sentence if a run in fp32 might be faster in bf16 on this processor, measured on a matrix product; else None.

    Args:
        used: the precision of the run.
        device: "cpu", "cuda" or "mps".
    """
    if (
        device != "cpu"
        or used != "fp32"
        or not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    ):
        return None  # without such instructions bf16 is slower by far
    times = {}
    for kind in (torch.float32, torch.bfloat16):
        one = torch.ones(MATRIX_SIZE, MATRIX_SIZE, dtype=kind)
        # time of the processor: other programs may use it too
        times[kind] = min(
            timeit.repeat(lambda one=one: one @ one, timer=time.process_time, number=1, repeat=MATRIX_REPEATS)
        )
    ratio = times[torch.float32] / times[torch.bfloat16]
    if ratio < MIN_GAIN:
        return None
    return (
        f"this processor multiplies matrices {ratio:.1f} times as fast in bf16: train.precision=bf16 may be faster with"
        " large layers, slower with small images (bench speed compares), and is another recipe"
    )


def hardware(device: torch.device) -> Hardware:
    """The device, the processor and the number of threads that torch uses."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Hardware(name, processor(), torch.get_num_threads())


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory in MiB: allocated on a GPU, else resident memory of this process."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else peak_resident_mib()
