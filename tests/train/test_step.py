"""Parts of a training step."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from bench import guidance, models
from bench.config.registry import Registry
from bench.data.loaders import TrainLoader
from bench.data.store import open_dataset
from bench.models.drop_path import sample_drop_path_masks
from bench.train.feature_cache import open_teacher
from bench.train.graph import place, read_rate_from_memory
from bench.train.step import Step, as_stored

CPU = torch.device("cpu")
MIXED = ["augment.mixup=0.8", "augment.cutmix=1"]


def train(method, fixed):
    """The weights, averaged weights and losses after four steps, on batches in fixed places or where they are."""
    settings = ["data.train_limit=128", "train.batch_size=32", "train.ema=0.9", "model.drop_path_rate=0.2"]
    mixed = [] if method == "guided-offline" else MIXED
    recipe = Registry().compose(f"deit_micro/digits/{method}", "quick", [*settings, *mixed])
    dataset = open_dataset(recipe.data, "data")
    student = models.create_student(recipe, 10)
    step = Step(recipe, student, open_teacher(recipe, None, "untrained", dataset, CPU), Accelerator(cpu=True))
    loader = TrainLoader(recipe, dataset, CPU)
    masks = sample_drop_path_masks(student.drop_path_rates, loader.positions, 0, 0)
    places, in_place = {}, step.train

    def train_in_places(inputs):
        guided = inputs.draws is not None
        places[guided] = place(inputs, places.get(guided))
        assert places[guided].images.data_ptr() != inputs.images.data_ptr()
        in_place(places[guided])

    if fixed:
        step.train = train_in_places
    for number, batch in zip(range(4), loader.epoch(0), strict=True):
        draws = guidance.begin_epoch(step.task.guidance, 0, 1, 2, loader.positions) if number != 1 else None
        step(batch, masks[:, batch.positions], draws)
    return [*step.task.state_dict().values(), *step.ema.module.state_dict().values(), step.losses]


@pytest.mark.parametrize("method", ["guided", "guided-offline", "drloc", "kd"])
def test_inputs_in_fixed_places_give_the_same_bits(method):
    one, other = (train(method, fixed) for fixed in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True)) and one[-1].gt(0).all()


def optimise(name, rates, in_memory):
    """A parameter after steps at these rates, each time in an optimiser that loads the state of the one before."""
    parameter, state = torch.nn.Parameter(torch.linspace(-1, 1, 8)), None
    for number, rate in enumerate(rates):
        groups = [{"params": [parameter]}]
        adamw = name == "adamw"
        optimizer = torch.optim.AdamW(groups, fused=True) if adamw else torch.optim.SGD(groups, momentum=0.9, fused=True)
        if in_memory[number]:
            read_rate_from_memory(optimizer, CPU)
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(2):
            for group in optimizer.param_groups:
                assert isinstance(group["lr"], torch.Tensor) == in_memory[number]
                group["lr"] = group["lr"].fill_(rate) if in_memory[number] else rate
            parameter.grad = parameter.detach() ** 2
            optimizer.step()
        state = optimizer.state_dict()
        assert type(state["param_groups"][0]["lr"]) is float and not state["param_groups"][0].get("capturable")
    return parameter.detach()


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_rate_in_memory_follows_a_schedule_and_is_saved_as_a_number(name):
    rates = [0.125, 0.0625, 0.25, 0.5]  # the same in float32
    plain, mixed = (optimise(name, rates, kinds) for kinds in ([False] * 4, [False, True, True, False]))
    assert torch.equal(plain, mixed)


def test_gradients_of_contiguous_memory_get_the_strides_of_their_parameters():
    odd = torch.randn(32).as_strided((4, 8, 1, 1), (8, 1, 8, 8))  # as cuDNN gives it for a 1x1 convolution
    stored = as_stored(odd)
    assert stored.stride() == torch.empty(4, 8, 1, 1).stride() != odd.stride()
    assert torch.equal(stored, odd) and stored.data_ptr() == odd.data_ptr()
    other = torch.randn(4, 8, 3, 3).to(memory_format=torch.channels_last)
    assert as_stored(other) is other
