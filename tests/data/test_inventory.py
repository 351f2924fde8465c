from __future__ import annotations

import dataclasses
import itertools
import json
import re
import subprocess

import numpy as np
import pytest
import torch
from conftest import command, refused
from generated import write
from PIL import Image

from bench.__main__ import main
from bench.data.loaders import EvalLoader
from bench.data.store import open_dataset
from bench.config.registry import Registry
from bench.config.schema import RecipeError

registry = Registry()
PHOTOS = "folder:photos"


def data(*words, **options):
    return command("-m", "bench", "data", *words, **options)


@pytest.fixture
def within(monkeypatch, capsys):
    """The same in this process, which is faster."""

    def call(*words, check=False):
        monkeypatch.setattr("sys.argv", ["bench", "data", *map(str, words)])
        code = main()
        done = subprocess.CompletedProcess(words, code, *capsys.readouterr())
        assert not check or code == 0, done.stderr
        return done

    return call


def row(done, name):
    """The cells of a dataset in what `list` prints."""
    line = next(line for line in done.stdout.splitlines() if line.startswith(name + " "))
    return re.split(r"\s{2,}", line.strip())


# --- The commands ------------------------------------------------------------------------------------------------------


def test_list_says_what_is_here_and_what_is_decoded(tmp_path):
    write("chaoyang", tmp_path / "data", train=2, test=1)
    own = {"env": {"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}}
    before = data("list", "--data-dir", tmp_path / "data", check=True, **own)
    assert row(before, "chaoyang")[1:5] == ["4", "4,021", "2,139", "yes"]
    assert row(before, "cifar100")[1:5] == ["100", "50,000", "10,000", "no"]
    assert "torchvision.datasets.CIFAR100, or the hub: uoft-cs/cifar100" in before.stdout
    assert "https://bupt-ai-cz.github.io/HSA-NRL/" in before.stdout and row(before, "digits")[4] == "yes"
    done = data("prepare", "chaoyang", "--data-dir", tmp_path / "data", "--set", "data.subset=4", check=True, **own)
    assert "8 training images of 4 classes, 2 each, 64x64 px" in done.stdout
    assert "4 test images of 4 classes, 1 each" in done.stdout
    assert "4 classes; a run trains on 8 images and is evaluated on 4 test images" in done.stdout
    after = data("list", "--data-dir", tmp_path / "data", check=True, **own)
    assert row(after, "chaoyang")[4] == "decoded"
    checked = data("check", "chaoyang", "--data-dir", tmp_path / "data", "--set", "data.subset=4", check=True, **own)
    (prepared,) = re.findall("fingerprint ([0-9a-f]{64})", done.stdout)
    assert f"fingerprint {prepared}" in checked.stdout and checked.stderr == ""


def test_prepare_says_how_many_images_a_run_holds_out(tmp_path, within):
    write("folder", tmp_path, classes=3, train=10, test=2)
    done = within("prepare", PHOTOS, "--data-dir", tmp_path, "--set", "data.holdout=0.3", check=True)
    assert "30 training images of 3 classes, 10 each" in done.stdout and " px wide, " in done.stdout
    assert "3 classes; a run trains on 21 images and is evaluated on 9 held-out training images" in done.stdout


def test_check_names_every_image_that_cannot_be_read(tmp_path):
    top = write("folder", tmp_path, classes=2, train=10, test=2)
    bad = [top / "train" / "class_00" / f"{i:03d}.jpg" for i in (0, 2, 4, 6)] + [top / "test" / "class_01" / "001.png"]
    bad += [top / "train" / "class_01" / f"{i:03d}.jpg" for i in (0, 2)]
    for path in bad:
        path.write_bytes(path.read_bytes()[:-200])
    done = data("check", PHOTOS, "--data-dir", tmp_path)
    assert done.returncode == 1 and "14 training images" in done.stdout
    assert sorted(line.split(":")[0] for line in done.stderr.splitlines()) == sorted(str(p.relative_to(top)) for p in bad)
    refused(data("prepare", PHOTOS, "--data-dir", tmp_path), "7 images cannot be read", "and 2 more", "data check")


def test_check_survives_a_dataset_without_a_single_whole_image(tmp_path, within):
    top = write("folder", tmp_path, classes=2, train=1, test=1)
    for path in (top / "train").rglob("*.jpg"):
        path.write_bytes(b"")
    done = within("check", PHOTOS, "--data-dir", tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert [f"train/class_0{i}/000.jpg" in done.stderr for i in (0, 1)] == [True, True]


def test_check_counts_and_exits_with_1(tmp_path, within):
    write("chaoyang", tmp_path, train=2, test=1)
    done = within("check", "chaoyang", "--data-dir", tmp_path)
    assert done.returncode == 1 and "8 training images, its recipe says 4021" in done.stderr
    assert "4 test images of 4 classes" in done.stdout


def test_check_finds_pixels_that_were_decoded_from_other_images(tmp_path, within, monkeypatch):
    write("folder", tmp_path / "data", classes=2, train=2, test=1)
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    within("prepare", PHOTOS, "--data-dir", tmp_path / "data", check=True)
    (described,) = (tmp_path / "cache" / "datasets").glob("*/store.json")
    described.write_text(json.dumps({**json.loads(described.read_text()), "fingerprint": "0" * 64}))
    done = within("check", PHOTOS, "--data-dir", tmp_path / "data")
    assert done.returncode == 1 and f"remove {described.parent}" in done.stderr


def test_check_says_whether_flowers_stand_in_their_authors_order(tmp_path, within):
    write("flowers102", tmp_path, classes=2, train=2, test=1)
    settings = ["--set", "data.train_images=4", "--set", "data.test_images=2", "--set", "data.classes=2"]
    done = within("check", "flowers102", "--data-dir", tmp_path, *settings, check=True)
    assert "images a class are those of imagelabels.mat" in done.stdout


def test_a_palette_with_transparency_does_not_clutter_the_terminal(tmp_path):
    write("folder", tmp_path, classes=2, train=2, test=1)
    odd = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).convert("P")
    odd.save(tmp_path / "photos" / "train" / "class_00" / "odd.png", transparency=bytes(range(100)))
    assert data("check", PHOTOS, "--data-dir", tmp_path, check=True).stderr == ""


@pytest.mark.parametrize("action", ["prepare", "check"])
def test_a_dataset_that_nobody_may_pass_on_says_whom_to_ask(action, tmp_path, within):
    done = within(action, "chaoyang", "--data-dir", tmp_path)
    refused(done, str(tmp_path), "chaoyang-data", "ask its authors", "https://bupt-ai-cz.github.io/HSA-NRL/")


def test_a_name_of_the_hub_that_cannot_be_had_says_where_files_go(tmp_path):
    refused(data("prepare", "hub:owner/pets", "--data-dir", tmp_path), "<data-dir>/owner/pets/", "train*.parquet")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cifra100"], "did you mean 'cifar100'?"),
        (["folder:/tmp"], "folder:/tmp"),
        (["folder:"], "folder:"),
        (["folder:../other"], "folder:../other"),
        (["folder:*"], "folder:*"),
        (["ftp:photos"], "ftp:photos"),
        (["chaoyang", "--set", "data.layout=cifra"], "did you mean 'cifar'?"),
        (["chaoyang", "--set", "data.subset=5"], "allowed is at most 4"),
        (["chaoyang", "--set", "train.epochs=5"], "must lie under data"),
    ],
)
def test_names_and_keys_that_no_dataset_has_are_refused(words, said, tmp_path, within):
    refused(within("check", *words, "--data-dir", tmp_path), said)


# --- Which images a run trains on, and which it is evaluated on -------------------------------------------------------


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Classes of 12, 8, 30 and 1 training images."""
    folder = tmp_path_factory.mktemp("photos")
    top = write("folder", folder, classes=4, train=30, test=3, size=8)
    for label, count in enumerate((12, 8, 30, 1)):
        for path in sorted((top / "train" / f"class_{label:02d}").iterdir())[count:]:
            path.unlink()
    return open_dataset(registry.dataset(PHOTOS), folder)


def parts(store, *settings):
    given = registry.dataset(PHOTOS, [f"data.{setting}" for setting in settings])
    return store.training(given), store.evaluation(given)


def test_held_out_images_are_a_share_of_each_class_and_none_is_trained_on(photos):
    training, held_out = parts(photos, "holdout=0.25")
    assert training.images is held_out.images is photos.train  # the test set is left alone
    assert np.bincount(held_out.labels, minlength=4).tolist() == [3, 2, 8, 0]  # of a lone image nothing can be held out
    assert np.bincount(training.labels).tolist() == [9, 6, 22, 1]
    assert not set(training.indices) & set(held_out.indices)
    assert training.indices.tolist() == sorted(training.indices) and held_out.indices.tolist() == sorted(held_out.indices)
    everything, test = parts(photos)
    assert len(everything) == 51 and test.images is photos.test and len(test) == 12


def test_all_runs_of_a_recipe_hold_out_the_same_images(photos):
    def held_out(protocol, *settings, seed=0):
        settings = ["data.holdout=0.25", "train.batch_size=8", *settings]
        return registry.compose(f"deit_micro/{PHOTOS}/baseline", protocol, settings, seed=seed)

    recipes = [
        held_out("paper"),
        held_out("paper", seed=7),
        held_out("paper", "train.epochs=900", "data.train_limit=20"),
        held_out("quick", "model.image_size=32"),
    ]
    chosen = [photos.evaluation(recipe.data).indices.tolist() for recipe in recipes]
    assert all(other == chosen[0] for other in chosen)
    labels = np.concatenate([labels for _, labels in EvalLoader(recipes[3], photos, torch.device("cpu"))])
    assert labels.tolist() == photos.train.labels[chosen[0]].tolist()


def test_a_larger_holdout_holds_the_smaller_one(photos):
    shares = [set(parts(photos, f"holdout={share}")[1].indices.tolist()) for share in (0.1, 0.3, 0.6, 0.9)]
    assert all(small < large for small, large in itertools.pairwise(shares))
    training, held_out = parts(photos, "holdout=0.9")
    assert np.bincount(training.labels).tolist() == [1, 1, 3, 1] and len(held_out) == 45  # never a whole class


def test_a_limit_draws_from_what_is_not_held_out(photos):
    training, held_out = parts(photos, "holdout=0.25", "train_limit=20")
    assert len(training) == 20 and not set(training.indices) & set(held_out.indices)
    assert held_out.indices.tolist() == parts(photos, "holdout=0.25")[1].indices.tolist()
    more, _ = parts(photos, "holdout=0.25", "train_limit=30")
    assert set(training.indices) < set(more.indices) < set(parts(photos, "holdout=0.25")[0].indices)


def test_a_subset_is_the_first_classes_and_holds_out_the_same_images_of_them(photos):
    given = registry.dataset(PHOTOS, ["data.subset=2", "data.holdout=0.25"])
    training, held_out = photos.training(given), photos.evaluation(given)
    assert photos.classes(given) == 2 and set(training.labels) == set(held_out.labels) == {0, 1}
    whole = parts(photos, "holdout=0.25")[1]
    assert held_out.indices.tolist() == whole.indices[whole.labels < 2].tolist()
    _, test = parts(photos, "subset=2")
    assert test.images is photos.test and np.bincount(test.labels).tolist() == [3, 3]


@pytest.mark.parametrize("settings", [(), ("subset=2",), ("holdout=0.25",), ("holdout=0.25", "train_limit=9", "subset=3")])
def test_without_a_test_split_a_share_of_training_stands_for_it(photos, settings):
    alone = dataclasses.replace(photos, test=None)
    _, tested = parts(alone, *(s for s in settings if s.startswith("subset")), "test_share=0.25")
    assert tested.images is photos.train and np.bincount(tested.labels).tolist()[:2] == [3, 2]
    training, evaluation = parts(alone, *settings, "test_share=0.25")
    assert not set(training.indices) & set(tested.indices) and not set(training.indices) & set(evaluation.indices)
    if "holdout=0.25" in settings:  # held out of what is left: the test images stay unseen
        assert not set(evaluation.indices) & set(tested.indices) and len(evaluation)
    else:
        assert evaluation.indices.tolist() == tested.indices.tolist()


def test_a_dataset_with_nothing_to_be_evaluated_on_is_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "photos" / name / "only.png")
    given = registry.dataset(PHOTOS)
    with pytest.raises(RecipeError):
        open_dataset(given, tmp_path).evaluation(given)


def test_check_names_the_files_that_are_left_out(tmp_path, within):
    top = write("folder", tmp_path, classes=2, train=2, test=1)
    for name in ("photo.heic", "notes.txt"):
        (top / "train" / "class_00" / name).write_bytes(b"x")
    done = within("check", PHOTOS, "--data-dir", tmp_path, check=True)
    assert "left out, no images by their endings: train/class_00/notes.txt, train/class_00/photo.heic" in done.stdout
