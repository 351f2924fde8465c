from __future__ import annotations

import functools
import hashlib
import http.server
import shutil
import threading

import numpy as np
import pytest
import torchvision

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.store import open_dataset
from bench.locks import cache_folder
from tests.helpers.generated import encode, pack, write, write_parquet

DATA = Registry().dataset("cifar100", ["data.subset=3"])


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A local server instead of the real one, with a generated CIFAR-100: (its archive, the requests so far)."""
    top = write("cifar100", tmp_path / "made", classes=3, train=4, test=2)
    (tmp_path / "served").mkdir()
    archive = pack(top, tmp_path / "served" / "cifar-100-python.tar.gz")

    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *words):
            requests.append(form % words)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=tmp_path / "served"))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    known = torchvision.datasets.CIFAR100
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(known, "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setattr(known, "tgz_md5", md5(archive))
    monkeypatch.setattr(known, "train_list", [["train", md5(top / "train")]])
    monkeypatch.setattr(known, "test_list", [["test", md5(top / "test")]])
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": md5(top / "meta")})
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    yield archive, requests
    server.shutdown()
    server.server_close()
    thread.join()


def error_of(folder):
    with pytest.raises(RecipeError) as caught:
        open_dataset(DATA, folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def stores():
    return list((cache_folder() / "datasets").glob("*/store.json"))


def test_a_dataset_that_is_not_here_is_downloaded_once(mirror, tmp_path):
    _, requests = mirror
    fingerprint = open_dataset(DATA, tmp_path / "data").fingerprint
    assert fingerprint == open_dataset(DATA, tmp_path / "made").fingerprint
    count = len(requests)
    assert count and len(stores()) == 2
    shutil.rmtree(tmp_path / "cache")  # the download stays in the data folder
    assert open_dataset(DATA, tmp_path / "data").fingerprint == fingerprint
    assert len(requests) == count


def test_a_download_with_a_wrong_checksum_is_never_used(mirror, tmp_path):
    archive, _ = mirror
    right = archive.read_bytes()
    pack(write("cifar100", tmp_path / "other", classes=3, train=4, test=2, seed=1), archive)  # intact, of other images
    for _ in range(2):  # the second attempt must not take the rest of the first for the dataset
        sentence = error_of(tmp_path / "data")
        assert "its download failed" in sentence and "data.source=hub" in sentence and "uoft-cs/cifar100" in sentence
        assert not stores()
    archive.write_bytes(right)
    assert len(open_dataset(DATA, tmp_path / "data").train) == 12


def test_a_server_that_does_not_answer_gives_one_sentence(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    assert "its download failed" in error_of(tmp_path / "data")
    assert not stores()


def test_an_incomplete_folder_does_not_hide_the_files_beside_it(mirror, tmp_path):
    folder = tmp_path / "data"
    (folder / "cifar-100-python").mkdir(parents=True)
    (folder / "cifar-100-python" / "train").touch()
    assert "cifar-100-python lacks" in error_of(folder)
    columns = {"img": [encode(np.zeros((4, 4, 3), np.uint8))] * 3, "fine_label": [0, 1, 2]}
    for split in ("train", "test"):
        write_parquet(folder / "cifar100" / f"{split}.parquet", columns)
    assert open_dataset(DATA, folder).train.labels.tolist() == [0, 1, 2]
