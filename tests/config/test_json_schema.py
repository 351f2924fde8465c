"""The JSON Schema of recipe files, with which editors complete and check them."""

from __future__ import annotations

import copy
import json

import jsonschema
import pytest
import yaml

from bench.__main__ import main
from bench.config.json_schema import recipe_files_schema
from bench.config.registry import shipped_recipes
from tests.helpers.own import write_own

FILES = sorted(shipped_recipes().glob("*/*.yaml"))
CHECK = jsonschema.Draft202012Validator(recipe_files_schema())


def content(name):
    return yaml.safe_load((shipped_recipes() / name).read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_is_valid_and_points_to_the_schema(path):
    CHECK.validate(yaml.safe_load(path.read_text()))
    assert "yaml-language-server: $schema=../schema.json" in path.read_text().splitlines()[0]


def test_the_shipped_schema_is_the_one_of_this_code(capsys):
    # after a change of the keys: python -m bench schema --to recipes/schema.json
    jsonschema.Draft202012Validator.check_schema(recipe_files_schema())
    assert main(["schema"]) == 0
    assert capsys.readouterr().out == (shipped_recipes() / "schema.json").read_text()


def test_the_schema_of_a_folder_with_plug_ins_adds_their_parameters_alone(tmp_path, capsys):
    own = write_own(tmp_path / "DIR")
    assert main(["schema", "--recipes-dir", str(own)]) == 0
    schema = json.loads(capsys.readouterr().out)
    check = jsonschema.Draft202012Validator(schema)
    for path in [*FILES, *own.glob("*/*.yaml")]:
        check.validate(yaml.safe_load(path.read_text()))
    registers = schema["$defs"]["model"]["properties"]["params"]["properties"].pop("registers")
    assert registers["maximum"] == 7 and schema["$defs"] == recipe_files_schema()["$defs"]


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("protocols/paper.yaml", "train.epoch", 3),
        ("protocols/paper.yaml", "train.epochs", 3.5),
        ("protocols/paper.yaml", "train.precision", "bf61"),
        ("models/deit_tiny.yaml", "model.taps", ["blocks.0"]),
        ("datasets/cifar100.yaml", "guide", {}),
        ("datasets/cifar100.yaml", "teacher.bnn", "batch"),
        ("guidance/guided.yaml", "guidance.weight", 1),
        ("guidance/guided.yaml", "guidance.params.weigth", 1),
        ("guidance/guided.yaml", "guidance.params.transform", "liner"),
        ("suites/quick.yaml", "seed", [0]),
        ("suites/quick.yaml", "seeds", [0, 0]),
        ("suites/quick.yaml", "vary", {"data.train_limt": [500]}),
        ("suites/quick.yaml", "vary", {"data.train_limit": 500}),
        ("suites/quick.yaml", "vary", [{"data.train_limt": 500}]),
        ("suites/quick.yaml", "vary", [{}]),
        ("suites/quick.yaml", "reference", ["baseline"]),
    ],
)
def test_a_misspelt_key_or_value_is_not_valid(name, path, value):
    changed = copy.deepcopy(content(name))
    *parents, key = path.split(".")
    inside = changed
    for parent in parents:
        inside = inside.setdefault(parent, {})
    inside[key] = value
    assert not CHECK.is_valid(changed)


def test_varied_keys_are_whole_paths():
    vary = {
        "data.train_limit": [500, 1000],
        "teacher.train.epochs": [1],
        "guidance.params.weight": [1.0],
        "teacher.seed": [0],
    }
    suite = {**content("suites/quick.yaml"), "reference": "guided"}
    CHECK.validate({**suite, "vary": vary})
    CHECK.validate({**suite, "vary": [{"data.train_limit": 500, "train.epochs": 80}]})
