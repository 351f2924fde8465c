"""Unites runs from several places: one run per recipe and seed counts, those of other machines are reproductions of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from bench.cli import count
from bench.config.numerics import differences
from bench.config.schema import RecipeError
from bench.runs.finished import FinishedRun
from bench.runs.record import accuracy_text


@dataclass(frozen=True)
class United:
    """The result of uniting.

    runs: one per recipe and seed.
    reproductions: of `runs`, from another `Record.environment`; never averaged with them.
    conflicts: a sentence for each run that was left out since another one from an equal machine has other numbers.
    other_code: the runs that were left out since other code made them than the first run of their recipe.
    """

    runs: list[FinishedRun]
    reproductions: list[FinishedRun]
    conflicts: list[str]
    other_code: list[FinishedRun] = field(default_factory=list)


def unite(runs: Iterable[FinishedRun]) -> United:
    """Unite the runs of one suite from several places: the first run of each recipe and seed counts.

    A later run is a reproduction if its `Record.environment` is new, and is left out if a run of that environment is there.
    Runs with other numerics versions than the first run of their recipe are left out, whatever their seed.

    Raises:
        RecipeError: two runs of one recipe have other images.
    """
    counting: dict[object, FinishedRun] = {}
    others: dict[object, FinishedRun] = {}
    images: dict[str, str] = {}
    conflicts: list[str] = []
    code: dict[str, dict[str, object]] = {}
    other_code = []
    for run in runs:
        fingerprint = images.setdefault(run.record.hash, run.record.dataset.fingerprint)
        if run.record.dataset.fingerprint != fingerprint:
            raise RecipeError(
                f"{run.name}: it is of other images (fingerprint {run.record.dataset.fingerprint[:8]}) than other runs of"
                f" this recipe ({fingerprint[:8]})"
            )
        if code.setdefault(run.record.hash, run.record.numerics) != run.record.numerics:
            other_code.append(run)
            continue
        first = counting.setdefault(run.key, run)
        if first is run:
            continue
        if first.record.environment != run.record.environment:
            first = others.setdefault((run.key, run.record.environment), run)
        if _numbers(first) != _numbers(run):
            conflicts.append(
                f"{run.name}: another run of this recipe and seed, on the same hardware with the same libraries and"
                f" threads, has other results: {accuracy_text(first.record)} against {accuracy_text(run.record)}"
            )
    return United(list(counting.values()), list(others.values()), conflicts, other_code)


def code_difference(run: FinishedRun, first: FinishedRun, whose: str) -> str:
    """How the code of two runs differs, as "guidance.kd 1, the published runs have 2". whose: "the published runs have"."""
    return "; ".join(differences(run.record.numerics, first.record.numerics, whose))


def other_code_notes(united: United) -> list[str]:
    """A sentence about the runs that are left out since other code made them; none if there are none."""
    if not united.other_code:
        return []
    firsts = {run.key[:2]: run for run in reversed(united.runs)}
    texts = [code_difference(run, firsts[run.key[:2]], "the others have") for run in united.other_code]
    number = len(united.other_code)
    total = count(number + len(united.runs), "run")
    verb = "is" if number == 1 else "are"
    return [f"{number} of {total} {verb} left out, recorded with other code ({'; '.join(dict.fromkeys(texts))})."]


def _numbers(run: FinishedRun) -> object:
    """The numbers that a repeated run in the same environment must give again: test accuracies, and whether it diverged."""
    return run.record.diverged, run.history["test_accuracy"]
