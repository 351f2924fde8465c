from __future__ import annotations

import numpy as np
import pytest

from bench.config.registry import Registry
from bench.config.schema import Data
from bench.data.sources import locate
from bench.data.store import open_dataset, store_folder
from tests.helpers.generated import encode, write_parquet
from tests.helpers.process import Started

DATA = Data(name="tiny", hub="nobody/tiny", image_column="img", label_column="label", classes=3)


def write(folder, split, images, labels):
    write_parquet(folder / "tiny" / f"{split}-00000-of-00001.parquet", {"img": images, "label": labels})


@pytest.fixture
def folder(tmp_path):
    """12 + 5 images of 6 x 7 px."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        pixels = rng.integers(0, 256, (count, 6, 7, 3), dtype=np.uint8)
        write(tmp_path, split, [encode(p) for p in pixels], [i % 3 for i in range(count)])
    return tmp_path


def test_a_dataset_is_decoded_once(folder, capsys):
    dataset = open_dataset(DATA, folder)
    assert (len(dataset.train), len(dataset.test), dataset.train.size) == (12, 5, (6, 7))
    assert dataset.train.labels.tolist() == [i % 3 for i in range(12)]
    expected = np.random.default_rng(0).integers(0, 256, (12, 6, 7, 3), dtype=np.uint8)
    assert np.array_equal(dataset.train.array(), expected) and np.array_equal(dataset.train[4], expected[4])
    described = store_folder(locate(DATA, folder)) / "store.json"
    written = described.stat()
    assert open_dataset(DATA, folder).fingerprint == dataset.fingerprint
    again = described.stat()
    assert (again.st_ino, again.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


@pytest.mark.parametrize("name", ["train.pixels", "test.pixels", "train.npz", "test.npz", "store.json"])
@pytest.mark.parametrize("kept", [None, 0.5], ids=["missing", "cut short"])
def test_an_incomplete_store_is_decoded_again(folder, caplog, name, kept):
    whole = open_dataset(DATA, folder)
    path = store_folder(locate(DATA, folder)) / name
    content = path.read_bytes()
    path.unlink()
    if kept is not None:
        path.write_bytes(content[: int(kept * len(content))])
    again = open_dataset(DATA, folder)
    assert "is damaged and is decoded again" in caplog.text
    assert again.fingerprint == whole.fingerprint and np.array_equal(again.train.array(), whole.train.array())
    assert len(again.test) == 5


def test_a_decoding_that_is_killed_leaves_nothing_that_is_used(folder, tmp_path_factory):
    decode = tmp_path_factory.mktemp("script") / "decode.py"
    decode.write_text(
        "import os, signal, sys; sys.path[:1] = [os.getcwd()]\n"
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
    dataset = open_dataset(DATA, folder)
    other = tmp_path_factory.mktemp("copy")
    pixels = np.array(dataset.train.array())
    write(other, "train", [encode(p, "BMP") for p in pixels], dataset.train.labels.tolist())
    write(other, "test", [encode(dataset.test[i]) for i in range(5)], dataset.test.labels.tolist())
    assert open_dataset(DATA, other).fingerprint == dataset.fingerprint
    pixels[3, 0, 0, 0] ^= 1
    write(other, "train", [encode(p) for p in pixels], dataset.train.labels.tolist())
    assert open_dataset(DATA, other).fingerprint != dataset.fingerprint


def test_digits_are_the_uci_digits():
    dataset = open_dataset(Registry().dataset("digits"), "data")
    assert (len(dataset.train), len(dataset.test), dataset.train.size) == (1437, 360, (8, 8))
    assert np.bincount(dataset.test.labels).min() >= 34  # a fifth of every class
    assert set(np.unique(dataset.train.pixels)) <= set(np.round(np.arange(17) * 255 / 16).astype(int))
    # The teachers and records of the published results are of these pixels.
    assert dataset.fingerprint == "cb620aefdde98021f52e11eb24a3ee6b86f401dfd3ab880e3415545b402e00f8"
