"""Unites runs from several places: one run per recipe and seed counts, those of other machines are reproductions of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.config.schema import RecipeError
from bench.report.frame import machine
from bench.runs.finished import FinishedRun
from bench.runs.record import Record, accuracy_text


@dataclass(frozen=True)
class United:
    """The result of uniting.

    runs: one per recipe and seed.
    reproductions: of `runs`, from other hardware, libraries or threads; never averaged with them.
    conflicts: a sentence for each run that was left out since another one from an equal machine has other numbers.
    """

    runs: list[FinishedRun]
    reproductions: list[FinishedRun]
    conflicts: list[str]


def unite(runs: Iterable[FinishedRun]) -> United:
    """Runs of one suite from several places, the first of each recipe and seed counts.

    A later one is a reproduction if its machine is another one, and is left out if that machine is already there, or if
    other code made it (another numerics version).

    Raises:
        RecipeError: two runs of one recipe have other images.
    """
    counting: dict[object, FinishedRun] = {}
    others: dict[object, FinishedRun] = {}
    images: dict[str, str] = {}
    conflicts = []
    for run in runs:
        fingerprint = images.setdefault(run.record.hash, run.record.dataset.fingerprint)
        if run.record.dataset.fingerprint != fingerprint:
            raise RecipeError(
                f"{run.name}: it is of other images (fingerprint {run.record.dataset.fingerprint[:8]}) than other runs of"
                f" this recipe ({fingerprint[:8]})"
            )
        first = counting.setdefault(run.key, run)
        if first is run or first.record.numerics != run.record.numerics:
            continue
        if environment(first.record) != environment(run.record):
            first = others.setdefault((run.key, environment(run.record)), run)
        if _numbers(first) != _numbers(run):
            conflicts.append(
                f"{run.name}: another run of this recipe and seed, on the same hardware with the same libraries and"
                f" threads, has other results: {accuracy_text(first.record)} against {accuracy_text(run.record)}"
            )
    return United(list(counting.values()), list(others.values()), conflicts)


def environment(record: Record) -> tuple[object, ...]:
    """What a run's numbers may depend on beside recipe, seed and code: hardware, threads, libraries and the like."""
    libraries = tuple(sorted((name, str(version)) for name, version in record.libraries.items()))
    return record.hardware, libraries, record.world_size, record.precision.used, record.compile


def reproduction_notes(runs: Sequence[FinishedRun], reproductions: Iterable[FinishedRun]) -> list[str]:
    """A sentence for each other machine, with the accuracy of each of its reproductions beside that of the run."""
    counting = {run.key: run.record for run in runs}
    texts: dict[str, list[str]] = {}
    for run in reproductions:
        if (first := counting.get(run.key)) is not None:
            text = f"{run.record.id} seed {run.record.seed}: {accuracy_text(run.record)} against {accuracy_text(first)}"
            texts.setdefault(_other_machine(run.record, first), []).append(text)
    return [f"Reproduced on {where}: {'; '.join(own)}." for where, own in texts.items()]


def _numbers(run: FinishedRun) -> object:
    """The numbers of a run that one machine gives again."""
    return run.record.diverged, run.history["test_accuracy"]


def _other_machine(record: Record, first: Record) -> str:
    """A machine in words, with the libraries that are others than those of the first run."""
    differing = [f"{name} {version}" for name, version in record.libraries.items() if first.libraries.get(name) != version]
    differing += [f"compile {record.compile}"] if record.compile != first.compile else []
    return machine(record) + (f" with {', '.join(map(str, differing))}" if differing else "")
