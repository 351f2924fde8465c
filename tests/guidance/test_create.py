"""The methods of a recipe: joined methods, their parameters, and initial weights of projections."""

from __future__ import annotations

import dataclasses
import importlib

import pytest
import torch
import torch.nn.functional as F

from bench import guidance, models
from bench.config.compose import recipe_from_dict
from bench.config.methods import method_names, params_class
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.guidance import Outputs, Samples, Signals
from bench.train.task import Task

FILES = {"locality": "guided", "lg_all": "lg-all", "review_kd": "review-kd"}
SHAPES = [(5, 3, 3), (4, 2, 2), (3, 1, 1)]


def composed(method, *assignments):
    first = "locality" if "locality" in method else method.partition("+")[0]
    return Registry().compose(
        f"deit_micro/digits/{FILES.get(first, first)}", "quick", [f"guidance.method={method}", *assignments]
    )


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


PAIRS = ["kd+locality", "locality+kd", "locality+lskd", "lg_all+dkd", "review_kd+drloc", "kd+hard"]


@pytest.mark.parametrize("pair", PAIRS)
def test_joined_methods_add_their_terms(pair):
    recipe = composed(pair)
    student = models.create_student(recipe, 10)
    teacher = Outputs(torch.randn(4, 10), [torch.randn(4, *shape) for shape in SHAPES])
    methods = guidance.create(recipe.guidance, student.shapes, SHAPES, 0, student.groups)
    assert list(methods) == pair.split("+")
    draws = guidance.begin_epoch(methods, 0, 5, recipe.train.epochs, 4)
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([1, 2, 3, 4])
    loss, terms = Task(student.eval(), methods)(images, labels, None, Signals(teacher, draws))
    logits, maps = student(images)
    expected, total = F.cross_entropy(logits.double(), labels), 0.0
    for method in methods.values():
        expected = expected * method.ce_weight
    for name, method in methods.items():
        ours = Outputs(logits, [maps[index] for index in method.student_maps])
        term = method(ours, teacher, Samples(labels, draws.get(name))).double()
        expected, total = expected + method.weight * method.scale(5, recipe.train.epochs) * term, total + term
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms.item() == pytest.approx(total.item(), rel=1e-5)


def test_a_name_of_two_joined_methods_has_two_keys():
    """The bare name is that of the first, so a recipe file's parameters keep their meaning."""
    settings = ["guidance.params.lskd_weight=7", "guidance.params.temperature=3"]
    recipe = composed("locality+lskd", *settings)
    assert [params.weight for params in recipe.guidance.params] == [2.5, 7.0]
    assert recipe_from_dict(recipe.to_dict(), "record") == recipe
    hashes = {composed("locality+lskd", *settings[:n]).hash for n in range(3)}
    hashes.add(composed("locality+lskd", "guidance.params.weight=7").hash)
    assert len(hashes) == 4
    assert composed("dkd+review_kd").guidance.scaled_epochs(60) == {
        "guidance.params.ramp": 4,
        "guidance.params.review_kd_ramp": 4,
    }


def test_initial_weights_of_projections_depend_on_the_seed_alone():
    config, groups = composed("locality").guidance, {"chosen": range(len(SHAPES))}

    def weights(seed):
        methods = guidance.create(config, SHAPES, SHAPES, seed, groups)
        return torch.cat([value.flatten() for value in methods.state_dict().values()])

    first = weights(3)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(weights(3), first) and not torch.equal(weights(4), first)
    assert torch.equal(torch.get_rng_state(), before)  # so a student that is built later starts equal, too
    joined = guidance.create(composed("kd+locality").guidance, SHAPES, SHAPES, 3, groups)
    assert torch.equal(torch.cat([value.flatten() for value in joined.state_dict().values()]), first)


@pytest.mark.parametrize(
    ("method", "assignments", "words"),
    [
        ("locality", ["guidance.params.wieght=1"], "guidance.params.wieght: is not a parameter of locality"),
        ("locality", ["guidance.params.temperature=1"], "guidance.params.temperature: is not a parameter of locality"),
        ("kd", ["guidance.params.alpha=2"], "guidance.params.alpha: got 2, allowed is from 0.001 to 1"),
        ("kd+locality+kd", [], "in which one method occurs twice"),
        ("kd+hard", ["guidance.params.hard_alpha=2"], "guidance.params.hard_alpha: got 2, allowed is from 0.001 to 1"),
        ("kd+hard", ["guidance.params.kd_alpha=1"], "guidance.params.kd_alpha: is not a parameter of kd+hard"),
        ("kd+localty", [], "did you mean 'locality'"),
    ],
)
def test_methods_and_parameters_that_do_not_exist_are_refused(method, assignments, words):
    with pytest.raises(RecipeError) as caught:
        composed(method, *assignments)
    assert words in str(caught.value)
