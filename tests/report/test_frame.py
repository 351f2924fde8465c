from __future__ import annotations

from bench.config.registry import Registry
from bench.report.frame import RUN, curves_frame, runs_frame
from bench.runs.record import Hardware
from tests.helpers.synthetic import make_run, make_teacher, runs_of_suite

registry = Registry()
recipe = registry.compose("deit_micro/digits/guided", "quick")


def test_a_run_is_a_row():
    teacher = make_teacher(recipe.teacher, select="best", last_accuracy=61.0, best_accuracy=98.25)
    cpu = Hardware("cpu", "Z80", 4)
    run = make_run("quick", recipe, [80.0, 90.0, 85.0], teacher=teacher, hardware=cpu, world_size=2, seconds=900.0)
    row = runs_frame([run]).iloc[0]
    assert (row["suite"], row["model"], row["dataset"], row["method"]) == ("quick", "deit_micro", "digits", "guided")
    assert (row["last_accuracy"], row["best_accuracy"], row["best_epoch"]) == (85.0, 90.0, 2)
    assert (row["device_hours"], row["device_unit"]) == (2.0, "core-hours")
    assert row["machine"] == "2 x Z80, 4 threads, bf16"
    assert (row["teacher_accuracy"], row["teacher_select"]) == (98.25, "best")  # of the weights that guide


def test_missing_values_do_not_change_types():
    baseline = registry.compose("deit_micro/digits/baseline", "quick")
    diverged = runs_frame([make_run("quick", baseline, [10.0], diverged=True)])
    missing = ["last_accuracy", "best_epoch", "teacher_id", "teacher_seed"]
    assert diverged[missing].isna().all(axis=None)
    both = runs_frame([make_run("quick", baseline, [10.0]), make_run("quick", recipe, [10.0])])
    assert (diverged.dtypes == both.dtypes).all()


def test_an_epoch_is_a_row():
    runs = [run for run in runs_of_suite(registry, registry.suite("paper"), 63) if run.record.teacher][:5]
    curves = curves_frame(runs)
    assert list(curves) == [*RUN, "diverged", "epoch", "test_accuracy"] and len(curves) == sum(
        run.record.epochs for run in runs
    )
    for (seed, model, dataset), own in curves.groupby(["seed", "model", "dataset"], sort=False):
        (run,) = (r for r in runs if r.record.id == f"{model}/{dataset}/guided" and r.record.seed == seed)
        for name in ("epoch", "test_accuracy"):
            assert own[name].tolist() == run.history[name]
