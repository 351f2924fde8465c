"""Disturb sweeps on a real Slurm of one node in every way that a cluster does, and compare them with local sweeps.

    python tests/trials/slurm/run.py                all trials; about 15 minutes on two cores
    python tests/trials/slurm/run.py limit teacher  some of them, by name

It installs the missing parts of Slurm (apt-get, so as root in a container), starts it in a temporary folder and ends it.
Exit code 1: a record differs in hash, accuracy or a single bit of the weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
NODE = Path(__file__).parent / "one_node.sh"
# The teacher takes some seconds, runs take some more; `long` takes longer than a limit of two minutes.
SUITE = """
protocol: quick
models: [deit_micro]
datasets: [digits]
guidance: [{methods}]
seeds: [{seeds}]
set:
  train: {{epochs: {epochs}, checkpoint_seconds: 0}}
  data: {{train_limit: 256}}
  teacher: {{train: {{epochs: 3{more}}}, data: {{train_limit: 256}}}}
"""
SUITES = {
    "short": SUITE.format(methods="baseline, guided", seeds="0, 1", epochs=6, more=""),
    "long": SUITE.format(methods="baseline", seeds="0", epochs=100, more=""),
    "broken": SUITE.format(methods="baseline, guided", seeds="0", epochs=1, more=", lr: 1.0e+30"),
}
EACH = ["--executor", "slurm", "--cpus-per-run", "1", "--time", "30"]
TIMEOUT_SECONDS = 900
STARTED: list[subprocess.Popen] = []


class Trial:
    """One trial: a results folder and a cache of its own."""

    def __init__(self, folder: Path, suite: str, name: str) -> None:
        self.suite, self.results = suite, folder / name
        self.environment = {**os.environ, "LOCALITY_BENCH_CACHE": str(folder / f"{name}-cache")}
        self._where = ["--recipes-dir", str(folder / "recipes"), "--results-dir", str(self.results)]

    def start(self, *options: str) -> subprocess.Popen:
        """Start a sweep; its output goes to the file that `output` reads."""
        words = [sys.executable, "-m", "bench", "sweep", self.suite, *self._where, *options]
        print(f"$ sweep {self.suite} {' '.join(options)}  > {self.results.name}.log", flush=True)
        with open(f"{self.results}.log", "a") as log:
            STARTED.append(subprocess.Popen(words, cwd=ROOT, env=self.environment, stdout=log, stderr=log))
        return STARTED[-1]

    def sweep(self, *options: str) -> int:
        """Run a sweep. Returns its exit code."""
        return self.start(*options).wait(TIMEOUT_SECONDS)

    @property
    def output(self) -> str:
        """What its sweeps have printed."""
        return Path(f"{self.results}.log").read_text()

    def plan(self) -> list[dict[str, Any]]:
        """Teachers and runs as `plan` prints them."""
        words = [sys.executable, "-m", "bench", "plan", self.suite, *self._where, "--json"]
        plan = json.loads(subprocess.run(words, cwd=ROOT, env=self.environment, check=True, capture_output=True).stdout)
        return plan["teachers"] + plan["runs"]

    def records(self) -> dict[str, list[Any]]:
        """The results of each run that must not depend on where and how it ran."""
        return of_records(self.results / "local" / self.suite / "records.jsonl")

    def logs(self) -> str:
        """The output of all jobs."""
        return "\n".join(path.read_text() for path in self.results.glob("local/slurm/*.out"))


def of_records(path: Path) -> dict[str, list[Any]]:
    fields = ("hash", "last_accuracy", "best_accuracy", "weights")
    return {f"{r['id']} {r['seed']}": [r.get(f) for f in fields] for r in map(json.loads, path.read_text().splitlines())}


def squeue(*options: str) -> list[list[str]]:
    """[id, state, reason, name] of each job that waits or runs."""
    asked = ["squeue", "--noheader", "--array", "--format=%i|%T|%r|%j", *options]
    answer = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    return [line.split("|") for line in answer.splitlines()]


def hurried(sweep: subprocess.Popen) -> int:
    """Let requeued jobs start after seconds, not after Slurm's two minutes. Returns the exit code of the sweep."""
    since: dict[str, float] = {}
    while sweep.poll() is None:
        now = time.monotonic()
        delayed = {job for job, state, reason, _ in squeue() if (state, reason) == ("PENDING", "BeginTime")}
        since = {job: since.get(job, now) for job in delayed}
        for job, then in since.items():
            # earlier, the credential of the last start is still revoked on the node, and Slurm kills the job
            if now > then + 4:
                subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=False, capture_output=True)
        time.sleep(1)
    return sweep.returncode


def until(condition: Callable[[], Any], what: str) -> Any:
    """The value of `condition` as soon as it is true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {what}")
        time.sleep(0.5)
    return found


def running(trial: Trial, kind: str, epoch: int = 0) -> str | None:
    """The id of a job that runs this kind of recipe and has finished this many epochs."""
    for row in trial.plan():
        if row["state"] == "running" and kind in row["id"]:
            finished = re.match(r"epoch (\d+)/", row["note"])
            if int(finished[1] if finished else 0) >= epoch:
                return row["note"].rpartition("job ")[2]
    return None


def expect(condition: bool, what: str) -> None:
    if not condition:
        raise AssertionError(what)


def alone(folder: Path, local: dict[str, Any]) -> None:
    """left alone"""
    trial = Trial(folder, "short", "alone")
    expect(trial.sweep(*EACH) == 0, "exit code")
    expect(trial.records() == local["short"], "records differ")
    began = time.monotonic()
    expect(trial.sweep(*EACH) == 0 and time.monotonic() - began < 20, "a second sweep has nothing to do")


def cancel(folder: Path, local: dict[str, Any]) -> None:
    """scancel of a run after its first epoch, and of one that waits"""
    trial = Trial(folder, "short", "cancel")
    sweep = trial.start(*EACH)
    job = until(lambda: running(trial, "baseline", 1), "a run in its second epoch")
    subprocess.run(["scancel", job], check=True)
    waits = until(lambda: [job for job, state, _, name in squeue() if state == "PENDING" and "_" in job], "one that waits")
    subprocess.run(["scancel", waits[-1]], check=True)
    expect(sweep.wait(TIMEOUT_SECONDS) == 0, "exit code")
    expect(f"died: job {job} ended as CANCELLED" in trial.output, "the sweep does not say it")
    expect("resumes after epoch" in trial.logs(), "it started from the beginning")
    expect(trial.records() == local["short"], "records differ")


def teacher(folder: Path, local: dict[str, Any]) -> None:
    """scancel of the teacher: it is tried again, and its runs wait for the new one"""
    trial = Trial(folder, "short", "teacher")
    sweep = trial.start(*EACH)
    subprocess.run(["scancel", until(lambda: running(trial, "resnet8"), "the teacher")], check=True)
    expect(sweep.wait(TIMEOUT_SECONDS) == 0, "exit code")
    expect(
        "resnet8/digits seed 0: died: job" in trial.output and "FAILED" not in trial.output,
        "the teacher is not tried again",
    )
    expect(trial.records() == local["short"], "records differ")


def broken(folder: Path, local: dict[str, Any]) -> None:
    """a teacher that diverges: its run is not started, the other is"""
    trial = Trial(folder, "broken", "broken")
    expect(trial.sweep(*EACH) == 3, "exit code")
    expect("its teacher could not be trained" in trial.output and not squeue(), "the run that needs it stays in the queue")
    expect(len(trial.records()) == 1, "the baseline is recorded")


def limit(folder: Path, local: dict[str, Any]) -> None:
    """time limits of two minutes: a run saves its state and is requeued until it has finished"""
    trial = Trial(folder, "long", "limit")
    sweep = trial.start(*EACH[:-2], "--time", "2", "--lead-time", "30", "--slurm", "partition=short")
    expect(hurried(sweep) == 0, "exit code")
    times = trial.logs().count("resumes after epoch")
    print(f"    it was requeued {times} times", flush=True)
    expect(times >= 1 and "died" not in trial.output, "it was not requeued")
    expect(trial.records() == local["long"], "records differ")


def requeue(folder: Path, local: dict[str, Any]) -> None:
    """Slurm's own requeue, as for a node that failed or a job that was preempted"""
    trial = Trial(folder, "short", "requeue")
    sweep = trial.start(*EACH)
    job = until(lambda: running(trial, "baseline", 1), "a run in its second epoch")
    subprocess.run(["scontrol", "requeue", job], check=True)
    expect(hurried(sweep) == 0, "exit code")
    expect("died" not in trial.output and "resumes after epoch" in trial.logs(), "it was not requeued")
    expect(trial.records() == local["short"], "records differ")


def killed(folder: Path, local: dict[str, Any]) -> None:
    """SIGKILL of the sweep while teacher and runs wait and run, then the same command"""
    trial = Trial(folder, "short", "killed")
    for kind, epoch in (("resnet8", 0), ("deit_micro", 1)):
        sweep = trial.start(*EACH)
        until(lambda kind=kind, epoch=epoch: running(trial, kind, epoch), f"{kind} runs")
        sweep.kill()
        sweep.wait()
        before = after = None
        while before is None or before != after:  # a job may end while the plan is made
            before = {job for job, *_ in squeue()}
            rows = [row for row in trial.plan() if row["state"] in ("queued", "running")]
            after = {job for job, *_ in squeue()}
        expect(len(rows) == len(after) >= 2, f"plan has {len(rows)} of {len(after)} jobs")
    local_sweep = Trial(folder, "short", "killed")
    expect(local_sweep.sweep() == 2 and "in the cluster's queue" in trial.output, "a local sweep runs jobs of the cluster")
    before = {job for job, *_ in squeue()}
    sweep = trial.start(*EACH)
    submitted = set()
    while sweep.poll() is None:
        submitted |= {job for job, *_ in squeue()} - before
        time.sleep(1)
    expect(sweep.wait() == 0 and not submitted, f"jobs were submitted twice: {submitted}")
    expect(trial.records() == local["short"], "records differ")


def waiting_for_teacher() -> list[str]:
    """The ids of jobs that Slurm holds until another has ended."""
    return [job for job, _, reason, _ in squeue() if reason == "Dependency"]


def detach(folder: Path, local: dict[str, Any]) -> None:
    """--detach, again after an scancel, Ctrl-C of a sweep that follows jobs and of one that has submitted some"""
    trial = Trial(folder, "short", "detach")
    expect(trial.sweep(*EACH, "--detach") == 0 and len(squeue()) == 5, "what was submitted")
    dependent = until(waiting_for_teacher, "what waits for the teacher")
    subprocess.run(["scancel", *dependent], check=True)
    expect(trial.sweep(*EACH, "--detach") == 0 and len(squeue()) == 5, "only what is missing is submitted")
    again = until(waiting_for_teacher, "what waits for the teacher")
    expect(len(again) == len(dependent) == 2, "later submissions do not wait for the teacher")
    sweep = trial.start(*EACH)
    until(lambda: running(trial, "deit_micro"), "a run starts")
    sweep.send_signal(signal.SIGINT)
    expect(sweep.wait(60) == 75 and bool(squeue()), "jobs of others are cancelled")
    expect("stay in the queue: scancel" in trial.output, "it does not say how to end them")
    subprocess.run(["scancel", *[job for job, *_ in squeue()]], check=True)
    until(lambda: not squeue(), "the queue is empty")
    sweep = trial.start(*EACH)
    until(lambda: running(trial, "deit_micro", 1), "a run starts")
    sweep.send_signal(signal.SIGINT)
    expect(sweep.wait(120) == 75 and not squeue(), "Ctrl-C leaves jobs of its own")
    expect(any(row["state"] == "resumable" for row in trial.plan()), "no run can be resumed")
    expect(trial.sweep(*EACH) == 0, "exit code")
    expect(trial.records() == local["short"], "records differ")


def quick(folder: Path, local: dict[str, Any]) -> None:
    """the suite quick, against the records in results/quick"""
    trial = Trial(folder, "quick", "quick")
    expect(trial.sweep(*EACH, "--gpus-per-run", "0") == 0, "exit code")
    committed = of_records(ROOT / "results" / "quick" / "records.jsonl")
    ours = {name: values[:3] for name, values in trial.records().items()}
    expect(ours == {name: values[:3] for name, values in committed.items()}, f"records differ: {ours}")


TRIALS = (alone, cancel, teacher, broken, limit, requeue, killed, detach, quick)


def end_sweeps() -> None:
    """End the sweeps that still run."""
    for sweep in STARTED:
        if sweep.poll() is None:
            sweep.terminate()
            sweep.wait()


@contextlib.contextmanager
def slurm(folder: Path) -> Iterator[None]:
    """A Slurm of one node while the block runs."""
    subprocess.run([NODE, "start", folder], check=True)
    os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
    try:
        yield
    finally:
        end_sweeps()
        subprocess.run([NODE, "stop", folder], check=False)


def main() -> int:
    """Run the trials and print their outcomes."""
    names = [trial.__name__ for trial in TRIALS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("trials", nargs="*", choices=[*names, []], metavar="TRIAL", help=", ".join(names))
    chosen = [trial for trial in TRIALS if not (asked := parser.parse_args().trials) or trial.__name__ in asked]
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # SIGINT is ignored in the background of a shell, and would be in the sweeps
        signal.signal(number, signal.default_int_handler)
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = Path(tempfile.mkdtemp(prefix="slurm-trials-"))
    (folder / "recipes" / "suites").mkdir(parents=True)
    for name, text in SUITES.items():
        (folder / "recipes" / "suites" / f"{name}.yaml").write_text(text)
    failed, rows = False, []
    local: dict[str, Any] = {}
    with slurm(folder / "slurm"):
        for suite, at_once in (("short", "1"), ("short", "2"), *[("long", "1")] * (limit in chosen)):
            trial = Trial(folder, suite, f"local-{suite}-{at_once}")
            expect(trial.sweep("--runs-per-gpu", at_once) == 0, trial.output)
            expect(local.setdefault(suite, trial.records()) == trial.records(), "one and two slots differ")
        for trial in chosen:
            print(f"\n{trial.__name__}: {trial.__doc__}", flush=True)
            began, outcome = time.monotonic(), "passed"
            try:
                trial(folder, local)
            except (AssertionError, subprocess.SubprocessError) as error:
                failed, outcome = True, f"FAILED: {error}"
                end_sweeps()
                subprocess.run(["scancel", "--me"], check=False)
                until(lambda: not squeue(), "the queue is empty")
            rows.append(f"{trial.__name__:8}  {time.monotonic() - began:5.0f} s  {outcome}: {trial.__doc__}")
            print(f"    {outcome}", flush=True)
    print("\n" + "\n".join(rows) + f"\nall logs: {folder}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
