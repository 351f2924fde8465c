"""The methods of a recipe: joined methods, their parameters, and initial weights of projections."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch
import torch.nn.functional as F

from bench import guidance, models
from bench.config.methods import method_names, params_class
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.guidance import Outputs, Samples, Signals
from bench.train.task import Task

SHAPES = [(5, 3, 3), (4, 2, 2), (3, 1, 1)]


def composed(method, *assignments):
    recipe_id = f"deit_micro/digits/{'guided' if 'locality' in method else method.partition('+')[0]}"
    return Registry().compose(recipe_id, "quick", [f"guidance.method={method}", *assignments])


@pytest.mark.parametrize("method", method_names())
def test_parameters_read_without_torch_are_those_of_the_module(method):
    """`params_class` takes the class from the file's source; here the file is imported."""
    read, imported = params_class(method), importlib.import_module(f"bench.guidance.{method}").Params
    assert read is not imported and read.__doc__ == imported.__doc__
    assert read.needs == imported.needs and read.student_layers == imported.student_layers

    def described(cls):
        return [(f.name, f.type, f.default, dict(f.metadata)) for f in dataclasses.fields(cls)]

    assert described(read) == described(imported)
    for change in ({}, {"transform": "similarity"}, {"stages": (0, 3)}):
        if change.keys() <= {name for name, *_ in described(read)}:
            one, other = read(**change), imported(**change)
            assert one.needs_whole_batch == other.needs_whole_batch
            assert [one.problems(3, n) for n in (2, 3)] == [other.problems(3, n) for n in (2, 3)]


def test_joined_methods_add_their_terms():
    recipe = composed("kd+locality", "guidance.params.temperature=2", "guidance.params.alpha=0.25")
    assert recipe.guidance.needs == {"maps", "logits"}
    assert recipe.hash != composed("locality").hash
    student = models.create(recipe.model, 10, 0)
    methods = guidance.create(recipe.guidance, student.shapes, SHAPES, seed=0)
    assert list(methods) == ["kd", "locality"]
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([1, 2, 3, 4])
    teacher = Outputs(torch.randn(4, 10), [torch.randn(4, *shape) for shape in SHAPES])
    loss, terms = Task(student.eval(), methods)(images, labels, None, Signals(teacher, {}))
    logits, maps = student(images)
    ours, samples = Outputs(logits, maps), Samples(labels)
    kd, locality = (method(ours, teacher, samples).double() for method in methods.values())
    expected = 0.75 * F.cross_entropy(logits.double(), labels) + 0.25 * kd + 2.5 * locality
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms.item() == pytest.approx((kd + locality).item(), rel=1e-5)


def test_initial_weights_of_projections_depend_on_the_seed_alone():
    config = composed("locality").guidance

    def weights(seed):
        methods = guidance.create(config, SHAPES, SHAPES, seed)
        return torch.cat([value.flatten() for value in methods.state_dict().values()])

    first = weights(3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(weights(3), first) and not torch.equal(weights(4), first)
    assert torch.equal(torch.get_rng_state(), before)  # so a student that is built later starts equal, too
    joined = guidance.create(composed("kd+locality").guidance, SHAPES, SHAPES, 3)
    assert torch.equal(torch.cat([value.flatten() for value in joined.state_dict().values()]), first)


@pytest.mark.parametrize(
    ("method", "assignments", "words"),
    [
        ("locality", ["guidance.params.wieght=1"], "guidance.params.wieght: is not a parameter of locality"),
        ("locality", ["guidance.params.temperature=1"], "guidance.params.temperature: is not a parameter of locality"),
        ("kd", ["guidance.params.alpha=2"], "guidance.params.alpha: got 2, allowed is from 0.001 to 1"),
        ("kd+locality+kd", [], "in which one method occurs twice"),
        ("kd+hard", [], "two of these methods have a parameter alpha"),
        ("kd+localty", [], "did you mean 'locality'"),
    ],
)
def test_methods_and_parameters_that_do_not_exist_are_refused(method, assignments, words):
    with pytest.raises(RecipeError) as caught:
        composed(method, *assignments)
    assert words in str(caught.value)
