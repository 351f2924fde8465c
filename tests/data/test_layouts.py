from __future__ import annotations

import dataclasses
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import torchvision
from generated import HUNDRED, TEN, picture, write
from PIL import Image
from scipy.io import loadmat, savemat

from bench.locks import cache_folder
from bench.data.files import Files
from bench.data.layouts import flowers, parquet
from bench.data.store import open_dataset
from bench.config.registry import Registry
from bench.config.schema import RecipeError

registry = Registry()
NAMES = ["cifar10", "cifar100", "flowers102", "tiny_imagenet", "chaoyang", "folder"]


def opened(name, folder, *settings):
    return open_dataset(registry.dataset("folder:photos" if name == "folder" else name, settings), folder)


def sentence(name, folder, *settings):
    """What is said of a dataset that cannot be opened."""
    with pytest.raises(RecipeError) as caught:
        opened(name, folder, *settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(split):
    """All pixels and labels, in order."""
    return [(int(label), split[i]) for i, label in enumerate(split.labels)]


def same(found, expected):
    assert [label for label, _ in found] == [label for label, _ in expected]
    assert all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, expected, strict=True))


def png(path, level=0, size=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (level, level, level)).save(path)


def pack(top, archive, *, outer="", dot=""):
    """An archive of a folder, which it holds too."""
    files = [path for path in sorted(top.rglob("*"), reverse=True) if path.is_file()]
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as out:
            for path in files:
                out.write(path, f"{outer}{path.relative_to(top.parent)}")
    else:
        with tarfile.open(archive, "w:gz") as out:
            for path in files:
                out.add(path, f"{dot}{outer}{path.relative_to(top.parent)}")
    return archive


# --- The layouts as their authors give them out ------------------------------------------------------------------------


def rgb(path):
    return np.asarray(Image.open(path).convert("RGB"))


def batch(path, labels):
    held = pickle.loads(path.read_bytes(), encoding="latin1")
    return list(zip(held[labels], held["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1), strict=True))


def expected_cifar10(top):
    return (
        [p for i in range(1, 6) for p in batch(top / f"data_batch_{i}", "labels")],
        batch(top / "test_batch", "labels"),
        TEN,
    )


def expected_cifar100(top):
    return *(batch(top / split, "fine_labels") for split in ("train", "test")), HUNDRED


def expected_flowers102(top):
    labels = loadmat(top / "imagelabels.mat")["labels"].ravel().astype(int)
    sets = loadmat(top / "setid.mat")

    def of(*names):
        ids = [int(i) for name in names for i in sets[name].ravel()]
        return [(labels[i - 1] - 1, rgb(top / "jpg" / f"image_{i:05d}.jpg")) for i in ids]

    return of("trnid", "valid"), of("tstid"), None


def expected_tiny_imagenet(top):
    wnids = sorted((top / "wnids.txt").read_text().split())
    train = [(i, rgb(path)) for i, w in enumerate(wnids) for path in sorted((top / "train" / w / "images").iterdir())]
    lines = [line.split("\t") for line in (top / "val" / "val_annotations.txt").read_text().splitlines()]
    return train, [(wnids.index(line[1]), rgb(top / "val" / "images" / line[0])) for line in lines], wnids


def expected_chaoyang(top):
    def of(split):
        return [(entry["label"], rgb(top / entry["name"])) for entry in json.loads((top / f"{split}.json").read_text())]

    return of("train"), of("test"), ["normal", "serrated", "adenocarcinoma", "adenoma"]


def expected_folder(top):
    names = sorted(path.name for path in (top / "train").iterdir())

    def of(split):
        return [(i, rgb(path)) for i, name in enumerate(names) for path in sorted((top / split / name).iterdir())]

    return of("train"), of("test"), names


@pytest.mark.parametrize("name", NAMES)
def test_images_labels_names_and_order_are_those_of_the_files(name, tmp_path):
    top = write(name, tmp_path, classes=3, train=4, test=2)
    train, test, classes = globals()[f"expected_{name}"](top)
    store = opened(name, tmp_path, "data.subset=3")
    same(content(store.train), train)
    same(content(store.test), test)
    assert store.names == (tuple(classes) if classes else None)
    assert [len(train), len(test)] == [12, 6] and len({label for label, _ in train}) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_generated_image_shows_its_class(name, tmp_path):
    """A layout that shifts labels against images would be found here, whatever the layout's files say."""
    write(name, tmp_path, classes=3, train=4, test=2)
    store = opened(name, tmp_path, "data.subset=3")
    colours = [picture(np.random.default_rng(0), label, 64, 64).mean((0, 1)) for label in range(3)]
    for label, image in content(store.train) + content(store.test):
        grey = (image[..., 0] == image[..., 1]).all()
        away = [
            abs(np.dot(c - image.mean((0, 1)), [0.3, 0.6, 0.1])) if grey else abs(c - image.mean((0, 1))).sum()
            for c in colours
        ]
        assert int(np.argmin(away)) == label


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("name", NAMES)
def test_an_archive_holds_what_its_folder_holds(name, kind, tmp_path):
    top = write(name, tmp_path / "a", classes=2, train=3, test=2)
    (tmp_path / "b").mkdir()
    pack(top, tmp_path / "b" / f"held.{kind}", outer="wrapped/", dot="./")
    folder = opened(name, tmp_path / "a", "data.subset=2")
    archive = opened(name, tmp_path / "b", "data.subset=2", f"data.places=[held.{kind}]")
    assert archive.fingerprint == folder.fingerprint and archive.names == folder.names
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == [f"held.{kind}"]  # nothing was unpacked


@pytest.mark.parametrize(
    ("name", "archive"),
    [
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("tiny_imagenet", "tiny-imagenet-200.zip"),
        ("chaoyang", "chaoyang-data.zip"),
        ("folder", "photos.zip"),
        ("folder", "photos.tgz"),
        ("folder:photos.zip", "photos.zip"),
    ],
)
def test_official_archives_are_found_by_their_names(name, archive, tmp_path):
    top = write(name.partition(":")[0], tmp_path, classes=2, train=2, test=1)
    pack(top, tmp_path / archive)
    shutil.rmtree(top)
    assert len(opened(name, tmp_path, "data.subset=2").train) == 4


@pytest.mark.parametrize("place", ["flowers", "flowers-102"])
def test_flowers_may_stay_in_their_archive_beside_the_labels(place, tmp_path):
    top = write("flowers102", tmp_path, classes=2, train=2, test=1)
    fingerprint = opened("flowers102", tmp_path, "data.subset=2").fingerprint
    pack(top / "jpg", top / "102flowers.tgz")
    shutil.rmtree(top / "jpg")
    top.rename(tmp_path / place)
    assert opened("flowers102", tmp_path, "data.subset=2").fingerprint == fingerprint


def test_chaoyang_lists_may_lie_in_a_folder_of_their_own(tmp_path):
    top = write("chaoyang", tmp_path, train=2, test=1)
    fingerprint = opened("chaoyang", tmp_path, "data.subset=4").fingerprint
    (top / "json").mkdir()
    for split in ("train", "test"):
        (top / f"{split}.json").rename(top / "json" / f"{split}.json")
    assert opened("chaoyang", tmp_path, "data.subset=4").fingerprint == fingerprint
    pack(top, tmp_path / "chaoyang-data.zip")
    shutil.rmtree(top)
    assert opened("chaoyang", tmp_path, "data.subset=4").fingerprint == fingerprint


def test_cifar100_has_coarse_labels_too(tmp_path):
    top = write("cifar100", tmp_path, classes=30, train=1, test=1)
    coarse = ["data.label_column=coarse_label", "data.classes=20", "data.train_images=null", "data.test_images=null"]
    store = opened("cifar100", tmp_path, *coarse)
    assert store.train.labels.tolist() == [label for label, _ in batch(top / "train", "coarse_labels")]
    assert store.names[3] == "coarse_03" and len(store.names) == 20
    assert "cifar-100-python" in sentence("cifar100", tmp_path, "data.label_column=rough_label", "data.subset=2")


# --- What is not as it should be ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "flowers102", "tiny_imagenet", "chaoyang"])
def test_fewer_images_than_the_recipe_says_are_counted_and_the_way_out_is_named(name, tmp_path):
    write(name, tmp_path, classes=3, train=2, test=1)
    said = sentence(name, tmp_path)
    for word in (f"dataset {name!r}", "6 training images", f"recipe says {registry.dataset(name).train_images}"):
        assert word in said
    assert "holds 3 of the" in said and "--set data.subset=3 admits" in said
    assert len(opened(name, tmp_path, "data.subset=3").train) == 6


def test_a_few_images_that_lack_are_no_subset(tmp_path):
    """All classes are there, so data.subset would hide what is missing."""
    write("chaoyang", tmp_path, train=3, test=1)
    said = sentence("chaoyang", tmp_path, "data.train_images=13", "data.test_images=4")
    assert "12 training images, its recipe says 13" in said and "subset" not in said
    assert "4 test images, its recipe says 5" in sentence(
        "chaoyang", tmp_path, "data.train_images=12", "data.test_images=5"
    )


def test_a_subset_needs_all_of_its_classes(tmp_path):
    top = write("chaoyang", tmp_path, train=2, test=1)
    for split in ("train", "test"):
        entries = json.loads((top / f"{split}.json").read_text())
        (top / f"{split}.json").write_text(json.dumps([entry for entry in entries if entry["label"] in (0, 2, 3)]))
    assert "data.subset says 3" in sentence("chaoyang", tmp_path, "data.subset=3")  # 0, 1, 2: there is no 1
    assert "data.subset says 4" in sentence("chaoyang", tmp_path, "data.subset=4")


@pytest.mark.parametrize(
    ("name", "missing", "words"),
    [
        ("cifar10", "data_batch_3", ["lacks", "data_batch_1"]),
        ("cifar100", "meta", ["lacks", "train, test or meta"]),
        ("flowers102", "setid.mat", ["lacks imagelabels.mat or setid.mat"]),
        ("flowers102", "jpg", ["lacks both jpg/image_00001.jpg and 102flowers.tgz"]),
        ("tiny_imagenet", "val/val_annotations.txt", ["lacks val/val_annotations.txt"]),
        ("tiny_imagenet", "train", ["lacks train/<class>/images/*.JPEG"]),
        ("chaoyang", "test.json", ["lacks train.json or test.json"]),
        ("folder", "train", ["lacks two or more class folders"]),
    ],
)
def test_a_missing_file_is_named(name, missing, words, tmp_path):
    top = write(name, tmp_path, classes=2, train=1, test=1)
    path = top / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if name == "folder":
        shutil.rmtree(top / "test")
        (top / "notes.txt").touch()
    said = sentence(name, tmp_path, "data.subset=2")
    assert all(word in said for word in [str(top), *words]), said


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        *(("cifar100", file) for file in ("train", "test", "meta")),
        *(("flowers102", file) for file in ("setid.mat", "imagelabels.mat")),
        ("tiny_imagenet", "val/val_annotations.txt"),
        ("chaoyang", "train.json"),
    ],
)
@pytest.mark.parametrize("how", ["cut", "noise", "empty"])
def test_a_damaged_list_gives_one_sentence(name, damaged, how, tmp_path):
    path = write(name, tmp_path, classes=2, train=2, test=1) / damaged
    whole = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, 300, dtype=np.uint8).tobytes()
    path.write_bytes({"cut": whole[: len(whole) * 2 // 3], "noise": noise, "empty": b""}[how])
    assert str(tmp_path) in sentence(name, tmp_path, "data.subset=2")


@pytest.mark.parametrize("archive", ["cifar-100-python.tar.gz", "tiny-imagenet-200.zip"])
@pytest.mark.parametrize("kept", [0, 0.2, 0.6, 0.95])
def test_an_archive_cut_short_gives_one_sentence(archive, kept, tmp_path):
    name = "cifar100" if archive.startswith("cifar") else "tiny_imagenet"
    top = write(name, tmp_path, classes=2, train=2, test=1)
    whole = pack(top, tmp_path / archive).read_bytes()
    shutil.rmtree(top)
    (tmp_path / archive).write_bytes(whole[: int(len(whole) * kept)])
    assert str(tmp_path / archive) in sentence(name, tmp_path, "data.subset=2")


@pytest.mark.parametrize("label", [-1, 4, "1", None, True, 1.0])
def test_a_label_of_chaoyang_that_is_none_is_refused(label, tmp_path):
    top = write("chaoyang", tmp_path, train=1, test=1)
    entries = json.loads((top / "test.json").read_text())
    (top / "test.json").write_text(json.dumps([{**entries[0], "label": label}, *entries[1:]]))
    said = sentence("chaoyang", tmp_path, "data.subset=4")
    assert "test.json" in said and entries[0]["name"] in said and repr(label) in said


# --- Files that mean harm ----------------------------------------------------------------------------------------------


class Harm:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("file", ["train", "test", "meta"])
@pytest.mark.parametrize("harm", ["system", "eval", "exec in a label"])
def test_a_batch_of_cifar_that_runs_code_is_refused_and_runs_nothing(file, harm, tmp_path):
    top = write("cifar100", tmp_path, classes=2, train=1, test=1)
    trace = tmp_path / "trace"
    code = f"open({str(trace)!r}, 'w').close()"
    held = pickle.loads((top / file).read_bytes(), encoding="bytes")
    evil = {"system": Harm(os.system, f"touch {trace}"), "eval": Harm(eval, code), "exec in a label": Harm(exec, code)}[
        harm
    ]
    (top / file).write_bytes(pickle.dumps({**held, b"more": [evil]} if harm.startswith("exec") else evil))
    said = sentence("cifar100", tmp_path, "data.subset=2")
    assert "has no place in a batch of CIFAR" in said and not trace.exists()


def tree(folder):
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("outside", ["../../outside/cat/x.png", "a/../../../outside/cat/x.png", "{}/outside/cat/x.png"])
def test_members_that_point_out_of_an_archive_are_written_and_read_nowhere(kind, outside, tmp_path):
    png(tmp_path / "outside" / "cat" / "x.png", 255)
    top = write("folder", tmp_path / "in", classes=2, train=2, test=1)
    archive = tmp_path / "data" / f"photos.{kind}"
    archive.parent.mkdir()
    black = io.BytesIO()
    Image.new("RGB", (4, 4)).save(black, "PNG")
    evil = outside.format(tmp_path)
    if kind == "zip":
        with zipfile.ZipFile(pack(top, archive), "a") as out:
            out.writestr(evil, black.getvalue())
    else:
        with tarfile.open(archive, "w:gz") as out:
            out.add(top, "photos")
            member = tarfile.TarInfo(evil)
            member.size = len(black.getvalue())
            out.addfile(member, io.BytesIO(black.getvalue()))
            link = tarfile.TarInfo("photos/train/class_00/link.png")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside" / "cat" / "x.png")
            out.addfile(link)
    before = tree(tmp_path)
    try:
        store = opened(f"folder:photos.{kind}", tmp_path / "data")
    except RecipeError as error:
        assert "\n" not in str(error)
    else:
        assert not any((image == 255).all() for _, image in content(store.train))
        assert not any(".." in name.split("/") for name in store.train.names)
    assert tree(tmp_path) == before


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_annotations_that_point_outside_are_refused(kind, tmp_path):
    top = write("tiny_imagenet", tmp_path, classes=2, train=1, test=1)
    png(tmp_path / "secret.JPEG")
    wnid = (top / "wnids.txt").read_text().split()[0]
    (top / "val" / "val_annotations.txt").write_text(f"../../../secret.JPEG\t{wnid}\t0\t0\t1\t1\n")
    if kind == "zip":
        pack(top, tmp_path / "tiny-imagenet-200.zip")
        shutil.rmtree(top)
    assert "../../../secret.JPEG (" in sentence("tiny_imagenet", tmp_path, "data.subset=2")


def test_a_list_of_chaoyang_that_points_outside_is_refused(tmp_path):
    top = write("chaoyang", tmp_path, train=1, test=1)
    png(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        (top / "train.json").write_text(json.dumps([{"name": name, "label": 0}]))
        assert f"names {name!r}, which is not there" in sentence("chaoyang", tmp_path, "data.subset=4")


# --- Class folders -----------------------------------------------------------------------------------------------------


def test_class_folders_without_splits_lend_a_share_of_each_class_to_testing(tmp_path):
    for label, name in enumerate(("cat", "dog")):
        for i in range(10):
            png(tmp_path / "photos" / name / f"{i}.png", 100 * label + i)
    data = registry.dataset("folder:photos")
    store = open_dataset(data, tmp_path)
    assert store.test is None and store.names == ("cat", "dog") and store.classes(data) == 2
    training, evaluation = store.training(data), store.evaluation(data)
    assert np.bincount(training.labels).tolist() == [8, 8] and np.bincount(evaluation.labels).tolist() == [2, 2]
    assert not set(training.indices) & set(evaluation.indices)


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_class_folders_with_splits_and_everything_that_lies_about(test, tmp_path):
    top = tmp_path / "photos"
    for split in ("train", test):
        png(top / split / "cat" / "tabby" / "deep" / "1.png", 1)
        png(top / split / "cat" / "2.PNG", 2)
        png(top / split / "Dog" / "3.png", 3)
        png(top / split / "stray.png", 4)
        for junk in (
            ".DS_Store",
            "cat/.DS_Store",
            "cat/._2.png",
            "notes.txt",
            "cat/Thumbs.db",
            ".hidden/x/x.png",
        ):
            (top / split / junk).parent.mkdir(parents=True, exist_ok=True)
            (top / split / junk).write_bytes(b"junk")
        (top / split / "empty").mkdir()
    png(top / "__MACOSX" / "train" / "cat" / "5.png", 5)
    png(top / "cover.png", 6)
    store = opened("folder", tmp_path)
    assert store.names == ("Dog", "cat")
    for split in (store.train, store.test):
        assert [(label, int(image[0, 0, 0])) for label, image in content(split)] == [(0, 3), (1, 2), (1, 1)]


@pytest.mark.parametrize("junk", ["a.pdf", "features.h5", "film.mpg"])
def test_files_that_no_image_viewer_opens_are_left_alone(junk, tmp_path):
    top = write("folder", tmp_path, classes=2, train=1, test=1)
    (top / "train" / "class_00" / junk).write_bytes(b"junk")
    assert len(opened("folder", tmp_path).train) == 2


def test_a_link_that_leads_nowhere_gives_one_sentence_that_names_it(tmp_path):
    top = write("folder", tmp_path, classes=2, train=1, test=1)
    (top / "train" / "class_00" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "train/class_00/gone.png" in sentence("folder", tmp_path)


def test_test_is_preferred_to_validation(tmp_path):
    for i, split in enumerate(("train", "val", "test")):
        for name in ("cat", "dog"):
            png(tmp_path / "photos" / split / name / "1.png", i)
    store = opened("folder", tmp_path)
    assert (store.test.pixels == 2).all() and (store.train.pixels == 0).all()


def test_splits_are_told_by_their_names_in_any_case(tmp_path):
    """Else a network would learn to tell Train from Test."""
    for split in ("Train", "Test"):
        for name in ("cat", "dog"):
            png(tmp_path / "photos" / split / name / "1.png")
    assert opened("folder", tmp_path).names == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "plane", "test"):
        for i in range(3):
            png(tmp_path / "photos" / name / f"{i}.png")
    assert opened("folder", tmp_path).names == ("plane", "test", "train")


def test_class_folders_may_be_links(tmp_path):
    top = write("folder", tmp_path / "elsewhere", classes=2, train=2, test=1)
    (tmp_path / "photos").mkdir()
    for split in ("train", "test"):
        (tmp_path / "photos" / split).symlink_to(top / split, target_is_directory=True)
    assert len(opened("folder", tmp_path).train) == 4


def test_a_link_to_a_folder_that_it_lies_in_is_not_followed(tmp_path):
    top = write("folder", tmp_path, classes=2, train=2, test=1)
    (top / "train" / "again").symlink_to(top, target_is_directory=True)
    store = opened("folder", tmp_path)
    assert len(store.train) == 4 and store.names == ("class_00", "class_01")


def test_one_class_alone_is_refused(tmp_path):
    png(tmp_path / "photos" / "train" / "cat" / "1.png")
    png(tmp_path / "photos" / "test" / "cat" / "1.png")
    assert "two or more class folders with images; 1 found" in sentence("folder", tmp_path)
    png(tmp_path / "photos" / "train" / "dog" / "1.png")
    png(tmp_path / "photos" / "test" / "elk" / "1.png")
    assert "test/ has a class that train/ has not: elk" in sentence("folder", tmp_path)


def test_a_folder_that_is_not_there_is_looked_for_by_name(tmp_path):
    said = sentence("folder", tmp_path)
    assert str(tmp_path) in said and "looked for photos" in said


# --- Parquet files of the hub -------------------------------------------------------------------------------------------


def class_label(names):
    import datasets  # not while tests are collected: the cache and the network are not closed to it yet

    return datasets.ClassLabel(names=names)


def rows(count, features, **columns):
    """A table of images, whose red is their number, with the columns given."""
    import datasets

    images = []
    for i in range(count):
        file = io.BytesIO()
        Image.new("RGB", (4, 4), (i, 0, 0)).save(file, "PNG")
        images.append({"bytes": file.getvalue(), "path": f"{i}.png"})
    kinds = {name: datasets.Value(kind) if isinstance(kind, str) else kind for name, kind in features.items()}
    kinds = datasets.Features({"picture": datasets.Image(), **kinds})
    return datasets.Dataset.from_dict({"picture": images, **columns}, features=kinds)


def hub(folder, **splits):
    (folder / "owner" / "pets").mkdir(parents=True)
    for split, table in splits.items():
        table.to_parquet(folder / "owner" / "pets" / f"{split}-00000-of-00001.parquet")
    return functools.partial(opened, "hub:owner/pets", folder)


@pytest.fixture
def animal():
    return class_label(["cat", "dog", "elk"])


def test_columns_of_the_hub_are_found_by_their_type(tmp_path, animal):
    table = rows(6, {"animal": animal, "note": "string"}, animal=[0, 1, 2] * 2, note=["x"] * 6)
    store = hub(tmp_path, train=table, test=table.select(range(3)))()
    assert store.names == ("cat", "dog", "elk") and len(store.test) == 3
    assert [(label, int(image[0, 0, 0])) for label, image in content(store.train)] == [(i % 3, i) for i in range(6)]


def test_labels_of_the_hub_may_be_texts(tmp_path):
    table = rows(4, {"label": "string"}, label=["elk", "cat", "elk", "dog"])
    store = hub(tmp_path, train=table, test=table.select([0]))()
    assert store.names == ("cat", "dog", "elk") and store.train.labels.tolist() == [2, 0, 2, 1]
    assert store.test.labels.tolist() == [2]


def test_a_text_that_training_never_saw_is_refused(tmp_path):
    train = rows(2, {"label": "string"}, label=["elk", "cat"])
    test = rows(1, {"label": "string"}, label=["yak"])
    with pytest.raises(RecipeError, match=r"image 0 of split 'test' .*'yak'"):
        hub(tmp_path, train=train, test=test)()


def test_of_several_labels_one_must_be_chosen(tmp_path, animal):
    table = rows(3, {"animal": animal, "mood": class_label(["good", "bad"])}, animal=[0, 1, 2], mood=[0, 1, 0])
    open_it = hub(tmp_path, train=table, test=table)
    with pytest.raises(RecipeError, match=r"several that could be \(animal, mood\): set data.label_column"):
        open_it()
    assert open_it("data.label_column=mood").names == ("good", "bad")
    with pytest.raises(RecipeError, match="no column 'size'; it has picture, animal, mood"):
        open_it("data.label_column=size")


def test_a_dataset_of_the_hub_without_a_label_says_what_it_has(tmp_path):
    table = rows(2, {"note": "string"}, note=["x", "y"])
    with pytest.raises(RecipeError, match=r"which column is the label.* it has picture, note"):
        hub(tmp_path, train=table, test=table)()


def test_validation_serves_where_there_is_no_test_split(tmp_path, animal):
    table = rows(3, {"animal": animal}, animal=[0, 1, 2])
    assert len(hub(tmp_path, train=table, validation=table.select([1]))().test) == 1


def test_a_share_of_training_serves_where_there_is_no_other_split(tmp_path, animal):
    store = hub(tmp_path, train=rows(30, {"animal": animal}, animal=[0, 1, 2] * 10))()
    data = registry.dataset("hub:owner/pets", ["data.test_share=0.3"])
    assert store.test is None
    assert np.bincount(store.evaluation(data).labels).tolist() == [3, 3, 3]
    assert np.bincount(store.training(data).labels).tolist() == [7, 7, 7]


def parquet_of_cifar100(folder):
    (folder / "cifar100").mkdir()
    for split, labels in (("train", [0, 1, 1]), ("test", [1, 0])):
        table = rows(len(labels), {"fine_label": class_label(HUNDRED)}, fine_label=labels)
        table.rename_column("picture", "img").to_parquet(folder / "cifar100" / f"{split}.parquet")


def test_a_repository_of_the_hub_is_read_by_its_splits(tmp_path, animal, monkeypatch):
    # `datasets` takes a folder for a repository: the same code as online, without the network
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    for split, labels in (("train", [0, 1]), ("validation", [2, 0])):
        rows(2, {"animal": animal}, animal=labels).to_parquet(tmp_path / f"{split}.parquet")
    data = dataclasses.replace(registry.dataset("hub:owner/pets"), hub=str(tmp_path))
    contents = parquet.read_hub(data)
    assert [[item.label for item in split] for split in (contents.train, contents.test)] == [[0, 1], [2, 0]]
    both = parquet.read_hub(dataclasses.replace(data, train_split="train+validation", test_split="validation"))
    assert [item.label for item in both.train] == [0, 1, 2, 0]
    with pytest.raises(RecipeError, match=r"no split 'valid'; it has train, validation"):
        parquet.read_hub(dataclasses.replace(data, test_split="valid", name="tiny_imagenet"))


def test_a_known_dataset_may_lie_there_as_parquet_files_of_the_hub(tmp_path):
    parquet_of_cifar100(tmp_path)
    assert opened("cifar100", tmp_path, "data.subset=2").train.labels.tolist() == [0, 1, 1]


# --- The label order of Flowers ----------------------------------------------------------------------------------------


def test_flowers_labels_are_compared_with_those_of_their_authors(tmp_path):
    top = write("flowers102", tmp_path, classes=4, train=2, test=3)
    labels = loadmat(top / "imagelabels.mat")["labels"]
    sets = loadmat(top / "setid.mat")
    dropped = next(i for i in sets["tstid"].ravel() if labels[0, i - 1] == 2)  # classes are told by their counts
    savemat(
        top / "setid.mat",
        {**{k: sets[k] for k in ("trnid", "valid")}, "tstid": sets["tstid"][sets["tstid"] != dropped][None]},
    )
    store = opened("flowers102", tmp_path, "data.subset=4")
    assert flowers.verify(Files(top), store.train.labels, store.test.labels) == []
    renumbered = np.array([0, 2, 1, 3])
    (said,) = flowers.verify(Files(top), renumbered[store.train.labels], renumbered[store.test.labels])
    assert "test images" in said and "another order" in said


# --- torchvision's download --------------------------------------------------------------------------------------------


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A server on this machine in place of the real one, with a generated CIFAR-100 in place of the real one."""
    top = write("cifar100", tmp_path / "made", classes=3, train=4, test=2)
    (tmp_path / "served").mkdir()
    archive = pack(top, tmp_path / "served" / "cifar-100-python.tar.gz")

    def md5(path):
        return hashlib.md5(path.read_bytes()).hexdigest()

    asked = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, form, *words):
            asked.append(form % words)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tmp_path / "served"))
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
    yield top, archive, asked
    server.shutdown()
    server.server_close()
    thread.join()


def stores():
    return list((cache_folder() / "datasets").glob("*/store.json"))


def test_a_dataset_that_is_not_here_is_downloaded_once(mirror, tmp_path):
    top, _, asked = mirror
    store = opened("cifar100", tmp_path / "data", "data.subset=3")
    train, test, _ = expected_cifar100(top)
    same(content(store.train), train)
    same(content(store.test), test)
    requests = len(asked)
    assert requests and opened("cifar100", tmp_path / "data", "data.subset=3").fingerprint == store.fingerprint
    assert len(asked) == requests and len(stores()) == 1
    shutil.rmtree(tmp_path / "cache")  # what was fetched stays
    assert opened("cifar100", tmp_path / "data", "data.subset=3").fingerprint == store.fingerprint
    assert len(asked) == requests


def test_a_download_with_a_wrong_checksum_is_never_used(mirror, tmp_path):
    _, archive, _ = mirror
    right = archive.read_bytes()
    other = write("cifar100", tmp_path / "other", classes=3, train=4, test=2, seed=1)
    pack(other, archive)  # a whole archive, of other images
    for _ in range(2):  # what the first attempt left behind must not be taken for the dataset by the second
        said = sentence("cifar100", tmp_path / "data", "data.subset=3")
        assert "its download failed" in said and "data.source=hub" in said and "uoft-cs/cifar100" in said
        assert not stores()
    archive.write_bytes(right)
    assert len(opened("cifar100", tmp_path / "data", "data.subset=3").train) == 12


def test_a_server_that_does_not_answer_gives_one_sentence(mirror, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR100, "url", "http://127.0.0.1:9/cifar-100-python.tar.gz")
    assert "its download failed" in sentence("cifar100", tmp_path / "data", "data.subset=3")
    assert not stores()


def test_a_folder_without_the_dataset_does_not_hide_the_files_beside_it(tmp_path):
    (tmp_path / "cifar-100-python").mkdir()
    assert "its download failed" in sentence("cifar100", tmp_path, "data.subset=2")  # an empty folder is as good as none
    (tmp_path / "cifar-100-python" / "train").touch()
    assert "cifar-100-python lacks" in sentence("cifar100", tmp_path, "data.subset=2")
    parquet_of_cifar100(tmp_path)
    assert opened("cifar100", tmp_path, "data.subset=2").train.labels.tolist() == [0, 1, 1]
