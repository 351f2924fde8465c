"""Plans: states, teachers, estimates, and thousands of runs at once."""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
from itertools import product
from pathlib import Path

from bench.config.numerics import numerics_versions
from bench.config.registry import Registry, shipped_recipes
from bench.locks import cache_folder, exclusive
from bench.report.records import runs_in_no_suite
from bench.runs.record import Hardware, run_key
from bench.sweep import commands
from bench.sweep.display import beside_published
from bench.sweep.estimates import Estimates
from bench.sweep.job import Outcome, read_result
from bench.sweep.plan import PlannedRun, as_dict, as_text, least_seconds, make_plan, summary
from tests.helpers.commands import call
from tests.helpers.generated import write
from tests.helpers.process import command
from tests.helpers.synthetic import make_run, make_teacher


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
    again = make_plan([PlannedRun(baseline), PlannedRun(guided)], quick.results, stale=True)
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


def test_what_is_published_can_be_left_out_and_its_teacher_with_it(quick):
    baseline, guided = quick.baseline, quick.guided
    runs = [PlannedRun(one.with_seed(seed)) for seed in (0, 1) for one in (baseline, guided)]
    published = {run_key(one): quick.invent(one) for one in (baseline, guided, guided.with_seed(1))}
    quick.folder(guided).write_status("stopped", epoch=4, epochs=20)
    plan = make_plan(runs, quick.results, published=published)
    assert states(plan) == [("published", "89.44 %")] * 2 + [("to run", ""), ("published", "89.44 %")]
    assert not plan.teachers and [job.name for job in plan.jobs] == ["deit_micro/digits/baseline seed 1"]
    quick.finish(baseline)
    assert states(make_plan(runs, quick.results, published=published))[0] == ("finished", "89.44 %")
    other = dataclasses.replace(published[run_key(guided)].dataset, fingerprint="f" * 64)
    published[run_key(guided)] = dataclasses.replace(published[run_key(guided)], dataset=other)
    assert [job.name for job in make_plan(runs, quick.results, published=published).teachers] == ["resnet8/digits seed 0"]


def test_a_cached_teacher_without_its_weights_is_trained_again(quick):
    quick.finish(quick.guided.teacher)
    for path in cache_folder().glob("teachers/*/model.safetensors"):
        path.unlink()
    assert [job.is_finished for job in quick.plan().teachers] == [False]


def test_accuracies_are_shown_beside_the_published_ones(quick):
    baseline, guided = quick.baseline, quick.guided
    quick.finish(baseline)
    quick.finish(guided, diverged=True)
    published = {run_key(one): quick.invent(one, last_accuracy=90.0, best_accuracy=90.0) for one in (baseline, guided)}
    head, titles, _, *rows = beside_published(quick.plan(), published)
    assert head.startswith("accuracies beside the published ones") and titles.split()[-3:] == [
        "here",
        "published",
        "difference",
    ]
    assert [row.split() for row in rows] == [
        ["deit_micro/digits/baseline", "0", "89.44", "%", "90.00", "%", "-0.56"],
        ["deit_micro/digits/guided", "0", "diverged", "90.00", "%"],
    ]
    threads = dataclasses.replace(published[run_key(guided)], hardware=Hardware("cpu", "Synthetic CPU", 2))
    line = beside_published(quick.plan(), {**published, run_key(guided): threads})[-1]
    assert "here 1 x cpu, Synthetic CPU, 1 thread, bf16, " in line and "2 threads" in line
    other = dataclasses.replace(published[run_key(guided)], compile="default")
    assert "compile default" in beside_published(quick.plan(), {**published, run_key(guided): other})[-1]
    assert beside_published(quick.plan([5]), published) == []


def test_estimates_come_from_the_same_recipe_else_from_a_similar_one(quick):
    baseline, guided = quick.baseline, quick.guided
    quick.finish(guided.teacher)
    unknown = as_dict(quick.plan([1]))
    assert (
        unknown["left"]["unknown"] == 2
        and "core-hours" not in unknown["left"]
        and unknown["runs"][0]["seconds_left"] is None
    )
    quick.finish(baseline, seconds=40.0)
    quick.folder(baseline.with_seed(2)).write_status("stopped", epoch=5, epochs=20)
    plan = quick.plan(range(3))
    rows = {(row["id"], row["seed"]): (row["seconds_left"], row["same_recipe_measured"]) for row in as_dict(plan)["runs"]}
    assert rows[baseline.id, 0][0] == 0 and rows[baseline.id, 1] == (40, True) and rows[baseline.id, 2] == (30, True)
    assert rows[guided.id, 1] == (40, False)  # of the same model and dataset
    few, larger = (
        Registry().compose(baseline.id, "quick", [text]) for text in ("data.train_limit=352", "model.image_size=32")
    )
    seconds = [job.seconds_left for job in quick.plan(recipes=[baseline, few, larger]).runs]
    assert seconds == [0, 40 * 352 / (1437 // 32 * 32), None]
    assert [row["accuracy"] for row in as_dict(plan)["runs"][:2]] == [89.44, None]
    per_epoch = 1437 // 32 * 32
    left = {"core-hours": round((40 + 30 + 3 * 40) / 3600, 3), "unknown": 0, "epochs": 20 + 15 + 3 * 20}
    assert as_dict(plan)["left"] == {**left, "training_images": left["epochs"] * per_epoch}
    assert as_dict(plan)["runs"][4]["epochs_done"] == 5 and as_dict(plan)["runs"][4]["images_per_epoch"] == per_epoch
    assert least_seconds(plan.jobs, 1) == 190 and least_seconds(plan.jobs, 100) == 40
    text = as_text(plan, 2)
    assert "~40 s" in text and "expected: 0.0528 core-hours, at least 2 min with 2 runs at a time" in text
    gpu, teacher = Hardware("NVIDIA X", "Y", 8), make_teacher(guided.teacher, seconds=7.5)
    quick.finish(guided, seconds=60.0, hardware=gpu, world_size=4, teacher=teacher)
    left = as_dict(quick.plan([0, 1], [guided]))["left"]
    assert (left["GPU-hours"], left["unknown"]) == (round(60 * 4 / 3600, 3), 0) and "core-hours" not in left
    for path in cache_folder().rglob("record.json"):
        path.unlink()
    assert [job.seconds_left for job in quick.plan([0, 1], [guided]).teachers] == [7.5]  # from the record of its student


def test_teachers_on_datasets_of_one_owner_are_not_similar():
    teachers = {
        (name, epochs): Registry().compose(f"resnet8/hub:owner/{name}", "quick", [f"train.epochs={epochs}"])
        for name, epochs in (("birds", 30), ("birds", 20), ("cars", 20))
    }
    measured = Estimates([make_run("", teachers["birds", 30], [50.0]).record])
    assert measured.of(teachers["birds", 20], None) is not None
    assert measured.of(teachers["cars", 20], None) is None


def test_a_run_that_a_signal_ended_names_it(quick):
    run = quick.plan().runs[0]
    ends = {code: read_result(run, code) for code in (-9, -35)}  # 35: a real-time signal without a name of its own
    assert [end.outcome for end in ends.values()] == [Outcome.DIED] * 2
    assert [end.error for end in ends.values()] == ["ended by SIGKILL", "ended by signal 35"]


def test_times_of_published_runs_count_until_a_similar_one_is_finished_here(quick):
    baseline, guided = quick.baseline, quick.guided
    gpu = quick.invent(guided, seconds=1.0, hardware=Hardware("NVIDIA X", "Y", 8))
    cpu = [quick.invent(baseline, seconds=seconds, teacher=None) for seconds in (40.0, 60.0)]
    runs = [PlannedRun(one.with_seed(1)) for one in (baseline, guided)]
    plan = make_plan(runs, quick.results, measured=[gpu, *cpu])
    assert [job.seconds_left for job in plan.runs] == [50, 1]
    row = as_dict(plan)["runs"][0]
    assert (row["same_recipe_measured"], row["measured_on"]) == (True, "cpu, Synthetic CPU, 1 thread")
    text = as_text(plan, 1)
    assert "?50 s" in text and "from published runs on cpu, Synthetic CPU, 1 thread; NVIDIA X, Y, 8 threads" in text
    few = Registry().compose(baseline.id, "quick", ["data.train_limit=352"])  # similar to both: the last machine counts
    (job,) = make_plan([PlannedRun(few)], quick.results, measured=[gpu, *cpu]).runs
    assert job.seconds_left == 50 * 352 / (1437 // 32 * 32)
    quick.finish(baseline, seconds=30.0)
    plan = make_plan([PlannedRun(baseline), *runs], quick.results, measured=[gpu, *cpu])
    assert [job.seconds_left for job in plan.runs] == [0, 30, 30] and "?" not in as_text(plan, 1)


def test_times_in_records_that_cannot_be_read_are_left_out(quick):
    record = quick.invent(quick.baseline, seconds=40.0)
    unknown = dataclasses.replace(record, recipe={**record.recipe, "data": {**record.recipe["data"], "new_key": 1}})
    of_other = dataclasses.replace(record, teacher=make_teacher(quick.guided.teacher))  # its recipe has no teacher
    runs = [PlannedRun(quick.baseline.with_seed(seed)) for seed in (0, 1)]
    assert [job.seconds_left for job in make_plan(runs, quick.results, measured=[unknown]).runs] == [None, None]
    assert [job.seconds_left for job in make_plan(runs, quick.results, measured=[of_other]).runs] == [40, 40]
    quick.folder(quick.baseline).write_record(unknown)
    assert [job.seconds_left for job in make_plan(runs, quick.results).runs] == [0, None]


def test_the_summary_names_the_cost_or_the_command_that_measures_it(quick):
    lines = summary(quick.plan([0, 1]), 2)
    assert lines[:2] == ["4 runs: 2 waiting for a teacher, 2 to run", "1 teacher: 0 trained, 1 to train"]
    seen = (4 * 20 + 15) * (1437 // 32 * 32)
    assert lines[2] == f"left to train: 95 epochs, about {seen:,} training images"
    assert lines[3].startswith("time: unknown for 5 of 5 jobs") and "bench speed --recipe deit_micro/digits/" in lines[4]
    part = Registry().compose("deit_tiny/cifar100/baseline", assignments=["data.subset=10", "data.holdout=0.2"])
    (job,) = quick.plan(recipes=[part]).runs
    assert job.images_per_epoch == 4000 // 128 * 128


def test_a_folder_of_photos_is_counted_and_its_commands_name_the_folders(tmp_path, capsys):
    write("folder", tmp_path / "data", classes=2, train=40, test=2)
    words = ["deit_micro/folder:photos/guided", "--protocol", "quick", "--set", "teacher.train.epochs=1"]
    words += ["--set", "teacher.data.train_limit=70", "--data-dir", tmp_path / "data", "--results-dir", tmp_path]
    out = call(capsys, "bench", "plan", *words, "--seeds", 1)[1]
    assert f"left to train: 21 epochs, about {20 * 64 + 64:,} training images" in out
    command = next(line for line in out.splitlines() if "bench speed" in line).split()
    assert command[-2:] == ["--data-dir", str(tmp_path / "data")] and command[6:8] == ["--protocol", "quick"]
    assert "--set teacher.data.train_limit=70" in " ".join(command)


def test_ten_thousand_runs_are_planned_at_once(tmp_path):
    registry = Registry()
    models = [name for name in registry.names("models") if registry.role(name) == "student"][:8]
    datasets = ["cifar10", "cifar100", "flowers102", "tiny_imagenet", "chaoyang"]
    ids = ["/".join(parts) for parts in product(models, datasets, registry.names("guidance")[:7])]
    recipes = [registry.compose(one) for one in ids]
    plan = make_plan((PlannedRun(one.with_seed(seed)) for seed in range(36) for one in recipes), tmp_path)
    assert len(plan.runs) == 10_080 and len(plan.teachers) == 4  # not that of Chaoyang, which is not here
    assert f"time: unknown for {8 * 4 * 7 * 36 + 4} of 8,068 jobs" in as_text(plan, 8)
    one = next(job for job in plan.runs if job.recipe.seed == 35 and job.recipe.guidance is not None)
    alone = registry.compose(one.recipe.id, seed=35)
    assert one.recipe == alone and one.recipe.hash == alone.hash


def test_the_plan_of_the_paper_needs_no_torch_no_data_and_no_gpu(tmp_path):
    words = ["-X", "importtime", "-m", "bench", "plan", "paper", "--results-dir", tmp_path, "--json"]
    done = command(*words, check=True, env={"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")})
    content = json.loads(done.stdout)
    assert len(content["runs"]) == 192 and len(content["teachers"]) == 3 and content["left"]["unknown"] == 147
    missing = {row["id"].split("/")[1] for row in content["runs"] if row["note"] == "dataset is missing"}
    assert missing == {"chaoyang"} and "ask its authors" in content["problems"][0] and len(content["problems"]) == 1
    assert content["downloads"][0] == "dataset 'cifar100': will be downloaded (torchvision)"
    assert not any(f" {name}\n" in done.stderr for name in ("torch", "pandas", "matplotlib"))
    assert not list(Path(tmp_path).iterdir())


def test_a_plan_in_json_is_json_also_if_a_dataset_must_be_decoded(quick, monkeypatch, capsys):
    plan, parser = quick.plan(), argparse.ArgumentParser()
    commands.add_plan_options(parser)
    monkeypatch.setattr(commands, "make_plan", lambda *_, **__: print("decoding digits") or plan)
    assert commands.run_plan(parser.parse_args(["quick", "--json"])) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["runs"][0]["state"] == "to run" and "decoding digits" in err


def test_a_plan_is_of_recipes_and_of_suites(tmp_path, capsys):
    def plan(*words):
        return call(capsys, "bench", "plan", "--results-dir", tmp_path, *words)

    code, out, _ = plan(
        "quick", "--set", "train.epochs=1", "deit_micro/digits/kd", "resnet14/digits", "--protocol", "quick"
    )
    assert code == 0 and "left to train: 27 epochs" in out  # 12 students, the teacher of 15 epochs
    assert all(out.count(f"deit_micro/digits/{method}") >= 3 for method in ("baseline", "guided", "kd"))
    assert out.count("resnet14/digits") == 3 and out.count("resnet8/digits") == 1
    assert plan("deit_tiny/cifar10/baseline", "--seeds", "2")[1].count("to run  deit_tiny/cifar10/baseline") == 2
    one = plan("deit_tiny/cifar10/baseline", "--seeds", "1", "--set", "train.epochs=1")[1]
    assert "1 run: 1 to run\n" in one and "left to train: 1 epoch, about" in one and "unknown for 1 of 1 job, since" in one
    assert [plan("quick", "--gpus-per-run", gpus)[0] for gpus in ("0", "512", "-1")] == [0, 0, 2]  # for a cluster's nodes
    for words, sentence in (
        ([], "plan: name suites (cifar10, "),
        (["quick", "--protocol", "paper"], "a suite has its own"),
        (["quick", "--filter", "cifar"], "no recipe of suite quick matches"),
        (["quick", "--seeds", "0"], "--seeds 0: must be 1 or more"),
        (
            ["quick", "--set", "data.train_limit=9", "train.epochs=1"],
            "write --set before each setting: --set train.epochs=1",
        ),
        (["quick", "--set", "model.name=x"], "comes from the recipe id"),
    ):
        code, _, errors = plan(*words)
        assert code == 2 and sentence in errors, errors


def test_keys_of_the_teacher_are_left_aside_for_baselines(quick, capsys):
    words = ["quick", "--results-dir", quick.results, "--set", "teacher.train.epochs=1", "--set", "teacher.seed=5"]
    code, out, _ = call(capsys, "bench", "plan", *words)
    assert code == 0 and "left to train: 121 epochs" in out
    quick.finish(quick.baseline)  # of the suite as it is: the settings change nothing in a baseline
    runs = json.loads(call(capsys, "bench", "plan", *words, "--json")[1])["runs"]
    assert [run["state"] for run in runs[:2]] == ["finished", "waiting for a teacher"]
    dry = call(capsys, "bench", "sweep", *words, "--dry-run", "--filter", "*seed*", "--filter", "digits")[1]
    lines = [line for line in dry.splitlines() if line.startswith("python bench/run.py")]
    assert any("guided --seed 1 --suite quick --set teacher.train.epochs=1 --set teacher.seed=5 " in line for line in lines)
    assert any("baseline --seed 1 --suite quick --results-dir" in line for line in lines)


def test_the_commands_of_a_dry_run_can_be_pasted_into_a_shell(tmp_path, capsys):
    words = ["deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", tmp_path / "my results", "--seeds", 1]
    out = call(capsys, "bench", "sweep", *words, "--set", "train.betas=[0.9, 0.95]", "--dry-run")[1]
    (line,) = [line for line in out.splitlines() if line.startswith("python bench/run.py")]
    assert {"train.betas=[0.9, 0.95]", str(tmp_path / "my results")} < set(shlex.split(line))


def test_varied_values_are_named_and_equal_recipes_are_one_run(tmp_path, capsys):
    (tmp_path / "suites").mkdir()
    text = (
        shipped_recipes() / "suites" / "quick.yaml"
    ).read_text() + "vary: {teacher.seed: [0, 1], train.lr: [0.001, 0.01]}\n"
    (tmp_path / "suites" / "mine.yaml").write_text(text)
    words = ["mine", "--recipes-dir", tmp_path, "--results-dir", tmp_path / "results"]
    plan = json.loads(call(capsys, "bench", "plan", *words, "--json")[1])
    settings = [(run["id"].rpartition("/")[2], *run["settings"]) for run in plan["runs"] if run["seed"] == 0]
    assert settings == [
        ("baseline", "train.lr=0.001"),
        ("guided", "teacher.seed=0", "train.lr=0.001"),
        ("baseline", "train.lr=0.01"),
        ("guided", "teacher.seed=0", "train.lr=0.01"),
        ("guided", "teacher.seed=1", "train.lr=0.001"),
        ("guided", "teacher.seed=1", "train.lr=0.01"),
    ]
    assert [(one["seed"], one["settings"]) for one in plan["teachers"]] == [
        (0, ["teacher.seed=0"]),
        (1, ["teacher.seed=1"]),
    ]
    assert "deit_micro/digits/guided    teacher.seed=1 train.lr=0.01 " in call(capsys, "bench", "plan", *words)[1]


def test_a_teacher_is_named_by_what_changes_its_training(tmp_path, capsys):
    (tmp_path / "suites").mkdir()
    vary = "vary: {teacher.bn: [batch, running], teacher.model.name: [resnet8, 'timm:test_resnet']}\n"
    (tmp_path / "suites" / "mine.yaml").write_text((shipped_recipes() / "suites" / "quick.yaml").read_text() + vary)
    words = ["mine", "--recipes-dir", tmp_path, "--results-dir", tmp_path / "results", "--json"]
    plan = json.loads(call(capsys, "bench", "plan", *words)[1])
    assert [(one["id"], one["settings"]) for one in plan["teachers"]] == [
        ("resnet8/digits", ["teacher.model.name=resnet8"]),
        ("timm:test_resnet/digits", ["teacher.model.name=timm:test_resnet"]),
    ]
    assert len(plan["runs"]) == 3 * (1 + 4) and plan["problems"] == []


def test_runs_in_no_suite_are_counted(quick, capsys):
    registry = Registry()
    other = registry.compose("deit_micro/digits/baseline", "quick", ["train.epochs=1"])
    quick.finish(quick.baseline.with_seed(7))
    assert runs_in_no_suite(registry, quick.results) == []
    quick.finish(other)
    assert runs_in_no_suite(registry, quick.results) == [quick.folder(other).path]
    words = "1 finished run here is in no suite: `python -m bench compare ID"
    assert words in call(capsys, "bench", "plan", "quick", "--results-dir", quick.results)[1]
