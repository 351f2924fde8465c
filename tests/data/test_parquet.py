from __future__ import annotations

import dataclasses
import functools
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.config.registry import Registry
from bench.config.schema import Data, RecipeError
from bench.data.layouts.parquet import read_hub
from bench.data.store import open_dataset
from tests.helpers.generated import CIFAR100_CLASSES, encode, write_parquet

registry = Registry()
ANIMALS = ["cat", "dog", "elk"]
DATA = Data(name="tiny", image_column="picture", classes=3)


def images(count):
    """Encoded images whose red level is their number."""
    return [encode(np.full((4, 4, 3), (i, 0, 0), np.uint8)) for i in range(count)]


def write_pets(folder, classes=None, **splits):
    """Write parquet files for `hub:owner/pets`. Returns a function of settings that opens them."""
    for split, columns in splits.items():
        count = len(next(iter(columns.values())))
        path = folder / "owner" / "pets" / f"{split}-00000-of-00001.parquet"
        write_parquet(path, {"picture": images(count), **columns}, classes or {})
    return lambda *settings: open_dataset(registry.dataset("hub:owner/pets", settings), folder)


def test_columns_are_found_by_their_types(tmp_path):
    train, test = ({"animal": [0, 1, 2] * n, "note": ["x"] * 3 * n} for n in (2, 1))
    dataset = write_pets(tmp_path, {"animal": ANIMALS}, train=train, test=test)()
    assert dataset.names == tuple(ANIMALS) and len(dataset.test) == 3
    assert dataset.train.labels.tolist() == [0, 1, 2] * 2 and dataset.train.array()[:, 0, 0, 0].tolist() == list(range(6))


@pytest.mark.parametrize("dictionary", [False, True])
def test_labels_may_be_strings(tmp_path, dictionary):
    names = pa.array(["elk", "cat", "elk", "dog"])
    train = {"label": names.dictionary_encode() if dictionary else names.to_pylist()}
    dataset = write_pets(tmp_path, None if dictionary else {}, train=train, test={"label": ["elk"]})()
    assert dataset.names == ("cat", "dog", "elk") and dataset.train.labels.tolist() == [2, 0, 2, 1]
    assert dataset.test.labels.tolist() == [2]


def test_a_name_that_only_the_test_split_has_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"image 0 of split 'test' .*'yak'"):
        write_pets(tmp_path, train={"label": ["elk", "cat"]}, test={"label": ["yak"]})()


def test_of_several_label_columns_one_must_be_chosen(tmp_path):
    columns = {"animal": [0, 1, 2], "mood": [0, 1, 0]}
    open_pets = write_pets(tmp_path, {"animal": ANIMALS, "mood": ["good", "bad"]}, train=columns, test=columns)
    with pytest.raises(RecipeError, match=r"several that could be \(animal, mood\): set data.label_column"):
        open_pets()
    assert open_pets("data.label_column=mood").names == ("good", "bad")
    with pytest.raises(RecipeError, match="no column 'size'; it has picture, animal, mood"):
        open_pets("data.label_column=size")


def test_a_dataset_without_labels_is_refused_with_its_columns(tmp_path):
    columns = {"note": ["x", "y"]}
    with pytest.raises(RecipeError, match=r"which column is the label.* it has picture, note"):
        write_pets(tmp_path, train=columns, test=columns)()


def test_a_validation_split_or_a_share_of_training_replaces_a_missing_test_split(tmp_path):
    labels = {"animal": [0, 1, 2] * 10}
    classes = {"animal": ANIMALS}
    assert len(write_pets(tmp_path / "a", classes, train=labels, validation={"animal": [1]})().test) == 1
    dataset = write_pets(tmp_path / "b", classes, train=labels)("data.test_share=0.3")
    data = registry.dataset("hub:owner/pets", ["data.test_share=0.3"])
    assert dataset.test is None
    assert np.bincount(dataset.evaluation(data).labels).tolist() == [3, 3, 3]
    assert np.bincount(dataset.training(data).labels).tolist() == [7, 7, 7]


@pytest.mark.parametrize("how", ["struct", "bytes", "path"])
def test_images_may_be_structs_bytes_or_paths(tmp_path, how):
    (tmp_path / "1.png").write_bytes(images(2)[1])
    first, second = images(2)
    path = str(tmp_path / "1.png")
    pictures = {
        "struct": [{"bytes": first, "path": None}, {"bytes": None, "path": path}],
        "bytes": [first, second],
        "path": [path, path],
    }[how]
    for split in ("train", "test"):
        (tmp_path / "tiny").mkdir(exist_ok=True)
        pq.write_table(pa.table({"picture": pictures, "label": [0, 1]}), tmp_path / "tiny" / f"{split}.parquet")
    dataset = open_dataset(dataclasses.replace(DATA, classes=2), tmp_path)
    assert dataset.train.array()[:, 0, 0, 0].tolist() == ([1, 1] if how == "path" else [0, 1])


@pytest.fixture
def tiny(tmp_path):
    """A folder with the dataset `DATA`: 12 training and 6 test images."""
    for split, count in (("train", 12), ("test", 6)):
        labels = [i % 3 for i in range(count)]
        write_parquet(tmp_path / "tiny" / f"{split}-00000-of-00001.parquet", {"picture": images(count), "label": labels})
    return tmp_path


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": 2}, ["labels from 0 to 2", "2 classes"]),
        ({"image_column": "image"}, ["no column 'image'", "picture"]),
        ({"label_column": "fine_label"}, ["no column 'fine_label'"]),
        ({"test_split": "valid"}, ["lacks train*.parquet and valid*.parquet"]),
        ({"source": "packaged"}, ["the package holds no dataset 'tiny'"]),
    ],
)
def test_datasets_that_are_not_as_their_recipe_says_are_refused(tiny, change, words):
    with pytest.raises(RecipeError) as caught:
        open_dataset(dataclasses.replace(DATA, **change), tiny)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("labels", [["a", "b"], [0.5, 1.7], [None, 1]])
def test_labels_that_are_no_whole_numbers_are_refused(tiny, labels):
    write_parquet(tiny / "tiny" / "train-00000-of-00001.parquet", {"picture": images(2), "label": labels})
    with pytest.raises(RecipeError, match=r"image 0 of split 'train' .* not a whole number"):
        open_dataset(DATA, tiny)


@pytest.mark.parametrize("split", ["train", "test"])
def test_files_that_are_no_parquet_are_refused(tiny, split):
    (tiny / "tiny" / f"{split}-00000-of-00001.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RecipeError, match="its files cannot be read"):
        open_dataset(DATA, tiny)


def test_a_split_may_have_several_files_and_other_splits_are_left_alone(tiny):
    one = (tiny / "tiny" / "train-00000-of-00001.parquet").read_bytes()
    (tiny / "tiny" / "train_extra-00000-of-00001.parquet").write_bytes(one)
    assert len(open_dataset(DATA, tiny).train) == 12
    (tiny / "tiny" / "plain_text").mkdir()  # a folder of a configuration, as some datasets of the hub have
    for path in list((tiny / "tiny").glob("*.parquet")):
        path.rename(tiny / "tiny" / "plain_text" / path.name)
    (tiny / "tiny" / "plain_text" / "train-00001-of-00001.parquet").write_bytes(one)
    assert len(open_dataset(DATA, tiny).train) == 24


def test_local_files_need_no_hub_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)  # its import raises
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path))
    assert len(open_dataset(registry.dataset("digits"), tmp_path).test) == 360


def test_a_known_dataset_may_be_here_as_parquet_files(tmp_path):
    for split, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        columns = {"img": images(len(labels)), "fine_label": labels}
        write_parquet(tmp_path / "cifar100" / f"{split}.parquet", columns, {"fine_label": CIFAR100_CLASSES})
    dataset = open_dataset(registry.dataset("cifar100", ["data.subset=2"]), tmp_path)
    assert dataset.train.labels.tolist() == [0, 1, 1] and dataset.names == tuple(CIFAR100_CLASSES[:2])


@pytest.mark.parametrize("labels", [[0, 1, 2, 3, 3, 0], ["a", "b", "c", "d", "d", "a"]])
def test_a_subset_of_parquet_files_is_classes_from_all_over_the_dataset(labels, tmp_path):
    for split in ("train", "test"):
        write_parquet(tmp_path / "owner" / "pets" / f"{split}.parquet", {"image": images(6), "label": labels})
    data = registry.dataset("hub:owner/pets", ["data.subset=2"])
    dataset = open_dataset(data, tmp_path)
    assert dataset.train.labels.tolist() == dataset.test.labels.tolist() == [0, 1, 0]  # of 0 and 2, a and c
    assert dataset.names == (("a", "c") if labels[0] == "a" else None)


def test_an_unlabelled_image_is_no_part_of_a_subset(tmp_path):
    for split, label in (("train", 0), ("test", -1)):
        write_parquet(tmp_path / "owner" / "pets" / f"{split}.parquet", {"image": images(3), "label": [0, 1, label]})
    with pytest.raises(
        RecipeError,
        match=r"dataset 'hub:owner/pets' \(.*\): image 2 of split 'test': its label is -1, which no training image has",
    ):
        open_dataset(registry.dataset("hub:owner/pets", ["data.subset=2"]), tmp_path)


def test_a_repository_of_the_hub_is_read_by_its_splits(tmp_path, tmp_path_factory, monkeypatch):
    # `datasets` takes a folder for a repository: the same code as online, without the network
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    repository = tmp_path_factory.mktemp("pets")  # `datasets` takes files below a folder called test_… for a test split
    write = functools.partial(write_parquet, classes={"animal": ANIMALS})
    write(repository / "train.parquet", {"picture": images(2), "animal": [0, 1]})
    write(repository / "validation.parquet", {"picture": images(2), "animal": [2, 0]})
    data = dataclasses.replace(registry.dataset("hub:owner/pets"), hub=str(repository))
    contents = read_hub(data)
    assert contents.classes == tuple(ANIMALS)
    assert [[item.label for item in split] for split in (contents.train, contents.test)] == [[0, 1], [2, 0]]
    both = read_hub(dataclasses.replace(data, train_split="train+validation", test_split="validation"))
    items = list(both.train)
    assert [item.label for item in items] == [0, 1, 2, 0] and [item.load() for item in items] == images(2) * 2
    with pytest.raises(RecipeError, match=r"no split 'valid'; it has train, validation"):
        read_hub(dataclasses.replace(data, test_split="valid", name="tiny_imagenet"))
