from __future__ import annotations

import json
import os
import pickle
import shutil
import tarfile
import zipfile
from io import BytesIO

import numpy as np
import pytest

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.store import open_dataset
from tests.helpers.generated import CIFAR10_CLASSES, CIFAR100_CLASSES, encode, pack, picture, save, write

registry = Registry()
LAYOUTS = ["cifar10", "cifar100", "flowers102", "tiny_imagenet", "chaoyang", "folder"]


def opened(name, folder, *settings):
    return open_dataset(registry.dataset("folder:photos" if name == "folder" else name, settings), folder)


def error_of(name, folder, *settings):
    """The sentence for a dataset that cannot be opened."""
    with pytest.raises(RecipeError) as caught:
        opened(name, folder, *settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def content(images):
    """(label, pixels) of all images of a split, in order."""
    return [(int(label), images[i]) for i, label in enumerate(images.labels)]


def grey(path, level=0):
    save(np.full((4, 4, 3), level, np.uint8), path)


# --- The layouts of the authors -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS)
def test_images_have_the_colours_of_their_classes(name, tmp_path):
    """A layout that assigned labels to wrong images would fail here, whatever its files say."""
    write(name, tmp_path, classes=3, train=4, test=2)
    dataset = opened(name, tmp_path, "data.subset=3")
    assert [np.bincount(split.labels).tolist() for split in (dataset.train, dataset.test)] == [[4] * 3, [2] * 3]
    names = {
        "cifar10": CIFAR10_CLASSES[:3],
        "cifar100": CIFAR100_CLASSES[:3],
        "flowers102": None,
        "tiny_imagenet": [f"thing {i}, object {i}" for i in range(3)],  # the words of WNIDS[:3]
        "chaoyang": ["normal", "serrated", "adenocarcinoma"],
        "folder": ["class_00", "class_01", "class_02"],
    }[name]
    assert dataset.names == (tuple(names) if names else None)
    colours = np.array([picture(np.random.default_rng(0), label, 64, 64).mean((0, 1)) for label in range(3)])
    for label, image in content(dataset.train) + content(dataset.test):
        difference = colours - image.mean((0, 1))
        if (image[..., 0] == image[..., 1]).all():
            difference = difference @ [[0.3], [0.6], [0.1]]
        assert np.abs(difference).sum(1).argmin() == label


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_pixels_and_labels_of_cifar_are_those_of_the_batches(name, tmp_path):
    top = write(name, tmp_path, classes=3, train=4, test=2)
    batches = {"cifar10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]), "cifar100": (["train"], ["test"])}
    dataset = opened(name, tmp_path, "data.subset=3")
    for images, files in zip((dataset.train, dataset.test), batches[name], strict=True):
        held = [pickle.loads((top / file).read_bytes(), encoding="latin1") for file in files]
        pixels = np.concatenate([batch["data"] for batch in held]).reshape(-1, 3, 32, 32)
        assert np.array_equal(images.array().transpose(0, 3, 1, 2), pixels)
        labels = [batch["labels" if name == "cifar10" else "fine_labels"] for batch in held]
        assert images.labels.tolist() == np.concatenate(labels).tolist()


def test_cifar100_has_coarse_labels_too(tmp_path):
    top = write("cifar100", tmp_path, classes=30, train=1, test=1)
    coarse = ["data.label_column=coarse_label", "data.classes=20", "data.train_images=null", "data.test_images=null"]
    dataset = opened("cifar100", tmp_path, *coarse)
    batch = pickle.loads((top / "train").read_bytes(), encoding="latin1")
    assert dataset.train.labels.tolist() == batch["coarse_labels"]
    assert dataset.names[3] == "coarse_03" and len(dataset.names) == 20
    assert "cifar-100-python" in error_of("cifar100", tmp_path, "data.label_column=rough_label", "data.subset=2")


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_an_archive_is_read_as_its_folder(name, kind, tmp_path):
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


def test_lists_of_chaoyang_may_be_in_a_folder_of_their_own(tmp_path):
    top = write("chaoyang", tmp_path, train=2, test=1)
    fingerprint = opened("chaoyang", tmp_path, "data.subset=4").fingerprint
    (top / "json").mkdir()
    for split in ("train", "test"):
        (top / f"{split}.json").rename(top / "json" / f"{split}.json")
    assert opened("chaoyang", tmp_path, "data.subset=4").fingerprint == fingerprint


# --- Missing and damaged files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYOUTS[:-1])
def test_other_counts_than_the_recipe_says_are_refused_and_the_subset_is_named(name, tmp_path):
    write(name, tmp_path, classes=3, train=2, test=1)
    sentence = error_of(name, tmp_path)
    for words in (f"dataset {name!r}", "6 training images", f"recipe says {registry.dataset(name).train_images}"):
        assert words in sentence
    assert "holds 3 of the" in sentence and "--set data.subset=3 allows" in sentence
    assert len(opened(name, tmp_path, "data.subset=3").train) == 6


def test_a_few_missing_images_are_no_subset(tmp_path):
    """All classes are here, so data.subset would hide what is missing."""
    write("chaoyang", tmp_path, train=3, test=1)
    sentence = error_of("chaoyang", tmp_path, "data.train_images=13", "data.test_images=4")
    assert "12 training images, its recipe says 13" in sentence and "subset" not in sentence
    sentence = error_of("chaoyang", tmp_path, "data.train_images=12", "data.test_images=5")
    assert "4 test images, its recipe says 5" in sentence


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_subset_is_classes_from_all_over_the_dataset(name, tmp_path):
    total = 11 if name == "folder" else registry.dataset(name).classes
    write(name, tmp_path, classes=total, train=2, test=1)
    every = opened(name, tmp_path, f"data.subset={total}")
    part = opened(name, tmp_path, "data.subset=3")
    chosen = [0, total // 3, 2 * total // 3]
    assert part.names == (every.names and tuple(every.names[label] for label in chosen))
    for mine, whole, number in ((part.train, every.train, 6), (part.test, every.test, 3)):
        kept = np.flatnonzero(np.isin(whole.labels, chosen))
        assert mine.labels.tolist() == [chosen.index(label) for label in whole.labels[kept]] and len(mine) == number
        assert all(np.array_equal(mine[k], whole[index]) for k, index in enumerate(kept))


def keep_classes(top, kept):
    """Delete the entries of the other labels from the lists of Chaoyang."""
    for split in ("train", "test"):
        entries = json.loads((top / f"{split}.json").read_text())
        (top / f"{split}.json").write_text(json.dumps([entry for entry in entries if entry["label"] in kept]))


def test_a_copy_of_only_the_classes_of_a_subset_has_the_same_images(tmp_path):
    top = write("chaoyang", tmp_path, train=2, test=1)
    whole = opened("chaoyang", tmp_path, "data.subset=2")
    assert whole.names == ("normal", "adenocarcinoma")
    keep_classes(top, {0, 2})
    part = opened("chaoyang", tmp_path, "data.subset=2")
    assert part.fingerprint == whole.fingerprint and part.names == whole.names


def test_a_subset_of_a_copy_that_lacks_other_classes_is_refused(tmp_path):
    """Its classes would not be those of the whole dataset."""
    top = write("chaoyang", tmp_path, train=2, test=1)
    keep_classes(top, {0, 2, 3})
    assert opened("chaoyang", tmp_path, "data.subset=3").names == ("normal", "adenocarcinoma", "adenoma")
    for wanted in (2, 4):
        sentence = error_of("chaoyang", tmp_path, f"data.subset={wanted}")
        assert f"3 of 4 classes have training images: data.subset={wanted} needs all of them" in sentence


def test_a_test_image_of_a_class_without_training_images_is_no_part_of_a_subset(tmp_path):
    top = write("chaoyang", tmp_path, train=2, test=1)
    entries = json.loads((top / "train.json").read_text())
    (top / "train.json").write_text(json.dumps([entry for entry in entries if entry["label"] < 3]))
    assert "its label is 3, which no training image has" in error_of("chaoyang", tmp_path, "data.subset=3")


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
    ],
)
def test_a_missing_file_is_named(name, missing, words, tmp_path):
    top = write(name, tmp_path, classes=2, train=1, test=1)
    path = top / missing
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    sentence = error_of(name, tmp_path, "data.subset=2")
    assert all(word in sentence for word in [str(top), *words]), sentence


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        *(("cifar100", file) for file in ("train", "meta")),
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
    assert str(tmp_path) in error_of(name, tmp_path, "data.subset=2")


@pytest.mark.parametrize("archive", ["cifar-100-python.tar.gz", "tiny-imagenet-200.zip"])
@pytest.mark.parametrize("kept", [0, 0.2, 0.6, 0.95])
def test_an_archive_that_is_cut_short_gives_one_sentence(archive, kept, tmp_path):
    name = "cifar100" if archive.startswith("cifar") else "tiny_imagenet"
    top = write(name, tmp_path, classes=2, train=2, test=1)
    whole = pack(top, tmp_path / archive).read_bytes()
    shutil.rmtree(top)
    (tmp_path / archive).write_bytes(whole[: int(len(whole) * kept)])
    assert str(tmp_path / archive) in error_of(name, tmp_path, "data.subset=2")


@pytest.mark.parametrize("label", [-1, 4, "1", None, True, 1.0])
def test_a_wrong_label_of_chaoyang_is_refused(label, tmp_path):
    top = write("chaoyang", tmp_path, train=1, test=1)
    entries = json.loads((top / "test.json").read_text())
    (top / "test.json").write_text(json.dumps([{**entries[0], "label": label}, *entries[1:]]))
    sentence = error_of("chaoyang", tmp_path, "data.subset=4")
    assert "test.json" in sentence and entries[0]["name"] in sentence and repr(label) in sentence


# --- Hostile files ------------------------------------------------------------------------------------------------------


class Call:
    """Pickles as the call of a function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("file", ["train", "test", "meta"])
@pytest.mark.parametrize("function", [os.system, eval, exec], ids=["system", "eval", "exec in a label"])
def test_a_batch_of_cifar_that_calls_functions_is_refused_and_calls_none(file, function, tmp_path):
    top = write("cifar100", tmp_path, classes=2, train=1, test=1)
    trace = tmp_path / "trace"
    call = Call(function, f"touch {trace}" if function is os.system else f"open({str(trace)!r}, 'w').close()")
    held = pickle.loads((top / file).read_bytes(), encoding="bytes")
    (top / file).write_bytes(pickle.dumps({**held, b"more": [call]} if function is exec else call))
    assert "is not allowed in a CIFAR batch" in error_of("cifar100", tmp_path, "data.subset=2")
    assert not trace.exists()


@pytest.mark.parametrize("kind", ["zip", "tgz"])
@pytest.mark.parametrize("outside", ["../../outside/cat/x.png", "a/../../../outside/cat/x.png", "{}/outside/cat/x.png"])
def test_members_that_point_out_of_an_archive_are_neither_written_nor_followed(kind, outside, tmp_path):
    grey(tmp_path / "outside" / "cat" / "x.png", 255)
    top = write("folder", tmp_path / "in", classes=2, train=2, test=1)
    archive = tmp_path / "data" / f"photos.{kind}"
    archive.parent.mkdir()
    black, hostile = encode(np.zeros((4, 4, 3), np.uint8)), outside.format(tmp_path)
    if kind == "zip":
        with zipfile.ZipFile(pack(top, archive), "a") as out:
            out.writestr(hostile, black)
    else:
        with tarfile.open(archive, "w:gz") as out:
            out.add(top, "photos")
            member = tarfile.TarInfo(hostile)
            member.size = len(black)
            out.addfile(member, BytesIO(black))
            link = tarfile.TarInfo("photos/train/class_00/link.png")
            link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path / "outside" / "cat" / "x.png")
            out.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    try:
        dataset = opened(f"folder:photos.{kind}", tmp_path / "data")
    except RecipeError as error:
        assert "\n" not in str(error)
    else:
        assert not any((image == 255).all() for _, image in content(dataset.train))
        assert not any(".." in name.split("/") for name in dataset.train.names)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_annotations_that_point_outside_are_refused(kind, tmp_path):
    top = write("tiny_imagenet", tmp_path, classes=2, train=1, test=1)
    grey(tmp_path / "secret.JPEG")
    wnid = (top / "wnids.txt").read_text().split()[0]
    (top / "val" / "val_annotations.txt").write_text(f"../../../secret.JPEG\t{wnid}\t0\t0\t1\t1\n")
    if kind == "zip":
        pack(top, tmp_path / "tiny-imagenet-200.zip")
        shutil.rmtree(top)
    assert "../../../secret.JPEG (" in error_of("tiny_imagenet", tmp_path, "data.subset=2")


def test_a_list_of_chaoyang_that_points_outside_is_refused(tmp_path):
    top = write("chaoyang", tmp_path, train=1, test=1)
    grey(tmp_path / "secret.png")
    for name in ("../secret.png", str(tmp_path / "secret.png")):
        (top / "train.json").write_text(json.dumps([{"name": name, "label": 0}]))
        assert f"names {name!r}, which is not there" in error_of("chaoyang", tmp_path, "data.subset=4")


# --- Class folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation"])
def test_class_folders_with_splits_and_other_files(test, tmp_path):
    top = tmp_path / "photos"
    for split in ("train", test):
        grey(top / split / "cat" / "tabby" / "deep" / "1.png", 1)
        grey(top / split / "cat" / "2.PNG", 2)
        grey(top / split / "Dog" / "3.png", 3)
        grey(top / split / "stray.png", 4)
        junk = [".DS_Store", "cat/.DS_Store", "cat/._2.png", "notes.txt", "cat/Thumbs.db", ".hidden/x/x.png"]
        for name in [*junk, "cat/a.pdf", "cat/features.h5", "cat/film.mpg"]:
            (top / split / name).parent.mkdir(parents=True, exist_ok=True)
            (top / split / name).write_bytes(b"junk")
        (top / split / ".empty").mkdir()
    grey(top / "__MACOSX" / "train" / "cat" / "5.png", 5)
    grey(top / "cover.png", 6)
    dataset = opened("folder", tmp_path)
    assert dataset.names == ("Dog", "cat")
    for images in (dataset.train, dataset.test):
        assert [(label, int(image[0, 0, 0])) for label, image in content(images)] == [(0, 3), (1, 2), (1, 1)]


@pytest.mark.parametrize(
    ("folders", "names", "test_level"),
    [
        (["train/cat", "train/dog", "val/cat", "val/dog", "test/cat", "test/dog"], ("cat", "dog"), 4),
        (["Train/cat", "Train/dog", "Test/cat", "Test/dog"], ("cat", "dog"), 2),  # else Train and Test would be classes
        (["train", "plane", "test"], ("plane", "test", "train"), None),
    ],
    ids=["test is preferred to validation", "splits in any case", "a class may be called train"],
)
def test_splits_are_recognised(folders, names, test_level, tmp_path):
    for level, name in enumerate(folders):
        grey(tmp_path / "photos" / name / "1.png", level)
    dataset = opened("folder", tmp_path)
    assert dataset.names == names
    assert test_level == (None if dataset.test is None else dataset.test.pixels.min())


def test_class_folders_may_be_links_but_not_to_a_folder_around_them(tmp_path):
    top = write("folder", tmp_path / "elsewhere", classes=2, train=2, test=1)
    (top / "train" / "again").symlink_to(top, target_is_directory=True)
    (tmp_path / "photos").mkdir()
    for split in ("train", "test"):
        (tmp_path / "photos" / split).symlink_to(top / split, target_is_directory=True)
    for folder in (tmp_path, tmp_path / "elsewhere"):
        dataset = opened("folder", folder)
        assert dataset.names[:2] == ("class_00", "class_01") and len(dataset.train) >= 4
    assert len(dataset.train) == 4


def test_a_broken_link_gives_one_sentence_that_names_it(tmp_path):
    top = write("folder", tmp_path, classes=2, train=1, test=1)
    (top / "train" / "class_00" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    assert "train/class_00/gone.png" in error_of("folder", tmp_path)


def test_class_folders_that_are_no_dataset_are_refused(tmp_path):
    sentence = error_of("folder", tmp_path)
    assert str(tmp_path) in sentence and "looked for photos" in sentence
    grey(tmp_path / "photos" / "train" / "cat" / "1.png")
    grey(tmp_path / "photos" / "test" / "cat" / "1.png")
    assert "two or more class folders with images; 1 found" in error_of("folder", tmp_path)
    grey(tmp_path / "photos" / "train" / "dog" / "1.png")
    grey(tmp_path / "photos" / "test" / "elk" / "1.png")
    assert "test/ has a class that train/ lacks: elk" in error_of("folder", tmp_path)
