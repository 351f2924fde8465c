"""How much of the spread over runs is the teacher's seed and how much the student's, in suites that vary `teacher.seed`.

Two-way random effects without repetition: accuracy = mean + teacher + student + rest, where the last three are random, each
with a variance. The variances are estimated by the method of moments, from the mean squares of the analysis of variance
(Searle, Casella and McCulloch, Variance Components, 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import fdtrc, fdtri

from bench.cli import count
from bench.report.stats import CONFIDENCE
from bench.report.suite_report import SuiteReport

TITLE = "Seeds of teachers and of students"
NOTE = (
    "Test accuracy of the last epoch in %: a row is a teacher, a column a seed of the student, which fixes its initial"
    " weights and the order of the images. Below it are the standard deviations of three independent effects: the teacher,"
    " the student's seed, and the rest. They are estimated by the method of moments from a two-way analysis of variance"
    " without repetition; an estimate below zero is shown as 0. p: how often so large an F comes by chance if all teachers"
    " are equally good. Up to: the upper confidence limit (one-sided, with the rest as estimated), since teachers may"
    " differ although no difference shows. With few seeds the estimates are rough. Gains have the same components, except"
    " that of the student's seed."
)
_SEED = "teacher.seed"
_TINY = 1e-9  # a mean square below it is rounding; accuracies have four digits


class Components(NamedTuple):
    """The components of variance of a table [teachers, students] of accuracies, in points squared; some may be below zero.

    f, p: of the hypothesis that all teachers are equally good; p is missing (NaN) if the rest is zero.
    variance_teacher_limit: its one-sided upper confidence limit, from the distribution of F, for this variance of the rest.
    """

    variance_teacher: float
    variance_student: float
    variance_rest: float
    f: float
    p: float
    variance_teacher_limit: float


def components(values: np.ndarray) -> Components:
    """The components of a table [teachers, students] without missing values, with at least two rows and two columns."""
    teachers, students = values.shape
    by_teacher, by_student = values.mean(1, keepdims=True), values.mean(0, keepdims=True)
    rest = values - by_teacher - by_student + values.mean()
    freedom = (teachers - 1) * (students - 1)
    of_teachers, of_students = students * by_teacher.var(ddof=1), teachers * by_student.var(ddof=1)
    of_rest = (rest**2).sum() / freedom
    f = of_teachers / of_rest if of_rest > _TINY else np.nan
    p = fdtrc(teachers - 1, freedom, f)
    limit = max(f / fdtri(teachers - 1, freedom, 1 - CONFIDENCE) - 1, 0) * of_rest / students
    return Components((of_teachers - of_rest) / students, (of_students - of_rest) / teachers, of_rest, f, p, limit)


@dataclass(frozen=True)
class SeedTable:
    """The accuracies of a method on a student and dataset, by the seeds of teacher and student.

    name: student, dataset, the other varied values and method.
    accuracies: one row per teacher seed and one column per seed of the student; NaN without a finished run.
    teachers: the accuracy of each teacher in %.
    """

    name: dict[str, str]
    accuracies: pd.DataFrame
    teachers: pd.Series

    @property
    def complete(self) -> pd.DataFrame:
        """The table without the rows, or without the columns, that lack a run: whichever has more runs left."""
        return max(self.accuracies.dropna(), self.accuracies.dropna(axis=1), key=lambda table: table.size)

    @property
    def components(self) -> Components | None:
        """Those of the complete part; None with fewer than two rows or columns."""
        return components(self.complete.to_numpy()) if min(self.complete.shape) > 1 else None

    @property
    def title(self) -> str:
        """What the table is of, in words."""
        own = self.name
        return f"{own['method']}: {own['model']} on {', '.join(filter(None, (own['dataset'], own['variant'])))}"

    @property
    def texts(self) -> pd.DataFrame:
        """The table as text, with means of the complete part in the margins."""
        whole = self.complete
        table = self.accuracies.assign(mean=whole.mean(axis=1))
        table.insert(0, "teacher's accuracy", self.teachers)
        table.loc["mean"] = table.loc[whole.index, ["teacher's accuracy", *whole.columns, "mean"]].mean()
        out = table.map(lambda value: "" if pd.isna(value) else f"{value:.2f}")
        out.columns = ["teacher's accuracy", *(f"student seed {seed}" for seed in self.accuracies), "mean"]
        out.insert(0, "teacher seed", [*map(str, self.accuracies.index), "mean"])
        return out.reset_index(drop=True)

    @property
    def sentence(self) -> str:
        """The components in words, and which rows or columns they leave out."""
        whole = self.complete
        lacking = {
            "teacher": self.accuracies.index.difference(whole.index),
            "student": self.accuracies.columns.difference(whole.columns),
        }
        parts = [f"{word} seed {', '.join(map(str, seeds))}" for word, seeds in lacking.items() if len(seeds)]
        left_out = f" Left out, since a run is missing: {'; '.join(parts)}." if parts else ""
        if (found := self.components) is None:
            return f"Too few runs for the components of variance: they need two seeds of each, without a gap.{left_out}"
        teachers, students = whole.shape
        has_test = not np.isnan(found.p)
        has_limit = has_test and found.variance_teacher_limit > 0  # it is 0 where F is so small that it is no estimate
        limit = f" (up to {_deviation(found.variance_teacher_limit)}, {100 * CONFIDENCE:.0f} % limit)" if has_limit else ""
        out = (
            f"Standard deviations of {count(teachers, 'teacher')} x {count(students, 'student seed')}:"
            f" {_deviation(found.variance_teacher)} points over teachers{limit}, {_deviation(found.variance_student)} over"
            f" student seeds, {_deviation(found.variance_rest)} the rest."
        )
        if has_test:
            freedom = f"{teachers - 1}, {(teachers - 1) * (students - 1)}"
            out += f" Do teachers differ: F({freedom}) = {found.f:.2f}, p = {found.p:.2g}."
        return out + left_out


def seed_tables(report: SuiteReport) -> list[SeedTable]:
    """A table per student, dataset, other varied values and method whose runs have two teacher seeds or more."""
    if _SEED not in report.suite.varied:
        return []
    kept = {*report.suite.varied} - {_SEED}
    others = {
        one.variant: ", ".join(text for text in one.settings if text.partition("=")[0] in kept) for one, _ in report.recipes
    }
    runs = report.runs.dropna(subset="teacher_seed")
    runs = runs.assign(variant=runs["variant"].map(others))
    out = []
    for name, own in runs.groupby(names := ["model", "dataset", "variant", "method"], sort=False):
        table = own.pivot(index="teacher_seed", columns="seed", values="last_accuracy")  # diverged runs have no accuracy
        if len(table) > 1:
            teachers = own.groupby("teacher_seed")["teacher_accuracy"].first()
            out.append(SeedTable(dict(zip(names, name, strict=True)), table, teachers))
    return out


def components_frame(tables: Sequence[SeedTable]) -> pd.DataFrame:
    """One row per table: its name, the numbers of teachers and student seeds without a gap, and `Components`."""
    missing = Components(*[np.nan] * len(Components._fields))
    rows = []
    for table in tables:
        teachers, students = table.complete.shape
        numbers = (table.components or missing)._asdict()
        rows.append({**table.name, "teachers": teachers, "students": students, **numbers})
    return pd.DataFrame(rows)


def _deviation(variance: float) -> str:
    return f"{np.sqrt(max(variance, 0)):.2f}{' (estimated below zero)' if variance < -_TINY else ''}"
