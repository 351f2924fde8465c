"""Training as a whole: golden losses, the pairing of the two arms, and one process against two."""

from __future__ import annotations

import csv

import pytest
import torch
from accelerate import Accelerator

from bench import guidance, models
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.data.loaders import EvalLoader, make_train_loader
from bench.data.store import open_dataset
from bench.models.drop_path import sample_drop_path_masks
from bench.run import check_feasible
from bench.train.evaluate import predict
from bench.train.loop import train
from bench.train.task import Task, make_optimizer
from bench.train.teacher import Teacher
from tests.helpers.process import command, refused, start_distributed

registry = Registry()
CPU = torch.device("cpu")
AUGMENT = ["augment.crop=random_resized", "augment.crop_area=[0.5, 1]", "augment.flip=0.5", "augment.erase=0.5"]
SETTINGS = ["train.epochs=3", "data.train_limit=512", "model.drop_path_rate=0.2", *AUGMENT]
FEW_STEPS = ["train.epochs=2", "data.train_limit=128"]
# The training losses of three epochs, on a CPU in fp32. They pin data order, augmentation, initial weights, drop path, the
# loss and the optimiser at once. A change here changes every result: say in the commit which and why.
GOLDEN = {"baseline": [2.305775, 2.291302, 2.267937], "guided": [9.246336, 7.160049, 6.962810]}


def arrange(arm, *settings, seed=0):
    recipe = registry.compose(f"deit_micro/digits/{arm}", "quick", [*SETTINGS, *settings], seed=seed)
    teacher = Teacher(recipe.teacher, 10, None, recipe.guidance) if recipe.teacher else None
    return recipe, open_dataset(recipe.data, "data"), Accelerator(cpu=True), teacher


@pytest.mark.parametrize("arm", ["baseline", "guided"])
def test_golden_losses(arm):
    history = train(*arrange(arm)).history
    assert [row["train_loss"] for row in history] == pytest.approx(GOLDEN[arm], rel=2e-4)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert (history[0]["guidance_loss"] is None) == (arm == "baseline")


def test_the_arms_of_one_seed_start_from_the_same_weights():
    recipes = [registry.compose(f"deit_micro/digits/{arm}", "quick", seed=4) for arm in ("baseline", "guided")]
    baseline, guided = (models.create(r.model, 10, r.seed, feature_layers=r.teacher is not None) for r in recipes)
    images = torch.randn(2, 3, 16, 16)
    assert all(torch.equal(p, guided.state_dict()[name]) for name, p in baseline.state_dict().items())
    assert torch.equal(baseline.eval()(images)[0], guided.eval()(images)[0])


def test_training_twice_gives_the_same_weights_and_trains_the_projections():
    one, other = (train(*arrange("guided", *FEW_STEPS)) for _ in range(2))
    assert all(torch.equal(p, other.network[name]) for name, p in one.network.items())
    recipe, _, _, teacher = arrange("guided")
    student = models.create(recipe.model, 10, 0)
    initial = guidance.create(recipe.guidance, student.shapes, teacher.shapes, 0).state_dict()
    assert set(one.guidance) == set(initial) == {f"projections.{k}.{part}" for k in range(3) for part in ("weight", "bias")}
    assert all(not torch.equal(p, initial[name]) for name, p in one.guidance.items())


def test_the_teacher_stays_as_it_is():
    recipe, store, accelerator, teacher = arrange("guided", *FEW_STEPS)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    train(recipe, store, accelerator, teacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_optimiser_decays_matrices_only():
    recipe, _, _, teacher = arrange("guided")
    student = models.create(recipe.model, 10, 0)
    task = Task(student, guidance.create(recipe.guidance, student.shapes, teacher.shapes, 0), recipe.guidance)
    names = {id(p): name for name, p in task.named_parameters()}
    decay = {names[id(p)]: g["weight_decay"] for g in make_optimizer(task, recipe.train).param_groups for p in g["params"]}
    assert set(decay) == set(names.values())  # everything that learns, the projections too
    plain = {n for n, p in task.named_parameters() if p.ndim == 1 or "pos_embed" in n or "cls_token" in n}
    assert {name for name, value in decay.items() if value == 0} == plain
    assert {decay[n] for n in decay if n.startswith("guidance") and n.endswith("weight")} == {0.05}


def test_a_step_by_hand_is_the_runners():
    recipe, store, accelerator, teacher = arrange(
        "guided", "train.epochs=1", "data.train_limit=32", "teacher.train.batch_size=32"
    )
    trained = train(recipe, store, accelerator, teacher)
    student = models.create(recipe.model, 10, 0)
    task = Task(student, guidance.create(recipe.guidance, student.shapes, teacher.shapes, 0), recipe.guidance).train()
    (batch,) = make_train_loader(recipe, store, torch.device("cpu")).epoch(0)
    scales = sample_drop_path_masks(student.drop_path_rates, 32, 0, 0)
    logits, maps = student(batch.images, scales)
    expected = torch.nn.functional.cross_entropy(logits, batch.labels)
    expected = expected + 2.5 * task.guidance(maps, teacher(teacher.view(batch.images))[1])
    assert trained.history[0]["train_loss"] == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("arm", ["baseline", "guided", "guided-attention", "logit-soft"])
def test_micro_batches_add_up_to_the_batch(arm):
    settings = ["train.epochs=2", "data.train_limit=128"]
    whole, parts = (train(*arrange(arm, *settings, *more)) for more in ([], ["train.micro_batch=8"]))
    for one, other in zip(whole.history, parts.history, strict=True):
        assert other["train_loss"] == pytest.approx(one["train_loss"], rel=1e-5)
    for name, weight in whole.network.items():
        assert torch.allclose(weight, parts.network[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("recipe_id", "setting", "words"),
    [
        ("deit_micro/digits/baseline", "train.micro_batch=5", "5 does not divide a process's batch of 32"),
        ("cvt_13/digits/baseline", "train.micro_batch=8", "cvt_13 has batch norm"),
        ("deit_micro/digits/guided-similarity", "train.micro_batch=8", "similarity"),
    ],
)
def test_micro_batches_that_would_change_the_result_are_refused(recipe_id, setting, words):
    recipe = registry.compose(recipe_id, "quick", [setting, "model.image_size=16"])
    with pytest.raises(RecipeError, match=words):
        check_feasible(recipe, None)


def test_a_loss_that_is_not_finite_ends_the_run_with_its_state():
    trained = train(*arrange("baseline", "train.lr=1.0e+30"))
    assert trained.diverged and len(trained.history) == 1 and trained.history[0]["train_loss"] is None
    assert not all(torch.isfinite(p).all() for p in trained.network.values())


def test_the_best_epoch_can_be_kept():
    store, accelerator = arrange("baseline")[1:3]
    # a constant high rate, at which accuracy goes up and down
    settings = ["train.epochs=3", "train.lr=0.2", "train.min_lr=0.2", "data.train_limit=512"]
    last, best = (registry.compose("resnet8/digits", "quick", [*settings, f"select={s}"]) for s in ("last", "best"))
    kept = {recipe.select: train(recipe, store, accelerator) for recipe in (last, best)}
    accuracies = [row["test_accuracy"] for row in kept["best"].history]
    assert accuracies == [row["test_accuracy"] for row in kept["last"].history] and accuracies[-1] < max(accuracies)
    for select, expected in (("last", accuracies[-1]), ("best", max(accuracies))):
        network = models.create(last.model, 10, 0).network
        network.load_state_dict(kept[select].network)
        given, right = predict(network, EvalLoader(last, store, CPU), CPU)
        assert 100 * (given == right).float().mean().item() == pytest.approx(expected, abs=1e-3)
        assert torch.equal(given, kept[select].predicted)


def test_evaluation_keeps_no_maps():
    recipe, store, _, _ = arrange("guided")
    student = models.create(recipe.model, 10, 0)
    predict(student.network, EvalLoader(recipe, store, CPU), CPU)
    assert not student._outputs
    _, maps = student.eval()(torch.randn(2, 3, 16, 16))
    assert len(maps) == 3 and not student._outputs


def test_impossible_runs_are_refused_before_the_teacher_is_trained(tmp_path):
    words = ["bench/run.py", "--recipe", "deit_micro/digits/guided", "--protocol", "quick", "--results-dir", tmp_path]
    for setting, word in (
        ("model.image_size=15", "model.patch_size"),
        ("model.feature_layers=[blocks.0, blocks.1, head]", "neither a map nor the tokens"),
        ("model.timm=deit_huge", "cannot be built"),
    ):
        refused(command(*words, "--set", setting, env={"LOCALITY_BENCH_CACHE": str(tmp_path / "cache")}), word)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("arm", ["baseline", "guided"])
def test_two_processes_give_the_losses_of_one_step_by_step(cache, tmp_path, arm):
    # An epoch is one step, so the history has every step's loss. The launcher itself takes part in one of the arms.
    settings = ["train.epochs=5", "train.warmup_epochs=1", "train.batch_size=64", "data.train_limit=64"]
    settings += ["model.image_size=32", "model.drop_path_rate=0.3", *AUGMENT, "augment.rand_augment=rand-m9-mstd0.5-inc1"]
    settings += ["teacher.train.epochs=1", "teacher.train.batch_size=64"] if arm == "guided" else []
    options = ["--recipe", f"deit_tiny/digits/{arm}", "--protocol", "quick"]
    options += [word for setting in settings for word in ("--set", setting)]
    env = {"LOCALITY_BENCH_CACHE": str(cache)}  # so that the two processes need a teacher first
    both = ["bench/run.py", *options, "--num-processes", "2", "--results-dir", tmp_path / "two"]
    if arm == "guided":
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
        said = command(*launch, *both, check=True, env=env).stdout
    else:
        done = [started.completed() for started in start_distributed(*both, processes=2, env=env)]
        assert [one.returncode for one in done] == [0, 0], done
        said = "".join(one.stdout for one in done)
    command("bench/run.py", *options, "--results-dir", tmp_path / "one", check=True, env=env)
    assert "2 processes" in said and said.count("epoch 5/5") == 1  # the main process alone speaks
    rows = {}
    for name in ("one", "two"):
        (path,) = (tmp_path / name / "runs").glob(f"deit_tiny/digits/{arm}/*/history.csv")
        rows[name] = list(csv.DictReader(path.open()))
    losses = [float(row["train_loss"]) for row in rows["one"]]
    assert len(losses) == 5 and losses[-1] < losses[0]
    for one, both in zip(rows["one"], rows["two"], strict=True):
        for column in ("train_loss", *["guidance_loss"] * (arm == "guided")):
            # float32 sums in another order, through the steps before
            assert float(both[column]) == pytest.approx(float(one[column]), rel=1e-4)
        assert float(both["test_accuracy"]) == pytest.approx(float(one["test_accuracy"]), abs=100 * 2 / 360)


def test_a_launch_that_starts_fewer_processes_than_asked_is_refused(tmp_path):
    run = ["bench/run.py", "--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--results-dir", str(tmp_path)]
    # what `accelerate launch --cpu --num_processes 2` leaves behind: one process, and an address to meet at
    asked = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    done = command(*run, env=asked)
    assert done.returncode == 2 and "started one" in done.stderr and "torchrun" in done.stderr
    done = command(*run, "--num-processes", "2")
    assert done.returncode == 2 and "2 processes were asked for, 1 started" in done.stderr
