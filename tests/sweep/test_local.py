"""The executor of this machine: slots, groups of processes, signals, locks. The runs are stubs without torch."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import psutil
import pytest

from bench.locks import exclusive
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.sweep import local
from bench.sweep.local import LocalExecutor, Slot, gpus, slots
from bench.sweep.plan import plan
from bench.sweep.scheduler import Scheduler, drive

BASELINE, GUIDED, GUIDE = "deit_micro/digits/baseline", "deit_micro/digits/guided", "resnet8/digits"


@pytest.fixture
def sweeping(tmp_path, monkeypatch):
    """Runs the quick suite's seed 0 with stubs that do as told; (scheduler, results, lines)."""
    monkeypatch.setattr(local, "SCRIPT", Path(__file__).parent / "stub_run.py")
    monkeypatch.setattr(local, "PATIENCE", 1)
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path / "cache"))

    def run(words: dict[str, list[str]], asked=lambda: 0, retries=1, only=None, places=2):
        monkeypatch.setenv("STUB", json.dumps(words))
        registry, lines = Registry(), []
        suite = registry.suite("quick")
        todo = plan([registry.compose(one, suite=suite) for one in (only or suite.ids)], [0], tmp_path)
        scheduler = Scheduler(todo.jobs, retries)
        executor = LocalExecutor([Slot((), (0,)) for _ in range(places)], ["--suite", "quick", "--results-dir", tmp_path])

        def told(ended, final):
            lines.append(f"{ended.job.target.id} {ended.outcome.name} {final} {ended.error}")

        drive(scheduler, executor, told, asked=asked)
        return scheduler, tmp_path, lines

    return run


def attempts(results: Path, recipe_id: str) -> int:
    return max((len(path.read_text()) for path in results.glob(f"runs/{recipe_id}/*.attempts")), default=0)


def left_over(results: Path) -> str:
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True).stdout
    return "\n".join(line for line in listed.splitlines() if str(results) in line and not line.startswith("Z"))


def test_a_run_that_dies_is_tried_again_and_one_that_fails_stops_no_other(sweeping):
    scheduler, results, lines = sweeping({BASELINE: ["die", "record"], GUIDED: ["fail"]})
    assert attempts(results, BASELINE) == 2 and attempts(results, GUIDED) == 2 and attempts(results, GUIDE) == 1
    assert len(scheduler.done) == 2 and len(scheduler.failed) == 1
    assert any(line.startswith(f"{BASELINE} DIED False ended by SIGKILL (see ") for line in lines), lines
    assert any(line.startswith(f"{GUIDED} DIED True RuntimeError: no such kernel (see ") for line in lines), lines
    (record,) = results.glob(f"runs/{BASELINE}/*/record.json")
    assert json.loads(record.read_text())["set"] == ["attempt 1"]
    again, _, _ = sweeping({GUIDED: ["fail", "fail", "record"]})  # a second sweep starts where the first stood
    assert not again.failed and attempts(results, GUIDED) == 3 and attempts(results, BASELINE) == 2


def test_what_was_refused_as_input_is_not_tried_again(sweeping):
    _, results, lines = sweeping({BASELINE: ["input"], GUIDE: ["input"]}, retries=5)
    assert attempts(results, BASELINE) == attempts(results, GUIDE) == 1 and attempts(results, GUIDED) == 0
    assert sorted(line.split(" (see")[0] for line in lines) == [
        f"{BASELINE} REFUSED True data.subset: got 1, allowed from 2",
        f"{GUIDED} REFUSED True its teacher could not be trained",
        f"{GUIDE} REFUSED True data.subset: got 1, allowed from 2",
    ]


def test_what_a_dead_launcher_leaves_behind_is_ended_before_the_next_attempt(sweeping):
    scheduler, results, _ = sweeping({BASELINE: ["worker", "record"]}, only=[BASELINE])
    assert len(scheduler.done) == 1 and not left_over(results)
    (worker,) = results.glob("runs/**/worker")
    assert not psutil.pid_exists(pid := int(worker.read_text())) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.mark.parametrize(("word", "times", "within"), [("hang", 1, 0.9), ("stubborn", 2, 0.9), ("stubborn", 1, 4)])
def test_stopping_ends_all_and_a_second_time_at_once(sweeping, word, times, within, tmp_path):
    # the third ignores the signal, and is ended when patience is
    began = []

    def asked():
        if not began and all(attempts(tmp_path, one) for one in (BASELINE, GUIDE)):
            time.sleep(0.3)
            began.append(time.monotonic())
        return times if began else 0

    scheduler, results, lines = sweeping({BASELINE: [word], GUIDE: [word]}, asked)
    assert time.monotonic() - began[0] < within and not scheduler.finished and not lines and not left_over(results)


def test_a_cell_that_another_process_runs_is_waited_for(sweeping, tmp_path):
    registry = Registry()
    recipe = registry.compose(BASELINE, suite=registry.suite("quick"))
    folder = plan([recipe], [0], tmp_path).cells[0].folder

    def other(record):
        with exclusive(folder.path, "busy"):
            folder.write_status("running", epoch=3, epochs=20)
            held.set()
            time.sleep(1)
            if record:
                folder.write_record(record)

    for record in (None, True):
        if record:  # of the first sweep, which had to run it itself
            record = json.loads((folder.path / "record.json").read_text())
            (folder.path / "record.json").unlink()
        held = threading.Event()
        thread = threading.Thread(target=other, args=[record])
        thread.start()
        held.wait()
        assert plan([recipe], [0], tmp_path).cells[0].state == "running"
        scheduler, _, lines = sweeping({}, only=[BASELINE], places=1)
        thread.join()
        assert len(scheduler.done) == 1 and attempts(tmp_path, BASELINE) == 1
        assert [line.split()[1] for line in lines] == (["DONE"] if record else ["ABANDONED", "DONE"])


@pytest.mark.parametrize("wait", [True, False])
def test_a_run_that_comes_second_waits_for_the_first(sweeping, tmp_path, wait):
    registry = Registry()
    folder = plan([registry.compose(BASELINE, suite=registry.suite("quick"))], [0], tmp_path).cells[0].folder
    lock, busy, released = [], [], []

    def asked():  # begins to hold the folder when the sweep has planned, and lets go when its run has been refused
        if not released and not lock:
            lock.append(exclusive(folder.path, "busy"))
            lock[0].__enter__()
        elif not released and folder.log.exists() and "busy" in folder.log.read_text():
            busy.append(time.monotonic())
            if wait is False or time.monotonic() > busy[0] + 1:
                released.append(lock[0].__exit__(None, None, None))
        return 0

    scheduler, _, lines = sweeping({}, asked, only=[BASELINE])
    assert released and len(scheduler.done) == 1 and attempts(tmp_path, BASELINE) == 2
    assert lines[-1].split()[1] == "DONE" and (not wait or lines[0].split()[1] == "ABANDONED")


def pretend_gpus(monkeypatch, tmp_path, text):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(8), raising=False)


def test_slots_are_gpus_or_cores(monkeypatch, tmp_path):
    pretend_gpus(monkeypatch, tmp_path, "GPU 0: A (UUID: GPU-a)\nGPU 1: A (UUID: GPU-b)\nGPU 2: A (UUID: GPU-c)")
    assert [(slot.gpus, slot.cores) for slot in slots()] == [(("0",), (0, 1)), (("1",), (2, 3)), (("2",), (4, 5))]
    assert [slot.gpus for slot in slots(2)] == [("0", "1")]
    assert [slot.gpus for slot in slots(1, 2)] == [("0",), ("1",), ("2",)] * 2
    for visible, expected in (("2,0", ["2", "0"]), ("GPU-b", ["GPU-b"]), ("1,-1,2", ["1"]), ("-1", []), ("", [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus() == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert [slot.cores for slot in slots()] == [(i,) for i in range(8)] and len(slots(1, 99)) == 8
    assert [slot.cores for slot in slots(1, 2)] == [(0, 1, 2, 3), (4, 5, 6, 7)]
    assert slots(1, 1)[0].environment()["OMP_NUM_THREADS"] == "1"  # so that the numbers are those of any other count
    for wrong, named in (((3, None), "--gpus-per-run 3: 0 GPUs"), ((0, None), "--gpus-per-run 0"), ((1, 0), "--runs-per")):
        with pytest.raises(RecipeError, match=named):
            slots(*wrong)


def test_the_parts_of_a_divided_gpu_are_slots(monkeypatch, tmp_path):
    parts = "GPU 0: H (UUID: GPU-a)\n  MIG 1g.10gb  Device  0: (UUID: MIG-x)\n  MIG 1g.10gb  Device  1: (UUID: MIG-y)"
    pretend_gpus(monkeypatch, tmp_path, f"{parts}\nGPU 1: H (UUID: GPU-b)")
    assert gpus() == ["MIG-x", "MIG-y", "1"]
