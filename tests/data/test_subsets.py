from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.loaders import EvalLoader
from bench.data.store import open_dataset
from bench.data.subsets import DecodedDataset, Images
from tests.helpers.generated import write

registry = Registry()
PHOTOS = "folder:photos"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Classes of 12, 8, 30 and 1 training images, 3 test images each."""
    folder = tmp_path_factory.mktemp("photos")
    top = write("folder", folder, classes=4, train=30, test=3, size=8)
    for label, count in enumerate((12, 8, 30, 1)):
        for path in sorted((top / "train" / f"class_{label:02d}").iterdir())[count:]:
            path.unlink()
    return open_dataset(registry.dataset(PHOTOS), folder)


def subsets(dataset, *settings):
    data = registry.dataset(PHOTOS, [f"data.{setting}" for setting in settings])
    return dataset.training(data), dataset.evaluation(data)


def test_classes_have_names_if_the_source_names_them_all(photos):
    data = registry.dataset(PHOTOS)
    assert photos.class_names(data) == ("class_00", "class_01", "class_02", "class_03")
    assert photos.class_names(registry.dataset(PHOTOS, ["data.classes=5"])) is None
    assert dataclasses.replace(photos, names=None).class_names(data) is None
    digits = registry.dataset("digits")
    assert open_dataset(digits, "data").class_names(digits) == tuple("0123456789")


def test_a_training_limit_keeps_the_same_images_for_all_seeds():
    data = registry.dataset("digits", ["data.train_limit=200"])
    dataset = open_dataset(data, "data")
    training = dataset.training(data)
    kept = training.indices.tolist()
    assert len(kept) == len(set(kept)) == 200 and kept == sorted(kept)
    assert len(set(training.labels.tolist())) == 10 and training.images is dataset.train
    assert np.array_equal(training.labels, dataset.train.labels[kept])
    more = dataset.training(dataclasses.replace(data, train_limit=300)).indices
    assert set(kept) < set(more.tolist())  # a larger limit includes the images of a smaller one
    evaluation = dataset.evaluation(data)
    assert evaluation.images is dataset.test and evaluation.indices.tolist() == list(range(360))


def test_held_out_images_are_a_share_of_each_class_and_none_is_trained_on(photos):
    training, held_out = subsets(photos, "holdout=0.25")
    assert training.images is held_out.images is photos.train  # not the test set
    assert np.bincount(held_out.labels, minlength=4).tolist() == [3, 2, 8, 0]  # a single image is not held out
    assert np.bincount(training.labels).tolist() == [9, 6, 22, 1]
    assert not set(training.indices) & set(held_out.indices)
    assert training.indices.tolist() == sorted(training.indices) and held_out.indices.tolist() == sorted(held_out.indices)
    everything, test = subsets(photos)
    assert len(everything) == 51 and test.images is photos.test and len(test) == 12


def test_all_runs_hold_out_the_same_images(photos):
    def compose(protocol, *settings, seed=0):
        settings = ["data.holdout=0.25", "train.batch_size=8", *settings]
        return registry.compose(f"deit_micro/{PHOTOS}/baseline", protocol, settings, seed=seed)

    recipes = [
        compose("paper"),
        compose("paper", seed=7),
        compose("paper", "train.epochs=900", "data.train_limit=20"),
        compose("quick", "model.image_size=32"),
    ]
    indices = [photos.evaluation(recipe.data).indices.tolist() for recipe in recipes]
    assert all(other == indices[0] for other in indices)
    labels = np.concatenate([labels for _, labels in EvalLoader(recipes[3], photos, torch.device("cpu"))])
    assert labels.tolist() == photos.train.labels[indices[0]].tolist()


def test_a_larger_holdout_includes_the_smaller_one(photos):
    shares = [set(subsets(photos, f"holdout={share}")[1].indices.tolist()) for share in (0.1, 0.3, 0.6, 0.9)]
    assert all(small < large for small, large in itertools.pairwise(shares))
    training, held_out = subsets(photos, "holdout=0.9")
    assert np.bincount(training.labels).tolist() == [1, 1, 3, 1] and len(held_out) == 45  # never a whole class


def test_a_limit_chooses_from_the_images_that_are_not_held_out(photos):
    training, held_out = subsets(photos, "holdout=0.25", "train_limit=20")
    whole, same = subsets(photos, "holdout=0.25")
    assert len(training) == 20 and held_out.indices.tolist() == same.indices.tolist()
    assert set(training.indices) < set(subsets(photos, "holdout=0.25", "train_limit=30")[0].indices) < set(whole.indices)
    with pytest.raises(RecipeError, match="but 38 training images are left"):
        subsets(photos, "holdout=0.25", "train_limit=39")


@pytest.mark.parametrize("settings", [(), ("holdout=0.25",), ("holdout=0.25", "train_limit=9")])
def test_without_a_test_split_a_share_of_training_replaces_it(photos, settings):
    dataset = dataclasses.replace(photos, test=None)
    _, tested = subsets(dataset, "test_share=0.25")
    assert tested.images is photos.train and np.bincount(tested.labels).tolist()[:2] == [3, 2]
    training, evaluation = subsets(dataset, *settings, "test_share=0.25")
    assert not set(training.indices) & set(tested.indices) and not set(training.indices) & set(evaluation.indices)
    if "holdout=0.25" in settings:  # taken from the rest: the test images stay unseen
        assert not set(evaluation.indices) & set(tested.indices) and len(evaluation)
    else:
        assert evaluation.indices.tolist() == tested.indices.tolist()


def test_a_dataset_with_nothing_to_evaluate_on_is_refused():
    train = Images(np.zeros(24, np.uint8), np.full((2, 2), 2, np.int32), np.arange(2), np.array(["a", "b"]))
    with pytest.raises(RecipeError, match=r"data.test_share: no class of folder:photos has two training images"):
        subsets(DecodedDataset(train, None, ("cat", "dog"), "0" * 64))
