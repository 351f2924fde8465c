"""The kernels on which a step spends its time, and the time of an evaluation.

    python -m tests.gpu.kernels --recipe deit_tiny/cifar100/guided [--steps 20] [--set KEY=VALUE]

The images are noise of 32 px.
"""

from __future__ import annotations

import argparse

import torch
from torch.profiler import ProfilerActivity, profile

from bench.cli import add_recipe_options, compose
from bench.data.loaders import EvalLoader
from bench.runs.finished import NULL_GPU
from bench.train.evaluate import predict
from bench.train.speed_variant import Variant, random_dataset

WARM_UP_STEPS = 20
ROWS = 40


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True, metavar="ID")
    add_recipe_options(parser)
    parser.add_argument("--steps", type=int, default=20, metavar="N")
    arguments = parser.parse_args()
    recipe = compose(arguments)
    dataset = random_dataset(recipe, 32)
    variant = Variant(recipe, dataset)
    print(f"{recipe.id}, on {variant.environment().hardware}")

    loader = EvalLoader(recipe, dataset, variant.device)
    for attempt in ("first", "second"):
        seconds = variant.seconds(lambda: predict(variant.step.task.student.network, loader, variant.device))
        count = len(dataset.evaluation(recipe.data))
        print(f"evaluation of {count:,} images, {attempt} time: {seconds:.2f} s")

    variant.train(WARM_UP_STEPS)
    seconds = variant.seconds(lambda: variant.train(arguments.steps))
    print(f"{1e3 * seconds / arguments.steps:.2f} ms per step of {recipe.train.batch_size} images, without the profiler")
    if variant.environment().hardware.device == NULL_GPU:
        return  # CUDA's profiler needs a GPU
    kind = ProfilerActivity.CUDA if variant.device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[kind]) as found:
        variant.seconds(lambda: variant.train(arguments.steps))
    print(f"with it, {arguments.steps} steps:")
    sort = "self_device_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
    print(found.key_averages().table(sort_by=sort, row_limit=ROWS, max_name_column_width=90))


if __name__ == "__main__":
    main()
