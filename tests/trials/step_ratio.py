"""The time of a training step of one recipe over that of another, from steps that alternate, on noise images.

    python -m tests.trials.step_ratio deit_micro/digits/lskd deit_micro/digits/guided --protocol quick --steps 400
    python -m tests.trials.step_ratio deit_micro/digits/alg deit_micro/digits/baseline --protocol quick --after-stop

`bench speed` measures turns of several steps in processes of their own, as runs are. Here both recipes are in one process
and alternate step by step, so a small difference shows beside other programs. Process time of one thread is measured.
"""

from __future__ import annotations

import argparse
import time
from statistics import median

import torch

from bench.config.registry import Registry
from bench.train.speed_variant import Variant, random_dataset

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("recipes", nargs=2, metavar="ID")
parser.add_argument("--protocol", default="paper")
parser.add_argument("--steps", type=int, default=100, help="of each recipe")
parser.add_argument("--batch", type=int, default=32, help="images, of the teacher's training too")
parser.add_argument(
    "--after-stop", action="store_true", help="the first recipe runs the steps after its schedule has ended"
)


def main() -> None:
    """Print both medians and the median ratio."""
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    functions = []
    for recipe_id in arguments.recipes:
        sizes = [f"train.batch_size={arguments.batch}", f"teacher.train.batch_size={arguments.batch}"]
        has_teacher = Registry().compose(recipe_id, arguments.protocol).teacher is not None
        recipe = Registry().compose(recipe_id, arguments.protocol, sizes if has_teacher else sizes[:1])
        variant = Variant(recipe, random_dataset(recipe, 32))
        functions.append(variant.train_unguided if arguments.after_stop and not functions else variant.train)
    for function in functions:
        function(5)
    seconds: tuple[list[float], list[float]] = ([], [])
    for step in range(arguments.steps):
        for place in (0, 1) if step % 2 else (1, 0):
            began = time.process_time()
            functions[place](1)
            seconds[place].append(time.process_time() - began)
    ratio = median(one / other for one, other in zip(*seconds, strict=True))
    first, second = (f"{1e3 * median(own):.1f} ms" for own in seconds)
    print(f"{arguments.recipes[0]} {first}, {arguments.recipes[1]} {second}: median ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
