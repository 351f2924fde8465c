"""Some steps of every student in every guidance method on a null GPU: does each run, is it captured, what does it ask for?

    TORCHDYNAMO_DISABLE=1 python -m tests.gpu.null_gpu tests/trials/null_gpu_methods.py [SETTING …]

Without the variable everything is compiled, which takes hours. Prints a line for each, then the number of failures, the
exit code. Operations are those of one step, as null_gpu_step.py counts them.
"""

from __future__ import annotations

import itertools
import sys

from bench.config.registry import Registry
from bench.train.speed_variant import Variant, random_dataset
from tests.gpu import null_gpu
from tests.trials.null_gpu_step import OPERATIONS

FIRST_STEPS, STEPS = 8, 8
SETTINGS = ["data.train_limit=128", "train.batch_size=16"]


def measure(student: str, method: str, settings: list[str]) -> str:
    """What a step of this student asks for, in a line. FAILED is in it if the host waits or a capture is refused."""
    recipe = Registry().compose(f"{student}/cifar100/{method}", "paper", [*SETTINGS, *settings])
    variant = Variant(recipe, random_dataset(recipe, 32))
    variant.train(FIRST_STEPS)
    null_gpu.reset()
    variant.train(STEPS)
    counts = null_gpu.counts()
    refused = counts.keys() & {"waits", "pageable_uploads", "downloads", "refused"}
    operations = sum(counts.get(kind, 0) for kind in OPERATIONS) / STEPS
    captured = "one graph" if counts.get("graph_launches", 0) >= STEPS else "not captured"
    return f"{operations:8.1f}  {captured}" + "".join(f"  FAILED: {counts[kind]} {kind}" for kind in sorted(refused))


def main() -> int:
    registry, failures = Registry(), 0
    students = [name for name in registry.names("models") if registry.role(name) == "student"]
    for student, method in itertools.product(students, registry.names("guidance")):
        try:
            line = measure(student, method, sys.argv[1:])
        except Exception as error:  # the others are still tried
            line = f"FAILED: {type(error).__name__}: {error}"
        failures += "FAILED" in line
        print(f"{student:12} {method:18} {line}", flush=True)
    print(f"{failures} failed")
    return failures


if __name__ == "__main__":
    sys.exit(main())
