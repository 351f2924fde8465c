"""What 100 training steps ask of a GPU, by the null GPU: operations, time of the host, memory. No time of a GPU.

    python -m tests.gpu.null_gpu tests/trials/null_gpu_step.py deit_tiny/cifar100/guided [SETTING …]

The images are noise of 32 px. The first steps compile, which takes minutes. Prints JSON, each number for one step.
"""

from __future__ import annotations

import json
import sys
import time

import torch

from bench.config.registry import Registry
from bench.train.speed_variant import Variant, random_dataset
from tests.gpu import null_gpu

STEPS, FIRST_STEPS = 100, 30
OPERATIONS = ("launches", "products", "convolutions", "copies", "memsets", "uploads", "graph_launches")


def main() -> None:
    settings = [f"data.train_limit={128 * STEPS}", *sys.argv[2:]]
    recipe = Registry().compose(sys.argv[1], "paper", settings)
    variant = Variant(recipe, random_dataset(recipe, 32))
    variant.train(FIRST_STEPS)
    ready = time.process_time()
    null_gpu.reset()
    variant.train(STEPS)
    counts, seconds = null_gpu.counts(), time.process_time() - ready
    print(
        json.dumps(
            {
                "recipe": recipe.id,
                "operations": sum(counts.get(kind, 0) for kind in OPERATIONS) / STEPS,
                "cpu_ms": round(1e3 * seconds / STEPS, 2),
                "peak_mib": torch.cuda.max_memory_allocated() >> 20,
                "reserved_mib": torch.cuda.max_memory_reserved() >> 20,
                "compiled": variant.step.compiled,
                "first_cpu_s": round(ready),
                "counts": {kind: number / STEPS for kind, number in counts.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
