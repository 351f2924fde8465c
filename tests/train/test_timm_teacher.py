"""A CNN of timm as a teacher, from its training to a loaded run: cache, plan, doctor, verify, load."""

from __future__ import annotations

import json

from PIL import Image

import bench
from bench.config.registry import Registry
from bench.runs.folder import RunFolder
from bench.storage import sha256
from tests.helpers.commands import call
from tests.helpers.process import TINY

NAME = ["--set", "teacher.model.name=timm:test_efficientnet"]
MAPS = {"blocks.0": [16, 8, 8], "blocks.1": [24, 4, 4], "blocks.2": [32, 2, 2]}


def test_a_teacher_of_timm_from_start_to_end(cache, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    settings, results = [*TINY, *NAME], ["--results-dir", tmp_path]
    run = ["--recipe", "deit_micro/digits/guided", "--protocol", "quick", *settings, *results]
    ids = ["deit_micro/digits/guided", "--protocol", "quick", *settings, *results]
    assert call(capsys, "run.py", *run, "--teacher-only")[0] == 0
    (teacher,) = (cache / "teachers").glob("*/model.safetensors")
    assert teacher.parent.name.startswith("timm+test_efficientnet-digits-")
    assert "1 teacher: 1 trained, 0 to train" in call(capsys, "bench", "plan", *ids)[1]
    for seed in (0, 1):
        assert call(capsys, "run.py", *run, "--seed", seed)[0] == 0
    assert "2 runs: 2 finished" in call(capsys, "bench", "plan", *ids, "--seeds", "2")[1]
    _, out, errors = call(capsys, "bench", "doctor", *ids)
    assert "timm+test_efficientnet-digits" in out and "deit_micro" not in errors, errors
    recipe = Registry().compose("deit_micro/digits/guided", "quick", [word for word in settings if word != "--set"])
    folders = [RunFolder(tmp_path, recipe.with_seed(seed)) for seed in (0, 1)]
    records = [folder.record(recipe.with_seed(seed)) for seed, folder in enumerate(folders)]
    assert {one.teacher.id for one in records} == {"timm:test_efficientnet/digits"}
    assert {one.teacher.weights for one in records} == {sha256(teacher)}
    assert call(capsys, "bench", "verify", folders[0].path)[0] == 0
    maps = bench.load_pair(folders[1].path).feature_maps([Image.new("RGB", (8, 8))] * 2)
    assert {name: list(value.shape[1:]) for name, value in maps.teacher.items()} == MAPS and len(maps.compared) == 3
    shown = call(capsys, "bench", "show", "deit_micro/digits/guided", "--protocol", "quick", *NAME, "--json")[1]
    assert json.loads(shown)["teacher"]["feature_maps"] == MAPS
