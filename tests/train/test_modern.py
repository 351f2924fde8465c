"""What the protocol `modern` adds to training: soft targets, averaged weights, a learning rate per step."""

from __future__ import annotations

import csv
import itertools
import json

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from timm.data.mixup import mixup_target
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.scheduler import CosineLRScheduler

from bench.config.registry import Registry
from bench.config.schema import Train
from bench.data.loaders import EvalLoader
from bench.data.mix import Mixed
from bench.data.store import open_dataset
from bench.runs.finished import run_from_folder, run_from_line
from bench.runs.record import HISTORY_COLUMNS
from bench.share.load import load
from bench.share.verify import verify
from bench.train.checkpoint import Checkpoints
from bench.train.evaluate import predict
from bench.train.loop import Training
from bench.train.request import Stopped
from bench.train.task import cross_entropy, learning_rate
from bench.train.teacher import Teacher
from tests.helpers.process import TINY, command

CPU = torch.device("cpu")
MODERN = ["augment.mixup=0.8", "augment.cutmix=1", "train.label_smoothing=0.1", "train.ema=0.9", "train.lr_per=step"]
SETTINGS = ["data.holdout=0.02", "train.epochs=2", "data.train_limit=96", "train.batch_size=32"]


def arrange(*settings, method="baseline"):
    """Recipe, dataset, accelerator and untrained teacher of a short training."""
    own = ["teacher.train.batch_size=32", "teacher.bn=running"] if method != "baseline" else []
    recipe = Registry().compose(f"deit_micro/digits/{method}", "quick", [*SETTINGS, *own, *settings])
    teacher = Teacher(recipe.teacher, 10, None, recipe.guidance.teacher) if recipe.teacher else None
    return recipe, open_dataset(recipe.data, "data"), Accelerator(cpu=True), teacher


@given(
    seed=st.integers(0, 2**32), smoothing=st.floats(0, 0.9), share=st.floats(0.5, 1, width=32), classes=st.integers(2, 20)
)
def test_the_loss_is_that_of_timm(seed, smoothing, share, classes):
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, generator=rng, dtype=torch.float64)
    labels = torch.randint(classes, (2,), generator=rng)
    ours = cross_entropy(logits, labels, Mixed(torch.full((2,), share), labels.flip(0)), smoothing)
    theirs = SoftTargetCrossEntropy()(logits, mixup_target(labels, classes, share, smoothing).double())
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)  # timm's targets are fp32
    plain = cross_entropy(logits, labels, None, smoothing)
    assert plain.item() == pytest.approx(LabelSmoothingCrossEntropy(smoothing)(logits, labels).item(), rel=1e-9)


def test_the_learning_rate_of_each_step_is_that_of_timm():
    recipe, *rest = arrange("train.lr_per=step", "train.epochs=3", "train.warmup_epochs=1", "train.min_lr=1e-5")
    train, rates = recipe.train, []
    training = Training(recipe, *rest, stop=lambda: rates.append(training._step.optimizer.param_groups[0]["lr"]))
    history = training.run().history
    optimizer = torch.optim.SGD([torch.zeros(1)], train.lr)
    warm_up = {"warmup_t": 3, "warmup_lr_init": train.warmup_lr}
    theirs = CosineLRScheduler(optimizer, 9, train.min_lr, **warm_up, t_in_epochs=False)
    expected = [theirs._get_lr(step)[0] for step in range(9)]
    # asked after each step but the last, and between epochs with the rate of the step before
    assert rates == pytest.approx(expected[:-1], rel=1e-12)
    assert [row["lr"] for row in history] == pytest.approx(expected[::3], rel=1e-12)
    assert learning_rate(2, Train(epochs=5)) == learning_rate(2.0, Train(epochs=5))


def test_the_average_equals_one_computed_by_hand():
    recipe, dataset, accelerator, _ = arrange("train.ema=0.6")
    weights = []

    def keep():
        weights.append({name: p.double() for name, p in training._student.network.state_dict().items()})
        return False

    training = Training(recipe, dataset, accelerator, stop=keep)  # asked after each step, once at the end of an epoch
    result = training.run()
    keep()
    assert len(weights) == 6
    average = weights[0]
    for step, raw in enumerate(weights[1:], 1):
        decay = min(1 - (1 + step) ** (-2 / 3), 0.6)  # timm's warm-up
        average = {name: decay * average[name] + (1 - decay) * raw[name] for name in raw}
    assert 1 - 6 ** (-2 / 3) > 0.6 > 1 - 2 ** (-2 / 3)  # the warm-up ends
    for name, value in result.network.items():
        assert torch.allclose(value.double(), average[name], rtol=1e-5, atol=1e-7), name
        assert not torch.equal(value.double(), weights[-1][name]) or value.ndim == 0
    for network, column in ((training._step.ema.module, "test_accuracy"), (training._student.network, "raw_accuracy")):
        predictions, targets = predict(network, EvalLoader(recipe, dataset, CPU), CPU)
        assert result.history[-1][column] == pytest.approx(100 * (predictions == targets).double().mean().item(), abs=1e-4)
    assert torch.equal(result.predictions, predict(training._step.ema.module, EvalLoader(recipe, dataset, CPU), CPU)[0])


def test_the_average_does_not_change_the_training():
    plain, averaged = (Training(*arrange(*more)).run() for more in ([], ["train.ema=0.9"]))
    for one, other in zip(plain.history, averaged.history, strict=True):
        assert one["train_loss"] == other["train_loss"] and one["test_accuracy"] == other["raw_accuracy"]
        assert "raw_accuracy" not in one


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_teacher_may_be_averaged(select):
    dataset, accelerator = arrange()[1:3]
    settings = [*SETTINGS[1:], f"select={select}", "train.ema=0.9", "train.lr=0.2", "train.epochs=4"]
    recipe = Registry().compose("resnet8/digits", "quick", settings)
    training = Training(recipe, dataset, accelerator)
    result = training.run()
    accuracies = [row["test_accuracy"] for row in result.history]
    training._step.ema.module.load_state_dict(result.network)  # batch norm's statistics too
    predictions, targets = predict(training._step.ema.module, EvalLoader(recipe, dataset, CPU), CPU)
    expected = accuracies[-1] if select == "last" else max(accuracies)
    assert 100 * (predictions == targets).double().mean().item() == pytest.approx(expected, abs=1e-4)


def test_weights_that_diverged_are_kept_as_they_are():
    result = Training(*arrange(*MODERN, "train.lr=1.0e+30")).run()
    assert result.diverged and len(result.history) == 1
    assert not all(torch.isfinite(p).all() for p in result.network.values())


@pytest.mark.parametrize("method", ["baseline", "dkd", "drloc"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(method, tmp_path):
    own = ["teacher.train.batch_size=32"] if method == "dkd" else []
    recipe = Registry().compose(f"deit_micro/digits/{method}", "quick", [*SETTINGS, *own, *MODERN])

    def start(**more):
        teacher = Teacher(recipe.teacher, 10, None, recipe.guidance.teacher) if recipe.teacher else None
        return Training(recipe, open_dataset(recipe.data, "data"), Accelerator(cpu=True), teacher, **more).run()

    whole, steps = start(), itertools.count(1)
    with pytest.raises(Stopped):  # in the second epoch
        start(checkpoints=Checkpoints(tmp_path, "", 0), stop=lambda: next(steps) == 5)
    resumed = start(checkpoints=Checkpoints(tmp_path, "", 0))
    assert all(torch.equal(p, resumed.network[name]) for name, p in whole.network.items())
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert {**one, "images_per_second": 0} == {**other, "images_per_second": 0}


def test_micro_batches_add_up_to_the_mixed_batch():
    whole, parts = (Training(*arrange(*MODERN, *more, method="guided")).run() for more in ([], ["train.micro_batch=4"]))
    for one, other in zip(whole.history, parts.history, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)


def test_the_files_of_a_run_hold_the_average(cache, tmp_path, monkeypatch):
    env = {"LOCALITY_BENCH_CACHE": str(cache)}
    settings = [word for setting in [*MODERN, "train.epochs=2"] for word in ("--set", setting)]
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", *TINY[:4], *settings]
    command("bench/run.py", *words, "--results-dir", tmp_path, env=env, check=True)
    (folder,) = (path.parent for path in tmp_path.rglob("record.json"))
    rows = list(csv.DictReader((folder / "history.csv").open()))
    assert tuple(rows[0]) == (*HISTORY_COLUMNS, "raw_accuracy")
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(cache))
    run = run_from_folder(folder)
    assert run.record.raw_accuracy == run.history["raw_accuracy"][-1] == float(rows[-1]["raw_accuracy"])
    assert run.record.last_accuracy == float(rows[-1]["test_accuracy"])
    assert run.contradiction is None and run_from_line(run.to_line(), "", "") == run
    changed = {**json.loads(run.to_line()), "raw_accuracy": 99.0}
    assert "raw accuracy" in run_from_line(json.dumps(changed), "", "").contradiction
    _, same = verify(folder, "data")
    assert same
    loaded = load(folder)
    recipe = Registry().compose("deit_micro/digits/baseline", "quick")
    predictions, _ = predict(loaded.model, EvalLoader(recipe, open_dataset(recipe.data, "data"), CPU), CPU)
    assert np.array_equal(predictions, np.load(folder / "predictions.npy"))
