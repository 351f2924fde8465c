"""The verbs `plan` and `sweep`: what a suite still has to do, and doing it."""

from __future__ import annotations

import argparse
import fnmatch
import json
import signal
import sys
from pathlib import Path

from bench.cli import STOPPED
from bench.config.registry import Registry
from bench.config.suite import Suite
from bench.config.schema import RecipeError
from bench.sweep.local import LocalExecutor, slots
from bench.sweep.plan import Plan, as_dict, as_text, check_seeds, plan
from bench.sweep.request import Request, refuse_options
from bench.sweep.scheduler import Executor, Scheduler, drive
from bench.sweep.slurm import SlurmExecutor


def show_plan(arguments: argparse.Namespace) -> int:
    """`plan`: every cell with its state."""
    registry = Registry(*arguments.recipes_dir)
    if bool(arguments.ids) == (arguments.suite is not None):
        raise RecipeError("plan: needs recipe ids, or a suite with --suite")
    if arguments.suite is not None:
        if arguments.set or arguments.protocol != "paper":
            raise RecipeError("plan: --protocol and --set go with recipe ids; a suite has its own")
        todo = _plan_suite(registry, registry.suite(arguments.suite), arguments)
    else:
        recipes = [registry.compose(one, arguments.protocol, arguments.set) for one in dict.fromkeys(arguments.ids)]
        seeds = check_seeds(arguments.seeds, [0])
        todo = plan(recipes, seeds, arguments.results_dir, arguments.data_dir or "data")
    if arguments.json:
        print(json.dumps(as_dict(todo), indent=2))
    else:
        print(as_text(todo, len(slots(arguments.gpus_per_run, arguments.runs_per_gpu))))
    return 0


def _plan_suite(registry: Registry, suite: Suite, arguments: argparse.Namespace) -> Plan:
    filters = arguments.filter
    chosen = [one for one in suite.ids if not filters or any(fnmatch.fnmatchcase(one, f"*{text}*") for text in filters)]
    if not chosen:
        asked = ", ".join(map(shown, filters))
        raise RecipeError(f"--filter {asked}: no cell of suite {suite.name} matches; they are {', '.join(suite.ids)}")
    recipes = [registry.compose(one, suite=suite) for one in chosen]
    return plan(recipes, check_seeds(arguments.seeds, suite.seeds), arguments.results_dir, arguments.data_dir or "data")


def sweep(arguments: argparse.Namespace) -> int:
    """`sweep`: run what is missing of a suite, then draw its report.

    Returns:
        0 when every cell is recorded, 3 when some failed, 75 when it was stopped.
    """
    registry = Registry(*arguments.recipes_dir)
    suite = registry.suite(arguments.suite)
    if arguments.retries < 0:
        raise RecipeError(f"--retries {arguments.retries}: must be 0 or more")
    cluster = arguments.executor == "slurm"
    request = Request.from_options(arguments) if cluster else refuse_options(arguments)
    places = [] if cluster else slots(arguments.gpus_per_run, arguments.runs_per_gpu)
    todo = _plan_suite(registry, suite, arguments)
    at_once = min(arguments.array_parallelism or len(todo.jobs), len(todo.jobs)) if cluster else len(places)
    options = ["--suite", suite.name, "--results-dir", arguments.results_dir]
    options += ["--data-dir", arguments.data_dir] if arguments.data_dir else []
    options += [word for folder in arguments.recipes_dir for word in ("--recipes-dir", folder)]
    options += [word for name in arguments.tracker for word in ("--tracker", name)]
    if arguments.dry_run:
        print(as_text(todo, at_once))
        print("\nwhat would run, teachers and the longest first:" if todo.jobs else "\nnothing would run")
        for job in Scheduler(todo.jobs).waiting:
            print(" ".join(job.command(["python"], "bench/run.py", options)))
        return 0
    if arguments.data_dir and not Path(arguments.data_dir).is_dir():
        raise RecipeError(f"--data-dir {arguments.data_dir}: no such folder")
    if not cluster and (queued := next((job for job in todo.jobs if job.cluster_id), None)):
        raise RecipeError(
            f"{queued.name}: is job {queued.cluster_id} in the cluster's queue: --executor slurm goes on with it,"
            f" scancel {queued.cluster_id} ends it"
        )
    left = sum(not job.is_teacher for job in todo.jobs)
    print(f"suite {suite.name}: {len(todo.recorded)} cells recorded, {left} to run", flush=True)
    scheduler = Scheduler(todo.jobs, arguments.retries, cluster)
    if todo.jobs:
        if cluster:
            executor = SlurmExecutor(request, options, Path(arguments.results_dir, "runs", ".slurm"), suite.name)
        else:
            executor = LocalExecutor(places, options)
        if arguments.detach:
            for job in scheduler.elsewhere:
                executor.follow(job)
            executor.start(scheduler.next(executor.room()))
        elif stopped := _run(todo, scheduler, executor, at_once):
            return stopped
    there = len(todo.recorded) + sum(not job.is_teacher and job.key in scheduler.done for job in todo.jobs)
    if there:
        from bench.report import write  # SciPy takes half a second

        (table,) = write(registry, [suite], arguments.results_dir)
        if todo.jobs:
            print(f"\n{table}\n")
        print(f"tables, pictures and page: {Path(arguments.results_dir, 'index.html')}")
    if arguments.detach and todo.jobs:
        taken = f"{len(todo.jobs) - executor.unsubmitted} of {len(todo.jobs)} jobs are in the queue"
        print(f"suite {suite.name}: {taken}; the same command without --detach follows them")
        return 0
    if not scheduler.failed:
        print(f"suite {suite.name}: all {len(todo.cells)} cells are recorded")
        return 0
    print(f"suite {suite.name}: {len(scheduler.failed)} failed", file=sys.stderr)
    names = {job.key: job.name for job in todo.jobs}
    for key, reason in scheduler.failed.items():
        print(f"  {names[key]}: {reason}", file=sys.stderr)
    return 3


def _run(todo: Plan, scheduler: Scheduler, executor: Executor, places: int) -> int:
    """Run all jobs; returns 75 where signals have stopped it, else 0."""
    from bench.sweep.show import Display

    asked: list[int] = []
    numbers = [signal.SIGINT, signal.SIGTERM]
    if not executor.queues:
        numbers.append(signal.SIGHUP)  # a cluster needs nobody who stays logged in
    before = {number: signal.getsignal(number) for number in numbers}
    for number in before:
        if before[number] is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, lambda number, _: asked.append(number))
    try:
        with Display(todo, scheduler, places) as display:
            drive(scheduler, executor, display.told, display.passed, lambda: len(asked))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if scheduler.finished:
        return 0
    print(f"stopped, {len(scheduler.done)} of {len(todo.jobs)} jobs done; the same command goes on", file=sys.stderr)
    return STOPPED
