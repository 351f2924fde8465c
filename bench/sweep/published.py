"""How the accuracies of a sweep compare with the committed ones of the same recipes and seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tabulate import tabulate

from bench.runs.record import Record, RunKey, accuracy_text, run_key
from bench.sweep.plan import Plan


def beside_published(plan: Plan, published: Mapping[RunKey, Record]) -> list[str]:
    """A table of the runs of a plan that are finished here and committed; empty if there are none.

    published: the committed records. A line below the table says whether hardware, threads or libraries differ.
    """
    known = [job for job in plan.runs if run_key(job.recipe) in published]
    found = [(job.folder.record(job.recipe), published[run_key(job.recipe)]) for job in known]
    pairs = [(here, there) for here, there in found if here is not None]
    if not pairs:
        return []
    rows = [
        (here.id, here.seed, accuracy_text(here), accuracy_text(there), _difference(here, there)) for here, there in pairs
    ]
    table = tabulate(rows, ["recipe", "seed", "here", "published", "difference"], disable_numparse=True)
    lines = ["last epochs beside the published ones of the same recipe and seed:", *table.splitlines()]
    machines = [_listed(map(_machine, records)) for records in zip(*pairs, strict=True)]
    if machines[0] != machines[1]:
        lines.append(
            f"other hardware, threads or libraries, so results differ: here {machines[0]}; published {machines[1]}"
        )
    return lines


def _difference(here: Record, there: Record) -> str:
    if here.diverged or there.diverged:
        return ""
    return f"{here.last_accuracy - there.last_accuracy:+.2f}"


def _machine(record: Record) -> str:
    return f"{record.hardware}, torch {record.libraries.get('torch')}"


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(sorted(set(texts)))
