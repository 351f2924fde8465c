"""What a run says of torch.compile, CUDA graphs and attention: for its record, and for a warning where one fell back."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from torch._dynamo import utils
from torch.nn.attention import SDPBackend

from bench.runs.record import Compilation

PACKAGE = Path(__file__).parents[1]
NETWORK = "models/features.py"  # the file of students, and of what is in a teacher
PARTS = {  # by file
    **{"train/teacher.py": "teacher", NETWORK: "student", "train/task.py": "student"},
    "data/rand_augment.py": "augmentation",
}
MAX_FRAMES = 10_000  # of functions that torch.compile remembers; where a network falls back, it tries every layer
MAX_REASON_CHARS = 200


def fall_back_quietly(auto: bool) -> None:
    """Set what torch.compile does on an error: with `auto` the part runs uncompiled, else the error ends the run.

    With `auto`, torch's hundred lines per layer are hidden unless TORCH_LOGS is set; `compilation` has the reason.
    """
    torch._dynamo.config.suppress_errors = auto
    utils.set_compilation_metrics_limit(MAX_FRAMES)
    if auto and "TORCH_LOGS" not in os.environ:
        torch._logging.set_logs(dynamo=logging.ERROR)


def compilation(
    accelerator: Accelerator, expected: int, captured: int = 0, refused: Sequence[str] = ()
) -> Compilation | None:
    """What has been compiled and captured in this process so far; None on a CPU without compilation.

    Args:
        expected: graphs of torch.compile in the step; 0 without compilation.
        captured: CUDA graphs. refused: why others could not be captured.
    """
    device = accelerator.device
    if device.type != "cuda" and not expected:
        return None
    found, fell_back = 0, {}
    for frame in utils.get_compilation_metrics():
        if frame.is_forward is False:
            continue  # a backward pass, compiled with its forward
        path = Path(frame.co_filename or "")
        file = path.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else ""
        if path.match("accelerate/utils/operations.py"):
            file = "train/task.py"  # with mixed precision, accelerate's wrapper is compiled with the task in it
        if frame.fail_type is not None:
            part = None if file == NETWORK and "teacher" in fell_back else PARTS.get(file)
            # Layers are tried one by one after a part has failed, and where a graph breaks, which is counted as such. A
            # frame without a file has been compiled too often.
            if part is None and not fell_back and (frame.fail_type != "Unsupported" or frame.co_filename is None):
                part = "a layer"
            if part is not None:
                fell_back.setdefault(part, f"{part} not compiled ({frame.fail_type}: {short_reason(frame.fail_reason)})")
        elif file and not file.startswith("data/") and frame.graph_op_count:
            found += 1
    if found < expected and not fell_back:
        fell_back["all"] = f"{expected - found} of {expected} graphs not compiled (torch gives no reason)"
    breaks = sum(utils.counters["graph_break"].values())
    reasons = (*fell_back.values(), *(f"no CUDA graph ({reason})" for reason in refused))
    seconds = round(utils.calculate_time_spent()["total_wall_time"], 1)
    return Compilation(expected, found, breaks, captured, reasons, attention_kernel(accelerator), seconds)


def attention_kernel(accelerator: Accelerator) -> str:
    """The kernel that `scaled_dot_product_attention` takes in training here: cudnn, flash, efficient or math.

    Asked for the 3 heads and 197 tokens of DeiT-Ti at 224 px, since torch's choice depends on the size too.
    """
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    kind = kinds.get(accelerator.mixed_precision, torch.float32)
    tokens = torch.empty(1, 3, 197, 64, dtype=kind, device=accelerator.device, requires_grad=True)
    return SDPBackend(torch._fused_sdp_choice(tokens, tokens, tokens)).name.removesuffix("_ATTENTION").lower()


def short_reason(text: str | None) -> str:
    """The first line of an error that says more than the name of the backend, without folders of this machine."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    line = next((line for line in lines if not line.endswith("raised:")), "no reason given")
    return re.sub(r"/[^\s'\",:]*/", "", line)[:MAX_REASON_CHARS]
