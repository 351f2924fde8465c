"""`bench.load_pair`: the same guidance term as in training, the right teacher, and what it refuses."""

from __future__ import annotations

import shlex
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import load_file, save_file

import bench
from bench import guidance, models, run
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.loaders import Batch, unaugmented
from bench.data.store import open_dataset
from bench.guidance import Samples
from bench.runs.folder import RunFolder
from bench.share.export import export
from bench.storage import read_json, sha256, write_json
from bench.train.request import read_request
from bench.train.step import Step
from bench.train.teacher import Teacher
from bench.train.teacher_cache import TeacherCache

ANTIALIASED = ("teacher.bn=running", "teacher.model.image_size=8", "teacher.antialias=true")


def noise(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


@pytest.fixture
def pair_of(untrained, tmp_path):
    """Makes a guided run with random weights, beside the run of its teacher; returns (its folder, its teacher's)."""

    def make(method, *assignments):
        folder, _ = untrained(f"deit_micro/digits/{method}", *assignments)
        record = read_json(folder / "record.json")
        recipe = recipe_from_dict(record["recipe"], "test")
        place = RunFolder(tmp_path / "results", recipe).path
        shutil.copytree(folder, place)
        teacher = RunFolder(tmp_path / "results", recipe.teacher)
        teacher.path.mkdir(parents=True)
        network = models.create_network(recipe.teacher.model, 10, 5)
        save_file(network.state_dict(), teacher.weights)
        student, shapes = models.create_student(recipe, 10), models.create(recipe.teacher.model, 10, 0).shapes
        methods = guidance.create(recipe.guidance, student.shapes, shapes, 0, student.groups)
        if state := {name: noise(value.shape) for name, value in methods.state_dict().items()}:
            save_file(state, place / "guidance.safetensors")
        same = {"id": recipe.teacher.id, "hash": recipe.teacher.hash, "seed": 0, "epochs": 1, "seconds": 1.0, "key": "x"}
        summary = {**same, "select": "last", "last_accuracy": 9.0, "best_accuracy": 9.0, "weights": sha256(teacher.weights)}
        write_json(place / "record.json", {**record, "teacher": summary})
        return place, teacher.path

    return make


def images_of(count):
    subset = open_dataset(Registry().dataset("digits"), "data").test
    return [Image.fromarray(subset[index]) for index in range(count)]


def term_of_training(place, teacher_weights, pair, images):
    """The guidance term that a step of training computes for these images, without augmentation."""
    recipe = recipe_from_dict(read_json(place / "record.json")["recipe"], "test")
    teacher = Teacher(recipe.teacher, 10, teacher_weights, recipe.guidance.teacher)
    step = Step(recipe, models.create_student(recipe, 10), teacher, Accelerator(cpu=True))
    step.task.student.network.load_state_dict(load_file(place / "model.safetensors"))
    if (path := place / "guidance.safetensors").exists():
        step.task.guidance.load_state_dict(load_file(path))
    pixels, none = torch.stack([pair.transform(image) for image in images]), torch.zeros(len(images), 4)
    batch = Batch(
        pixels, torch.arange(len(images)) % 10, slice(0, len(images)), np.arange(len(images)), none, none[:, 0] > 1
    )
    with torch.no_grad():
        return step.task.eval()(batch.images, batch.labels, None, step.signals(step.inputs(batch, none, {})))[1]


@pytest.mark.parametrize(
    ("assignments", "layers"),
    [
        ((), ["blocks.0", "blocks.3", "blocks.5"]),
        (("guidance.params.stages=[0,2]", *ANTIALIASED), ["blocks.0", "blocks.5"]),
        (("guidance.method=kd+locality", "guidance.params.stages=[1]"), ["blocks.3"]),
    ],
)
def test_the_projected_maps_give_the_guidance_term_of_training(pair_of, assignments, layers):
    place, teacher = pair_of("guided", *assignments)
    pair, images = bench.load_pair(place), images_of(6)
    maps = pair.feature_maps(images)
    term = sum(F.mse_loss(*both) for both in maps.compared.values())
    methods, weights = dict(pair.guidance), teacher / "model.safetensors"
    with torch.no_grad():
        term += methods["kd"](*pair.outputs(images), Samples(torch.arange(len(images)))) if "kd" in methods else 0
    assert torch.allclose(term, term_of_training(place, weights, pair, images), rtol=1e-6) and term > 0.1
    assert list(maps.compared) == list(pair.projections) == layers
    assert list(maps.student) == ["blocks.0", "blocks.3", "blocks.5"] and list(maps.teacher) == [
        f"stages.{k}" for k in range(3)
    ]
    for (ours, theirs), layer in zip(maps.compared.values(), layers, strict=True):
        assert ours.shape == theirs.shape and pair.projections[layer].in_channels == maps.student[layer].shape[1]
    with torch.no_grad():
        logits = pair.student(torch.stack([pair.transform(image) for image in images]))
        assert torch.equal(logits, pair.outputs(images)[0].logits)


def test_transforms_without_projections_and_other_methods_have_maps_too(pair_of):
    place, teacher = pair_of("guided", "guidance.params.transform=attention")
    pair, images = bench.load_pair(place), images_of(4)
    with torch.no_grad():
        term = pair.guidance["locality"](*pair.outputs(images), Samples(torch.arange(len(images))))
    assert torch.allclose(term, term_of_training(place, teacher / "model.safetensors", pair, images), rtol=1e-6)
    assert not list(pair.guidance.parameters()) and pair.feature_maps(images[0]).student["blocks.0"].shape == (1, 64, 4, 4)


def test_an_offline_teacher_sees_the_image_itself(pair_of):
    place, _ = pair_of("guided", "teacher.offline=true", "teacher.bn=running", "teacher.model.image_size=8")
    pair, (image, *_) = bench.load_pair(place), images_of(1)
    recipe = recipe_from_dict(read_json(place / "record.json")["recipe"], "test").teacher
    subset = open_dataset(recipe.data, "data").test
    expected = unaugmented(recipe, subset, np.array([0]), torch.device("cpu"))
    with torch.no_grad():
        assert torch.equal(pair.outputs(image)[1].logits, pair.teacher(expected))


def test_the_teacher_comes_from_the_cache_and_must_be_that_of_the_run(pair_of, monkeypatch, tmp_path):
    place, teacher = pair_of("guided")
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    expected = bench.load_pair(place).teacher.state_dict()
    record = read_json(place / "record.json")
    recipe = recipe_from_dict(record["recipe"], "test")
    cache = TeacherCache(recipe.teacher, record["dataset"]["fingerprint"])
    weights = {"weights": sha256(teacher / "model.safetensors")}
    write_json(teacher / "record.json", {**record, "hash": recipe.teacher.hash, **weights})
    cache.add(RunFolder(tmp_path / "results", recipe.teacher))
    kept = cache.folder.rename(cache.folder.with_name("resnet8-digits-0123456789abcdef"))  # other code has trained it
    record["teacher"]["key"] = kept.name
    write_json(place / "record.json", record)
    shutil.rmtree(teacher)
    found = bench.load_pair(place).teacher.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())
    write_json(place / "record.json", {**record, "teacher": {**record["teacher"], "weights": "0" * 64}})
    with pytest.raises(
        RecipeError, match=r"the weights here are from another training of its teacher resnet8/digits, seed 0"
    ):
        bench.load_pair(place)
    shutil.rmtree(kept)
    with pytest.raises(RecipeError, match="this machine does not have the weights") as caught:
        bench.load_pair(place)
    words = shlex.split(str(caught.value).split("`")[1])  # the command trains exactly this teacher
    request = read_request(run.parser().parse_args(words[2:]))
    assert words[:2] == ["python", "bench/run.py"] and request.recipe == recipe.teacher


def test_a_method_of_all_blocks_has_the_maps_of_all(pair_of):
    place, teacher = pair_of("lg-all")
    pair, images = bench.load_pair(place), images_of(4)
    with torch.no_grad():
        term = pair.guidance["lg_all"](*pair.outputs(images), Samples(torch.arange(len(images))))
    assert torch.allclose(term, term_of_training(place, teacher / "model.safetensors", pair, images), rtol=1e-6)
    assert list(pair.feature_maps(images).student) == [f"blocks.{k}" for k in range(6)]


def test_runs_without_a_pair_are_refused(pair_of, finished, tmp_path):
    with pytest.raises(RecipeError, match="deit_micro/digits/baseline has no guidance, so it has no teacher"):
        bench.load_pair(finished[0])
    place, _ = pair_of("guided")
    export(place, tmp_path / "out")
    shutil.copyfile(place / "guidance.safetensors", tmp_path / "kept")
    (place / "guidance.safetensors").write_bytes(b"x")
    with pytest.raises(RecipeError, match="not the projections of this run"):
        bench.load_pair(place)
    (place / "guidance.safetensors").unlink()
    with pytest.raises(RecipeError, match="an export does not have them"):
        bench.load_pair(place)


@pytest.mark.parametrize("method", ["kd", "drloc"])
def test_guidance_without_the_teachers_maps_has_nothing_to_compare(untrained, method):
    folder, _ = untrained(f"deit_micro/digits/{method}")
    with pytest.raises(RecipeError, match=f"the guidance {method} compares no feature maps"):
        bench.load_pair(folder)
