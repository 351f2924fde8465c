"""A teacher that is read from a file: its keys, its hash, and what is refused beside it."""

from __future__ import annotations

import hashlib
import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import run
from bench.cli import compose
from bench.config.command import command
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry, shipped_recipes
from bench.config.schema import TRAINING_KEYS, RecipeError
from bench.config.suite import read_suite
from bench.config.teacher_file import find_teacher_file

REGISTRY = Registry()
GUIDED = "deit_micro/digits/guided"
SHA = "0" * 63 + "a"
SUITE = {"protocol": "quick", "models": ["deit_micro"], "datasets": ["digits"], "guidance": ["guided"], "seeds": [0]}
checksums = st.text("0123456789abcdef", min_size=64, max_size=64)


def guided(weights="FILE", checksum=SHA, *settings, protocol="quick"):
    keys = [f"teacher.weights={weights}", f'teacher.sha256="{checksum}"', *settings]
    return REGISTRY.compose(GUIDED, protocol, keys)


@given(one=checksums, other=checksums)
def test_the_hash_has_the_checksum_and_not_the_path(one, other):
    assert guided("/here/model.safetensors", one) == guided("there", one)
    recipes = [guided("here", one), guided("there", other), REGISTRY.compose(GUIDED, "quick")]
    expected = 2 if one == other else 3
    assert len({recipe.hash for recipe in recipes}) == len({recipe.teacher.hash for recipe in recipes}) == expected


def test_how_it_would_have_been_trained_is_in_neither_hash_nor_record():
    recipe, other = guided(), guided(protocol="modern")
    assert recipe.teacher.hash == other.teacher.hash and recipe.hash != other.hash
    assert recipe.teacher.hash != guided("FILE", SHA, "teacher.model.image_size=8").teacher.hash
    content = recipe.to_dict()
    assert content["teacher"]["sha256"] == SHA and "FILE" not in json.dumps(content)
    assert content["teacher"]["train"] == {} and list(content["teacher"]["augment"]) == ["mean", "std"]
    assert recipe_from_dict(content, "record") == recipe  # which a record composes, without the path
    words = shlex.split(command(recipe_from_dict(content, "record")))
    assert "teacher.weights=FILE" in words and compose(run.parser().parse_args(words[2:])) == recipe


def test_a_dataset_of_fewer_images_than_a_teachers_batch_is_accepted():
    assert REGISTRY.compose(GUIDED, "quick", ["data.train_limit=40", "teacher.weights=x", f"teacher.sha256='{SHA}'"])
    with pytest.raises(RecipeError, match=r"train\.batch_size"):
        REGISTRY.compose(GUIDED, "quick", ["data.train_limit=40"])


@pytest.mark.parametrize("is_folder", [False, True])
def test_without_a_checksum_the_error_tells_it(tmp_path, is_folder):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"weights")
    named, found = tmp_path if is_folder else path, hashlib.sha256(b"weights").hexdigest()
    with pytest.raises(
        RecipeError, match=rf"^--set: teacher\.weights: needs teacher\.sha256; that of this file is {found}$"
    ):
        REGISTRY.compose(GUIDED, "quick", [f"teacher.weights={named}"])
    assert find_teacher_file(str(named), found) == path
    with pytest.raises(
        RecipeError, match=f"has the SHA-256 {found}, and teacher.sha256 is {SHA}: it is damaged, or another"
    ):
        find_teacher_file(str(named), SHA)


@pytest.mark.parametrize("name", ["nothing", "", "~nobody/x", "x" * 300, "a/b/c"])
def test_a_file_that_is_not_here_is_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for checksum in (None, SHA):
        with pytest.raises(RecipeError, match=r"^teacher\.weights: .* is not here: name the file model\.safetensors"):
            find_teacher_file(name, checksum)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ([f"teacher.sha256='{SHA}'"], "teacher.sha256: needs teacher.weights"),
        (["teacher.weights=x", "teacher.sha256=12"], "teacher.sha256: got 12, allowed are 64 digits"),
        (["teacher.weights=x", f"teacher.sha256={SHA.upper()}"], "allowed are 64 digits of 0-9 and a-f"),
        (["teacher.weights=3", f"teacher.sha256='{SHA}'"], "teacher.weights: got 3, allowed is a text or null"),
        (["weights=x"], "weights: is not a key"),
    ],
)
def test_keys_that_name_no_file_are_refused(settings, sentence):
    with pytest.raises(RecipeError, match=sentence):
        REGISTRY.compose(GUIDED, "quick", settings)


@pytest.mark.parametrize(
    "key", ["teacher.seed=1", "teacher.select=best", "teacher.train.epochs=3", "teacher.augment.flip=0.1"]
)
def test_settings_of_a_training_that_does_not_happen_are_refused(key):
    sentence = "the teacher is read from teacher.weights, so this would change nothing"
    with pytest.raises(RecipeError, match=sentence):
        guided("FILE", SHA, key)
    name, value = key.split("=")
    assert name.removeprefix("teacher.") in TRAINING_KEYS
    for own, more in (({"vary": {name: [value, 5]}}, []), ({"guidance": [{"guided": {name: value}}]}, []), ({}, [key])):
        suite = read_suite("s", {**SUITE, **own}, "s.yaml").with_settings(
            ["teacher.weights=FILE", f"teacher.sha256='{SHA}'", *more]
        )
        with pytest.raises(RecipeError, match=sentence):
            REGISTRY.suite_recipes(suite)


def test_a_suites_own_settings_of_its_teacher_and_its_baseline_are_no_obstacle():
    content = {
        **SUITE,
        "guidance": ["baseline", "guided", "drloc"],
        "set": {"teacher": {"train": {"epochs": 3}, "seed": 5}},
    }
    suite = read_suite("s", content, "s.yaml").with_settings(["teacher.weights=FILE", f"teacher.sha256='{SHA}'"])
    recipes = {entry.method: recipe for entry, recipe in REGISTRY.suite_recipes(suite)}
    assert recipes["guided"] == guided()
    assert recipes["baseline"].teacher is None and recipes["drloc"].teacher is None


@pytest.mark.parametrize("key", ["teacher.weights", "teacher.sha256"])
def test_the_runs_of_a_suite_share_one_file(key):
    for own in ({"vary": {key: ["a", "b"]}}, {"guidance": [{"guided": {key: "a"}}]}):
        with pytest.raises(RecipeError, match=f"{key}: must be in set, since one file is the teacher of all runs"):
            read_suite("s", {**SUITE, **own}, "s.yaml")


def test_the_file_of_a_dataset_may_name_the_teacher_and_a_teacher_of_its_own_is_still_trained(tmp_path):
    (tmp_path / "datasets").mkdir()
    text = (shipped_recipes() / "datasets" / "digits.yaml").read_text()
    (tmp_path / "datasets" / "digits.yaml").write_text(
        text.replace("teacher:", f"teacher:\n  weights: FILE\n  sha256: '{SHA}'")
    )
    registry = Registry(tmp_path)
    assert registry.compose(GUIDED, "quick") == guided()
    assert registry.compose("resnet8/digits", "quick") == REGISTRY.compose("resnet8/digits", "quick")
    undone = ["teacher.weights=null", "teacher.sha256=null"]
    assert registry.compose(GUIDED, "quick", undone) == REGISTRY.compose(GUIDED, "quick")
