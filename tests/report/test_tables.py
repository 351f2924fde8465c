from __future__ import annotations

import dataclasses

import pandas as pd
import pytest

from bench.config.parse import SourcedValue
from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.report import documents, tables
from bench.report.page import render_page
from bench.report.suite_report import build_suite_report
from bench.runs.record import Compilation, DatasetSummary, Hardware, Precision
from tests.helpers.synthetic import (
    make_run,
    make_teacher,
    methods,
    quick_run,
    registry_with_methods,
    runs_of_suite,
    three_seeds,
    varied_suite,
)

registry = Registry()
suite = registry.suite("quick")


def report(runs, suite=suite):
    return build_suite_report(registry, suite, runs)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Eight students, two datasets, fifteen methods, one seed missing in places."""
    names = [f"kd-{number}" for number in range(13)]
    wide, paper = registry_with_methods(tmp_path_factory.mktemp("recipes"), names), registry.suite("paper")
    many = Suite("many", "paper", paper.models, ("cifar100", "chaoyang"), methods(*names, "baseline", "guided"), (0,))
    short = dataclasses.replace(many, overrides=(("train.epochs", SourcedValue(20, "test")),))
    return build_suite_report(wide, short, runs_of_suite(wide, short, 500))


def test_the_headline_of_known_runs():
    table = tables.accuracy_table(report(three_seeds()))
    assert table.to_dict("split", index=False)["data"] == [
        ["deit_micro", "digits", "baseline", "82.00 ± 2.00", "", "", "", "3"],
        ["deit_micro", "digits", "guided", "92.00 ± 2.00", "+10.00 ± 2.00", "+5.03 to +14.97", "better", "3"],
    ]
    assert tables.best_table(report(three_seeds()))["gain"].tolist() == ["", "+10.00 ± 2.00"]


def test_runs_of_other_code_stay_with_a_remark():
    runs = three_seeds()
    assert not [remark for remark in report(runs).remarks if "other code" in remark]
    for number, part in ((3, "guidance.locality"), (4, "guidance.locality"), (5, "train")):
        record = runs[number].record
        other = dataclasses.replace(record, numerics={**record.numerics, part: 0})
        runs[number] = dataclasses.replace(runs[number], record=other)
    (remark,) = [remark for remark in report(runs).remarks if "other code" in remark]
    assert remark == (
        "3 of 6 runs are recorded with other code (guidance.locality 0, now 1; train 0, now 1):"
        " `sweep --stale` runs them again."
    )
    assert tables.accuracy_table(report(runs))["seeds"].tolist() == ["3", "3"]
    assert documents.markdown(report(runs)).count(remark.replace("`", r"\`")) == 1


def test_runs_that_fell_back_from_compilation_are_marked():
    runs = three_seeds()
    assert "fell back" not in documents.markdown(report(runs))
    for number, changes in (
        (1, {"compile": "fell back"}),  # records without further facts
        (4, {"compilation": Compilation(2, 1, 0, 0, ("teacher not compiled (Error: no)",), "flash", 9.0)}),
        (5, {"compilation": Compilation(2, 2, 3, 1, (), "flash", 9.0)}),
    ):
        runs[number] = dataclasses.replace(runs[number], record=dataclasses.replace(runs[number].record, **changes))
    shown = report(runs)
    (remark,) = [remark for remark in shown.remarks if "fell back" in remark]
    assert remark.startswith("2 of 6 runs fell back from compilation")
    marked = tables.runs_table(shown)["hardware"].str.endswith(", fell back from compilation")
    assert marked.tolist() == [number in (1, 4) for number in range(6)]
    assert documents.markdown(shown).count("fell back") == 3
    page = render_page([shown])
    assert page.count(remark) == 1 and page.count("fell back, all or in part") == 2


def test_missing_and_diverged_runs_are_shown():
    runs = [quick_run("baseline", 0, [80.0]), quick_run("baseline", 1, [40.0], diverged=True)]
    assert tables.accuracy_table(report(runs))[["last epoch", "seeds"]].to_numpy().tolist() == [
        ["80.00", "1, 1 diverged"],
        ["not run", "0"],
    ]
    text = documents.markdown(report(runs))
    assert "diverged in epoch 1 " in text and "- 1 run of 2 diverged and is left out." in text
    table = tables.accuracy_table(report([*runs, quick_run("guided", 1, [90.0])]))
    assert table["gain"].tolist() == ["", "no pair"]


def test_no_factor_where_a_seed_does_not_reach_the_baseline():
    runs = three_seeds()
    row = tables.convergence_table(report(runs)).iloc[1]
    assert row["epochs to baseline's final"] == "1.0 ± 0.0" and row["speed-up, epochs"] == "1.0 ± 0.0 ×"
    runs[-1] = quick_run("guided", 2, [70.0, 83.0])
    table = tables.convergence_table(report(runs))
    assert table["epochs to baseline's final"].tolist()[1] == "reached by 2 of 3 seeds"
    assert not [name for name in table if name.startswith("speed-up")]
    by_seed = tables.runs_table(report(runs))["epochs to baseline's final"]
    assert by_seed.tolist() == ["1", "1", "1", "1", "1", "not reached"]


def test_a_baseline_at_chance_has_no_factor_and_is_named():
    runs = [*three_seeds()[:2], quick_run("baseline", 2, [70.0, 10.0]), *three_seeds()[3:]]
    table = tables.convergence_table(report(runs))
    assert table["epochs to baseline's final"].tolist() == ["baseline at chance in 1 of 3 seeds"] * 2
    assert not [name for name in table if name.startswith("speed-up")]
    by_seed = tables.runs_table(report(runs))["epochs to baseline's final"]
    assert by_seed.tolist() == ["1", "1", "baseline at chance", "1", "1", "baseline at chance"]
    assert documents.CHANCE_NOTE in documents.markdown(report(runs))
    assert documents.CHANCE_NOTE not in documents.markdown(report(three_seeds()))


def test_what_differs_from_the_protocol_is_said_once_and_its_name_in_captions(large):
    short = dataclasses.replace(suite, overrides=(("train.epochs", SourcedValue(1, "test")),))
    runs = [make_run("quick", registry.compose("deit_micro/digits/baseline", suite=short), [50.0])]
    note = "not the published one: 1 epoch, batch size 32, image size 16 px. Settings of this suite: train.epochs=1."
    built = report(runs, short)
    text = documents.latex(built)
    assert documents.markdown(built).count(note) == 1 and "image size 16 px. Before comparing, see the notes" in text
    other = "Protocol: paper (arXiv 2207.10026), with other settings: 20 epochs, batch size 128, image size 224 px."
    assert large.remarks[0] == f"{other} Settings of this suite: train.epochs=20."
    as_published = dataclasses.replace(large.suite, overrides=(("train.precision", SourcedValue("fp32", "test")),))
    recipe = registry.compose("deit_tiny/cifar100/guided", suite=as_published)
    published = report([make_run("paper", recipe, [50.0])], as_published)
    assert published.protocol_note == "Protocol: paper (arXiv 2207.10026)."
    assert any("released code" in note for note in published.notes) and not any("released" in note for note in large.notes)
    captions = [line for line in documents.latex(large).splitlines() if line.startswith(r"\caption")]
    assert len(captions) == 2 * 2  # on the first and the following pages of each dataset
    assert all("Protocol: paper" in line and "train.epochs=20" not in line for line in captions)
    assert "{booktabs}" in text.splitlines()[0] and "{booktabs,longtable}" in documents.latex(large).splitlines()[0]


def test_the_images_and_the_code_of_the_runs_are_said():
    text = "\n".join(documents.headline(report(three_seeds())))
    assert (
        "Dataset `digits`: 10 classes, 1,437 training images, evaluated on 1,000,000 test images. Guessing gives 10.00 %."
        in text
    )
    part = dataclasses.replace(suite, overrides=(("data.subset", SourcedValue(4, "test")),))
    recipe, images = (
        registry.compose("deit_micro/digits/baseline", suite=part),
        DatasetSummary("0" * 64, 4, 500, 400, None, "holdout", largest_class=0.3),
    )
    built = report([make_run("quick", recipe, [50.0], dataset=images)], part)
    sentence = "4 of 10 classes, 500 training images, evaluated on 400 held-out training images. Guessing gives 30.00 %."
    assert sentence in built.images_note("digits")
    assert "standard error of up to 2.5 points" in built.images_note("digits") and built.images_note("other") == ""
    assert "4 of 10 classes" in documents.latex(built)
    assert "- The runs were made with torch 0.0.0, timm 0.0.0" in documents.markdown(built)


def test_runs_that_differ_are_pointed_out():
    assert report(three_seeds()).notes == []
    mixed = report([*three_seeds(), quick_run("guided", 3, [95.0], precision=Precision("fp16", "fp16"))])
    assert mixed.notes == ["Runs on digits differ in precision: bf16, fp16."]
    dirty = dataclasses.replace(quick_run("baseline", 0, [1.0]).record.code, dirty=True)
    assert report([quick_run("baseline", 0, [50.0], code=dirty)]).notes == ["1 of 1 run used code that was not committed."]


def test_where_a_teachers_file_is_stays_on_its_machine():
    suite = registry.suite("quick").with_settings(["teacher.weights=/home/me/teacher", f"teacher.sha256='{'0' * 63}a'"])
    built = build_suite_report(registry, suite, runs_of_suite(registry, suite, 6))
    assert "teacher.sha256" in documents.markdown(built).replace("\\", "") and "/home/me" not in documents.markdown(built)


def test_many_methods_are_sorted_by_gain_and_their_gains_corrected(large):
    table = tables.accuracy_table(large)
    own = table[(table["student"] == "pit_tiny") & (table["dataset"] == "chaoyang")]
    gains = [float(text.split()[0]) for text in own["gain"][1:] if text not in ("", "no pair")]
    assert own["method"].iloc[0] == "baseline" and gains == sorted(gains, reverse=True) and len(gains) > 8
    assert list(large.cells["method"][:15]) == ["baseline", *(f"kd-{number}" for number in range(13)), "guided"]
    assert table["student"].unique().tolist() == list(large.suite.models) and len(table) == 8 * 2 * 15
    assert {"too few seeds", "not run", "diverged", "no pair"} <= set(table.to_numpy().ravel())
    text = "\n".join(documents.headline(large))
    assert text.count("`t2t_vit_14`") == 2  # once per dataset
    assert "- Not run yet: cvt\\_13 on chaoyang." in text
    assert text.count("`cvt_13`") == 1
    assert documents.latex(large).count(r"\begin{longtable}") == 2


def test_rows_of_one_guidance_stay_together():
    names = ("baseline", *(f"{name}{end}" for name in ("guided", "kd", "hard", "dkd") for end in ("", " weight=3")))
    gains = dict(zip(names, (None, 1.0, 4.0, 2.0, 3.0, 5.0, -1.0, None, 2.0), strict=True))
    built = report(three_seeds())
    few = built.cells.iloc[[0]]
    many = pd.concat([few.assign(method=name, gain_mean=gain) for name, gain in gains.items()], ignore_index=True)
    ranked = dataclasses.replace(built, cells=many).ranked_cells["method"].tolist()
    order = ["baseline", "hard", "hard weight=3", "guided", "guided weight=3", "kd", "kd weight=3", "dkd", "dkd weight=3"]
    assert ranked == order
    assert dataclasses.replace(built, cells=many[::-1][3:]).ranked_cells["method"].tolist() == [*names[5::-1]]


def test_several_comparisons_are_corrected_and_the_note_says_what_that_asks_for():
    other = [quick_run("kd", seed, [last]) for seed, last in enumerate((81.0, 82.5, 85.5))]
    built = report([*three_seeds(), *other], dataclasses.replace(suite, rows=methods("baseline", "guided", "kd")))
    assert tables.accuracy_table(built)["Holm"].tolist() == ["", "better: +2.83 to +17.17", "unclear: -0.24 to +2.24"]
    note = tables.accuracy_note(built)
    assert "for the 2 comparisons in a cell" in note and "With 3 seeds and 2 comparisons" in note
    assert "over 3.6 times its standard deviation (by itself: 2.5 times)" in note
    assert "Holm" not in tables.accuracy_table(report(three_seeds())) and "Holm" not in tables.accuracy_note(
        report(three_seeds())
    )


def test_constants_in_epochs_are_said_to_be_scaled():
    own = dataclasses.replace(suite, rows=methods("baseline", "kd", "dkd", "alg"))
    (note,) = [note for note in report([quick_run("baseline", 0)], own).notes if "Constants" in note]
    assert note == "Constants in epochs are scaled from 300 epochs to 20: dkd ramp 1, alg window 3, alg first_test 1."


def test_latex_has_no_character_that_it_would_read_as_a_command():
    text = documents.latex(report(three_seeds()))
    assert r"deit\_micro & baseline & 82.00 $\pm$ 2.00 &  &  &  & 3 \\" in text
    assert r" & guided & 92.00 $\pm$ 2.00 & $+$10.00 $\pm$ 2.00 & $+$5.03 to $+$14.97 & better & 3 \\" in text
    assert r"95 \% confidence" in text and text.count(r"\toprule") == 1 and r"\label{tab:quick-digits}" in text


def test_text_of_others_is_shown_as_text():
    hostile = "a|b <script>alert(1)</script> [x](javascript:y) `c` \n# d"
    text = documents.markdown(report(three_seeds(hardware=Hardware(hostile, hostile, 1))))
    assert "<script" not in text and "[x](" not in text and "\n# d" not in text
    lines = [line for line in text.partition("## Costs")[2].partition("## Runs")[0].splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1


def test_the_teacher_is_described_by_the_weights_that_guide():
    (sentence,) = tables.teacher_sentences(report(three_seeds()).runs)
    assert sentence.startswith("Teacher resnet8/digits (seed 0") and "70.00 % after 15 epochs" in sentence
    runs = pd.concat([report(three_seeds()).runs] * 2).assign(variant=["a=1"] * 6 + ["a=2"] * 6)
    assert len(tables.teacher_sentences(runs)) == 1  # of all
    runs["teacher_key"] = runs["teacher_key"] + runs["variant"]
    starts = [one.partition(" (")[0] for one in tables.teacher_sentences(runs)]
    assert starts == ["Teacher resnet8/digits of a=1", "Teacher resnet8/digits of a=2"]


def test_of_a_teacher_that_was_read_from_a_file_only_the_accuracy_is_known():
    recipe, unknown = (
        registry.compose("deit_micro/digits/guided", suite=suite),
        dict.fromkeys(("seed", "epochs", "seconds")),
    )
    built = report(three_seeds(teacher=make_teacher(recipe.teacher, select="given", **unknown)))
    (sentence,) = tables.teacher_sentences(built.runs)
    assert sentence.startswith("Teacher resnet8/digits (read from a file, the same") and "70.00 %; how it was" in sentence
    guided = built.cells.set_index("method").loc["guided"]
    assert guided["speedup_seconds_mean"] > 0 and pd.isna(guided["speedup_seconds_with_teacher_mean"])


def test_only_marked_parts_of_a_readme_change():
    built, end = report(three_seeds()), "<!-- end of tables -->"
    text = f"mine\n<!-- tables: python -m bench publish -->\nold\n{end}\nmine too\n"
    filled = documents.fill_readme(text, [built])
    assert filled.startswith("mine\n") and filled.endswith("\nmine too\n") and "old" not in filled
    assert "92.00 ± 2.00" in filled and "## `quick`" in filled and documents.fill_readme(filled, [built]) == filled
    other = f"<!-- table of other: python -m bench publish -->{end}"
    one = documents.fill_readme(f"<!-- table of quick: python -m bench publish -->{end}{other}", [built], "results/")
    assert one.endswith(other) and "](results/quick/table.md)" in one and "## `quick`" not in one
    assert documents.fill_readme("no markers", [built]) == "no markers"
    first = documents.fill_readme(f"<!-- table of other or quick: python -m bench publish -->{end}", [built])
    assert "](quick/table.md)" in first and documents.fill_readme(first, [built]) == first


def test_varied_values_are_named_in_every_table(tmp_path):
    recipes, varied = varied_suite(tmp_path)
    built = build_suite_report(recipes, varied, runs_of_suite(recipes, varied, 12))
    table = tables.accuracy_table(built)
    assert table["variant"].tolist() == ["data.train_limit=100"] * 2 + ["data.train_limit=1000"] * 2
    assert "variant" not in tables.accuracy_table(report(three_seeds()))
    text, headline = documents.markdown(built), "\n".join(documents.headline(built))
    assert text.count("`data.train_limit=1000`") == 1 + 3 * 2 + 6 and text.count("| variant ") == 5
    assert headline.count("`data.train_limit=100`") == 1 and "Varied: data.train\\_limit." in headline
    assert r"deit\_micro & data.train\_limit=100 & baseline & " in documents.latex(built)
    assert r"\begin{tabular}{lllr" in documents.latex(built)


def test_the_reference_is_named_wherever_gains_are():
    over = dataclasses.replace(suite, reference="guided")
    built = report(three_seeds(), over)
    text = documents.markdown(built)
    assert "Gain: over guided, in points" in text and "epochs to guided's final" in text and "over the baseline" not in text
    assert tables.accuracy_table(built)["gain"].tolist() == ["", "-10.00 ± 2.00"]


def test_runs_that_are_not_paired_are_pointed_out():
    built = report(three_seeds(hardware=Hardware("cpu", "Synthetic CPU", 8)))
    assert tables.accuracy_table(built)["not paired"].tolist() == ["", "3 seeds not paired: other device"]
    (note,) = built.notes
    assert note == "Runs that differ from those of baseline in device are not paired: no gain is computed from them."


def test_a_cell_without_the_reference_has_accuracies_and_no_gain():
    ids = ("deit_micro/digits/guided", "deit_tiny/digits/baseline")
    own = dataclasses.replace(suite, models=("deit_micro", "deit_tiny"), recipes=ids)
    built = report([quick_run("guided", 0, [90.0])], own)
    assert built.notes == [
        "Without baseline there is nothing to compare with, so there are no gains: deit_micro on digits."
    ]
    assert tables.accuracy_table(built)["last epoch"].tolist() == ["90.00", "not run"]
