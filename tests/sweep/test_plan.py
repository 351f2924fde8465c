"""Plans: states, teachers, estimates, and thousands of cells at once."""

from __future__ import annotations

import json
import time
from itertools import product
from pathlib import Path

import pytest
from conftest import ROOT, command, refused

from bench.locks import cache_folder, exclusive
from bench.config.registry import Registry
from bench.runs.folder import RunFolder
from bench.storage import write_json
from bench.sweep.plan import as_dict, as_text, at_least, duration, plan

MEASURED = json.loads((ROOT / "results" / "quick" / "records.jsonl").read_text().splitlines()[0])
GUIDED_SECONDS = 50.0


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """(recipes of the suite quick, results, a function that records one)."""
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    registry = Registry()
    suite = registry.suite("quick")
    results = tmp_path / "results"

    def record(recipe, **more):
        content = {k: v for k, v in MEASURED.items() if k not in ("history", "teacher")}
        told = {"id": recipe.id, "hash": recipe.hash, "seed": recipe.seed, "recipe": recipe.to_dict()}
        RunFolder(results, recipe).write_record({**content, **told, **more})

    return [registry.compose(one, suite=suite) for one in suite.ids], results, record


def keep_teacher(recipe) -> None:
    folder = cache_folder() / "teachers" / f"{recipe.model.name}-{recipe.data.name}-0123456789abcdef"
    write_json(folder / "record.json", {"hash": recipe.hash, "seed": recipe.seed, "last_accuracy": 97.5})


def states(todo) -> list[tuple[str, str]]:
    return [(job.state, job.note) for job in todo.cells]


def test_every_state_is_told(quick):
    (baseline, guided), results, record = quick
    folders = [RunFolder(results, baseline.with_seed(seed)) for seed in range(6)]
    record(baseline)
    record(baseline.with_seed(1), diverged=True, last_accuracy=None, best_accuracy=None, best_epoch=None)
    folders[2].write_status("failed", epoch=3, epochs=20, error="RuntimeError: this\nCUDA error: that")
    folders[3].write_status("stopped", epoch=4, epochs=20, error="Stopped: after epoch 4, step 7")
    folders[4].write_status("running", epoch=5, epochs=20)
    folders[5].write_status("running", epoch=6, epochs=20)  # of a process that was killed: its lock is free
    with exclusive(folders[4].path, "busy"):
        todo = plan([baseline], range(7), results)
    assert [state for state, _ in states(todo)] == [
        *("recorded", "recorded", "failed", "resumable", "running", "resumable", "to run")
    ]
    notes = [note for _, note in states(todo)]
    assert notes[:4] == ["89.44 %", "diverged", "CUDA error: that", "epoch 4/20"] and notes[5:] == ["epoch 6/20", ""]
    assert notes[4].startswith("epoch 5/20 on ")
    assert [job.epoch for job in todo.jobs] == [3, 4, 5, 6, 0] and not todo.teachers
    waiting = plan([guided], [0], results)
    assert states(waiting) == [("waiting for a teacher", "")] and waiting.cells[0].needs == waiting.teachers[0].key
    keep_teacher(guided.teacher)
    ready = plan([guided], [0], results)
    assert states(ready) == [("to run", "")] and ready.cells[0].needs is None and len(ready.jobs) == 1
    assert ready.teachers[0].note == "kept, 97.5 %"


def test_a_teacher_stands_once_and_first(quick):
    recipes, results, _ = quick
    todo = plan(recipes, range(3), results)
    assert [job.name for job in todo.jobs if job.is_teacher] == ["resnet8/digits seed 0"] and todo.jobs[0].is_teacher
    assert len(todo.jobs) == 1 + 2 * 3 and not todo.recorded
    other_teacher = Registry().compose("deit_micro/digits/guided", "quick", ["teacher.train.epochs=3"])
    assert len(plan([*recipes, other_teacher], [0], results).teachers) == 2


def test_estimates_come_from_the_same_recipe_else_from_its_like_else_there_are_none(quick):
    (baseline, guided), results, record = quick
    keep_teacher(guided.teacher)
    unknown = as_dict(plan([baseline, guided], [1], results))
    assert unknown["left"] == {"unknown": 2} and unknown["cells"][0]["seconds"] is None
    record(baseline, seconds=40.0)
    RunFolder(results, baseline.with_seed(2)).write_status("stopped", epoch=5, epochs=20)
    todo = plan([baseline, guided], [0, 1, 2], results)
    told = {(row["id"], row["seed"]): (row["seconds"], row["same_recipe_measured"]) for row in as_dict(todo)["cells"]}
    assert told[baseline.id, 0][0] == 0 and told[baseline.id, 1] == (40, True) and told[baseline.id, 2] == (30, True)
    assert told[guided.id, 1] == (40, False)  # of the same model and dataset
    assert as_dict(todo)["left"] == {"core-hours": round((40 + 30 + 3 * 40) / 3600, 3), "unknown": 0}
    assert at_least(todo.jobs, 1) == 190 and at_least(todo.jobs, 100) == 40
    text = as_text(todo, 2)
    assert "~40 s" in text and "at least 2 min with 2 runs at a time here" in text
    gpu = {"device": "NVIDIA X", "processor": "Y", "threads": 8}
    teacher = {"id": guided.teacher.id, "hash": guided.teacher.hash, "epochs": 15, "seconds": 7.5, "key": "k", "seed": 0}
    more = {
        "seconds": 60.0,
        "hardware": gpu,
        "world_size": 4,
        "teacher": {**teacher, "select": "last", "last_accuracy": 97.0},
    }
    record(guided, **more)
    left = as_dict(plan([guided], [0, 1], results))["left"]
    assert left == {"GPU-hours": round(60 * 4 / 3600, 3), "unknown": 0}
    for path in cache_folder().rglob("record.json"):
        path.unlink()
    assert [job.seconds for job in plan([guided], [0, 1], results).teachers] == [
        7.5
    ]  # the teacher is gone, its time is known


def test_durations_have_a_unit():
    assert [duration(s) for s in (3, 600, 9000, 500000)] == ["3 s", "10 min", "2.5 h", "5.8 days"]


def test_ten_thousand_cells_are_planned_at_once(tmp_path):
    # under a second by hand; composing each cell anew would take half a minute
    registry = Registry()
    models = [name for name in registry.names("models") if registry.role(name) == "student"][:8]
    datasets = ["cifar10", "cifar100", "flowers102", "tiny_imagenet", "chaoyang"]
    ids = ["/".join(parts) for parts in product(models, datasets, registry.names("guidance")[:7])]
    began = time.perf_counter()
    todo = plan([registry.compose(one) for one in ids], range(36), tmp_path)
    text = as_text(todo, 8)
    assert time.perf_counter() - began < 6
    assert len(todo.cells) == 10_080 and len(todo.teachers) == 5 and f"unknown for {10_085} of 10085 runs" in text
    one = next(job for job in todo.cells if job.recipe.seed == 35 and job.recipe.guidance is not None)
    alone = registry.compose(one.recipe.id, seed=35)
    assert one.recipe == alone and one.recipe.hash == alone.hash


def test_the_plan_of_the_paper_needs_no_torch_no_data_and_no_gpu(tmp_path):
    words = ["-X", "importtime", "-m", "bench", "plan", "--suite", "paper", "--results-dir", tmp_path, "--json"]
    done = command(*words, check=True, env={"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")})
    told = json.loads(done.stdout)
    assert len(told["cells"]) == 192 and len(told["teachers"]) == 4 and told["left"] == {"unknown": 196}
    assert " torch" not in done.stderr and not list(Path(tmp_path).iterdir())


def test_a_plan_is_of_recipes_or_of_a_suite(tmp_path):
    words = ["-m", "bench", "plan", "--results-dir", tmp_path]
    done = command(*words, "deit_tiny/cifar10/baseline", "--set", "train.epochs=1", "--seeds", "2", check=True)
    assert done.stdout.count("to run  deit_tiny/cifar10/baseline") == 2
    refused(command(*words), "plan: needs recipe ids, or a suite")
    refused(command(*words, "--suite", "quick", "--set", "train.epochs=1"), "a suite has its own")
    refused(command(*words, "--suite", "quick", "--filter", "cifar"), "no cell of suite quick matches")
    refused(command(*words, "--suite", "quick", "--seeds", "0"), "--seeds 0: must be 1 or more")
