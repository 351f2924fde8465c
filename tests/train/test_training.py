"""Training as a whole: micro-batches, the guidance schedule, one process against two."""

from __future__ import annotations

import csv

import pytest
import torch
from accelerate import Accelerator

from bench import guidance, models
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.loaders import EvalLoader, TrainLoader
from bench.data.store import open_dataset
from bench.models.drop_path import sample_drop_path_masks
from bench.train.evaluate import predict
from bench.train.loop import Training
from bench.train.preflight import check_recipe
from bench.train.task import Task, make_optimizer
from bench.train.teacher import Teacher
from tests.helpers.process import command, refused, start_distributed

registry = Registry()
CPU = torch.device("cpu")
AUGMENT = ["augment.crop=random_resized", "augment.crop_area=[0.5, 1]", "augment.flip=0.5", "augment.erase=0.5"]
SETTINGS = ["train.epochs=3", "data.train_limit=512", "model.drop_path_rate=0.2", *AUGMENT]
MODERN = ["augment.mixup=0.8", "augment.cutmix=1", "train.label_smoothing=0.1", "train.ema=0.9", "train.lr_per=step"]
FEW_STEPS = ["train.epochs=2", "data.train_limit=128"]


def arrange(method, *settings, seed=0):
    """Recipe, dataset, accelerator and untrained teacher."""
    recipe = registry.compose(f"deit_micro/digits/{method}", "quick", [*SETTINGS, *settings], seed=seed)
    teacher = Teacher(recipe.teacher, 10, None, recipe.guidance.teacher) if recipe.teacher else None
    return recipe, open_dataset(recipe.data, "data"), Accelerator(cpu=True), teacher


def train(*arguments):
    return Training(*arguments).run()


def make_task(recipe, teacher):
    """The module that learns, with the weights that a run starts from."""
    student = models.create(recipe.model, 10, 0)
    return Task(student, guidance.create(recipe.guidance, student.shapes, teacher.shapes, 0, student.groups))


def test_training_twice_gives_the_same_weights_and_trains_the_projections():
    one, other = (train(*arrange("guided", *FEW_STEPS)) for _ in range(2))
    assert all(torch.equal(p, other.network[name]) for name, p in one.network.items())
    recipe, _, _, teacher = arrange("guided")
    initial = make_task(recipe, teacher).guidance.state_dict()
    names = {f"locality.projections.{k}.{part}" for k in range(3) for part in ("weight", "bias")}
    assert set(one.guidance) == set(initial) == names
    assert all(not torch.equal(p, initial[name]) for name, p in one.guidance.items())


def test_the_teacher_does_not_change():
    recipe, dataset, accelerator, teacher = arrange("guided", *FEW_STEPS)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    train(recipe, dataset, accelerator, teacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_guidance_is_active_in_the_epochs_of_its_schedule_only():
    schedule = ["guidance.schedule.from_epoch=1", "guidance.schedule.until_epoch=2"]
    result = train(*arrange("guided", *schedule))
    assert [row["guidance_loss"] is None for row in result.history] == [True, False, True]
    baseline = train(*arrange("baseline"))
    assert result.history[0]["train_loss"] == baseline.history[0]["train_loss"]  # until then it is the baseline
    assert result.history[1]["train_loss"] > 2 * baseline.history[1]["train_loss"]


def test_projections_do_not_change_while_guidance_is_inactive():
    constant = ["train.lr=1e-3", "train.min_lr=1e-3", "train.warmup_epochs=0", "guidance.schedule.until_epoch=1"]
    one, two = (train(*arrange("guided", *FEW_STEPS, *constant, f"train.epochs={epochs}")) for epochs in (1, 2))
    assert all(torch.equal(two.guidance[name], p) for name, p in one.guidance.items())  # no weight decay either
    assert not any(torch.equal(two.network[name], p) for name, p in one.network.items())


def test_the_optimiser_decays_matrices_only():
    recipe, _, _, teacher = arrange("guided")
    task = make_task(recipe, teacher)
    names = {id(p): name for name, p in task.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in make_optimizer(task, recipe.train).param_groups for p in g["params"]}
    assert set(decay) == set(names.values())  # everything that learns, the projections too
    plain = {n for n, p in task.named_parameters() if p.ndim == 1 or "pos_embed" in n or "cls_token" in n}
    assert {name for name, value in decay.items() if value == 0} == plain
    assert {decay[n] for n in decay if n.startswith("guidance") and n.endswith("weight")} == {0.05}


def test_a_step_written_out_gives_the_loss_of_the_training():
    one_step = ["train.epochs=1", "data.train_limit=32", "teacher.train.batch_size=32"]
    recipe, dataset, accelerator, teacher = arrange("guided", *one_step)
    result = train(recipe, dataset, accelerator, teacher)
    task = make_task(recipe, teacher).train()
    (batch,) = TrainLoader(recipe, dataset, CPU).epoch(0)
    scales = sample_drop_path_masks(task.student.drop_path_rates, 32, 0, 0)
    logits, maps = task.student(batch.images, scales)
    locality, samples = task.guidance["locality"], guidance.Samples(batch.labels)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels)
    theirs = teacher(teacher.resize_input(batch.images))
    expected = expected + 2.5 * locality(guidance.Outputs(logits, maps), theirs, samples)
    assert result.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("method", ["baseline", "guided", "guided-attention", "kd"])
def test_micro_batches_add_up_to_the_batch(method):
    whole, parts = (train(*arrange(method, *FEW_STEPS, *more)) for more in ([], ["train.micro_batch=8"]))
    for one, other in zip(whole.history, parts.history, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
    for name, weight in whole.network.items():
        assert torch.allclose(weight, parts.network[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("recipe_id", "setting", "words"),
    [
        ("deit_micro/digits/baseline", "train.micro_batch=5", "5 does not divide a process's batch of 32"),
        ("cvt_13/digits/baseline", "train.micro_batch=8", "cvt_13 has batch norm"),
        ("cvt_13/digits/baseline", "train.batch_size=1", "cvt_13 cannot train on one sample per process"),
        ("deit_micro/digits/guided-similarity", "train.micro_batch=8", "compares the samples of a whole batch"),
    ],
)
def test_batches_that_cannot_train_or_would_change_the_result_are_refused(recipe_id, setting, words):
    recipe = registry.compose(recipe_id, "quick", [setting, "model.image_size=16"])
    with pytest.raises(RecipeError, match=words):
        check_recipe(recipe, None)


def test_the_best_epoch_can_be_selected():
    dataset, accelerator = arrange("baseline")[1:3]
    # a constant high rate, at which accuracy goes up and down
    settings = ["train.epochs=3", "train.lr=0.2", "train.min_lr=0.2", "data.train_limit=512"]
    last, best = (registry.compose("resnet8/digits", "quick", [*settings, f"select={s}"]) for s in ("last", "best"))
    results = {recipe.select: train(recipe, dataset, accelerator) for recipe in (last, best)}
    accuracies = [row["test_accuracy"] for row in results["best"].history]
    assert accuracies == [row["test_accuracy"] for row in results["last"].history] and accuracies[-1] < max(accuracies)
    for select, expected in (("last", accuracies[-1]), ("best", max(accuracies))):
        network = models.create(last.model, 10, 0).network
        network.load_state_dict(results[select].network)
        predictions, targets = predict(network, EvalLoader(last, dataset, CPU), CPU)
        assert 100 * (predictions == targets).float().mean().item() == pytest.approx(expected, abs=1e-3)
        assert torch.equal(predictions, results[select].predictions)


def test_epochs_without_evaluation_train_the_same_network():
    every, third = (train(*arrange("baseline", "train.epochs=4", f"train.evaluate_every={n}")) for n in (1, 3))
    assert all(torch.equal(third.network[name], weights) for name, weights in every.network.items())
    evaluated = [row["test_accuracy"] for row in every.history]
    assert [row["test_accuracy"] for row in third.history] == [None, None, evaluated[2], evaluated[3]]
    assert torch.equal(third.predictions, every.predictions)
    diverged = train(*arrange("baseline", "train.lr=1.0e+30", "train.evaluate_every=3"))
    assert diverged.diverged and diverged.history[0]["test_accuracy"] is not None


@pytest.mark.parametrize(("method", "more"), [("baseline", MODERN), ("guided", ["guidance.schedule.until_epoch=3"])])
def test_two_processes_give_the_losses_of_one_step_by_step(cache, tmp_path, method, more):
    # an epoch is one step, so the history has every step's loss; torchrun itself starts the guided ones
    settings = ["train.epochs=5", "train.warmup_epochs=1", "train.batch_size=64", "data.train_limit=64"]
    settings += ["model.image_size=32", "model.drop_path_rate=0.3", *AUGMENT, "augment.rand_augment=rand-m9-mstd0.5-inc1"]
    settings += [*more, *["teacher.train.epochs=1", "teacher.train.batch_size=64"] * (method == "guided")]
    options = ["--recipe", f"deit_tiny/digits/{method}", "--protocol", "quick"]
    options += [word for setting in settings for word in ("--set", setting)]
    env = {"LOCALITY_BENCH_CACHE": str(cache)}  # so that the two processes need a teacher first
    both = ["bench/run.py", *options, "--num-processes", "2", "--results-dir", tmp_path / "two"]
    if method == "guided":
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        output = command(*launch, *both, check=True, env=env).stdout
    else:
        done = [started.completed() for started in start_distributed(*both, processes=2, env=env)]
        assert [one.returncode for one in done] == [0, 0], done
        output = "".join(one.stdout for one in done)
    command("bench/run.py", *options, "--results-dir", tmp_path / "one", check=True, env=env)
    assert "2 processes" in output and output.count("epoch 5/5") == 1  # only the main process prints
    rows = {}
    for name in ("one", "two"):
        (path,) = (tmp_path / name).rglob(f"deit_tiny/digits/{method}/*/history.csv")
        rows[name] = list(csv.DictReader(path.open()))
    losses = [float(row["train_loss"]) for row in rows["one"]]
    assert len(losses) == 5 and losses[-1] < losses[0]
    for one, two in zip(rows["one"], rows["two"], strict=True):
        assert len({*one} & {"raw_accuracy"}) == (more == MODERN)
        guided = method == "guided" and int(one["epoch"]) <= 3  # after that the projections have no gradient
        assert bool(one["guidance_loss"]) == bool(two["guidance_loss"]) == guided
        for column in ("train_loss", *["guidance_loss"] * guided):
            # float32 sums in another order, through the steps before
            assert float(two[column]) == pytest.approx(float(one[column]), rel=1e-4)
        assert float(two["test_accuracy"]) == pytest.approx(float(one["test_accuracy"]), abs=100 * 2 / 360)


def test_a_run_that_cannot_be_is_refused_before_the_teacher_is_trained(tmp_path):
    words = ["bench/run.py", "--recipe", "deit_micro/digits/guided", "--protocol", "quick", "--results-dir", tmp_path]
    for setting, word in (
        ("model.image_size=15", "model.image_size"),
        ("model.feature_layers=[blocks.0, blocks.1, head]", "head"),
        ("model.timm=deit_huge", "cannot be built"),
    ):
        refused(command(*words, "--set", setting, env={"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}), word)
    assert not (tmp_path / "local").exists()
