"""What the seeds of teachers and of students do: the components of variance, and where the report shows them."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import f as f_distribution

from bench.report.output import table_files
from bench.report.page import render_page
from bench.report.suite_report import build_suite_report
from bench.report.teacher_seeds import TITLE, SeedTable, components, seed_tables
from tests.helpers.synthetic import make_run, varied_suite

SHAPES = st.tuples(st.integers(2, 5), st.integers(2, 5))
PERCENT = st.integers(0, 10_000).map(lambda n: n / 100)
VARIED = "vary: {teacher.seed: [0, 1, 2]}"
ACCURACIES = [[90.0, 92.0, 94.0], [91.0, 95.0, 93.0], [96.0, 96.0, 99.0]]  # by the seeds of teacher and student


def tables_of(shapes=SHAPES):
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=PERCENT))


def literally(values):
    """The components by the sums of the textbook, term by term."""
    a, b = len(values), len(values[0])
    mean = sum(map(sum, values)) / (a * b)
    rows = [sum(row) / b for row in values]
    columns = [sum(row[j] for row in values) / a for j in range(b)]
    of_rows = b * sum((row - mean) ** 2 for row in rows) / (a - 1)
    of_columns = a * sum((column - mean) ** 2 for column in columns) / (b - 1)
    squares = sum((values[i][j] - rows[i] - columns[j] + mean) ** 2 for i in range(a) for j in range(b))
    rest = squares / ((a - 1) * (b - 1))
    return (of_rows - rest) / b, (of_columns - rest) / a, rest, of_rows / rest if rest > 1e-6 else np.nan


@settings(deadline=None)
@given(tables_of())
def test_the_components_are_those_of_the_textbook(values):
    found, expected = components(values), literally(values.tolist())
    assume(not 0 < expected[2] <= 1e-6)
    assert found[:4] == pytest.approx(expected, abs=1e-6, rel=1e-6, nan_ok=True)
    a, b = values.shape
    if not np.isnan(found.f):
        assert found.p == pytest.approx(f_distribution.sf(found.f, a - 1, (a - 1) * (b - 1)), abs=1e-9)


@settings(deadline=None)
@given(st.lists(PERCENT, min_size=2, max_size=6), st.lists(PERCENT, min_size=2, max_size=6))
def test_a_sum_of_teacher_and_student_has_no_rest(teachers, students):
    found = components(np.add.outer(teachers, students))
    expected = np.var(teachers, ddof=1), np.var(students, ddof=1), 0
    assert found[:3] == pytest.approx(expected, abs=1e-6) and np.isnan(found.p)


@settings(deadline=None)
@given(tables_of(), st.randoms())
def test_the_order_of_the_seeds_does_not_matter(values, random):
    rows, columns = (random.sample(range(n), n) for n in values.shape)
    assert components(values[rows][:, columns]) == pytest.approx(components(values), abs=1e-6, rel=1e-6, nan_ok=True)
    teacher, student, rest = components(values.T)[:3]
    assert (student, teacher, rest) == pytest.approx(components(values)[:3], abs=1e-6)


def report(folder, vary=VARIED, lacking=(), diverged=(), accuracies=ACCURACIES):
    """The report of a suite like `quick`, and guided runs. lacking, diverged: pairs of the seeds of teacher and student."""
    registry, suite = varied_suite(folder, vary)
    runs = []
    for recipe in {recipe.hash: recipe for _, recipe in registry.suite_recipes(suite)}.values():
        for seed in suite.seeds:
            key = (recipe.teacher.seed, seed) if recipe.teacher else None
            if key not in lacking:
                accuracy = accuracies[key[0]][seed] if key else 80.0
                runs.append(make_run(suite.name, recipe.with_seed(seed), [accuracy], diverged=key in diverged))
    return build_suite_report(registry, suite, runs)


def test_the_tables_say_what_the_seeds_do(tmp_path):
    built = report(tmp_path)
    (table,) = seed_tables(built)
    assert table.texts.to_numpy().tolist() == [
        ["0", "70.00", "90.00", "92.00", "94.00", "92.00"],
        ["1", "70.00", "91.00", "95.00", "93.00", "93.00"],
        ["2", "70.00", "96.00", "96.00", "99.00", "97.00"],
        ["mean", "70.00", "92.33", "94.33", "95.33", "94.00"],
    ]
    variances = literally(ACCURACIES)
    texts = [f"{np.sqrt(variance):.2f}" for variance in variances[:3]]
    limit = np.sqrt((variances[3] / f_distribution.ppf(0.05, 2, 4) - 1) * variances[2] / 3)
    assert table.sentence == (
        f"Standard deviations of 3 teachers x 3 student seeds: {texts[0]} points over teachers (up to {limit:.2f},"
        f" 95 % limit), {texts[1]} over student seeds, {texts[2]} the rest. Do teachers differ: F(2, 4) ="
        f" {variances[3]:.2f}, p = {f_distribution.sf(variances[3], 2, 4):.2g}."
    )
    files, page = table_files(built), render_page([built])
    assert f"## {TITLE}" in files["table.md"] and table.sentence.split(":")[1] in files["table.md"]
    assert f"<h2>{TITLE}</h2>" in page and table.sentence in page
    (row,) = json.loads(files["table.json"])["teacher_seeds"]
    assert row["method"] == "guided" and row["variance_teacher"] == pytest.approx(variances[0], abs=1e-6)


def test_a_spread_that_is_estimated_below_zero_is_shown_as_zero(tmp_path):
    (table,) = seed_tables(report(tmp_path, accuracies=[[90, 80, 70], [80, 70, 90], [70, 90, 80]]))
    assert table.components.variance_teacher < 0
    assert "0.00 (estimated below zero) points over teachers, 0.00 (estimated below zero) over student" in table.sentence


def test_teachers_with_a_missing_or_diverged_run_are_left_out(tmp_path):
    (table,) = seed_tables(report(tmp_path, lacking={(0, 1)}, diverged={(2, 2)}))
    assert list(table.complete.index) == [1] and table.components is None
    assert table.texts.iloc[0].tolist() == ["0", "70.00", "90.00", "", "94.00", ""]
    assert table.texts.iloc[3].tolist() == ["mean", "70.00", "91.00", "95.00", "93.00", "93.00"]
    assert table.sentence.endswith("without a gap. Left out, since a run is missing: teacher seed 0, 2.")
    (tmp_path / "one").mkdir()
    one = seed_tables(report(tmp_path / "one", lacking={(0, 1), (2, 1)}))[0]  # a seed that one teacher has
    assert one.components[:3] == pytest.approx(literally(np.array(ACCURACIES)[:, [0, 2]])[:3])
    assert one.texts.iloc[3].tolist() == ["mean", "70.00", "92.33", "", "95.33", "93.83"]
    assert "3 teachers x 2 student seeds" in one.sentence and one.sentence.endswith("is missing: student seed 1.")
    (tmp_path / "two").mkdir()
    (table,) = seed_tables(report(tmp_path / "two", lacking={(2, 0)}))
    assert table.components[:3] == pytest.approx(literally(ACCURACIES[:2])[:3])
    assert "2 teachers x 3 student seeds" in table.sentence and table.sentence.endswith("teacher seed 2.")


@pytest.mark.parametrize(("gaps", "means"), [([2], ["70.00", "91.00"]), ([0, 1, 2], ["80.00", "93.67"])])
def test_all_means_are_over_the_part_without_a_gap(gaps, means):
    accuracies = pd.DataFrame({0: [90.0, 92.0, 99.0], 1: [90.0, 92.0, 99.0]})
    accuracies.loc[gaps, 1] = np.nan
    texts = SeedTable({}, accuracies, pd.Series([60.0, 80.0, 100.0])).texts
    assert texts.iloc[-1][["teacher's accuracy", "mean"]].tolist() == means


@pytest.mark.parametrize(
    ("vary", "titles"),
    [
        ("vary: {teacher.seed: [1]}", []),
        ("vary: {teacher.bn: [batch, running]}", []),
        (
            "vary: {teacher.bn: [batch, running], teacher.seed: [0, 1]}",
            ["guided: deit_micro on digits, teacher.bn=batch", "guided: deit_micro on digits, teacher.bn=running"],
        ),
    ],
)
def test_there_is_a_table_per_other_variant_with_several_teachers(tmp_path, vary, titles):
    built = report(tmp_path, vary)
    assert [table.title for table in seed_tables(built)] == titles
    files = table_files(built)
    assert (TITLE in files["table.md"]) == bool(titles) == ("teacher_seeds" in files["table.json"])
