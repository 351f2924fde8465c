"""What a run says of torch.compile: all graphs of a step, and what fell back."""

from __future__ import annotations

import logging

import pytest
import torch
from accelerate.state import AcceleratorState
from hypothesis import given
from hypothesis import strategies as st
from torch._dynamo import utils

from bench.config.registry import Registry
from bench.runs.record import Compilation
from bench.train.compilation import short_reason
from bench.train.console import Progress
from bench.train.speed_variant import Variant, random_dataset

SETTINGS = ["train.batch_size=16", "train.threads=1", "model.depth=1", "model.feature_layers=[blocks.0]"]
SETTINGS += ["teacher.model.feature_layers=[stages.0]", "teacher.train.batch_size=16", "data.train_limit=64"]


@pytest.fixture
def variant(monkeypatch):
    """Makes a guided variant whose modules a backend compiles. Torch forgets all that was compiled before."""
    compiled = torch.nn.Module.compile

    def make(backend, *settings):
        monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled(module, backend=backend))
        recipe = Registry().compose("deit_micro/digits/guided", "quick", [*SETTINGS, *settings])
        return Variant(recipe, random_dataset(recipe, 8))

    AcceleratorState._reset_state(reset_partial_state=True)
    torch._dynamo.reset()
    utils.clear_compilation_metrics()
    utils.counters.clear()
    utils.cumulative_time_spent_ns.clear()
    with torch._dynamo.config.patch(suppress_errors=False):
        yield make
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_graph_of_the_teacher_and_one_of_the_student_for_each_kind_of_step(variant, precision):
    own = variant("eager", "train.compile=default", f"train.precision={precision}")
    own.train(2)
    guided = own.step.compilation()
    assert (guided.expected, guided.found, guided.breaks, guided.fell_back) == (2, 2, 0, ()) and guided.seconds > 0
    own.train_unguided(2)
    assert (own.usage().compilation.expected, own.usage().compilation.found) == (3, 3) and own.usage().compile == "default"


def test_an_uncompiled_run_on_a_cpu_has_nothing_to_say(variant):
    own = variant("eager", "train.compile=off")
    own.train(1)
    assert own.usage().compilation is None


def test_a_part_that_does_not_compile_is_named(variant, monkeypatch):
    def only_the_teacher(graph, inputs):
        if any(tensor.requires_grad for tensor in inputs):
            raise OSError("no compiler in /usr/local/bin/gcc, look for it")
        return graph

    own = variant(only_the_teacher, "train.compile=default")
    torch._dynamo.config.suppress_errors = True  # as with `auto` on a GPU
    own.train(1)
    found = own.step.compilation()
    (reason,) = found.fell_back
    assert reason.startswith("student not compiled (BackendCompilerFailed: OSError: no compiler in gcc, look for it")
    assert own.usage().compile == "default" and found.expected == 2 and "student not compiled" in str(found)


def test_graphs_that_are_missing_without_a_reason_are_told(variant):
    own = variant("eager", "train.compile=default")
    with torch.compiler.set_stance("force_eager"):
        own.train(1)
    assert own.step.compilation().fell_back == ("2 of 2 graphs not compiled (torch gives no reason)",)
    assert own.usage().compile == "fell back"


def test_each_fall_back_is_a_warning_once(caplog):
    progress = Progress(3, 1, False, "test")
    for reasons in ((), ("student not compiled (no)",), ("student not compiled (no)", "no CUDA graph (why)")):
        progress.compilation(Compilation(1, 0, 0, 0, reasons, "math", 1.0))
    logging.getLogger("bench").propagate = True
    assert [record.getMessage().partition(": ")[0] for record in caplog.records] == [
        "student not compiled (no)",
        "no CUDA graph (why)",
    ]


@given(st.lists(st.text()), st.text())
def test_a_reason_is_short_and_has_no_folder(lines, name):
    reason = short_reason("\n".join([*lines, f"cannot run /home/someone/{name}"]))
    assert len(reason) <= 200 and len(reason.splitlines()) <= 1 and "/home/someone/" not in reason
