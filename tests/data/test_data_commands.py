from __future__ import annotations

import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from bench.__main__ import main
from tests.helpers.generated import encode, write, write_parquet
from tests.helpers.process import command, refused

PHOTOS = "folder:photos"


@pytest.fixture
def data(monkeypatch, capsys, tmp_path):
    """A function that runs `python -m bench data` in this process, with a cache of the test's own."""
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))

    def call(*words, check=False):
        code = main(["data", *map(str, words)])
        done = subprocess.CompletedProcess(words, code, *capsys.readouterr())
        assert not check or code == 0, done.stderr
        return done

    return call


def row(done, name):
    """The cells of a dataset in the table of `list`."""
    line = next(line for line in done.stdout.splitlines() if line.startswith(name + " "))
    return re.split(r"\s{2,}", line.strip())


def test_a_dataset_is_listed_prepared_and_checked(tmp_path, data):
    write("chaoyang", tmp_path / "data", train=2, test=1)
    before = data("list", "--data-dir", tmp_path / "data", check=True)
    assert row(before, "chaoyang")[1:5] == ["4", "4,021", "2,139", "yes"]
    assert row(before, "cifar100")[1:5] == ["100", "50,000", "10,000", "no"]
    assert "torchvision.datasets.CIFAR100, or the hub: uoft-cs/cifar100" in before.stdout
    assert "https://bupt-ai-cz.github.io/HSA-NRL/" in before.stdout and row(before, "digits")[4] == "yes"
    sizes = ["--set", "data.train_images=8", "--set", "data.test_images=4"]
    chaoyang = ["chaoyang", "--data-dir", tmp_path / "data", *sizes]
    prepared = data("prepare", *chaoyang, check=True)
    assert "8 training images of 4 classes, 2 per class, 64x64 px" in prepared.stdout
    assert "4 test images of 4 classes, 1 per class" in prepared.stdout
    assert "4 classes; a run trains on 8 images and is evaluated on 4 test images" in prepared.stdout
    after = row(data("list", "--data-dir", tmp_path / "data", check=True), "chaoyang")
    assert after[1:6] == ["4", "8", "4", "64x64 px", "decoded"]
    checked = data("check", *chaoyang, check=True)
    (fingerprint,) = re.findall("fingerprint ([0-9a-f]{64})", prepared.stdout)
    assert "4 classes; a run trains on 8 images and is evaluated on 4 test images" in checked.stdout
    assert f"fingerprint {fingerprint}" in checked.stdout and checked.stderr == ""


def test_own_folders_are_listed_with_their_numbers_and_sizes(tmp_path, data):
    top = write("folder", tmp_path / "data", classes=3, train=4, test=1)
    photo = next(top.rglob("*.jpg"))
    image = Image.new("RGB", (1200, 600))
    exif = image.getexif()
    exif[0x0112] = 6  # turned by 90 degrees, and shrunk to a short side of 512 px
    image.save(photo, exif=exif)
    shutil.copytree(top / "train", tmp_path / "data" / "alone")
    shutil.make_archive(str(tmp_path / "data" / "zipped-1.0"), "zip", top)
    shutil.copytree(top, tmp_path / "data" / "photos.v2")
    (tmp_path / "data" / "notes").mkdir()
    (tmp_path / "data" / "notes" / "todo.txt").write_text("no dataset")
    (tmp_path / "data" / "bad.zip").write_bytes(b"no archive")
    listed = data("list", "--data-dir", tmp_path / "data", check=True)
    assert "notes" not in listed.stdout and "bad.zip: cannot be read as an archive" in listed.stderr
    assert row(listed, "folder:photos.v2")[1:4] == ["3", "12", "3"]
    assert row(listed, "folder:alone")[1:4] == ["3", "12", "20 % of these"] and row(listed, "folder:alone")[5] == "yes"
    assert row(listed, "folder:zipped-1.0")[1:5] == ["3", "12", "3", "yes"]
    before = row(listed, PHOTOS)
    assert before[1:4] == ["3", "12", "3"] and "to 512 px wide" in before[4] and "to 1024 px high" in before[4]
    data("prepare", PHOTOS, "--data-dir", tmp_path / "data", check=True)
    after = row(data("list", "--data-dir", tmp_path / "data", check=True), PHOTOS)
    assert after[:5] == before[:5] and after[5] == "decoded"


def test_one_image_is_not_called_images(tmp_path, data):
    write("folder", tmp_path, classes=2, train=2, test=1)
    shutil.rmtree(tmp_path / "photos" / "test" / "class_01")
    done = data("prepare", PHOTOS, "--data-dir", tmp_path, check=True)
    assert "\n1 test image of 1 class, 1 per class" in done.stdout and "evaluated on 1 test image\n" in done.stdout


def test_the_data_folder_of_a_list_must_exist(tmp_path, data):
    refused(data("list", "--data-dir", tmp_path / "nowhere"), "--data-dir", "nowhere: no such folder")


def test_prepare_counts_the_images_that_a_run_holds_out(tmp_path, data):
    write("folder", tmp_path, classes=3, train=10, test=2)
    done = data("prepare", PHOTOS, "--data-dir", tmp_path, "--set", "data.holdout=0.3", check=True)
    assert "30 training images of 3 classes, 10 per class" in done.stdout and " px wide, " in done.stdout
    assert "3 classes; a run trains on 21 images and is evaluated on 9 held-out training images" in done.stdout


def test_check_names_every_image_that_cannot_be_read(tmp_path, data):
    top = write("folder", tmp_path, classes=2, train=10, test=2)
    bad = [top / "train" / "class_00" / f"{i:03d}.jpg" for i in (0, 2, 4, 6)] + [top / "test" / "class_01" / "001.png"]
    bad += [top / "train" / "class_01" / f"{i:03d}.jpg" for i in (0, 2)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-200])
    done = data("check", PHOTOS, "--data-dir", tmp_path)
    assert done.returncode == 1 and "14 training images" in done.stdout
    assert sorted(line.split(":")[0] for line in done.stderr.splitlines()) == sorted(str(p.relative_to(top)) for p in bad)
    refused(data("prepare", PHOTOS, "--data-dir", tmp_path), "7 images cannot be read", "and 2 more", "data check")
    for path in (top / "train").rglob("*.???"):
        path.write_bytes(b"")
    done = data("check", PHOTOS, "--data-dir", tmp_path)
    assert done.returncode == 1 and "no training image that can be read" in done.stderr


def test_check_says_that_a_split_has_no_labels(tmp_path, data):
    """As hidden test sets on the hub, whose labels are -1."""
    image = encode(np.zeros((4, 4, 3), np.uint8))
    for split, label in (("train", 0), ("test", -1)):
        write_parquet(tmp_path / "owner" / "pets" / f"{split}.parquet", {"image": [image, image], "label": [label, label]})
    done = data("check", "hub:owner/pets", "--data-dir", tmp_path)
    assert done.returncode == 1 and "2 test images without labels, 4x4 px" in done.stdout
    assert "test labels from -1 to -1" in done.stderr


def test_check_finds_pixels_that_were_decoded_from_other_images(tmp_path, data):
    write("folder", tmp_path / "data", classes=2, train=2, test=1)
    data("prepare", PHOTOS, "--data-dir", tmp_path / "data", check=True)
    (described,) = (tmp_path / "cache" / "datasets").glob("*/store.json")
    described.write_text(json.dumps({**json.loads(described.read_text()), "fingerprint": "0" * 64}))
    done = data("check", PHOTOS, "--data-dir", tmp_path / "data")
    assert done.returncode == 1 and f"remove {described.parent}" in done.stderr


def test_check_names_the_files_that_are_left_out(tmp_path, data):
    top = write("folder", tmp_path, classes=2, train=2, test=1)
    for name in ("photo.heic", "notes.txt"):
        (top / "train" / "class_00" / name).write_bytes(b"x")
    done = data("check", PHOTOS, "--data-dir", tmp_path, check=True)
    assert "outside the folders that are used: train/class_00/notes.txt, train/class_00/photo.heic\n" in done.stdout


def test_a_palette_with_transparency_prints_no_warning(tmp_path):
    write("folder", tmp_path, classes=2, train=2, test=1)
    odd = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).convert("P")
    odd.save(tmp_path / "photos" / "train" / "class_00" / "odd.png", transparency=bytes(range(100)))
    assert command("-m", "bench", "data", "check", PHOTOS, "--data-dir", tmp_path, check=True).stderr == ""


@pytest.mark.parametrize("action", ["prepare", "check"])
def test_for_a_dataset_that_may_not_be_redistributed_the_authors_are_named(action, tmp_path, data):
    done = data(action, "chaoyang", "--data-dir", tmp_path)
    refused(done, str(tmp_path), "chaoyang-data", "ask its authors", "https://bupt-ai-cz.github.io/HSA-NRL/")


def test_without_the_hub_the_place_for_its_files_is_named(tmp_path, data):
    refused(data("prepare", "hub:owner/pets", "--data-dir", tmp_path), "<data-dir>/owner/pets/", "train*.parquet")


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["cifra100"], "did you mean 'cifar100'?"),
        (["folder:/tmp"], "folder:/tmp"),
        (["folder:"], "folder:"),
        (["folder:../other"], "folder:../other"),
        (["folder:*"], "folder:*"),
        (["ftp:photos"], "ftp:photos"),
        (["chaoyang", "--set", "data.layout=cifra"], "did you mean 'cifar'?"),
        (["chaoyang", "--set", "data.subset=5"], "allowed is at most 4"),
        (["chaoyang", "--set", "train.epochs=5"], "must be under data"),
    ],
)
def test_names_and_keys_that_no_dataset_has_are_refused(words, problem, tmp_path, data):
    refused(data("check", *words, "--data-dir", tmp_path), problem)


@pytest.mark.parametrize("archive", [None, "zip", "gztar"])
def test_a_class_folder_without_images_is_named_by_check_and_refused_by_prepare(tmp_path, data, archive):
    top = write("folder", tmp_path, classes=2, train=3, test=1)
    (top / "train" / "birds" / "raw").mkdir(parents=True)
    (top / "train" / "heic").mkdir()
    (top / "train" / "heic" / "a.heic").write_bytes(b"not read")
    if archive:
        shutil.make_archive(str(tmp_path / "photos"), archive, top)
        shutil.rmtree(top)
    done = data("check", PHOTOS, "--data-dir", tmp_path)
    assert done.returncode == 1 and "6 training images of 2 classes" in done.stdout
    assert done.stderr.splitlines() == [f"{name}/: a class folder without images" for name in ("birds", "heic")]
    refused(data("prepare", PHOTOS, "--data-dir", tmp_path), "class folders without images: birds, heic")


def test_an_empty_class_folder_beside_a_decoded_dataset_is_noticed(tmp_path, data):
    top = write("folder", tmp_path, classes=2, train=3, test=1)
    data("prepare", PHOTOS, "--data-dir", tmp_path, check=True)
    (top / "train" / "birds").mkdir()
    refused(data("prepare", PHOTOS, "--data-dir", tmp_path), "class folders without images: birds")
    (top / "train" / "birds").rmdir()
    assert "decoding" not in data("prepare", PHOTOS, "--data-dir", tmp_path, check=True).stdout
