"""The verbs `plan` and `sweep`: what is left to do of a suite, and doing it."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import importlib
import json
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.cli import DONE, FAILED, STOPPED, add_folders, add_settings
from bench.config.parse import short_repr
from bench.config.registry import Registry
from bench.config.schema import Recipe, RecipeError
from bench.config.suite import Suite
from bench.runs.folder import LOCAL, old_runs_warning
from bench.sweep.display import Display
from bench.sweep.local import LocalExecutor, make_slots
from bench.sweep.plan import Plan, as_dict, as_text, make_plan, summary
from bench.sweep.scheduler import Executor, Scheduler, drive
from bench.sweep.slurm import SlurmExecutor
from bench.sweep.slurm_request import SlurmRequest, add_slurm_options, refuse_slurm_options

LOG = logging.getLogger(__name__)


def add_plan_options(parser: argparse.ArgumentParser) -> None:
    """The options of `plan`."""
    parser.add_argument("ids", nargs="*", metavar="ID", help="recipes, instead of a suite")
    parser.add_argument("--suite", metavar="NAME")
    add_settings(parser)
    parser.add_argument("--json", action="store_true")
    _add_run_options(parser)


def add_sweep_options(parser: argparse.ArgumentParser) -> None:
    """The options of `sweep`."""
    parser.add_argument("suite", metavar="SUITE")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the commands, and run nothing")
    parser.add_argument("--retries", type=int, default=1, metavar="N", help="of a run that died, from its checkpoint (1)")
    parser.add_argument("--tracker", action="append", default=[], metavar="NAME", help="passed to the runs; may repeat")
    _add_run_options(parser)
    add_slurm_options(parser)


def _add_run_options(parser: argparse.ArgumentParser) -> None:
    """Which runs, where they are, and how they share the machine."""
    gpus = "one process on each (1; on a cluster 0 for none)"
    share = "runs that share a GPU (1); without a GPU, runs at a time (one per core)"
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 instead of the suite's own")
    parser.add_argument("--filter", action="append", default=[], metavar="TEXT", help="only ids with this text or glob")
    parser.add_argument("--stale", action="store_true", help="also what is recorded with other code; the old is renamed")
    parser.add_argument("--gpus-per-run", type=int, default=1, metavar="N", help=gpus)
    parser.add_argument("--runs-per-gpu", type=int, metavar="K", help=share)
    add_folders(parser)


def run_plan(arguments: argparse.Namespace) -> int:
    """Print every run of a suite, or of single recipes, with its state, and what is left to do."""
    registry = Registry(*arguments.recipes_dir)
    if bool(arguments.ids) == (arguments.suite is not None):
        raise RecipeError("plan: needs recipe ids, or a suite with --suite")
    if arguments.suite is not None and (arguments.set or arguments.protocol != "paper"):
        raise RecipeError("plan: --protocol and --set go with recipe ids; a suite has its own")
    with contextlib.redirect_stdout(sys.stderr):  # a dataset that is decoded now says so, and JSON must stay JSON
        if arguments.suite is None:
            recipes = [registry.compose(one, arguments.protocol, arguments.set) for one in dict.fromkeys(arguments.ids)]
            plan = _plan(recipes, [0], arguments)
        else:
            plan = _plan_suite(registry, registry.suite(arguments.suite), arguments)
    if arguments.json:
        print(json.dumps(as_dict(plan), indent=2))
    else:
        print(as_text(plan, len(make_slots(arguments.gpus_per_run, arguments.runs_per_gpu))))
    return DONE


def _plan_suite(registry: Registry, suite: Suite, arguments: argparse.Namespace) -> Plan:
    """The plan of the recipes of a suite that `--filter` selects."""
    filters = arguments.filter
    ids = [one for one in suite.ids if not filters or any(fnmatch.fnmatchcase(one, f"*{text}*") for text in filters)]
    if not ids:
        given = ", ".join(map(short_repr, filters))
        raise RecipeError(f"--filter {given}: no recipe of suite {suite.name} matches; they are {', '.join(suite.ids)}")
    return _plan([registry.compose(one, suite=suite) for one in ids], suite.seeds, arguments)


def _plan(recipes: Sequence[Recipe], seeds: Sequence[int], arguments: argparse.Namespace) -> Plan:
    """The plan of recipes, with these seeds unless `--seeds` is given."""
    if arguments.seeds is not None:
        if arguments.seeds < 1:
            raise RecipeError(f"--seeds {arguments.seeds}: must be 1 or more")
        seeds = range(arguments.seeds)
    if warning := old_runs_warning(arguments.results_dir):
        LOG.warning(warning)
    return make_plan(recipes, seeds, arguments.results_dir, arguments.data_dir or "data", arguments.stale)


def run_sweep(arguments: argparse.Namespace) -> int:
    """Run what is not finished of a suite, then draw its report. Returns DONE, FAILED if jobs failed, or STOPPED."""
    registry = Registry(*arguments.recipes_dir)
    suite = registry.suite(arguments.suite)
    if arguments.retries < 0:
        raise RecipeError(f"--retries {arguments.retries}: must be 0 or more")
    on_cluster = arguments.executor == "slurm"
    request = SlurmRequest.from_options(arguments) if on_cluster else refuse_slurm_options(arguments)
    slots = [] if on_cluster else make_slots(arguments.gpus_per_run, arguments.runs_per_gpu)
    plan = _plan_suite(registry, suite, arguments)
    jobs = plan.jobs
    at_once = len(slots) or min(arguments.array_parallelism or len(jobs), len(jobs))
    options = _shared_options(arguments)
    if arguments.dry_run:
        print(as_text(plan, at_once))
        print("\ncommands, teachers and the longest runs first:" if jobs else "\nnothing is left to run")
        for job in Scheduler(jobs).waiting:
            print(" ".join(job.command(["python"], "bench/run.py", options)))
        return DONE
    if arguments.data_dir and not Path(arguments.data_dir).is_dir():
        raise RecipeError(f"--data-dir {arguments.data_dir}: no such folder")
    if not on_cluster and (queued := next((job for job in jobs if job.cluster_id), None)):
        raise RecipeError(
            f"{queued.name}: is job {queued.cluster_id} in the cluster's queue: --executor slurm follows it,"
            f" scancel {queued.cluster_id} ends it"
        )
    print(f"suite {suite.name},", "\n".join(summary(plan, at_once)), flush=True)
    scheduler = Scheduler(jobs, arguments.retries, on_cluster)
    if jobs:
        if on_cluster:
            executor = SlurmExecutor(request, options, Path(arguments.results_dir, LOCAL, "slurm"), suite.name)
        else:
            executor = LocalExecutor(slots, options)
        stopped = _run_jobs(scheduler, executor, Display(plan, scheduler, at_once), arguments.detach)
        if stopped and not scheduler.finished:
            count = f"{len(scheduler.done)} of {len(jobs)}"
            print(f"stopped, {count} jobs done; the same command resumes", file=sys.stderr)
            return STOPPED
    if any(job.is_finished or job.key in scheduler.done for job in plan.runs):
        # It imports pandas and matplotlib, which takes seconds that `plan` and the start of a sweep do not have.
        report = importlib.import_module("bench.report.commands")
        reports = report.write_report(registry, [suite], arguments.results_dir)
        if jobs:
            report.print_report(reports)
        print(f"tables, figures and page: {Path(arguments.results_dir, 'index.html')}")
    for job in jobs:
        if job.key in scheduler.failed:
            LOG.error(f"{job.name}: {scheduler.failed[job.key]}")
    if scheduler.failed:
        LOG.error(f"suite {suite.name}: {len(scheduler.failed)} of {len(jobs)} jobs failed")
        return FAILED
    if scheduler.finished:
        LOG.info(f"suite {suite.name}: all {len(plan.runs)} runs are finished")
    else:
        LOG.info(f"suite {suite.name}: the same command without --detach follows the jobs")
    return DONE


def _shared_options(arguments: argparse.Namespace) -> list[str]:
    """The words that the command lines of all jobs share."""
    options = ["--suite", arguments.suite, "--results-dir", arguments.results_dir]
    options += ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    options += ["--stale"] if arguments.stale else []
    options += [word for folder in arguments.recipes_dir for word in ("--recipes-dir", folder)]
    return options + [word for name in arguments.tracker for word in ("--tracker", name)]


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
