from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from bench.config.names import split_id
from bench.config.parse import SourcedValue
from bench.config.registry import Registry
from bench.config.suite import SuiteEntry, SuiteMethod
from bench.report.frame import RUN, curves_frame, runs_frame
from bench.report.stats import REACH, holm, paired_interval, paired_p_value, pairs_frame, verdict
from bench.report.suite_report import build_suite_report
from bench.runs.record import DatasetSummary, GuidanceStop, Hardware, Precision
from tests.helpers.synthetic import make_run, make_teacher, methods
from tests.helpers.synthetic import quick_run as run

registry = Registry()
suite = registry.suite("quick")
guided_recipe = registry.compose("deit_micro/digits/guided", suite=suite)
percent = st.integers(0, 10_000).map(lambda n: n / 100)


def cells(*runs, suite=suite):
    """{method: row of the cells frame}"""
    return {row["method"]: row for row in build_suite_report(registry, suite, runs).cells.to_dict("records")}


def frame_of(*runs):
    return runs_frame([(run, SuiteEntry(run.record.id, split_id(run.record.id)[2])) for run in runs])


def pairs(*runs, reference="baseline"):
    frame = frame_of(*runs)
    return pairs_frame(frame, curves_frame(frame[[*RUN, "diverged"]], runs), reference).set_index(["method", "seed"])


def test_a_run_is_a_row_of_a_frame():
    summary = make_teacher(guided_recipe.teacher, select="best", last_accuracy=61.0, best_accuracy=98.25)
    changes = {"teacher": summary, "hardware": Hardware("cpu", "Z80", 4), "world_size": 2, "seconds": 900.0}
    row = frame_of(run("guided", 0, [80.0, 90.0, 85.0], **changes)).iloc[0]
    assert (row["suite"], row["model"], row["dataset"], row["method"]) == ("quick", "deit_micro", "digits", "guided")
    assert (row["last_accuracy"], row["best_accuracy"], row["best_epoch"]) == (85.0, 90.0, 2)
    assert (row["device_hours"], row["device_unit"]) == (2.0, "core-hours")
    assert row["machine"] == "2 x Z80, 4 threads, bf16"
    assert (row["teacher_accuracy"], row["teacher_select"]) == (98.25, "best")  # of the weights that guide


def test_missing_values_do_not_change_the_types_of_a_frame():
    diverged = frame_of(run("baseline", 0, [10.0], diverged=True))
    assert diverged[["last_accuracy", "best_epoch", "teacher_id", "teacher_seed"]].isna().all(axis=None)
    assert (diverged.dtypes == frame_of(run("baseline", 0, [10.0]), run("guided", 0, [10.0])).dtypes).all()


@given(st.lists(st.tuples(percent, percent), min_size=3, max_size=12))
def test_the_interval_is_that_of_the_paired_t_test(values):
    guided, baseline = (pd.Series(column) for column in zip(*values, strict=True))
    low, high = paired_interval(guided - baseline)
    if (guided - baseline).std() < 1e-9:  # scipy warns and gives no number
        assert low == pytest.approx((guided - baseline).mean()) == high
        return
    expected = ttest_rel(guided, baseline)
    assert (low, high) == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert paired_p_value(guided - baseline) == pytest.approx(expected.pvalue)


def test_p_values_of_differences_without_spread_or_of_two_seeds():
    values = [paired_p_value(pd.Series(own)) for own in ([2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [-1.0, 5.0])]
    assert values[:2] == [0.0, 1.0] and math.isnan(values[2])


def test_holms_correction_of_known_p_values():
    corrected, confidence = holm([0.01, 0.04, 0.03, 0.005])
    assert corrected == pytest.approx([0.03, 0.06, 0.06, 0.02])  # as multipletests of statsmodels and p.adjust of R
    assert confidence == pytest.approx([1 - 0.05 / 3, 1 - 0.05 / 2, 1 - 0.05 / 2, 1 - 0.05 / 4])
    corrected, confidence = holm([0.2, 0.001])
    assert corrected == pytest.approx([0.2, 0.002]) and confidence == pytest.approx([0.95, 0.975])


@given(st.lists(st.lists(st.integers(-800, 1500), min_size=3, max_size=6), min_size=1, max_size=30))
def test_holms_verdicts_intervals_and_p_values_agree(hundredths):
    gains = [pd.Series(own) / 100 for own in hundredths]
    p = np.array([paired_p_value(own) for own in gains])
    corrected, confidence = holm(p)
    assert (
        (corrected >= p).all() and (corrected <= 1).all() and (np.diff(corrected[np.argsort(p, kind="stable")]) >= 0).all()
    )
    assert len(p) > 1 or (corrected == p and confidence == pytest.approx(0.95))
    intervals = [paired_interval(own, level) for own, level in zip(gains, confidence, strict=True)]
    assert [verdict(*ends) in ("better", "worse") for ends in intervals] == [value < 0.05 for value in corrected]
    assert all(low <= own.mean() <= high for (low, high), own in zip(intervals, gains, strict=True))


@given(st.floats(-9, 9), st.floats(0, 9))
def test_a_verdict_needs_an_interval_without_zero(low, width):
    high = low + width
    assert verdict(low, high) == ("better" if low > 0 else "worse" if high < 0 else "unclear")
    assert all(math.isnan(end) for end in paired_interval(pd.Series([low, high])))
    assert verdict(*paired_interval(pd.Series([low, high]))) == "too few seeds"


@settings(max_examples=40, deadline=None)
@given(st.lists(percent, min_size=1, max_size=20), st.floats(0.1, 1e5), st.sampled_from(["baseline", "guided", "kd"]))
def test_a_run_is_as_fast_as_itself(curve, seconds, reference):
    found = pairs(*(run(name, 0, curve, seconds=seconds) for name in ("baseline", "guided", "kd")), reference=reference)
    for method in ("baseline", "guided", "kd"):
        row = found.loc[method, 0]
        assert row["gain"] == 0
        if row["reference_at_chance"]:
            assert row[REACH].isna().all() and curve[-1] < 30
            continue
        assert (row["speedup_epochs"], row["speedup_seconds"]) == (1.0, 1.0)
        if (method == "baseline") == (reference == "baseline"):  # both with a teacher or both without
            assert row["speedup_seconds_with_teacher"] == 1.0
        assert row["epochs_to_reach"] == 1 + next(i for i, value in enumerate(curve) if value >= curve[-1])


def test_speed_up_counts_from_when_the_baseline_first_reached_its_own_final_accuracy():
    teacher = make_teacher(guided_recipe.teacher, seconds=50.0)
    baseline = run("baseline", 0, [10.0, 20.0, 45.0, 30.0, 40.0], seconds=400.0)  # 20 s per epoch
    guided = run("guided", 0, [30.0, 41.0, 60.0, 60.0], seconds=1000.0, teacher=teacher)
    row = pairs(baseline, guided).loc["guided", 0]
    assert (row["epochs_to_reach"], row["speedup_epochs"]) == (2, 3 / 2)
    assert row["speedup_seconds"] == 60 / 100 and row["speedup_seconds_with_teacher"] == 60 / 150


def test_no_factor_unless_all_seeds_reach_the_baseline():
    runs = [run("baseline", 0, [10.0, 40.0]), run("baseline", 1, [10.0, 50.0]), run("guided", 0, [40.0, 60.0])]
    row = cells(*runs, run("guided", 1, [40.0, 50.0]))["guided"]
    assert (row["reached_seeds"], row["gain_seeds"], row["speedup_epochs_mean"]) == (2, 2, 1.5)
    row = cells(*runs, run("guided", 1, [40.0, 49.0]))["guided"]
    assert (row["reached_seeds"], row["gain_seeds"]) == (1, 2)
    assert all(math.isnan(row[f"{name}_mean"]) for name in REACH)


def test_no_factor_over_a_baseline_that_ends_at_chance():
    learned = [run("baseline", 0, [10.0, 40.0]), run("guided", 0, [40.0, 60.0]), run("guided", 1, [40.0, 60.0])]
    images, classes = learned[0].record.dataset.test_images, learned[0].record.dataset.classes
    limit = 100 / classes + 300 * math.sqrt((1 - 1 / classes) / classes / images)
    for accuracy, at_chance in ((limit - 0.5, 1), (limit + 0.5, 0)):
        row = cells(*learned, run("baseline", 1, [10.0, accuracy]))["guided"]
        assert (row["chance_seeds"], row["gain_seeds"], row["reached_seeds"]) == (at_chance, 2, 2 - at_chance)
        assert all(math.isnan(row[f"{name}_mean"]) == bool(at_chance) for name in REACH[:3])
        assert not math.isnan(row["gain_mean"])


def test_chance_is_the_share_of_the_most_frequent_class():
    for share, at_chance in ((0.45, 1), (0.30, 0)):
        images = DatasetSummary("f" * 64, 4, 400, 400, None, "test", largest_class=share)
        row = cells(run("baseline", 0, [45.0], dataset=images), run("guided", 0, [60.0], dataset=images))["guided"]
        assert (row["chance_seeds"], row["reached_seeds"]) == (at_chance, 1 - at_chance)


def test_wall_time_is_not_compared_across_machines():
    other = Hardware("Synthetic GPU", "Other CPU", 8)
    row = cells(run("baseline", 0, [40.0, 50.0]), run("guided", 0, [50.0, 60.0], hardware=other))["guided"]
    assert row["speedup_epochs_mean"] == 2.0 and math.isnan(row["speedup_seconds_mean"])


def test_gains_are_of_seeds_that_both_have():
    found = cells(
        *(run("baseline", seed, [accuracy]) for seed, accuracy in ((0, 80.0), (1, 82.0), (3, 10.0))),
        *(run("guided", seed, [accuracy]) for seed, accuracy in ((0, 90.0), (1, 91.0), (5, 99.0))),
        run("guided", 3, [50.0], diverged=True),
    )
    row = found["guided"]
    assert (row["gain_mean"], row["gain_seeds"], row["verdict"]) == (9.5, 2, "too few seeds")
    assert (row["seeds"], row["diverged_seeds"], row["last_mean"]) == (3, 1, pytest.approx(280 / 3))
    assert math.isnan(row["gain_low"]) and math.isnan(found["baseline"]["gain_mean"])


def test_gains_of_best_epochs_and_costs():
    found = cells(
        *(run("baseline", seed, [20.0, 40.0, 72.0, 80.0], seconds=60.0) for seed in range(3)),
        *(run("guided", seed, [80.0 + seed, 85.0, 95.0, 80.0 + seed]) for seed in range(3)),
    )
    baseline, guided = found["baseline"], found["guided"]
    assert (baseline["last_std"], guided["last_std"]) == (0.0, 1.0)
    assert (guided["gain_mean"], guided["best_gain_mean"], guided["verdict"]) == (1.0, 15.0, "unclear")
    assert baseline["device_hours"] == 3 * 60 / 3600 and baseline["device_unit"] == "GPU-hours"


def test_every_method_has_a_status():
    seeds = range(3)
    three = dataclasses.replace(suite, rows=methods("guided", "baseline", "kd", "hard"))
    runs = [run("baseline", seed, [50.0]) for seed in seeds] + [run("kd", seed, [9.0], diverged=True) for seed in seeds]
    found = cells(*runs, run("guided", 0, [50.0]), suite=three)
    assert list(found) == ["baseline", "guided", "kd", "hard"]  # the baseline first, then as the suite has them
    assert [row["status"] for row in found.values()] == ["complete", "incomplete", "diverged", "not run"]
    assert cells(run("guided", 0, [50.0]), run("guided", 1, [50.0]))["guided"]["status"] == "no pair"
    alone = dataclasses.replace(suite, rows=methods("guided"))
    assert cells(run("guided", 0, [50.0]), suite=alone)["guided"]["status"] == "incomplete"


def test_gains_over_another_method_than_the_baseline():
    over = dataclasses.replace(suite, rows=methods("baseline", "kd", "guided"), reference="guided")
    runs = [
        run(name, seed, [last]) for name, last in (("baseline", 80.0), ("guided", 90.0), ("kd", 91.0)) for seed in (0, 1)
    ]
    found = cells(*runs, suite=over)
    assert list(found) == ["guided", "baseline", "kd"]  # the reference first
    assert (found["kd"]["gain_mean"], found["baseline"]["gain_mean"]) == (1.0, -10.0)
    assert math.isnan(found["guided"]["gain_mean"]) and found["guided"]["epochs_to_reach_mean"] == 1.0


def test_gains_are_corrected_for_the_comparisons_of_their_cell():
    names = ("baseline", "guided", "kd", "hard", "lskd", "dkd")
    rises = {"guided": (10, 10.5, 11), "kd": (2, 3, 5), "hard": (4, 4, 4.5), "lskd": (1, 2)}  # dkd has no run
    runs = [run("baseline", seed, [50.0]) for seed in range(3)]
    runs += [run(name, seed, [50.0 + rise]) for name, own in rises.items() for seed, rise in enumerate(own)]
    found = cells(*runs, suite=dataclasses.replace(suite, rows=methods(*names)))
    assert [found[name]["comparisons"] for name in ("guided", "kd", "hard")] == [3, 3, 3]
    assert [found[name]["verdict"] for name in names[1:5]] == ["better", "unclear", "better", "too few seeds"]
    alone = [found[name]["p_value"] for name in ("guided", "hard", "kd")]
    assert alone == pytest.approx([ttest_rel(rises[name], (0, 0, 0)).pvalue for name in ("guided", "hard", "kd")])
    assert [found[name]["p_holm"] for name in ("guided", "hard", "kd")] == pytest.approx(np.array(alone) * (3, 2, 1))
    expected = ttest_rel(rises["hard"], (0, 0, 0)).confidence_interval(1 - 0.05 / 2)
    assert (found["hard"]["gain_low_holm"], found["hard"]["gain_high_holm"]) == pytest.approx(tuple(expected))
    assert all(pd.isna(found[name]["p_value"]) and pd.isna(found[name]["p_holm"]) for name in ("baseline", "lskd", "dkd"))


def test_where_an_adaptive_schedule_ended_guidance_is_said():
    names = ("baseline", "alg", "lg-all")
    stops = (GuidanceStop(4, -0.01, -0.001), None, GuidanceStop(3, -0.01, -0.001))
    runs = [run("alg", seed, [50.0], guidance_stop=stop) for seed, stop in enumerate(stops)]
    runs += [run(name, 0, [50.0]) for name in ("baseline", "lg-all")]
    found = cells(*runs, suite=dataclasses.replace(suite, rows=methods(*names)))
    assert found["alg"]["guidance_stop"] == "stopped after epoch 3, 4 of 20; 1 seed not stopped"
    assert found["lg-all"]["guidance_stop"] == "not stopped" and pd.isna(found["baseline"]["guidance_stop"])


CPU = Hardware("cpu", "Synthetic CPU", 1)


@pytest.mark.parametrize(
    ("baseline", "guided", "difference"),
    [
        ({"hardware": CPU}, {"hardware": dataclasses.replace(CPU, threads=2)}, "other number of threads"),
        ({"hardware": CPU}, {}, "other device"),
        ({}, {"hardware": Hardware("Other GPU", "Synthetic CPU", 8)}, "other device"),
        ({}, {"precision": Precision("auto", "fp32")}, "other precision"),
        ({}, {"dataset": DatasetSummary("f" * 64, 10, 1437, 360, None, "test")}, "other images"),
        ({}, {"hardware": Hardware("Synthetic GPU", "Synthetic CPU", 2)}, ""),  # threads of the host of a GPU
        ({"hardware": CPU}, {"hardware": dataclasses.replace(CPU, processor="Other CPU")}, ""),
        ({}, {"precision": Precision("bf16", "bf16")}, ""),  # what was used counts
    ],
)
def test_runs_that_were_computed_otherwise_are_no_pairs(baseline, guided, difference):
    runs = [run("baseline", seed, [50.0], **baseline) for seed in (0, 1)]
    found = cells(*runs, run("guided", 0, [60.0], **guided), run("guided", 1, [60.0], **guided))["guided"]
    assert found["unpaired"] == (difference and f"2 seeds not paired: {difference}")
    assert (found["gain_seeds"], found["status"]) == ((0, "no pair") if difference else (2, "incomplete"))
    assert math.isnan(found["gain_mean"]) == bool(difference) and found["last_mean"] == 60.0
    one = cells(*runs, run("guided", 0, [60.0], **baseline), run("guided", 1, [99.0], **guided))["guided"]
    assert (one["gain_mean"], one["gain_seeds"]) == ((10.0, 1) if difference else (29.5, 2))


def test_runs_of_other_versions_of_shared_components_are_no_pairs():
    baseline = run("baseline", 0, [50.0], numerics={"train": 1, "data": 1, "models.vit": 1})
    versions = {**baseline.record.numerics, "guidance.locality": 1}
    for other, difference in (({"data": 2, "train": 2}, "other version of data, train"), ({"guidance.locality": 2}, "")):
        row = cells(baseline, run("guided", 0, [60.0], numerics={**versions, **other}))["guided"]
        assert row["unpaired"] == (difference and f"1 seed not paired: {difference}")
        assert row["gain_seeds"] == (0 if difference else 1)


def test_rows_of_one_method_have_their_own_runs():
    rows = (SuiteMethod("guided", (("guidance.params.weight", SourcedValue(weight, "test")),)) for weight in (2.5, 25))
    several = dataclasses.replace(suite, rows=(*methods("baseline", "guided"), *rows))
    heavy = registry.suite_recipes(several)[3][1]
    runs = [run(name, seed, [last + seed]) for name, last in (("baseline", 50.0), ("guided", 60.0)) for seed in range(3)]
    runs += [make_run("quick", heavy.with_seed(seed), [70.0 + seed / 2]) for seed in range(3)]
    found = cells(*runs, suite=several)
    gains = {name: row["gain_mean"] for name, row in found.items() if name != "baseline"}
    assert gains == {"guided": 10.0, "guided weight=2.5": 10.0, "guided weight=25": 19.5}  # 2.5 is what the file has
    assert {row["comparisons"] for name, row in found.items() if name != "baseline"} == {2}  # the same runs are one
    assert found["guided"]["p_holm"] == found["guided weight=2.5"]["p_holm"]


def test_a_run_belongs_to_every_cell_whose_recipe_it_has():
    seeds = tuple((("teacher.seed", SourcedValue(value, "test")),) for value in (0, 1))
    varied = dataclasses.replace(suite, vary=(seeds,))
    guided = [recipe for _, recipe in registry.suite_recipes(varied) if recipe.teacher]
    runs = [run("baseline", 0, [50.0])]
    runs += [make_run("quick", recipe, [accuracy]) for recipe, accuracy in zip(guided, (60.0, 70.0), strict=True)]
    built = build_suite_report(registry, varied, runs)
    gains = built.cells[built.cells["method"] == "guided"].set_index("variant")["gain_mean"]
    assert gains.to_dict() == {"teacher.seed=0": 10.0, "teacher.seed=1": 20.0}
    assert len(built.runs) == 4 and len(built.distinct_runs) == 3
    assert built.cells["last_mean"].tolist() == [50.0, 60.0, 50.0, 70.0]
