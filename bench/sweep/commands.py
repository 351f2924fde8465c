"""The verbs `plan`, `sweep` and `compare`: what is left to do of suites or recipes, and doing it."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import json
import logging
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli import (
    ADHOC_SEEDS,
    DONE,
    FAILED,
    STOPPED,
    add_folders,
    add_selection,
    count,
    matches,
    selected_suites,
)
from bench.config.parse import short_repr
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.config.suite import Suite
from bench.data.preflight import data_folder
from bench.packages import activation_note
from bench.report.records import other_runs_note, published_records
from bench.runs.folder import LOCAL
from bench.sweep.display import Display, beside_published
from bench.sweep.local import LocalExecutor, make_slots, visible_gpus
from bench.sweep.plan import Plan, PlannedRun, as_dict, as_text, make_plan, summary
from bench.sweep.scheduler import Executor, Scheduler, drive
from bench.sweep.slurm import SlurmExecutor
from bench.sweep.slurm_request import SlurmRequest, add_slurm_options, refuse_slurm_options

LOG = logging.getLogger(__name__)


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options of `plan`."""
    add_selection(parser)
    parser.add_argument("--json", action="store_true", help="for programs: docs/records.md has the fields")
    _add_run_options(parser)


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """The options of `sweep` and `compare`."""
    add_selection(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the commands, and run nothing")
    parser.add_argument("--retries", type=int, default=1, metavar="N", help="how often a run that died is retried (1)")
    parser.add_argument("--tracker", action="append", default=[], metavar="NAME", help="passed to the runs; may repeat")
    _add_run_options(parser)
    add_slurm_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Which runs, where they are, and how they share the machine."""
    gpus = "GPUs of a run, with one process on each (1); on a cluster also 0"
    seeds = f"seeds 0 to N - 1 (those of the suite; for ids {len(ADHOC_SEEDS)})"
    share = "runs that share a GPU (1); without a GPU, runs at a time (one per core)"
    parser.add_argument("--seeds", type=int, metavar="N", help=seeds)
    parser.add_argument("--filter", action="append", default=[], metavar="TEXT", help="only ids with this text or glob")
    parser.add_argument("--skip-published", action="store_true", help="leave out runs whose results are published")
    parser.add_argument("--stale", action="store_true", help="also run what other code recorded; old runs are renamed")
    parser.add_argument("--gpus-per-run", type=int, default=1, metavar="N", help=gpus)
    parser.add_argument("--runs-per-gpu", type=int, metavar="K", help=share)
    add_folders(parser)


def run_plan(arguments: argparse.Namespace) -> int:
    """Print every run of suites or recipes with its state, and what is left to do."""
    registry = Registry(*arguments.recipes_dir)
    suites = selected_suites(arguments, registry)
    with contextlib.redirect_stdout(sys.stderr):  # a dataset that is decoded now says so, and JSON must stay JSON
        plan = _plan(registry, suites, arguments)
    if arguments.json:
        print(json.dumps(as_dict(plan), indent=2))
        return DONE
    print(as_text(plan, _runs_at_once(arguments), _folder_options(arguments)))
    # with ids, no suite was asked about
    if all(suite.file for suite in suites) and (others := other_runs_note(registry, arguments.results_dir)) is not None:
        print(others)
    return DONE


def _runs_at_once(arguments: argparse.Namespace) -> int:
    """How many runs this machine runs at a time; 1 for a plan that asks for what only a cluster may have."""
    wanted = arguments.gpus_per_run
    if wanted == 0 or (wanted > 1 and wanted > len(visible_gpus())):
        return 1
    return len(make_slots(wanted, arguments.runs_per_gpu))


def _plan(registry: Registry, suites: Sequence[Suite], arguments: argparse.Namespace) -> Plan:
    """The plan of the recipes of suites that `--filter` selects, with the seeds of each unless `--seeds` is given."""
    if arguments.seeds is not None and arguments.seeds < 1:
        raise RecipeError(f"--seeds {arguments.seeds}: must be 1 or more")
    planned = []
    for suite in suites:
        for entry, recipe in registry.suite_recipes(suite):
            if not matches(entry.id, arguments.filter):
                continue
            options = suite.run_options(entry, recipe)
            settings = [text for text in entry.settings if text in options]  # without those of the teacher for a baseline
            for place, seed in enumerate(suite.seeds if arguments.seeds is None else range(arguments.seeds)):
                planned.append((place, PlannedRun(recipe.with_seed(seed), options, settings)))
    if not planned:
        given, ids = ", ".join(map(short_repr, arguments.filter)), ", ".join(one for suite in suites for one in suite.ids)
        raise RecipeError(f"--filter {given}: no recipe of {_named(suites)} matches; they are {ids}")
    by_seed = [run for _, run in sorted(planned, key=lambda pair: pair[0])]
    try:
        published = published_records(arguments.results_dir)
    except RecipeError as error:  # what is committed is damaged
        if arguments.skip_published:
            raise
        LOG.warning(f"times of published runs are not used: {error}")
        published = {}
    data_dir, processes = data_folder(arguments.data_dir), max(1, arguments.gpus_per_run)
    left_out = published if arguments.skip_published else None
    return make_plan(
        by_seed, arguments.results_dir, data_dir, arguments.stale, left_out, processes, measured=published.values()
    )


def _named(suites: Sequence[Suite]) -> str:
    """Suites in words: "suite quick", "suites a, b", or "these recipes" for recipe ids alone."""
    names = [suite.name for suite in suites if not suite.recipes]
    return f"suite{'s' if len(names) > 1 else ''} {', '.join(names)}" if names else "these recipes"


def run_sweep(arguments: argparse.Namespace) -> int:
    """Run what is not finished of suites or recipes, then draw the report. Returns DONE, FAILED or STOPPED."""
    registry = Registry(*arguments.recipes_dir)
    suites = selected_suites(arguments, registry)
    if arguments.verb == "compare" and (teachers := [one for suite in suites if not suite.guidance for one in suite.ids]):
        raise RecipeError(f"compare: {', '.join(teachers)} is a teacher: only students are compared")
    code = _run(registry, suites, arguments)
    if (note := activation_note()) is not None:
        print(note)
    return code


# It prints the comparison even if nothing is left to run.
add_compare_options, run_compare = add_sweep_options, run_sweep


def _run(registry: Registry, suites: Sequence[Suite], arguments: argparse.Namespace) -> int:
    """Run what is not finished of suites, then draw the report. Returns an exit code."""
    if arguments.retries < 0:
        raise RecipeError(f"--retries {arguments.retries}: must be 0 or more")
    on_cluster = arguments.executor == "slurm"
    if on_cluster:
        request, slots = SlurmRequest.from_options(arguments), []
    else:
        refuse_slurm_options(arguments)
        slots = make_slots(arguments.gpus_per_run, arguments.runs_per_gpu)
    plan, title = _plan(registry, suites, arguments), _named(suites)
    if arguments.seeds is not None:  # recipes without a suite are complete with these
        suites = [dataclasses.replace(one, seeds=tuple(range(arguments.seeds))) if one.recipes else one for one in suites]
    jobs = plan.jobs
    at_once = len(slots) or min(arguments.array_parallelism or len(jobs), len(jobs))
    folders = _folder_options(arguments)
    options = ["--results-dir", arguments.results_dir, *folders, *(["--stale"] if arguments.stale else [])]
    options += [word for name in arguments.tracker for word in ("--tracker", name)]
    if arguments.dry_run:
        print(as_text(plan, at_once, folders))
        print("\ncommands, teachers and the longest runs first:" if jobs else "\nnothing is left to run")
        for job in Scheduler(jobs).waiting:
            print(shlex.join(job.command(["python"], "bench/run.py", options)))
        return DONE
    if plan.problems and not jobs and not any(job.is_finished for job in plan.runs):
        raise RecipeError("; ".join(plan.problems))
    if not on_cluster and (queued := next((job for job in jobs if job.cluster_id), None)):
        raise RecipeError(
            f"{queued.name}: is job {queued.cluster_id} in the cluster's queue: --executor slurm follows it,"
            f" scancel {queued.cluster_id} ends it"
        )
    print(f"{title},", "\n".join(summary(plan, at_once, folders)), flush=True)
    scheduler = Scheduler(jobs, arguments.retries, on_cluster)
    if jobs:
        if on_cluster:
            executor = SlurmExecutor(request, options, Path(arguments.results_dir, LOCAL, "slurm"), suites[0].name)
        else:
            executor = LocalExecutor(slots, options)
        stopped = _run_jobs(scheduler, executor, Display(plan, scheduler, at_once), arguments.detach)
        if stopped and not scheduler.finished:
            done = f"{len(scheduler.done)} of {count(len(jobs), 'job')}"
            print(f"stopped, {done} done; the same command resumes", file=sys.stderr)
            return STOPPED
    for job in jobs:
        if job.key in scheduler.failed:
            LOG.error(f"{job.name}: {scheduler.failed[job.key]}")
    if any(job.is_finished or job.key in scheduler.done for job in plan.runs):
        _report(registry, suites, plan, arguments, bool(jobs) or arguments.verb == "compare")
    if scheduler.failed:
        LOG.error(f"{title}: {len(scheduler.failed)} of {count(len(jobs), 'job')} failed")
    for problem in plan.problems:
        LOG.error(f"{title}: not all runs can run: {problem}")
    if scheduler.failed or plan.problems:
        return FAILED
    if scheduler.finished:
        LOG.info(f"{title}: all {count(len(plan.runs), 'run')} are finished")
    else:
        LOG.info(f"{title}: the same command without --detach follows the jobs")
    return DONE


def _report(registry: Registry, suites: Sequence[Suite], plan: Plan, arguments: argparse.Namespace, prints: bool) -> None:
    """Draw the reports of suites with finished runs, print headlines if wanted, and compare with published results."""
    # It imports pandas and matplotlib, which takes seconds that `plan` and the start of a sweep do not have.
    report = importlib.import_module("bench.report.commands")
    results = Path(arguments.results_dir)
    reports, pages = report.write_selection(registry, suites, results, with_published=arguments.skip_published)
    if prints:
        report.print_report(reports)
    try:
        if lines := beside_published(plan, published_records(results)):
            print("\n".join([*lines, ""]))
    except RecipeError as error:  # what is committed is damaged, and the runs here are not
        LOG.warning(f"not compared with published results: {error}")
    for page in pages:
        print(f"tables, figures and page: {page}")


def _folder_options(arguments: argparse.Namespace) -> list[str]:
    """The words that name the user's folders of data and recipes."""
    options = ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    return options + [word for folder in arguments.recipes_dir for word in ("--recipes-dir", folder)]


def _run_jobs(scheduler: Scheduler, executor: Executor, display: Display, detach: bool) -> bool:
    """Run jobs until all have ended, or with `detach` only submit them. Returns whether signals stopped it."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if not executor.queues:
        numbers.append(signal.SIGHUP)  # jobs of a cluster go on after a logout
    handlers = {number: signal.getsignal(number) for number in numbers}
    received: list[int] = []
    try:
        for number, handler in handlers.items():
            if handler is not signal.SIG_IGN:  # as nohup sets it
                signal.signal(number, lambda number, _: received.append(number))
        with display.live:
            drive(scheduler, executor, display.on_result, display.on_tick, lambda: len(received), detach)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return bool(received)
