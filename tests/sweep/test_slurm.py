"""The cluster's executor without a cluster. Trials on a real Slurm are in tests/trials/slurm/run.py."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import psutil
import pytest

from bench.config.schema import RecipeError
from bench.cores import CORES
from bench.locks import cache_folder
from bench.sweep import slurm
from bench.sweep.commands import add_sweep_options, run_sweep
from bench.sweep.scheduler import Scheduler, drive
from bench.sweep.slurm import SlurmExecutor, batches
from bench.sweep.slurm_request import SlurmRequest, parse_minutes
from bench.sweep.squeue import QueueEntry, QueueUnavailable, parse, write_submission
from tests.helpers.process import ROOT

SEEDS = (0, 1)


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.set_defaults(verb="sweep")  # as bench/__main__.py does
    add_sweep_options(parser)
    return parser.parse_args(["quick", *words])


def request(*words: str) -> SlurmRequest:
    return SlurmRequest.from_options(arguments("--executor", "slurm", *words))


def test_options_become_parameters_of_submitit():
    words = ["--gpus-per-run", "2", "--cpus-per-run", "8", "--memory", "1.5", "--time", "1:30:00", "--lead-time", "60"]
    words += ["--array-parallelism", "4", "--slurm-setup", "module load cuda"]
    words += ["--slurm", "partition=gpu", "--slurm=--exclusive", "--slurm", "gpus-per-node=a100:2"]
    asked = request(*words)
    found = asked.parameters("quick-1", is_teacher=False, after="34")
    expected = {"cpus_per_task": 8, "gpus_per_node": 2, "mem": "1536MB", "time": 90, "signal_delay_s": 60}
    expected |= {"array_parallelism": 4, "srun_args": ["--cpus-per-task=8"]}
    assert {key: found[key] for key in expected} == expected
    more = {"partition": "gpu", "exclusive": True, "gpus_per_node": "a100:2", "requeue": True}
    assert found["additional_parameters"] == {**more, "dependency": "afterok:34", "kill_on_invalid_dep": "yes"}
    assert found["setup"][-1] == "module load cuda" and str(ROOT) in found["setup"][0]
    assert "export LOCALITY_BENCH_TIMESTAMPS=1" in found["setup"]
    teacher = asked.parameters("quick-2", is_teacher=True, after=None)
    assert teacher["gpus_per_node"] == 1 and "dependency" not in teacher["additional_parameters"]
    bare = request("--gpus-per-run", "0").parameters("quick-3", is_teacher=False, after=None)
    assert f"export {CORES}=${{SLURM_CPUS_ON_NODE:-1}}" in bare["setup"] and bare["time"] == 240
    assert not {"gpus_per_node", "mem", "cpus_per_task", "srun_args"} & set(bare)
    texts = ("90", "1:30", "1:5", "12:00", "12:00:00", "2-1", "2-01:05", "0-0:00:01")  # as sbatch reads them
    assert [parse_minutes(text) for text in texts] == [90, 2, 2, 12, 720, 2940, 2945, 1]


def test_submitit_knows_every_parameter():
    submitit = pytest.importorskip("submitit")
    every = SlurmRequest(cpus_per_run=1, memory=1)
    found = every.parameters("n", is_teacher=False, after="1")
    known = submitit.SlurmExecutor._valid_parameters()
    assert set(found) <= known and not set(found["additional_parameters"]) & {"time", "signal"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--time", "1", "--lead-time", "31"], "--lead-time 31: a limit of 1 min"),
        (["--time", "2"], "--lead-time 120: a limit of 2 min"),
        (["--time", "1:5:5:5"], "--time 1:5:5:5: must be M"),
        (["--time", "0"], "--time 0: must be"),
        (["--time", "4h"], "--time 4h: must be"),
        (["--slurm", "array=1"], "--slurm array=1: must be"),
        (["--slurm", "kill-on-invalid-dep=no"], "except those that the sweep sets"),
        (["--slurm", "a b=1"], "--slurm a b=1"),
        (["--memory", "nan"], "--memory nan: allowed"),
        (["--gpus-per-run", "-1"], "--gpus-per-run -1"),
        (["--runs-per-gpu", "2"], "--runs-per-gpu: goes with"),
    ],
)
def test_impossible_requests_are_refused(words, named):
    with pytest.raises(RecipeError, match=named):
        request(*words)


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    def refused(named, *words):
        with pytest.raises(RecipeError, match=named):
            run_sweep(arguments("--results-dir", str(tmp_path), *words))

    refused("--slurm: goes with --executor slurm", "--slurm", "partition=gpu")
    refused("--detach: goes with --executor slurm", "--detach")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused("pip install", "--executor", "slurm")
    monkeypatch.setitem(sys.modules, "submitit", ModuleType("submitit"))
    refused("there is no sbatch here", "--executor", "slurm")


def test_each_teacher_is_a_job_and_its_runs_are_an_array(quick, monkeypatch):
    jobs = Scheduler(quick.plan(SEEDS).jobs, queues=True).next(100)
    found = [[job.name.partition("/digits")[2] for job in batch] for batch in batches(jobs)]
    assert found == [[" seed 0"], ["/baseline seed 0", "/baseline seed 1"], ["/guided seed 0", "/guided seed 1"]]
    monkeypatch.setattr(slurm, "MAX_ARRAY_JOBS", 1)
    assert [len(batch) for batch in batches(jobs)] == [1] * 5


def test_the_text_of_squeue():
    text = "a banner\n34_0|odd|name|PENDING|0|PartitionTimeLimit|\n35|x|FAILED|512|NonZeroExitCode|\n36|x|FAILED|9|x|\n"
    text += "37|x|FAILED|35072|x|\n38|x|FAILED|65280|x|\n39_1|x|RUNNING|0|None|\n40|x|CANCELLED|15|None|\n"
    found = parse(text)
    assert found["34_0"] == QueueEntry("34_0", "odd|name", "PENDING", None, "PartitionTimeLimit") and found["34_0"].waits
    assert [found[i].code for i in ("35", "36", "37", "38", "39_1", "40")] == [2, -9, -9, 255, None, -15]
    assert [entry.ended for entry in found.values()] == [False, True, True, True, True, False, True]
    assert QueueEntry("1").ended


def pretend_squeue(monkeypatch, tmp_path, text: str, code: int = 0) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\necho slurm: no controller >&2\nexit {code}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_plan_has_the_states_of_the_queue(quick, tmp_path, monkeypatch, caplog):
    jobs = quick.plan(SEEDS).jobs
    teacher = write_submission(jobs[:1], "quick")
    runs = write_submission([job for job in jobs if job.needs], "quick")
    jobs[0].folder.write_status("running", epoch=3, epochs=20)
    lines = f"7|{teacher}|RUNNING|0|None|\n8_0|{runs}|PENDING|0|PartitionTimeLimit|\n8_1|{runs}-old|PENDING|0|Priority|"
    pretend_squeue(monkeypatch, tmp_path, lines)
    plan = quick.plan(SEEDS)
    assert (plan.teachers[0].state, plan.teachers[0].cluster_id) == ("running", "7")
    assert plan.teachers[0].note.startswith("epoch 3/15 on ") and plan.teachers[0].note.endswith(", job 7")
    states = {job.name.partition("digits/")[2]: (job.state, job.note, job.cluster_id) for job in plan.runs}
    assert states["guided seed 0"] == ("queued", "job 8_0 (PartitionTimeLimit)", "8_0")
    assert states["guided seed 1"] == ("waiting for a teacher", "", "")  # its number is of another submission
    assert states["baseline seed 0"] == ("to run", "", "") and not caplog.messages
    pretend_squeue(monkeypatch, tmp_path, "", code=1)
    plan = quick.plan(SEEDS)
    assert plan.teachers[0].state == "resumable" and {job.cluster_id for job in plan.jobs} == {""}
    (warning,) = caplog.messages
    assert warning.startswith("slurm: no controller: ")


class Cluster(SlurmExecutor):
    """An executor whose cluster is a dictionary, which `change` changes before each look at the queue."""

    def __init__(self, quick, monkeypatch, change) -> None:
        self.quick = quick
        self._active, self._poll_at, self._submit_at = [], 0.0, 0.0
        self.entries, self.submissions, self.cancelled, self.looks = {}, [], [], 0
        self._folder, self._change = cache_folder(), change
        monkeypatch.setattr(slurm, "QUEUE_SECONDS", 0)
        monkeypatch.setattr(slurm, "SHARED_FOLDER_SECONDS", 0.3)
        monkeypatch.setattr(slurm, "TICK_SECONDS", 0.01)
        monkeypatch.setattr(slurm, "read_queue", self._queue)
        monkeypatch.setattr(slurm, "_scancel", self.scancel)

    def _queue(self):
        self.looks += 1
        assert self.looks < 1000
        self._change(self)
        return dict(self.entries)

    def _sbatch(self, batch, after):
        number = str(len(self.submissions) + 1)
        self.submissions.append(([job.name for job in batch], after))
        ids = [number] if len(batch) == 1 else [f"{number}_{i}" for i in range(len(batch))]
        self.entries |= {i: QueueEntry(i, "x", "PENDING", None, "Dependency" if after else "Priority") for i in ids}
        return ids

    def scancel(self, ids) -> None:
        self.cancelled += ids
        for i in ids:
            self.entries.pop(i, None)

    def end(self, i, state, code=0) -> None:
        if i in self.entries:
            self.entries[i] = QueueEntry(i, "x", state, code)


def run_all(quick, monkeypatch, change):
    scheduler, cluster, lines = Scheduler(quick.plan(SEEDS).jobs, queues=True), Cluster(quick, monkeypatch, change), []

    def on_result(result, final):
        lines.append((result.job.name, result.outcome.name, final, result.error))

    drive(scheduler, cluster, on_result)
    return scheduler, cluster, lines


def finish(cluster, *but: str) -> None:
    """Let the jobs end well whose teacher has."""
    for run in cluster._active:
        if run.id and run.id not in but and not any(other.job.key == run.job.needs for other in cluster._active):
            cluster.quick.finish(run.job.target)
            cluster.end(run.id, "COMPLETED")


def test_a_teacher_that_dies_is_submitted_again_and_its_runs_after_it(quick, monkeypatch):
    def change(cluster):
        if len(cluster.submissions) == 3:
            cluster.end("1", "COMPLETING" if cluster.looks == 1 else "TIMEOUT", 0)
            for run in [run for run in cluster._active if run.job.needs]:  # which Slurm cancels at once
                cluster.end(run.id, "CANCELLED", 0)
        else:
            finish(cluster)

    scheduler, cluster, lines = run_all(quick, monkeypatch, change)
    assert len(scheduler.done) == 5 and not scheduler.failed
    guided = ["deit_micro/digits/guided seed 0", "deit_micro/digits/guided seed 1"]
    assert (guided, "1") in cluster.submissions[1:3]
    assert cluster.submissions[3:] == [(["resnet8/digits seed 0"], None), (guided, "4")]
    assert [line[:3] for line in lines if line[1] != "DONE"] == [("resnet8/digits seed 0", "DIED", False)]
    assert next(line[3] for line in lines if line[1] == "DIED").startswith("job 1 ended as TIMEOUT: ")


def test_the_runs_of_a_refused_teacher_leave_the_queue(quick, monkeypatch):
    def change(cluster):
        cluster.end("1", "FAILED", 2)
        finish(cluster, "1")

    scheduler, cluster, _ = run_all(quick, monkeypatch, change)
    assert len(scheduler.failed) == 3 and len(scheduler.done) == 2 and len(cluster.submissions) == 3
    assert {"3_0", "3_1"} <= set(cluster.cancelled) and not cluster._active


def test_a_queue_that_does_not_answer_ends_nothing_and_a_record_may_be_late(quick, monkeypatch):
    def change(cluster):
        if cluster.looks in (2, 3):
            raise QueueUnavailable("no controller")
        if cluster.looks == 4:
            cluster.entries.pop("2_0")  # squeue no longer lists it; its record is visible some looks later
            assert not cluster.submissions[1][1]
        if cluster.looks > 8:
            finish(cluster)

    scheduler, cluster, lines = run_all(quick, monkeypatch, change)
    assert len(scheduler.done) == 5 and len(cluster.submissions) == 3 and len(lines) == 5


def test_a_run_that_dies_is_retried_once_and_then_failed(quick, monkeypatch):
    def change(cluster):
        for run in cluster._active:
            if run.job.name == "deit_micro/digits/baseline seed 0":
                cluster.end(run.id, "OUT_OF_MEMORY", 1)
        finish(cluster, *(run.id for run in cluster._active if run.job.name == "deit_micro/digits/baseline seed 0"))

    scheduler, cluster, lines = run_all(quick, monkeypatch, change)
    (reason,) = scheduler.failed.values()
    assert reason.startswith("job 4 ended as OUT_OF_MEMORY: ") and len(cluster.submissions) == 4
    assert [final for _, outcome, final, _ in lines if outcome == "DIED"] == [False, True]


def test_jobs_that_a_full_queue_refuses_are_submitted_later(quick, monkeypatch, caplog):
    monkeypatch.setattr(slurm, "RESUBMIT_SECONDS", 0.05)
    submit = Cluster._sbatch

    def full(self, batch, after):
        if self.looks < 5 and self.submissions:
            raise slurm.SubmissionRefused("sbatch: error: QOSMaxSubmitJobPerUserLimit")
        return submit(self, batch, after)

    monkeypatch.setattr(Cluster, "_sbatch", full)
    scheduler, _, _ = run_all(quick, monkeypatch, lambda cluster: cluster.looks > 8 and finish(cluster))
    assert len(scheduler.done) == 5 and any("4 jobs are submitted later" in message for message in caplog.messages)

    def never(self, batch, after):
        raise slurm.SubmissionRefused("sbatch: error: invalid partition")

    monkeypatch.setattr(Cluster, "_sbatch", never)
    for path in cache_folder().parent.rglob("record.json"):
        path.unlink()
    with pytest.raises(RecipeError, match="invalid partition"):
        run_all(quick, monkeypatch, finish)


def test_queued_jobs_of_an_earlier_sweep_are_attached(quick, tmp_path, monkeypatch):
    jobs = quick.plan(SEEDS).jobs
    name = write_submission([job for job in jobs if not job.needs and not job.is_teacher], "quick")
    pretend_squeue(monkeypatch, tmp_path, f"9_0|{name}|RUNNING|0|None|\n9_1|{name}|PENDING|0|Priority|")

    def change(cluster):
        if cluster.looks == 1:
            cluster.entries |= {i: QueueEntry(i, name, "RUNNING") for i in ("9_0", "9_1")}
            cluster.end("9_1", "CANCELLED", -15)
        finish(cluster, "9_1")

    scheduler, cluster, lines = run_all(quick, monkeypatch, change)
    assert len(scheduler.done) == 5 and [len(names) for names, _ in cluster.submissions] == [1, 2, 1]
    assert ("deit_micro/digits/baseline seed 1", "DIED", False) in [line[:3] for line in lines]


def test_a_detached_sweep_submits_all_jobs_and_leaves_them_in_the_queue(quick, monkeypatch, caplog):
    caplog.set_level("INFO")
    scheduler, cluster = Scheduler(quick.plan(SEEDS).jobs, queues=True), Cluster(quick, monkeypatch, finish)
    drive(scheduler, cluster, detach=True)
    assert len(cluster.submissions) == 3 and not cluster.cancelled and not cluster.looks and len(scheduler.running) == 5
    assert any("stay in the queue: scancel 1 2_0 3_0 2_1 3_1" in message for message in caplog.messages)


LAUNCHER = """
import signal, subprocess, sys, time
from pathlib import Path
folder, name = Path(sys.argv[1]), sys.argv[2]
def stop(*_):
    (folder / f"{name} stopped").touch()
    sys.exit(75)
signal.signal(signal.SIGTERM, stop)
if name == "launcher":
    subprocess.Popen([sys.executable, *sys.argv[:2], "run"], start_new_session=True)
(folder / name).touch()
time.sleep(60)
"""
JOB = """
import signal, sys
from bench.sweep.slurm import Requeued
run = Requeued([sys.executable, *sys.argv[1:], "launcher"])
def at_signal(*_):
    print(run.checkpoint().function.command[-1], flush=True)
    sys.exit(255)
signal.signal(signal.SIGUSR2, at_signal)
run()
"""


def test_usr2_to_all_processes_of_a_job_stops_the_run_and_requeues_it(tmp_path):
    pytest.importorskip("submitit")
    (tmp_path / "launcher.py").write_text(LAUNCHER)
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, tmp_path / "launcher.py", tmp_path], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "run").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    processes = psutil.Process(job.pid).children(recursive=True)
    assert len(processes) == 2
    for pid in (*(process.pid for process in processes), job.pid):  # as Slurm does, the run and its launcher first
        os.kill(pid, signal.SIGUSR2)
    assert job.communicate(timeout=30)[0].strip() == "launcher" and job.returncode == 255
    assert (tmp_path / "launcher stopped").exists() and (tmp_path / "run stopped").exists()
    assert not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)
