from __future__ import annotations

import dataclasses
import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import command, refused
from PIL import Image
from warm import Started

from bench.data.loaders import EvalLoader
from bench.data.sources import locate
from bench.data.store import open_dataset, store_folder
from bench.config.registry import Registry
from bench.config.schema import Data, RecipeError

DATA = Data(name="tiny", hub="nobody/tiny", image_column="img", label_column="label", classes=3)


def encoded(pixels, mode="RGB"):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, "PNG")
    return file.getvalue()


def write(folder, split, images, labels):
    """A parquet file of the hub's image schema."""
    table = {"img": [{"bytes": b, "path": None} for b in images], "label": labels}
    (folder / "tiny").mkdir(exist_ok=True)
    pq.write_table(pa.table(table), folder / "tiny" / f"{split}-00000-of-00001.parquet")


@pytest.fixture
def folder(tmp_path):
    """12 + 5 images of 6 x 7 px."""
    random = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        pixels = random.integers(0, 256, (count, 6, 7, 3), dtype=np.uint8)
        write(tmp_path, split, [encoded(p) for p in pixels], [i % 3 for i in range(count)])
    return tmp_path


def test_local_parquet_files_are_decoded_once(folder, monkeypatch):
    store = open_dataset(DATA, folder)
    assert (len(store.train), len(store.test), store.train.size) == (12, 5, (6, 7))
    assert store.train.labels.tolist() == [i % 3 for i in range(12)]
    expected = np.random.default_rng(0).integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)
    assert np.array_equal(store.train.array(), expected) and np.array_equal(store.train[4], expected[4])
    monkeypatch.setattr("bench.data.store._decode", None)  # a second look must not decode
    assert open_dataset(DATA, folder).fingerprint == store.fingerprint


@pytest.mark.parametrize("name", ["train.pixels", "test.pixels", "train.npz", "test.npz", "store.json"])
@pytest.mark.parametrize("kept", [None, 0.5], ids=["missing", "cut short"])
def test_a_store_that_is_not_whole_is_made_anew(folder, capsys, name, kept):
    whole = open_dataset(DATA, folder)
    path = store_folder(locate(DATA, folder)) / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content))])
    again = open_dataset(DATA, folder)
    assert "is damaged and is made anew" in capsys.readouterr().err
    assert again.fingerprint == whole.fingerprint and np.array_equal(again.train.array(), whole.train.array())
    assert len(again.test) == 5


def test_decoding_that_is_killed_leaves_nothing_that_is_used(folder, tmp_path_factory):
    decode = tmp_path_factory.mktemp("script") / "decode.py"
    decode.write_text(
        "import os, signal, sys; sys.path[:1] = [os.getcwd(), 'tests']\n"
        "from bench.data import store; from tests.data.test_store import DATA\n"
        "survey = store.survey\n"
        "def slow(source, keep): survey(source, keep); print('written', flush=True); signal.pause()\n"
        "store.survey = slow; store.open_dataset(DATA, sys.argv[1])"
    )
    started = Started(decode, folder)
    assert started.says("written")
    started.kill()
    store = store_folder(locate(DATA, folder))
    assert any(store.parent.glob(f"{store.name}.*.tmp")) and not store.exists()
    assert len(open_dataset(DATA, folder).train) == 12
    assert not any(store.parent.glob(f"{store.name}.*.tmp"))


def test_the_fingerprint_is_of_the_pixels_not_of_the_files(folder, tmp_path_factory):
    store = open_dataset(DATA, folder)
    other = tmp_path_factory.mktemp("copy")
    pixels = np.array(store.train.array())
    write(other, "train", [encoded(p) for p in pixels], store.train.labels.tolist())
    write(other, "test", [encoded(store.test[i]) for i in range(5)], store.test.labels.tolist())
    assert open_dataset(DATA, other).fingerprint == store.fingerprint
    pixels[3, 0, 0, 0] ^= 1
    write(other, "train", [encoded(p) for p in pixels], store.train.labels.tolist())
    assert open_dataset(DATA, other).fingerprint != store.fingerprint


def test_images_of_many_sizes_and_modes(tmp_path):
    random = np.random.default_rng(0)
    shapes = [(5, 9), (8, 8), (12, 4)]
    pixels = [random.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    write(tmp_path, "train", [encoded(p) for p in pixels], [0, 1, 2])
    write(tmp_path, "test", [encoded(p, "L") for p in pixels], [0, 1, 2])
    store = open_dataset(DATA, tmp_path)
    assert store.train.size is None
    assert all(np.array_equal(store.train[i], p) for i, p in enumerate(pixels))
    assert all((store.test[i][..., 0] == store.test[i][..., 1]).all() for i in range(3))
    recipe = Registry().compose("deit_micro/digits/baseline", "quick", ["train.test_batch_size=2"])
    batches = list(EvalLoader(recipe, store, torch.device("cpu")))
    assert [tuple(images.shape) for images, _ in batches] == [(2, 3, 16, 16), (1, 3, 16, 16)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": 13}, ["12 training images", "says 13"]),
        ({"test_images": 4}, ["5 test images", "says 4"]),
        ({"classes": 2}, ["labels from 0 to 2", "2 classes"]),
        ({"image_column": "image"}, ["no column 'image'", "img"]),
        ({"label_column": "fine_label"}, ["no column 'fine_label'"]),
        ({"test_split": "valid"}, ["lacks train*.parquet and valid*.parquet"]),
        ({"source": "packaged"}, ["the package holds no dataset 'tiny'"]),
    ],
)
def test_datasets_that_are_not_as_their_recipe_says(folder, change, words):
    with pytest.raises(RecipeError) as caught:
        open_dataset(dataclasses.replace(DATA, **change), folder)
    for word in words:
        assert word in str(caught.value)


def test_an_image_that_does_not_decode_is_named(folder):
    write(folder, "train", [encoded(np.zeros((4, 4, 3), np.uint8)), b"no image"], [0, 1])
    with pytest.raises(RecipeError, match="image 1 of split 'train'"):
        open_dataset(DATA, folder)


@pytest.mark.parametrize("labels", [["a", "b"], [0.5, 1.7], [None, 1]])
def test_labels_that_are_no_whole_numbers_are_refused(folder, labels):
    write(folder, "train", [encoded(np.zeros((4, 4, 3), np.uint8))] * 2, labels)
    with pytest.raises(RecipeError, match=r"image 0 of split 'train' .* not a whole number"):
        open_dataset(DATA, folder)


def test_files_that_are_no_parquet_are_refused(folder):
    (folder / "tiny" / "train-00000-of-00001.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(RecipeError, match="its files cannot be read"):
        open_dataset(DATA, folder)


def test_other_splits_beside_are_left_alone(folder):
    extra = folder / "tiny" / "train-00000-of-00001.parquet"
    (folder / "tiny" / "train_extra-00000-of-00001.parquet").write_bytes(extra.read_bytes())
    assert len(open_dataset(DATA, folder).train) == 12
    (folder / "tiny" / "plain_text").mkdir()  # a configuration's folder, as some datasets of the hub have
    for split in ("train", "test"):
        name = f"{split}-00000-of-00001.parquet"
        (folder / "tiny" / name).rename(folder / "tiny" / "plain_text" / name)
    assert len(open_dataset(DATA, folder).train) == 12


def test_a_dataset_that_is_nowhere_says_where_to_put_it(tmp_path):
    done = command(
        *(
            "bench/run.py",
            "--recipe",
            "deit_tiny/tiny_imagenet/baseline",
            "--data-dir",
            tmp_path,
            "--results-dir",
            tmp_path / "r",
        )
    )
    refused(done, "<data-dir>/tiny_imagenet/", "zh-plus/tiny-imagenet")


def test_the_training_subset_is_fixed():
    recipe = Registry().compose("deit_micro/digits/baseline", "quick", ["data.train_limit=200"])
    store = open_dataset(recipe.data, "data")
    training = store.training(recipe.data)
    kept = training.indices
    assert len(training) == len(set(kept.tolist())) == 200 and kept.tolist() == sorted(kept.tolist())
    assert len(set(training.labels.tolist())) == 10
    assert np.array_equal(training.labels, store.train.labels[kept]) and training.images is store.train
    more = store.training(dataclasses.replace(recipe.data, train_limit=300)).indices
    assert set(kept.tolist()) < set(more.tolist())  # a larger subset holds the smaller one
    evaluation = store.evaluation(recipe.data)
    assert evaluation.images is store.test and evaluation.indices.tolist() == list(range(360))


def test_digits_are_the_uci_digits():
    store = open_dataset(Registry().compose("deit_micro/digits/baseline", "quick").data, "data")
    assert (len(store.train), len(store.test), store.train.size) == (1437, 360, (8, 8))
    assert np.bincount(store.test.labels).min() >= 34  # a fifth of every class
    assert set(np.unique(store.train.pixels)) <= set(np.round(np.arange(17) * 255 / 16).astype(int))
