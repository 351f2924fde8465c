"""Whether a GPU computes what a CPU does: short runs of a small student, compared.

    python -m tests.gpu.correctness [FOLDER]        a line for each comparison; exit code 1 if one fails

Needs no pytest. test_gpu.py makes the same comparisons as tests.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from bench.config.schema import Augment
from bench.data.augment import AugmentParams, BatchTransform, sample_augment_params
from bench.runs.finished import FinishedRun, run_from_folder
from bench.storage import read_json

ROOT = Path(__file__).parents[2]
Subject = TypeVar("Subject")
CPU = torch.device("cpu")
AUGMENT = Augment(rand_augment="rand-m9-mstd0.5-inc1-n1", erase=0.5)
RECIPE = ["--recipe", "deit_micro/digits/guided", "--protocol", "paper"]
# One step per epoch, so that history.csv has the loss of each; the teacher is always trained on the CPU.
SETTINGS = [
    *("train.batch_size=64", "data.train_limit=64", "train.warmup_epochs=0", "train.threads=1"),
    *("teacher.train.epochs=2", "teacher.data.train_limit=512", "teacher.train.device=cpu", "teacher.train.threads=1"),
]
STEPS = 20
EAGER = ["train.compile=off", "train.precision=fp32", f"train.epochs={STEPS}"]
# Compiled in bf16, as users run it, with enough epochs to be killed in one.
SAME_BITS = ["train.deterministic=true", "train.checkpoint_seconds=0", "train.epochs=40"]
RUNS = {
    "eager on the CPU": [*EAGER, "train.device=cpu"],
    "eager": EAGER,
    "compiled": ["train.precision=fp32", f"train.epochs={STEPS}"],
    "eager in bf16": ["train.compile=off", "train.precision=bf16", f"train.epochs={STEPS}"],
    "deterministic": SAME_BITS,
    "beside it": SAME_BITS,
    "killed": SAME_BITS,
}
KILLED = "killed"
SECONDS = 300  # that the runs may take together
POLL_SECONDS = 0.01
IMAGES, SIDE, SIZE = 256, 32, 112  # that are augmented: how many, from and to how many px
LEVELS_APART = 1  # that the device may be off, but for one value in 10,000: at an edge it may take the other side
RARE = 1e-4


def problem() -> str | None:
    """Why nothing can be compared here, as a sentence; or None."""
    if not torch.cuda.is_available():
        return "this machine has no GPU"
    numbers = torch.arange(64.0).view(8, 8)
    if not torch.equal((numbers.cuda() @ numbers.cuda()).cpu(), numbers @ numbers):
        return f"the GPU here, {torch.cuda.get_device_name()}, computes nothing"
    return None


@dataclass
class _Started:
    """A run of `RUNS` in a folder of its own."""

    folder: Path
    command: list[str]
    variables: dict[str, str]

    def start(self) -> subprocess.Popen[bytes]:
        """Start or continue it. What it prints is added to a file."""
        self.folder.mkdir(exist_ok=True)
        with (self.folder / "output").open("ab") as output:
            return subprocess.Popen(self.command, cwd=ROOT, env=self.variables, stdout=output, stderr=output)

    def epoch(self) -> int:
        """Number of epochs that have ended."""
        for status in self.folder.rglob("guided/*/status.json"):
            with contextlib.suppress(OSError, ValueError):
                return read_json(status).get("epoch", 0)
        return 0

    def result(self, code: int) -> FinishedRun | str:
        """What it came to. code: its exit code."""
        records = list(self.folder.rglob("guided/*/record.json"))
        if code == 0 and len(records) == 1:
            return run_from_folder(records[0].parent)
        return f"exit code {code}: {(self.folder / 'output').read_text(errors='replace')[-2000:]}"


@dataclass(frozen=True)
class Runs:
    """Some of `RUNS`, that have ended."""

    folder: Path
    results: dict[str, FinishedRun | str]  # by name; of a run that failed what it printed

    def finished(self, name: str) -> FinishedRun:
        """The run. Raises AssertionError if it failed."""
        run = self.results[name]
        assert isinstance(run, FinishedRun), f"{name}: {run}"
        return run

    def output(self, name: str) -> str:
        """What it printed, also before it was killed."""
        return (_own_folder(self.folder, name) / "output").read_text(errors="replace")

    def losses(self, name: str) -> Tensor:
        """[2, steps] The losses, and the guidance terms, of a run that learns."""
        history = self.finished(name).history
        out = torch.tensor([history["train_loss"], history["guidance_loss"]], dtype=torch.float64)
        assert (out > 0).all() and out[0, -1] < out[0, 0], f"{name}: it does not learn: {out[0].tolist()}"
        return out


def train(folder: Path, names: Sequence[str] = tuple(RUNS)) -> Runs:
    """Train some of `RUNS`, all at once; one of them is killed and continued. Runs that are finished in `folder` stay."""
    variables = {**os.environ, "LOCALITY_BENCH_CACHE": str(folder / "cache"), "PYTHONPATH": str(ROOT)}

    def started(name: str, *words: str) -> _Started:
        settings = [word for setting in [*SETTINGS, *RUNS[name]] for word in ("--set", setting)]
        own = _own_folder(folder, name)
        command = [sys.executable, "bench/run.py", *RECIPE, *settings, *words, "--results-dir", str(own)]
        return _Started(own, command, variables)

    started(names[0], "--teacher-only").start().wait(SECONDS)
    runs = {name: started(name) for name in names}
    processes = {name: run.start() for name, run in runs.items()}
    deadline = time.monotonic() + SECONDS
    try:
        if KILLED in runs:
            process, killed = processes[KILLED], runs[KILLED]
            while process.poll() is None and killed.epoch() < 2 and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            process.kill()
            process.wait()
            processes[KILLED] = killed.start()
        for process in processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes.values():
            process.kill()
            process.wait()
    return Runs(folder, {name: run.result(processes[name].returncode) for name, run in runs.items()})


def _own_folder(folder: Path, name: str) -> Path:
    return folder / name.replace(" ", "-")


def losses_are_those_of_the_cpu(runs: Runs) -> str:
    """The losses of 20 steps in fp32, on GPU and CPU."""
    return _compare(runs, "eager", "eager on the CPU", first=1e-4, later=2e-3)


def compiled_graphs_give_the_same_losses(runs: Runs) -> str:
    """The losses of 20 steps in fp32, compiled and not."""
    used = runs.finished("compiled").record.compile
    assert used not in ("off", "fell back"), f"the run was not compiled: {used}"
    return f"{used}: {_compare(runs, 'compiled', 'eager', first=1e-4, later=2e-3)}"


def bf16_is_near_fp32(runs: Runs) -> str:
    """The losses of 20 steps in bf16 and fp32."""
    assert runs.finished("eager in bf16").record.precision.used == "bf16"
    return _compare(runs, "eager in bf16", "eager", first=2e-3, later=1e-2)


def two_runs_on_one_gpu_give_the_same_bits(runs: Runs) -> str:
    """Weights and losses of two deterministic runs at the same time."""
    return _same(runs, "beside it", "deterministic")


def a_killed_run_continues_to_the_same_bits(runs: Runs) -> str:
    """Weights and losses of a deterministic run that was killed, and of one that was not."""
    assert "resumes after epoch" in runs.output(KILLED), "the run was not continued: it ended before it was killed"
    return _same(runs, KILLED, "deterministic")


def crops_are_those_of_the_cpu(device: torch.device) -> str:
    """Random crops and flips, resized, in grey levels."""
    pixels, params = _augmented()
    return _levels_apart(*(_transform(on).augment(pixels.to(on), params.to(on)) for on in (CPU, device)))


def operations_are_those_of_the_cpu(device: torch.device) -> str:
    """One operation of RandAugment per image, in grey levels."""
    return _operations(device, fused=False)


def fused_operations_are_those_of_the_cpu(device: torch.device) -> str:
    """The same, fused by torch.compile."""
    return _operations(device, fused=True)


def erased_images_are_those_of_the_cpu(device: torch.device) -> str:
    """Images that are normalised and erased, in float32."""
    pixels, params = _augmented()
    levels = _transform(CPU).augment(pixels, params)
    ours, cpu = (_transform(on).normalise(levels.to(on), params.to(on)).cpu() for on in (device, CPU))
    apart = (ours - cpu).abs().max().item()
    assert apart <= 1e-5, f"they differ by up to {apart:.3g} (allowed: 1e-5)"
    return f"at most {apart:.1g} apart"


ON_RUNS: tuple[Callable[[Runs], str], ...] = (
    losses_are_those_of_the_cpu,
    compiled_graphs_give_the_same_losses,
    bf16_is_near_fp32,
    two_runs_on_one_gpu_give_the_same_bits,
    a_killed_run_continues_to_the_same_bits,
)
ON_IMAGES: tuple[Callable[[torch.device], str], ...] = (
    crops_are_those_of_the_cpu,
    operations_are_those_of_the_cpu,
    fused_operations_are_those_of_the_cpu,
    erased_images_are_those_of_the_cpu,
)


def _compare(runs: Runs, name: str, other: str, first: float, later: float) -> str:
    """Compare losses. first, later: the relative difference that is allowed in the first and in the other steps."""
    ours, theirs = runs.losses(name), runs.losses(other)
    assert ours.shape == theirs.shape == (2, STEPS)
    apart = ((ours - theirs).abs() / theirs).amax(0)
    said = f"{apart[0]:.2g} apart in the first step, up to {apart.max():.2g} later"
    assert apart[0] <= first and apart.max() <= later, f"{said} (allowed: {first:g} and {later:g})"
    return said


def _same(runs: Runs, name: str, other: str) -> str:
    ours, theirs = runs.losses(name), runs.losses(other)
    assert torch.equal(ours, theirs), f"losses differ by up to {(ours - theirs).abs().max():.3g}"
    weights = runs.finished(name).record.weights
    assert weights == runs.finished(other).record.weights, "the losses are the same, the weights are not"
    return f"{ours.shape[1]} losses and the weights are the same"


def _augmented() -> tuple[Tensor, AugmentParams]:
    """Images, smooth and noisy, and how each of them is augmented."""
    wave = torch.linspace(0, 6, SIDE).sin()
    noise = torch.rand(IMAGES, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
    smooth = (wave[:, None] * wave + 1)[None, :, :, None] * noise.mean((1, 2), keepdim=True)
    pixels = (255 * torch.where(torch.arange(IMAGES).view(-1, 1, 1, 1) % 2 == 0, smooth, noise)).byte()
    return pixels, sample_augment_params(AUGMENT, (SIDE, SIDE), SIZE, IMAGES, seed=0, epoch=0)


def _transform(device: torch.device, operations: bool = False, fused: bool = False) -> BatchTransform:
    return BatchTransform(AUGMENT if operations else replace(AUGMENT, rand_augment=None), SIZE, 0, device, fused)


def _operations(device: torch.device, fused: bool) -> str:
    pixels, params = _augmented()
    levels = _transform(CPU).augment(pixels, replace(params, kinds=None)).permute(0, 2, 3, 1)
    cpu = _transform(CPU, True).augment(levels, params, cropped=True)
    ours = _transform(device, True, fused).augment(levels.to(device), params.to(device), cropped=True)
    return _levels_apart(cpu, ours)


def _levels_apart(cpu: Tensor, ours: Tensor) -> str:
    assert cpu.float().std() > 20  # not one grey
    apart = (ours.cpu().int() - cpu.int()).abs()
    differ, more = ((apart > allowed).float().mean().item() for allowed in (0, LEVELS_APART))
    said = f"{differ:.2%} of the values differ, {more:.2%} by more than {LEVELS_APART}, the most by {apart.max()}"
    assert more <= RARE, f"{said} (allowed: {RARE:.2%} by more)"
    return said


def results(folder: Path, device: torch.device) -> Iterator[tuple[str, bool, str]]:
    """Make all comparisons. Yields the name of each, whether it holds, and what was found."""
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, folder)  # in processes, while images are compared here
        yield from (_result(check, device) for check in ON_IMAGES)
        yield from (_result(check, training.result()) for check in ON_RUNS)


def _result(check: Callable[[Subject], str], subject: Subject) -> tuple[str, bool, str]:
    name = check.__name__.replace("_", " ")
    try:
        return name, True, check(subject)
    except Exception as error:  # the others are still worth their time
        return name, False, str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"


def main() -> int:
    """Print what was compared. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, metavar="FOLDER", help="keep the runs there")
    parser.add_argument("--device", default="cuda", help="cpu: to try this program without a GPU")
    arguments = parser.parse_args()
    device, bad = torch.device(arguments.device), 0
    if device.type == "cuda" and (reason := problem()) is not None:
        print(f"nothing that follows is a result: {reason}")
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        for name, holds, found in results(folder.resolve(), device):
            print(f"{'holds ' if holds else 'FAILED'}  {name}: {found}", flush=True)
            bad += not holds
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
