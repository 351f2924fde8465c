"""Checks of a run before its dataset is decoded: `plan`, `sweep`, `doctor` and bench/run.py say the same sentence."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.config.checks import check_processes, most_training_images
from bench.config.registry import Registry
from bench.config.schema import Data, RecipeError
from bench.data.files import Contents, Item
from bench.data.preflight import Preflight
from bench.data.subsets import DecodedDataset, Images
from tests.helpers.commands import call
from tests.helpers.generated import write

SUITE = """
protocol: quick
models: [deit_micro]
datasets: ["{dataset}"]
guidance: [guided]
seeds: [0]
set: {{{settings}}}
"""


@pytest.mark.parametrize(
    ("dataset", "settings", "sentence"),
    [
        ("chaoyang", "", "dataset 'chaoyang': not in the data folder .*ask its authors"),
        ("folder:none", "", "dataset 'folder:none': not in the data folder"),
        ("folder:photos", "", "train.batch_size: got 32, but there are 10 training images and only whole batches are used"),
        ("folder:photos", "train: {batch_size: 8}", "teacher.train.batch_size: got 64, but there are 10 training images"),
        ("digits", "train: {micro_batch: 5}", "train.micro_batch: 5 does not divide a process's batch of 32"),
        (
            "digits",
            "train: {batch_size: 31}, augment: {mixup: 1}",
            "train.batch_size: 31 on 1 process is 31 for each, allowed",
        ),
        ("digits", "teacher: {train: {micro_batch: 5}}", "teacher.train.micro_batch: 5 does not divide"),
        ("digits", "data: {train_limit: 50}", "train.batch_size: got 64, but there are 50 training images"),
        ("digits", "model: {image_size: 30}", "nearest sizes that fit: 28 px and 32 px"),
    ],
)
def test_plan_sweep_doctor_and_run_say_the_same(tmp_path, monkeypatch, capsys, dataset, settings, sentence):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    write("folder", tmp_path / "data", classes=2, train=5, test=1)
    (tmp_path / "mine" / "suites").mkdir(parents=True)
    (tmp_path / "mine" / "suites" / "one.yaml").write_text(SUITE.format(dataset=dataset, settings=settings))
    folders = ["--recipes-dir", tmp_path / "mine", "--data-dir", tmp_path / "data", "--results-dir", tmp_path / "results"]
    said = [call(capsys, "run.py", "--recipe", f"deit_micro/{dataset}/guided", "--suite", "one", *folders)]
    said += [call(capsys, "bench", *words, *folders) for words in (["sweep", "one"], ["doctor", "one"])]
    planned = call(capsys, "bench", "plan", "one", *folders)
    assert [code for code, *_ in said][:2] == [2, 2] and said[2][0] in (1, 2)
    found = {re.search(f"{sentence}.*", text)[0] for text in (*(err for *_, err in said), "".join(planned[1:]))}
    assert len(found) == 1
    assert not (tmp_path / "results" / "local").exists()


def test_a_batch_that_the_processes_do_not_divide_is_refused():
    with pytest.raises(RecipeError, match=r"train\.batch_size: 32 cannot be divided among 3 processes"):
        check_processes(Registry().compose("deit_micro/digits/baseline", "quick"), 3)


def test_a_dataset_that_would_be_downloaded_is_no_problem(tmp_path):
    preflight = Preflight(tmp_path)
    for recipe_id in ("deit_tiny/cifar100/guided", "deit_tiny/hub:owner/name/baseline", "deit_tiny/digits/baseline"):
        preflight.check(Registry().compose(recipe_id))
    assert list(preflight.downloads.values()) == [
        "dataset 'cifar100': will be downloaded (torchvision)",
        "dataset 'hub:owner/name': will be downloaded (the hub, owner/name)",
    ]


def test_an_incomplete_dataset_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "chaoyang").mkdir()
    (tmp_path / "chaoyang" / "train.json").write_text("[]")
    with pytest.raises(RecipeError, match=r"dataset 'chaoyang': .* lacks .*test\.json"):
        Preflight(tmp_path).check(Registry().compose("deit_tiny/chaoyang/baseline"))


@given(
    st.lists(st.integers(1, 30), min_size=2, max_size=6),
    st.sampled_from([0.0, 0.05, 0.3, 0.9]),
    st.integers(2, 6),
    st.integers(1, 40),
)
def test_no_run_trains_on_more_images_than_the_recipe_promises(counts, holdout, subset, limit):
    items = [Item("", label, bytes) for label in np.repeat(np.arange(len(counts)), counts).tolist()]
    sizes = {"classes": len(counts), "train_images": len(items), "subset": min(subset, len(counts))}
    labels = np.array([item.label for item in Contents(items, None, None).spread(sizes["subset"], RecipeError).train])
    images = Images(np.empty(0, np.uint8), np.empty((0, 2), np.int32), labels, labels.astype(str))
    data = Data(name="x", holdout=holdout, **sizes)
    dataset = DecodedDataset(images, images, None, "")
    training = len(dataset.training(data))
    assert training <= most_training_images(data)
    assert most_training_images(Data(name="x", train_limit=limit, **sizes)) <= limit
