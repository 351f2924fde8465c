"""Plans: states, teachers, estimates, and thousands of runs at once."""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

from bench.config.numerics import numerics_versions
from bench.config.registry import Registry
from bench.locks import cache_folder, exclusive
from bench.runs.record import Hardware
from bench.sweep import commands
from bench.sweep.job import Outcome, read_result
from bench.sweep.plan import as_dict, as_text, images_per_epoch, least_seconds, make_plan, summary
from tests.helpers.process import command, refused
from tests.helpers.synthetic import make_teacher


def states(plan) -> list[tuple[str, str]]:
    return [(job.state, job.note) for job in plan.runs]


def test_the_state_of_every_run(quick):
    baseline, guided = quick.baseline, quick.guided
    folders = [quick.folder(baseline.with_seed(seed)) for seed in range(6)]
    quick.finish(baseline)
    quick.finish(baseline.with_seed(1), diverged=True)
    folders[2].write_status("failed", epoch=3, epochs=20, error="RuntimeError: this\nCUDA error: that")
    folders[3].write_status("stopped", epoch=4, epochs=20, error="Stopped: after epoch 4, step 7")
    folders[4].write_status("running", epoch=5, epochs=20)
    folders[5].write_status("running", epoch=6, epochs=20)  # of a process that was killed: its lock is free
    with exclusive(folders[4].path, "busy"):
        plan = quick.plan(range(7), [baseline])
    (running, note) = states(plan)[4]
    assert running == "running" and note.startswith("epoch 5/20 on ")
    assert [state for number, state in enumerate(states(plan)) if number != 4] == [
        *[("finished", "89.44 %"), ("diverged", ""), ("failed", "CUDA error: that")],
        *[("resumable", "epoch 4/20"), ("resumable", "epoch 6/20"), ("to run", "")],
    ]
    assert [job.epoch for job in plan.jobs] == [3, 4, 5, 6, 0] and not plan.teachers
    waiting = quick.plan(recipes=[guided])
    assert states(waiting) == [("waiting for a teacher", "")] and waiting.runs[0].needs == waiting.teachers[0].key
    quick.finish(guided.teacher)
    ready = quick.plan(recipes=[guided])
    assert states(ready) == [("to run", "")] and ready.runs[0].needs is None and len(ready.jobs) == 1
    assert ready.teachers[0].note == "in the cache, 89.44 %"


def test_a_run_of_other_code_is_finished_unless_stale_ones_are_asked_for(quick):
    baseline, guided = quick.baseline, quick.guided
    for recipe, changed in ((baseline, {}), (guided, {"guidance.locality": 0})):
        quick.finish(recipe, numerics={**numerics_versions(recipe), **changed})
    plan = quick.plan()
    assert states(plan) == [("finished", "89.44 %"), ("recorded with other code", "89.44 %, guidance.locality 0, now 1")]
    assert not plan.jobs and not plan.teachers
    assert summary(plan, 1)[-1] == "recorded with other code: 1 run; --stale runs them again"
    again = make_plan([baseline, guided], [0], quick.results, stale=True)
    assert states(again)[1] == ("waiting for a teacher", "recorded with other code (guidance.locality 0, now 1)")
    assert [job.name for job in again.jobs] == ["resnet8/digits seed 0", "deit_micro/digits/guided seed 0"]
    # the old record is not the result of a process that died before it began
    assert read_result(again.runs[1], None).outcome is Outcome.DIED
    quick.finish(guided)
    assert read_result(again.runs[1], None).outcome is Outcome.DONE


def test_a_cached_teacher_of_other_code_is_trained_anew(quick):
    teacher = quick.guided.teacher
    quick.finish(teacher, numerics={**numerics_versions(teacher), "models.resnet_cifar": 0})
    assert [job.is_finished for job in quick.plan().teachers] == [False]
    quick.folder(teacher).write_record(quick.invent(teacher, numerics={**numerics_versions(teacher), "train": 0}))
    assert read_result(quick.plan().teachers[0], None).outcome is Outcome.DIED
    quick.finish(teacher)
    assert [job.is_finished for job in quick.plan().teachers] == [True]


def test_a_teacher_is_planned_once_and_first(quick):
    plan = quick.plan(range(3))
    assert [job.name for job in plan.jobs if job.is_teacher] == ["resnet8/digits seed 0"] and plan.jobs[0].is_teacher
    assert len(plan.jobs) == 1 + 2 * 3
    other_teacher = Registry().compose("deit_micro/digits/guided", "quick", ["teacher.train.epochs=3"])
    assert len(quick.plan(recipes=[quick.baseline, quick.guided, other_teacher]).teachers) == 2


def test_estimates_come_from_the_same_recipe_else_from_a_similar_one(quick):
    baseline, guided = quick.baseline, quick.guided
    quick.finish(guided.teacher)
    unknown = as_dict(quick.plan([1]))
    assert unknown["left"] == {"unknown": 2} and unknown["runs"][0]["seconds_left"] is None
    quick.finish(baseline, seconds=40.0)
    quick.folder(baseline.with_seed(2)).write_status("stopped", epoch=5, epochs=20)
    plan = quick.plan(range(3))
    rows = {(row["id"], row["seed"]): (row["seconds_left"], row["same_recipe_measured"]) for row in as_dict(plan)["runs"]}
    assert rows[baseline.id, 0][0] == 0 and rows[baseline.id, 1] == (40, True) and rows[baseline.id, 2] == (30, True)
    assert rows[guided.id, 1] == (40, False)  # of the same model and dataset
    assert as_dict(plan)["left"] == {"core-hours": round((40 + 30 + 3 * 40) / 3600, 3), "unknown": 0}
    assert least_seconds(plan.jobs, 1) == 190 and least_seconds(plan.jobs, 100) == 40
    text = as_text(plan, 2)
    assert "~40 s" in text and "expected: 0.0528 core-hours, at least 2 min with 2 runs at a time" in text
    gpu, teacher = Hardware("NVIDIA X", "Y", 8), make_teacher(guided.teacher, seconds=7.5)
    quick.finish(guided, seconds=60.0, hardware=gpu, world_size=4, teacher=teacher)
    left = as_dict(quick.plan([0, 1], [guided]))["left"]
    assert left == {"GPU-hours": round(60 * 4 / 3600, 3), "unknown": 0}
    for path in cache_folder().rglob("record.json"):
        path.unlink()
    assert [job.seconds_left for job in quick.plan([0, 1], [guided]).teachers] == [7.5]  # from the record of its student


def test_the_summary_names_the_cost_or_the_command_that_measures_it(quick):
    lines = summary(quick.plan([0, 1]), 2)
    assert lines[:2] == ["4 runs: 2 waiting for a teacher, 2 to run", "1 teacher: 0 trained, 1 to train"]
    seen = (4 * 20 + 15) * (1437 // 32 * 32)
    assert lines[2] == f"left to train: 95 epochs, about {seen:,} training images"
    assert lines[3].startswith("time: unknown for 5 of 5 jobs") and "bench speed --recipe deit_micro/digits/" in lines[4]
    part = Registry().compose("deit_tiny/cifar100/baseline", assignments=["data.subset=10", "data.holdout=0.2"])
    assert images_per_epoch(part) == 4000 // 128 * 128
    assert images_per_epoch(Registry().compose("deit_tiny/folder:mine/baseline")) is None


def test_ten_thousand_runs_are_planned_at_once(tmp_path):
    registry = Registry()
    models = [name for name in registry.names("models") if registry.role(name) == "student"][:8]
    datasets = ["cifar10", "cifar100", "flowers102", "tiny_imagenet", "chaoyang"]
    ids = ["/".join(parts) for parts in product(models, datasets, registry.names("guidance")[:7])]
    plan = make_plan([registry.compose(one) for one in ids], range(36), tmp_path)
    assert len(plan.runs) == 10_080 and len(plan.teachers) == 5
    assert "time: unknown for 10085 of 10085 jobs" in as_text(plan, 8)
    one = next(job for job in plan.runs if job.recipe.seed == 35 and job.recipe.guidance is not None)
    alone = registry.compose(one.recipe.id, seed=35)
    assert one.recipe == alone and one.recipe.hash == alone.hash


def test_the_plan_of_the_paper_needs_no_torch_no_data_and_no_gpu(tmp_path):
    words = ["-X", "importtime", "-m", "bench", "plan", "--suite", "paper", "--results-dir", tmp_path, "--json"]
    done = command(*words, check=True, env={"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")})
    content = json.loads(done.stdout)
    assert len(content["runs"]) == 192 and len(content["teachers"]) == 4 and content["left"] == {"unknown": 196}
    assert not any(f" {name}\n" in done.stderr for name in ("torch", "pandas", "matplotlib"))
    assert not list(Path(tmp_path).iterdir())


def test_a_plan_in_json_is_json_also_if_a_dataset_must_be_decoded(quick, monkeypatch, capsys):
    plan, parser = quick.plan(), argparse.ArgumentParser()
    commands.add_plan_options(parser)
    monkeypatch.setattr(commands, "make_plan", lambda *_: print("decoding digits") or plan)
    assert commands.run_plan(parser.parse_args(["--suite", "quick", "--json"])) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["runs"][0]["state"] == "to run" and "decoding digits" in err


def test_a_plan_is_of_recipes_or_of_a_suite(tmp_path):
    words = ["-m", "bench", "plan", "--results-dir", tmp_path]
    done = command(*words, "deit_tiny/cifar10/baseline", "--set", "train.epochs=1", "--seeds", "2", check=True)
    assert done.stdout.count("to run  deit_tiny/cifar10/baseline") == 2
    refused(command(*words), "plan: needs recipe ids, or a suite")
    refused(command(*words, "--suite", "quick", "--set", "train.epochs=1"), "a suite has its own")
    refused(command(*words, "--suite", "quick", "--filter", "cifar"), "no recipe of suite quick matches")
    refused(command(*words, "--suite", "quick", "--seeds", "0"), "--seeds 0: must be 1 or more")
    (tmp_path / "runs").mkdir()
    assert "has runs of an earlier version" in command(*words, "--suite", "quick", check=True).stderr
