"""Experiment trackers, with TensorBoard as the one that needs no service."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.run import parser
from bench.runs.record import HISTORY_COLUMNS, read_history
from bench.train import trackers
from bench.train.checkpoint import Checkpoints
from bench.train.launch import make_accelerator
from bench.train.request import StopSignals, read_request
from bench.train.runner import run
from tests.helpers.process import TINY, command, refused

SETTINGS = [*TINY[:4], "--set", "train.epochs=3", "--set", "train.checkpoint_seconds=0"]


def logged(folder):
    """{tag: [(step, value)]} as TensorBoard shows them."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_killed_run_that_resumes_logs_every_epoch_once(tmp_path, monkeypatch):
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", *SETTINGS, "--results-dir", str(tmp_path)]
    request = read_request(parser().parse_args([*words, "--tracker", "tensorboard"]))
    folder, save = request.folder, Checkpoints.save

    def die_at_the_second(checkpoints, state):
        if state["epoch"] == 2:
            raise KeyboardInterrupt
        save(checkpoints, state)

    with monkeypatch.context() as killed:
        killed.setattr(Checkpoints, "save", die_at_the_second)  # the second epoch is logged, and must be trained again
        with pytest.raises(KeyboardInterrupt):
            run(request, StopSignals())
    events = folder.trackers / trackers.PROJECT
    assert [step for step, _ in logged(events)["test_accuracy"]] == [1, 2]
    run(request, StopSignals())
    rows, shown = read_history(folder.path / "history.csv"), logged(events)
    for tag in set(HISTORY_COLUMNS) - {"epoch", "guidance_loss"}:
        assert shown[tag] == [(row["epoch"], pytest.approx(row[tag], rel=1e-6)) for row in rows], tag
    assert len(rows) == 3 and folder.record(request.recipe) is not None


def test_settings_are_texts_and_numbers():
    recipe = Registry().compose("deit_micro/digits/guided", "quick", ["train.lr=0.25"])
    flat = trackers.flat_settings(recipe)
    assert flat["train.lr"] == 0.25 and flat["hash"] == recipe.hash and flat["teacher.model.name"] == "resnet8"
    assert (flat["data.subset"], flat["train.betas"], flat["train.deterministic"]) == ("null", "[0.9, 0.999]", "false")
    assert {type(value) for value in flat.values()} <= {str, int, float}


class Broken:
    """A tracker of accelerate whose service cannot be reached any more."""

    name = "broken"

    def log(self, values, step):
        raise ConnectionError("no route\nto host")

    def finish(self):
        raise ConnectionError("no route")


def test_a_tracker_that_fails_does_not_end_the_training(caplog, tmp_path):
    recipe = Registry().compose("deit_micro/digits/baseline", "quick")
    accelerator, _ = make_accelerator(recipe.train, ["tensorboard"], tmp_path / "file" / "x")
    (tmp_path / "file").touch()
    with pytest.raises(RecipeError, match=r"--tracker tensorboard: cannot be started: .*file"):
        trackers.Trackers(accelerator, recipe)
    accelerator, _ = make_accelerator(recipe.train)
    tracked = trackers.Trackers(accelerator, recipe)
    accelerator.trackers = [Broken()]
    tracked.log([{"epoch": 1, "train_loss": 0.5}])
    tracked.log([{"epoch": 1, "train_loss": 0.5}, {"epoch": 2, "train_loss": None}])
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [
        "epoch 1 and later ones are not tracked: no route",
        "broken could not be closed: no route",
    ]


def test_unknown_and_missing_trackers_are_refused_and_not_imported(monkeypatch, tmp_path):
    words = ["bench/run.py", "--recipe", "deit_micro/digits/baseline", "--results-dir", tmp_path, "--tracker", "tensorbord"]
    done = command("-X", "importtime", *words)
    imports = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert any("accelerate.tracking" in line for line in imports)
    assert not any(line.split()[-1].startswith(("tensorboard", "torch.utils.tensorboard")) for line in imports)
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if line not in imports)
    refused(done, "'tensorbord'", "wandb", "did you mean 'tensorboard'?")
    with pytest.raises(RecipeError, match="'all'"):
        trackers.check_trackers(["all"])
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    with pytest.raises(RecipeError, match="--tracker comet_ml: is not installed: pip install comet-ml"):
        trackers.check_trackers(["comet_ml"])
