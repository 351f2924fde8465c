"""Experiment trackers, with TensorBoard as the one that needs no service."""

from __future__ import annotations

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bench import run
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.runs.folder import RunFolder
from bench.runs.record import HISTORY_COLUMNS
from bench.train.checkpoint import Checkpoints
from bench.train.launch import make_accelerator
from bench.train.loop import trackers
from tests.helpers.process import TINY, command, refused

SETTINGS = [*TINY[:4], "--set", "train.epochs=3", "--set", "train.checkpoint_seconds=0"]


def logged(folder):
    """{tag: [(step, value)]} of what TensorBoard shows."""
    events = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_a_killed_run_that_goes_on_logs_every_epoch_once(tmp_path, monkeypatch):
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", *SETTINGS, "--results-dir", str(tmp_path)]
    tracked = run.parser().parse_args([*words, "--tracker", "tensorboard"])
    recipe = Registry().compose(tracked.recipe, "quick", tracked.set)
    folder = RunFolder(tmp_path, recipe)
    events, save = folder.trackers / trackers.PROJECT, Checkpoints.save

    def die_at_the_second(checkpoints, epoch, step, state):
        if epoch == 2:
            raise KeyboardInterrupt
        save(checkpoints, epoch, step, state)

    with monkeypatch.context() as killed:
        killed.setattr(Checkpoints, "save", die_at_the_second)  # the second epoch is logged, and must be trained again
        with pytest.raises(KeyboardInterrupt):
            run.run(tracked)
    assert [step for step, _ in logged(events)["test_accuracy"]] == [1, 2]
    run.run(tracked)
    rows, shown = folder.history(), logged(events)
    for tag in set(HISTORY_COLUMNS) - {"epoch", "guidance_loss"}:
        assert shown[tag] == [(row["epoch"], pytest.approx(row[tag], rel=1e-6)) for row in rows], tag
    assert len(rows) == 3
    assert folder.record(recipe)["hash"] == recipe.hash


def test_settings_are_texts_and_numbers():
    recipe = Registry().compose("deit_micro/digits/guided", "quick", ["train.lr=0.25"])
    flat = trackers.settings(recipe)
    assert flat["train.lr"] == 0.25 and flat["hash"] == recipe.hash and flat["teacher.model.name"] == "resnet8"
    assert (
        flat["data.subset"] == "null" and flat["train.betas"] == "[0.9, 0.999]" and flat["train.deterministic"] == "false"
    )
    assert {type(value) for value in flat.values()} <= {str, int, float}


class Broken:
    """What accelerate makes of a service that has gone away."""

    name = "broken"

    def log(self, values, step):
        raise ConnectionError("no route\nto host")

    def finish(self):
        raise ConnectionError("no route")


def test_a_tracker_that_fails_does_not_end_the_training(capsys, tmp_path):
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
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "warning: epoch 1 and later ones are not tracked: no route",
        "warning: broken could not be closed: no route",
    ]


def test_names_that_cannot_be_are_refused_in_a_sentence(monkeypatch, tmp_path):
    words = ["bench/run.py", "--recipe", "deit_micro/digits/baseline", "--results-dir", tmp_path, "--tracker", "tensorbord"]
    done = command("-X", "importtime", *words)
    imported = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    assert any("accelerate.tracking" in line for line in imported)
    assert not any(line.split()[-1].startswith(("tensorboard", "torch.utils.tensorboard")) for line in imported)
    done.stderr = "\n".join(line for line in done.stderr.splitlines() if line not in imported)
    refused(done, "'tensorbord'", "wandb", "did you mean 'tensorboard'?")
    with pytest.raises(RecipeError, match="'all'"):
        trackers.check_trackers(["all"])
    monkeypatch.setattr(trackers, "get_available_trackers", lambda: [])
    with pytest.raises(RecipeError, match="--tracker comet_ml: is not installed here: pip install comet-ml"):
        trackers.check_trackers(["comet_ml"])
