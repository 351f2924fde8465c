"""How the accuracies of a sweep compare with the published ones of the same recipes and seeds."""

from __future__ import annotations

from collections.abc import Mapping

from tabulate import tabulate

from bench.runs.record import Record, RunKey, accuracy_text, run_key
from bench.sweep.plan import Plan


def beside_published(plan: Plan, published: Mapping[RunKey, Record]) -> list[str]:
    """A table of the runs of a plan that are finished here and published; empty if there are none.

    published: the published records. A line below the table says whether their environments differ.
    """
    known = [job for job in plan.runs if run_key(job.recipe) in published]
    found = [(job, job.folder.record(job.recipe), published[run_key(job.recipe)]) for job in known]
    found = [(job, here, there) for job, here, there in found if here is not None]
    if not found:
        return []
    rows = []
    for job, here, there in found:
        name = " ".join([here.id, *job.settings])
        difference = "" if here.diverged or there.diverged else f"{here.last_accuracy - there.last_accuracy:+.2f}"
        rows.append((name, here.seed, accuracy_text(here), accuracy_text(there), difference))
    table = tabulate(rows, ["recipe", "seed", "here", "published", "difference"], disable_numparse=True)
    lines = ["last epochs beside the published ones of the same recipe and seed:", *table.splitlines()]
    here, there = ({_environment_text(one) for one in own} for own in list(zip(*found, strict=True))[1:])
    if here != there:
        lines.append(
            f"other hardware, threads, libraries or precision, so results may differ: here {'; '.join(sorted(here))};"
            f" published {'; '.join(sorted(there))}"
        )
    return lines


def _environment_text(record: Record) -> str:
    """`Record.environment` in words."""
    hardware, libraries, processes, precision, compiled = record.environment
    versions = ", ".join(" ".join(one) for one in libraries)
    return f"{processes} x {hardware}, {precision}, compile {compiled}, {versions}"
