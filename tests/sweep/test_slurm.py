"""The cluster's executor without a cluster. What Slurm itself does is in tests/slurm/run.py."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import psutil
import pytest
from conftest import ROOT

from bench.__main__ import parser
from bench.locks import cache_folder
from bench.config.registry import Registry
from bench.runs.folder import RunFolder
from bench.storage import write_json
from bench.config.schema import RecipeError
from bench.sweep import slurm
from bench.sweep.plan import plan
from bench.sweep.request import Request, minutes
from bench.sweep.scheduler import Scheduler, drive
from bench.sweep.slurm import SlurmExecutor, batches
from bench.sweep.squeue import Entry, Unanswered, announce, parse
from bench.sweep.sweep import sweep

MEASURED = json.loads((ROOT / "results" / "quick" / "records.jsonl").read_text().splitlines()[0])


@pytest.fixture
def todo(tmp_path, monkeypatch):
    """A function that plans the suite quick's seeds 0 and 1, of which nothing has begun at first."""
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))
    registry = Registry()
    suite = registry.suite("quick")
    recipes = [registry.compose(one, suite=suite) for one in suite.ids]
    return lambda: plan(recipes, [0, 1], tmp_path / "results")


def options(*words: str) -> argparse.Namespace:
    return parser().parse_args(["sweep", "quick", "--executor", "slurm", *words])


def test_options_become_what_submitit_takes():
    words = ["--gpus-per-run", "2", "--cpus-per-run", "8", "--memory", "1.5", "--time", "1:30", "--lead-time", "60"]
    words += ["--partition", "gpu", "--account", "us", "--array-parallelism", "4", "--slurm-setup", "module load cuda"]
    words += ["--slurm", "constraint=a100", "--slurm=--exclusive", "--slurm", "gpus-per-node=a100:2"]
    request = Request.from_options(options(*words))
    told = request.parameters("quick-1", is_teacher=False, after="34")
    expected = {"cpus_per_task": 8, "gpus_per_node": 2, "mem": "1536MB", "time": 90, "signal_delay_s": 60}
    expected |= {"partition": "gpu", "account": "us", "array_parallelism": 4, "srun_args": ["--cpus-per-task=8"]}
    assert {key: told[key] for key in expected} == expected and "qos" not in told
    more = {"constraint": "a100", "exclusive": True, "gpus_per_node": "a100:2", "requeue": True}
    assert told["additional_parameters"] == {**more, "dependency": "afterok:34", "kill_on_invalid_dep": "yes"}
    assert told["setup"][-1] == "module load cuda" and str(ROOT) in told["setup"][0]
    teacher = request.parameters("quick-2", is_teacher=True, after=None)
    assert teacher["gpus_per_node"] == 1 and "dependency" not in teacher["additional_parameters"]
    bare = Request.from_options(options("--gpus-per-run", "0")).parameters("quick-3", is_teacher=False, after=None)
    assert "OMP_NUM_THREADS:-1" in bare["setup"][0] and bare["time"] == 240 and bare["srun_args"] == []
    assert not {"gpus_per_node", "mem", "cpus_per_task", "partition"} & set(bare)


def test_submitit_knows_every_parameter(tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    told = Request(cpus=1, memory=1, partition="p", account="a", qos="q").parameters("n", is_teacher=False, after="1")
    known = submitit.SlurmExecutor._valid_parameters()
    assert set(told) <= known and not set(told["additional_parameters"]) & {"time", "signal"}


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--time", "1", "--lead-time", "31"], "--lead-time 31: a limit of 1 min"),
        (["--time", "2"], "--lead-time 120: a limit of 2 min"),
        (["--time", "1:5"], "--time 1:5: must be minutes"),
        (["--time", "0"], "--time 0: must be"),
        (["--slurm", "array=1"], "--slurm array=1: must be"),
        (["--slurm", "kill-on-invalid-dep=no"], "none that the sweep sets"),
        (["--slurm", "a b=1"], "--slurm a b=1"),
        (["--memory", "nan"], "--memory nan: allowed"),
        (["--gpus-per-run", "-1"], "--gpus-per-run -1"),
        (["--runs-per-gpu", "2"], "--runs-per-gpu: goes with"),
    ],
)
def test_what_cannot_be_asked_is_refused(words, named):
    with pytest.raises(RecipeError, match=named.replace("(", "\\(")):
        Request.from_options(options(*words))


def test_times():
    assert [minutes(text) for text in ("90", "1:30", "12:00", "2-01:05")] == [90, 90, 720, 2945]


def test_what_is_missing_is_told(tmp_path, monkeypatch):
    def refused(named, *words):
        with pytest.raises(RecipeError, match=named):
            sweep(parser().parse_args(["sweep", "quick", "--results-dir", str(tmp_path), *words]))

    refused("--partition: goes with --executor slurm", "--partition", "gpu")
    refused("--detach: goes with --executor slurm", "--detach")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "submitit", None)
    refused("pip install", "--executor", "slurm")
    monkeypatch.setitem(sys.modules, "submitit", ModuleType("submitit"))
    refused("there is no sbatch here", "--executor", "slurm")


def test_each_teacher_is_a_job_and_the_cells_behind_it_an_array(todo, monkeypatch):
    jobs = Scheduler(todo().jobs, queues=True).next(100)
    told = [[job.name.partition("/digits")[2] for job in batch] for batch in batches(jobs)]
    assert told == [[" seed 0"], ["/baseline seed 0", "/baseline seed 1"], ["/guided seed 0", "/guided seed 1"]]
    monkeypatch.setattr(slurm, "LARGEST", 1)
    assert [len(batch) for batch in batches(jobs)] == [1] * 5


def test_the_text_of_squeue():
    text = "a banner\n34_0|odd|name|PENDING|0|PartitionTimeLimit|\n35|x|FAILED|512|NonZeroExitCode|\n36|x|FAILED|9|x|\n"
    text += "37|x|FAILED|35072|x|\n38|x|FAILED|65280|x|\n39_1|x|RUNNING|0|None|\n40|x|CANCELLED|15|None|\n"
    told = parse(text)
    assert told["34_0"] == Entry("34_0", "odd|name", "PENDING", None, "PartitionTimeLimit") and told["34_0"].waits
    assert [told[i].code for i in ("35", "36", "37", "38", "39_1", "40")] == [2, -9, -9, 255, None, -15]
    assert [entry.ended for entry in told.values()] == [False, True, True, True, True, False, True]
    assert Entry("1").ended


def pretend_squeue(monkeypatch, tmp_path, text: str, code: int = 0) -> None:
    (tmp_path / "squeue").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\necho slurm: no controller >&2\nexit {code}\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


def test_a_plan_tells_what_the_queue_does(todo, tmp_path, monkeypatch, capsys):
    jobs = todo().jobs
    teacher, cells = announce(jobs[:1], "quick"), announce([job for job in jobs if job.needs], "quick")
    jobs[0].folder.write_status("running", epoch=3, epochs=20)
    lines = f"7|{teacher}|RUNNING|0|None|\n8_0|{cells}|PENDING|0|PartitionTimeLimit|\n8_1|{cells}-old|PENDING|0|Priority|"
    pretend_squeue(monkeypatch, tmp_path, lines)
    told = todo()
    assert (told.teachers[0].state, told.teachers[0].cluster_id) == ("running", "7")
    assert told.teachers[0].note.startswith("epoch 3/15 on ") and told.teachers[0].note.endswith(", job 7")
    states = {job.name.partition("digits/")[2]: (job.state, job.note, job.cluster_id) for job in told.cells}
    assert states["guided seed 0"] == ("queued", "job 8_0 (PartitionTimeLimit)", "8_0")
    assert states["guided seed 1"] == ("waiting for a teacher", "", "")  # of another submission that bore this number
    assert states["baseline seed 0"] == ("to run", "", "") and not capsys.readouterr().err
    pretend_squeue(monkeypatch, tmp_path, "", code=1)
    told = todo()
    assert told.teachers[0].state == "resumable" and {job.cluster_id for job in told.jobs} == {""}
    err = capsys.readouterr().err
    assert err.startswith("slurm: no controller: ") and err.count("\n") == 1


class Cluster(SlurmExecutor):
    """An executor whose cluster is a dictionary, in which `change` makes something happen before each look."""

    def __init__(self, monkeypatch, change) -> None:
        self._runs, self._look_at, self._submit_at = [], 0.0, 0.0
        self.entries, self.submissions, self.cancelled, self.looks = {}, [], [], 0
        self._folder, self._change = cache_folder(), change
        monkeypatch.setattr(slurm, "POLL", 0)
        monkeypatch.setattr(slurm, "LATE", 0.3)
        monkeypatch.setattr(slurm, "MOMENT", 0.01)
        monkeypatch.setattr(slurm, "queue", self._queue)
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
        self.entries |= {i: Entry(i, "x", "PENDING", None, "Dependency" if after else "Priority") for i in ids}
        return ids

    def scancel(self, ids) -> None:
        self.cancelled += ids
        for i in ids:
            self.entries.pop(i, None)

    def end(self, i, state, code=0) -> None:
        if i in self.entries:
            self.entries[i] = Entry(i, "x", state, code)


def record(job, **more) -> None:
    recipe = job.target
    content = {k: v for k, v in MEASURED.items() if k not in ("history", "teacher")}
    told = {"id": recipe.id, "hash": recipe.hash, "seed": recipe.seed, "recipe": recipe.to_dict()}
    RunFolder(job.folder.path.parents[4], recipe).write_record({**content, **told, **more})


def keep(job) -> None:
    folder = cache_folder() / "teachers" / f"{job.target.model.name}-{job.target.data.name}-0123456789abcdef"
    write_json(folder / "record.json", {"hash": job.target.hash, "seed": job.target.seed, "last_accuracy": 97.5})


def driven(todo, monkeypatch, change, retries=1):
    jobs = todo().jobs
    scheduler, cluster, lines = Scheduler(jobs, retries, queues=True), Cluster(monkeypatch, change), []
    drive(scheduler, cluster, lambda ended, final: lines.append((ended.job.name, ended.outcome.name, final, ended.error)))
    return scheduler, cluster, lines


def finish(cluster, *but: str) -> None:
    """All jobs end well whose teacher has."""
    for run in cluster._runs:
        if run.id and run.id not in but and not any(other.job.key == run.job.needs for other in cluster._runs):
            keep(run.job) if run.job.is_teacher else record(run.job)
            cluster.end(run.id, "COMPLETED")


def test_a_teacher_that_dies_is_submitted_again_with_its_cells_behind_it(todo, monkeypatch):
    def change(cluster):
        if len(cluster.submissions) == 3:
            cluster.end("1", "COMPLETING" if cluster.looks == 1 else "TIMEOUT", 0)
            for run in [run for run in cluster._runs if run.job.needs]:  # which Slurm cancels at once
                cluster.end(run.id, "CANCELLED", 0)
        else:
            finish(cluster)

    scheduler, cluster, lines = driven(todo, monkeypatch, change)
    assert len(scheduler.done) == 5 and not scheduler.failed
    guided = ["deit_micro/digits/guided seed 0", "deit_micro/digits/guided seed 1"]
    assert (guided, "1") in cluster.submissions[1:3]
    assert cluster.submissions[3:] == [(["resnet8/digits seed 0"], None), (guided, "4")]
    assert [line[:3] for line in lines if line[1] != "DONE"] == [("resnet8/digits seed 0", "DIED", False)]
    assert next(line[3] for line in lines if line[1] == "DIED").startswith("job 1 ended as TIMEOUT: ")


def test_a_teacher_that_is_refused_takes_its_cells_out_of_the_queue(todo, monkeypatch):
    def change(cluster):
        cluster.end("1", "FAILED", 2)
        finish(cluster, "1")

    scheduler, cluster, _ = driven(todo, monkeypatch, change)
    assert len(scheduler.failed) == 3 and len(scheduler.done) == 2 and len(cluster.submissions) == 3
    assert {"3_0", "3_1"} <= set(cluster.cancelled) and not cluster._runs


def test_a_queue_that_does_not_answer_ends_nothing_and_a_record_may_come_late(todo, monkeypatch):
    def change(cluster):
        if cluster.looks in (2, 3):
            raise Unanswered("no controller")
        if cluster.looks == 4:
            cluster.entries.pop("2_0")  # forgotten; its record is seen some looks later
            assert not cluster.submissions[1][1]
        if cluster.looks > 8:
            finish(cluster)

    scheduler, cluster, lines = driven(todo, monkeypatch, change)
    assert len(scheduler.done) == 5 and len(cluster.submissions) == 3 and len(lines) == 5


def test_what_died_goes_on_once_and_then_fails(todo, monkeypatch):
    def change(cluster):
        for run in cluster._runs:
            if run.job.name == "deit_micro/digits/baseline seed 0":
                cluster.end(run.id, "OUT_OF_MEMORY", 1)
        finish(cluster, *(run.id for run in cluster._runs if run.job.name == "deit_micro/digits/baseline seed 0"))

    scheduler, cluster, lines = driven(todo, monkeypatch, change)
    (reason,) = scheduler.failed.values()
    assert reason.startswith("job 4 ended as OUT_OF_MEMORY: ") and len(cluster.submissions) == 4
    assert [final for _, outcome, final, _ in lines if outcome == "DIED"] == [False, True]


def test_what_a_full_queue_refuses_comes_later(todo, monkeypatch, capsys):
    monkeypatch.setattr(slurm, "AGAIN", 0.05)
    taken = Cluster._sbatch

    def full(self, batch, after):
        if self.looks < 5 and self.submissions:
            raise slurm.Refused("sbatch: error: QOSMaxSubmitJobPerUserLimit")
        return taken(self, batch, after)

    monkeypatch.setattr(Cluster, "_sbatch", full)
    scheduler, _, _ = driven(todo, monkeypatch, lambda cluster: cluster.looks > 8 and finish(cluster))
    assert len(scheduler.done) == 5 and "4 jobs are submitted later" in capsys.readouterr().err

    def never(self, batch, after):
        raise slurm.Refused("sbatch: error: invalid partition")

    monkeypatch.setattr(Cluster, "_sbatch", never)
    for path in cache_folder().parent.rglob("record.json"):
        path.unlink()
    with pytest.raises(RecipeError, match="invalid partition"):
        driven(todo, monkeypatch, finish)


def test_queued_jobs_of_an_earlier_sweep_are_followed(todo, tmp_path, monkeypatch):
    jobs = todo().jobs
    name = announce([job for job in jobs if not job.needs and not job.is_teacher], "quick")
    pretend_squeue(monkeypatch, tmp_path, f"9_0|{name}|RUNNING|0|None|\n9_1|{name}|PENDING|0|Priority|")

    def change(cluster):
        if cluster.looks == 1:
            cluster.entries |= {i: Entry(i, name, "RUNNING") for i in ("9_0", "9_1")}
            cluster.end("9_1", "CANCELLED", -15)
        finish(cluster, "9_1")

    scheduler, cluster, lines = driven(todo, monkeypatch, change)
    assert len(scheduler.done) == 5 and [len(names) for names, _ in cluster.submissions] == [1, 2, 1]
    assert ("deit_micro/digits/baseline seed 1", "DIED", False) in [line[:3] for line in lines]


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
from bench.sweep.requeued import Requeued
run = Requeued([sys.executable, *sys.argv[1:], "launcher"])
def told(*_):
    print(run.checkpoint().function.command[-1], flush=True)
    sys.exit(255)
signal.signal(signal.SIGUSR2, told)
run()
"""


def test_usr2_to_all_processes_of_a_job_stops_the_run_and_hands_it_on(tmp_path):
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
