"""The executor of this machine: slots, groups of processes, signals, locks. The runs are stubs without torch."""

from __future__ import annotations

import json
import os
import subprocess
import threading
from pathlib import Path

import psutil
import pytest

from bench.config.schema import RecipeError
from bench.cores import CORES
from bench.locks import exclusive
from bench.runs.folder import runs_dir
from bench.storage import write_json
from bench.sweep import local
from bench.sweep.local import LocalExecutor, Slot, make_slots, visible_gpus
from bench.sweep.scheduler import Scheduler, drive

BASELINE, GUIDED, TEACHER = "deit_micro/digits/baseline", "deit_micro/digits/guided", "resnet8/digits"


@pytest.fixture
def sweep(quick, tmp_path, monkeypatch):
    """A function that runs seed 0 of the suite quick with stubs that follow `words`. Returns (scheduler, lines)."""
    monkeypatch.setattr(local, "SCRIPT", Path(__file__).parent / "stub_run.py")
    monkeypatch.setenv("STUB_RECORD", str(tmp_path / "record.json"))
    write_json(tmp_path / "record.json", quick.invent(quick.baseline).to_dict())

    def run(words: dict[str, list[str]], stop_requests=lambda: 0, retries=1, only=None, slots=2):
        monkeypatch.setenv("STUB", json.dumps(words))
        plan, lines = quick.plan(recipes=only), []
        scheduler = Scheduler(plan.jobs, retries)
        options = ["--suite", "quick", "--results-dir", quick.results]
        executor = LocalExecutor([Slot((), (0,)) for _ in range(slots)], options)

        def on_result(result, final):
            lines.append(f"{result.job.target.id} {result.outcome.name} {final} {result.error}")

        drive(scheduler, executor, on_result, stop_requests=stop_requests)
        return scheduler, lines

    return run


def attempts(quick, recipe_id: str) -> int:
    return max((len(p.read_text()) for p in runs_dir(quick.results).glob(f"{recipe_id}/*.attempts")), default=0)


def left_over(quick) -> str:
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True).stdout
    return "\n".join(line for line in listed.splitlines() if str(quick.results) in line and not line.startswith("Z"))


def test_a_run_that_dies_is_tried_again_and_one_that_fails_stops_no_other(sweep, quick):
    scheduler, lines = sweep({BASELINE: ["die", "record"], GUIDED: ["fail"]})
    assert attempts(quick, BASELINE) == 2 and attempts(quick, GUIDED) == 2 and attempts(quick, TEACHER) == 1
    assert len(scheduler.done) == 2 and len(scheduler.failed) == 1
    assert any(line.startswith(f"{BASELINE} DIED False ended by SIGKILL (see ") for line in lines), lines
    assert any(line.startswith(f"{GUIDED} DIED True RuntimeError: no such kernel (see ") for line in lines), lines
    assert quick.folder(quick.baseline).record(quick.baseline).settings == ["attempt 1"]
    again, _ = sweep({GUIDED: ["fail", "fail", "record"]})  # a second sweep continues the first
    assert not again.failed and attempts(quick, GUIDED) == 3 and attempts(quick, BASELINE) == 2


def test_invalid_input_is_not_tried_again(sweep, quick):
    _, lines = sweep({BASELINE: ["input"], TEACHER: ["input"]}, retries=5)
    assert attempts(quick, BASELINE) == attempts(quick, TEACHER) == 1 and attempts(quick, GUIDED) == 0
    assert sorted(line.split(" (see")[0] for line in lines) == [
        f"{BASELINE} REFUSED True data.subset: got 1, allowed from 2",
        f"{GUIDED} REFUSED True its teacher could not be trained",
        f"{TEACHER} REFUSED True data.subset: got 1, allowed from 2",
    ]


def test_processes_of_a_dead_launcher_are_ended_before_the_next_attempt(sweep, quick):
    scheduler, _ = sweep({BASELINE: ["worker", "record"]}, only=[quick.baseline])
    assert len(scheduler.done) == 1 and not left_over(quick)
    pid = int((quick.folder(quick.baseline).path / "worker").read_text())
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(
    ("word", "requests", "stop_seconds"), [("hang", 1, 1000), ("stubborn", 2, 1000), ("stubborn", 1, 1)]
)
def test_a_stop_ends_all_runs(sweep, quick, monkeypatch, word, requests, stop_seconds):
    # stubborn runs ignore the signal: they are killed at the second request, or when their time is up
    monkeypatch.setattr(local, "STOP_SECONDS", stop_seconds)
    folders = [quick.folder(quick.baseline), quick.folder(quick.guided.teacher)]

    def stop_requests():
        return requests if all(folder.status() for folder in folders) else 0

    scheduler, lines = sweep({BASELINE: [word], TEACHER: [word]}, stop_requests)
    assert not scheduler.finished and not lines and not left_over(quick)
    assert not any(folder.is_recorded for folder in folders)  # as they would have if they had not been ended


def test_a_run_of_another_process_is_waited_for(sweep, quick):
    folder = quick.folder(quick.baseline)

    def other(record):
        with exclusive(folder.path, "busy"):
            folder.write_status("running", epoch=3, epochs=20)
            locked.set()
            unlock.wait()
            if record:
                folder.write_record(record)

    for record in (None, quick.invent(quick.baseline)):
        (folder.path / "record.json").unlink(missing_ok=True)  # of the first sweep, which had to run it itself
        locked, unlock = threading.Event(), threading.Event()
        thread = threading.Thread(target=other, args=[record])
        thread.start()
        locked.wait()
        assert quick.plan(recipes=[quick.baseline]).runs[0].state == "running"
        threading.Timer(1, unlock.set).start()
        scheduler, lines = sweep({}, only=[quick.baseline], slots=1)
        thread.join()
        assert len(scheduler.done) == 1 and attempts(quick, BASELINE) == 1
        assert [line.split()[1] for line in lines] == (["DONE"] if record else ["ABANDONED", "DONE"])


def test_a_run_that_another_process_starts_first_is_waited_for(sweep, quick):
    folder, lock, refused_at = quick.folder(quick.baseline), [exclusive(quick.folder(quick.baseline).path, "busy")], []

    def stop_requests():  # locks the folder after the plan is made, and unlocks it some looks after its run was refused
        if not folder.log.exists() and len(lock) == 1:
            lock.append(lock[0].__enter__())
        elif folder.log.exists() and "busy" in folder.log.read_text():
            refused_at.append(len(refused_at))
            if len(refused_at) == 5:
                lock[0].__exit__(None, None, None)
        return 0

    scheduler, lines = sweep({}, stop_requests, only=[quick.baseline])
    assert len(scheduler.done) == 1 and attempts(quick, BASELINE) == 2
    assert [line.split()[1] for line in lines] == ["ABANDONED", "DONE"]


def pretend_gpus(monkeypatch, tmp_path, text):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)


def test_slots_are_gpus_or_cores(monkeypatch, tmp_path):
    pretend_gpus(monkeypatch, tmp_path, "GPU 0: A (UUID: GPU-a)\nGPU 1: A (UUID: GPU-b)\nGPU 2: A (UUID: GPU-c)")
    assert [(s.gpus, s.cores) for s in make_slots()] == [(("0",), (0, 1)), (("1",), (2, 3)), (("2",), (4, 5))]
    assert [slot.gpus for slot in make_slots(2)] == [("0", "1")]
    assert [slot.gpus for slot in make_slots(1, 2)] == [("0",), ("1",), ("2",)] * 2
    for visible, expected in (("2,0", ["2", "0"]), ("GPU-b", ["GPU-b"]), ("1,-1,2", ["1"]), ("-1", []), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert visible_gpus() == expected
    assert [slot.cores for slot in make_slots()] == [(i,) for i in range(8)] and len(make_slots(1, 99)) == 8
    assert [slot.cores for slot in make_slots(1, 2)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    for slots, cores in ((None, "1"), (2, "4"), (1, "8")):
        assert {slot.environment()[CORES] for slot in make_slots(1, slots)} == {cores}
    for wrong, named in (((3, None), "--gpus-per-run 3: 0 GPUs"), ((0, None), "--gpus-per-run 0"), ((1, 0), "--runs-per")):
        with pytest.raises(RecipeError, match=named):
            make_slots(*wrong)
