"""The losses of three steps and the first gradients of every method, on however many processes a launcher starts.

python -m tests.guidance.global_gradients METHOD[,key=value…] …
"""

from __future__ import annotations

import json
import sys

import torch
from accelerate import Accelerator

from bench import guidance, models
from bench.config.registry import Registry
from bench.data.loaders import Shard, TrainLoader
from bench.data.store import open_dataset
from bench.models.drop_path import sample_drop_path_masks
from bench.train.step import Step
from bench.train.teacher import Teacher

SETTINGS = ["train.optimizer=sgd", "train.lr=0.01", "train.epochs=5", "data.train_limit=96", "train.batch_size=32"]


def measured(variant: str, accelerator: Accelerator) -> dict[str, list[float]]:
    """The losses, [total, term] of each step, and the norm of each parameter's gradient in the first."""
    method, *settings = variant.split(",")
    assignments = [*SETTINGS, f"guidance.method={method}", *settings]
    recipe = Registry().compose("deit_micro/digits/baseline", "quick", assignments)
    dataset, shard = open_dataset(recipe.data, "data"), Shard(accelerator.process_index, accelerator.num_processes)
    student = models.create_student(recipe, 10)
    torch.manual_seed(0)
    torch.nn.init.trunc_normal_(student.network.head.weight)  # it starts at zero, where some terms have no gradient
    teacher = Teacher(recipe.teacher, 10, None, recipe.guidance.teacher) if recipe.teacher is not None else None
    step = Step(recipe, student, teacher, accelerator)
    loader = TrainLoader(recipe, dataset, accelerator.device, shard)
    masks = sample_drop_path_masks(student.drop_path_rates, loader.positions, 0, 0)
    draws = guidance.begin_epoch(step.task.guidance, 0, 2, 5, loader.positions)
    losses, gradients = [], []
    for batch in loader.epoch(2):
        inputs = step.inputs(batch, masks[:, batch.positions], draws)
        own = step.backward(inputs, step.signals(inputs))
        losses += accelerator.reduce(own, "mean").tolist()
        gradients = gradients or [parameter.grad.norm().item() for parameter in step.task.parameters()]
        step.update()
    return {"losses": losses, "gradients": gradients}


if __name__ == "__main__":
    torch.set_num_threads(1)
    accelerator = Accelerator(cpu=True)
    out = {variant: measured(variant, accelerator) for variant in sys.argv[1:]}
    if accelerator.is_main_process:
        print(json.dumps(out))
