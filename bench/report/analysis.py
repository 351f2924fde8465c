"""From the records of a suite to every number that its tables, pictures and page show; nothing is computed elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bench.config.names import split_id
from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.config.schema import RecipeError
from bench.report import convergence, deviations, published
from bench.report.gather import Record
from bench.report.published import Published
from bench.report.spread import PairedDifference, SeedStats

BASELINE = "baseline"


@dataclass(frozen=True)
class Cost:
    """What the runs of an arm took, those that diverged left out.

    flops: of the student's forward pass of one image, two a multiplication; None: not recorded.
    seconds: wall time of a run, evaluation included. images_per_second: of training.
    device_hours: of all runs together: GPU-hours, or core-hours on a CPU, as `device_unit` says.
    hardware: each kind of machine that the runs were on.
    """

    parameters: int | None
    flops: float | None
    images_per_second: SeedStats
    seconds: SeedStats
    device_hours: float
    device_unit: str
    peak_memory_mib: SeedStats | None
    hardware: list[str]


@dataclass(frozen=True)
class Arm:
    """The runs of a student on a dataset with one guidance.

    seeds: of the runs that came to an end; diverged: of those that did not.
    last, best: test accuracy in % of the last and of the best epoch.
    gain, gain_best: over the baseline; None for the baseline itself, or where no seed has both.
    published: comparable published numbers, the first of them the one that tables show; difference: ours, best epoch,
    minus that.
    reach: see `convergence.against`; progress: see `convergence.of_arm`.
    """

    id: str
    model: str
    dataset: str
    guidance: str
    hash: str
    state: str  # recorded, diverged, not run
    seeds: list[int]
    diverged: list[int]
    last: SeedStats | None
    best: SeedStats | None
    gain: PairedDifference | None
    gain_best: PairedDifference | None
    published: list[Published]
    difference: float | None
    progress: dict[str, Any]
    reach: dict[str, Any] | None
    cost: Cost | None


@dataclass(frozen=True)
class Cell:
    """A student on a dataset: its arms, the baseline first; related: published numbers of other methods on the same."""

    model: str
    dataset: str
    arms: list[Arm]
    related: list[Published]

    def arm(self, guidance: str) -> Arm:
        """The arm of this guidance, which must be one of the suite's."""
        return next(arm for arm in self.arms if arm.guidance == guidance)


@dataclass(frozen=True)
class Analysis:
    """A suite. teachers: the summaries of the teachers that its runs had; notes: what to know before comparing."""

    suite: str
    protocol: str
    settings: dict[str, str]
    models: list[str]
    datasets: list[str]
    guidance: list[str]
    cells: list[Cell]
    teachers: list[dict[str, Any]]
    deviations: list[str]
    notes: list[str]

    def cell(self, model: str, dataset: str) -> Cell:
        """The cell of a student and a dataset of the suite."""
        return next(cell for cell in self.cells if (cell.model, cell.dataset) == (model, dataset))

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def analyse(registry: Registry, suite: Suite, records: list[Record]) -> Analysis:
    """Everything there is to say about the records of a suite."""
    cells = []
    for model in suite.models:
        for dataset in suite.datasets:
            runs = {g: _by_seed(records, f"{model}/{dataset}/{g}") for g in suite.guidance}
            ordered = sorted(runs, key=lambda guidance: guidance != BASELINE)
            arms = [_arm(registry, suite, f"{model}/{dataset}/{guidance}", runs) for guidance in ordered]
            shown = {row for arm in arms for row in arm.published}
            cells.append(Cell(model, dataset, arms, [r for r in published.of_cell(model, dataset) if r not in shown]))
    teachers = {record["teacher"]["key"]: record["teacher"] for record in records if record.get("teacher")}
    return Analysis(
        suite.name,
        suite.protocol,
        {path: str(given.value) for path, given in suite.overrides},
        list(suite.models),
        list(suite.datasets),
        [arm.guidance for arm in cells[0].arms],
        cells,
        list(teachers.values()),
        deviations.of(suite.protocol, records),
        _notes(suite, records),
    )


def finished(runs: dict[int, Record]) -> dict[int, Record]:
    """The runs that did not diverge."""
    return {seed: run for seed, run in runs.items() if not run.get("diverged")}


def _by_seed(records: Iterable[Record], recipe_id: str) -> dict[int, Record]:
    return {record["seed"]: record for record in records if record["id"] == recipe_id}


def _arm(registry: Registry, suite: Suite, recipe_id: str, runs: dict[str, dict[int, Record]]) -> Arm:
    model, dataset, guidance = split_id(recipe_id)
    recipe = registry.compose(recipe_id, suite=suite)
    every, baseline = runs[guidance], finished(runs.get(BASELINE, {}))
    own = finished(every)
    last, best = ({s: run[f"{which}_accuracy"] for s, run in own.items()} for which in ("last", "best"))
    gains = {}
    if guidance != BASELINE:
        for which, values in (("last", last), ("best", best)):
            gains[which] = PairedDifference.between(values, {s: run[f"{which}_accuracy"] for s, run in baseline.items()})
    try:
        published_recipe = registry.compose(recipe_id, "paper")
    except RecipeError:  # a combination that the paper's protocol cannot be
        published_recipe = None
    numbers = published.comparable(recipe, published_recipe) if _on_the_test_set(own) else []
    best_spread = SeedStats.of(best)
    return Arm(
        recipe_id,
        model,
        dataset,
        guidance,
        recipe.hash,
        "recorded" if own else "diverged" if every else "not run",
        sorted(own),
        sorted(every.keys() - own.keys()),
        SeedStats.of(last),
        best_spread,
        gains.get("last"),
        gains.get("best"),
        numbers,
        best_spread.mean - numbers[0].top1 if best_spread and numbers else None,
        convergence.of_arm(own),
        convergence.against(own, baseline) if guidance != BASELINE and own and baseline else None,
        _cost(own) if own else None,
    )


def _on_the_test_set(runs: dict[int, Record]) -> bool:
    return all(run.get("dataset", {}).get("evaluated_on", "test") == "test" for run in runs.values())


def _cost(runs: dict[int, Record]) -> Cost:
    first = next(iter(runs.values()))
    memory = {s: run["peak_memory_mib"] for s, run in runs.items() if run.get("peak_memory_mib") is not None}
    on_cpu = first["hardware"]["device"] == "cpu"
    units = {s: run["world_size"] * (run["hardware"].get("threads", 1) if on_cpu else 1) for s, run in runs.items()}
    return Cost(
        first.get("parameters"),
        first.get("flops_per_image"),
        SeedStats.of({s: run["images_per_second"] for s, run in runs.items()}),
        SeedStats.of({s: run["seconds"] for s, run in runs.items()}),
        sum(run["seconds"] * units[s] for s, run in runs.items()) / 3600,
        "core-hours" if on_cpu else "GPU-hours",
        SeedStats.of(memory),
        sorted({machine(run) for run in runs.values()}),
    )


def machine(record: Record) -> str:
    """What a run was on, as people say it."""
    hardware = record["hardware"]
    name = hardware["device"]
    if name == "cpu":
        name = f"{hardware['processor']}, {hardware['threads']} thread" + ("s" if hardware["threads"] > 1 else "")
    return f"{record['world_size']} x {name}, {record['precision']['used']}"


def _notes(suite: Suite, records: list[Record]) -> list[str]:
    """Where runs are not of one kind, or not of the kind that one expects."""
    notes = []
    evaluated_on = {record.get("dataset", {}).get("evaluated_on") for record in records}
    if "holdout" in evaluated_on:
        notes.append("Not the test set: with data.holdout, accuracy is that on held-out training images.")
    if "share" in evaluated_on:
        notes.append("A dataset without a test set of its own is evaluated on the share data.test_share of each class.")
    for dataset in suite.datasets:
        own = [record for record in records if split_id(record["id"])[1] == dataset]
        for kinds, word in (
            ({record["precision"].get("used") for record in own}, "precision"),
            ({record.get("dataset", {}).get("fingerprint") for record in own}, "pixels"),
        ):
            if len(kinds) > 1:
                notes.append(f"Not of one kind: the runs on {dataset} differ in {word} ({', '.join(map(str, kinds))}).")
    if dirty := sum(bool(record.get("code", {}).get("dirty")) for record in records):
        notes.append(f"{dirty} of {len(records)} runs were made with code that was not committed.")
    return notes
