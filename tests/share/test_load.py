"""`bench.load`: networks of runs and exports, and what it refuses."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import bench
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.loaders import ImageTransform, unaugmented
from bench.data.store import open_dataset
from bench.runs.record import read_record
from bench.share.export import export
from bench.storage import read_json, write_json
from tests.helpers import generated
from tests.helpers.process import ROOT


def test_a_run_and_its_export_give_the_recorded_predictions(finished, tmp_path):
    folder, recipe = finished
    export(folder, tmp_path / "out")
    subset = open_dataset(recipe.data, "data").evaluation(recipe.data)
    images = [Image.fromarray(subset.images[index]) for index in subset.indices]
    for place in (folder, str(tmp_path / "out")):
        loaded = bench.load(place)
        with torch.inference_mode():
            batches = torch.stack([loaded.transform(image) for image in images]).split(60)
            predictions = torch.cat([loaded.model(batch).argmax(1) for batch in batches])
        assert predictions.tolist() == np.load(folder / "predictions.npy").tolist()
        assert (
            loaded.classes == 10
            and loaded.class_names == tuple("0123456789")
            and loaded.record == read_record(folder / "record.json")
        )
        assert not loaded.model.training
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"README.md", "config.json", "model.safetensors", "record.json"}


def test_the_transform_is_that_of_the_run_also_for_images_of_different_sizes(tmp_path):
    top = generated.write("folder", tmp_path, classes=2, train=4, test=3, size=60)
    recipe = Registry().compose("deit_micro/folder:photos/baseline", "quick", ["data.short_side=40", "train.batch_size=4"])
    subset = open_dataset(recipe.data, tmp_path).evaluation(recipe.data)
    assert subset.images.size is None
    expected = unaugmented(recipe, subset.images, subset.indices, torch.device("cpu"))
    transform = ImageTransform(recipe, one_size=False)
    for index, name in enumerate(subset.images.names[subset.indices]):
        assert torch.equal(transform(Image.open(top / str(name))), expected[index]), name


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"schema": 1}, r"record\.json: .*earlier version"),
        ({"schema": 4}, r"record\.json: .*later version"),
        ({"diverged": True, "last_accuracy": None, "best_accuracy": None, "best_epoch": None}, "diverged in epoch 1"),
        ({"hash": "0" * 64}, "is not that of its recipe"),
        ({"recipe": {"model": {"nonsense": 1}}}, r"model\.nonsense"),
        ({"recipe.model": {"builder": "os"}}, "is not that of its recipe"),
        ({"dataset.classes": None}, r"dataset\.classes is None"),
        ({"dataset.classes": 1, "dataset.class_names": None}, r"dataset\.classes is 1"),
        ({"dataset.classes": 11, "dataset.class_names": None}, "of a deit_micro with 10 classes, and 11 are needed"),
        ({"dataset.class_names": ["0", "1"]}, r"dataset\.class_names has 2 names for 10 classes"),
        ({"dataset.class_names": list(range(10))}, r"dataset\.class_names is \["),
        ({"weights": "0" * 64}, "damaged, or the weights of another run"),
    ],
)
def test_records_of_no_trained_network_are_refused(copy, changes, match):
    record = read_json(copy / "record.json")
    for path, value in changes.items():
        *sections, key = path.split(".")
        section = record
        for name in sections:
            section = section[name]
        section[key] = {**section[key], **value} if path == "recipe.model" else value
    write_json(copy / "record.json", record)
    with pytest.raises(RecipeError, match=match):
        bench.load(copy)


@pytest.mark.parametrize("content", [b"", b"\x80\x04."])
def test_weights_that_are_not_safetensors_are_refused(copy, content):
    record = read_json(copy / "record.json")
    write_json(copy / "record.json", {**record, "weights": None})
    (copy / "model.safetensors").write_bytes(content)
    with pytest.raises(RecipeError, match="cannot be read"):
        bench.load(copy)


def test_places_without_a_finished_run_are_refused(finished, tmp_path):
    nowhere = "no finished run: there is no such folder"
    for place, words in (
        (tmp_path, "no finished run: it has no record.json yet"),
        (tmp_path / "none", nowhere),
        (finished[0] / "record.json", nowhere),
    ):
        with pytest.raises(RecipeError, match=words):
            bench.load(place)
    with pytest.raises(RecipeError, match="cannot be read"):
        bench.load("a\0b")


def test_a_run_loads_without_the_file_of_its_method(untrained, tmp_path, capsys):
    folder, network = untrained("deit_micro/digits/guided")
    record = read_json(folder / "record.json")
    guidance = {"method": "kd+mine", "params": {"depth": 3}, "schedule": {}, "needs": ["logits", "maps"]}
    record["recipe"]["guidance"] = guidance
    hash_now = recipe_from_dict(record["recipe"], "it").hash
    write_json(folder / "record.json", {**record, "hash": hash_now})
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        assert torch.equal(bench.load(folder).model(images), network(images))
    assert capsys.readouterr() == ("", "")
    export(folder, tmp_path / "out")
    for change in ({"method": "locality"}, {"method": None}, {"method": 3}, {"params": {"depth": 4}}):
        record["recipe"]["guidance"] = guidance | change
        write_json(folder / "record.json", {**record, "hash": hash_now})
        with pytest.raises(RecipeError):
            bench.load(folder)


def test_importing_bench_imports_no_torch():
    code = "import sys, bench, bench.__main__; assert not {'torch', 'pandas'} & set(sys.modules), sys.modules"
    check = "assert 'results' in dir(bench) and not hasattr(bench, 'unload')"
    subprocess.run([sys.executable, "-c", f"{code}; {check}"], check=True)


def test_without_weights_the_command_that_trains_them_is_named(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match=r"not here; this command trains it: python bench/run\.py "):
        bench.load(copy)
    with pytest.raises(RecipeError, match=r"--recipe deit_micro/digits/baseline --protocol quick .* --force"):
        export(copy, tmp_path / "out")
    for committed in (ROOT / "results" / "quick", ROOT / "results" / "quick" / "records.jsonl"):
        with pytest.raises(RecipeError, match="have no weights: `python -m bench sweep quick` trains"):
            bench.load(committed)
