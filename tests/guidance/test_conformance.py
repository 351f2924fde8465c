"""What every guidance method has to fulfil. A new file in bench/guidance is tested without a change here."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from accelerate import Accelerator

from bench import guidance, models
from bench.config.methods import method_names
from bench.config.registry import Registry
from bench.data.store import open_dataset
from bench.guidance import Outputs, Samples, Signals
from bench.train.checkpoint import Checkpoints
from bench.train.loop import Training
from bench.train.request import Stopped
from bench.train.task import Task
from bench.train.teacher import Teacher
from tests.helpers.networks import STUDENTS
from tests.helpers.process import Started, start_distributed

REGISTRY = Registry()
VARIANTS = [
    *method_names(),
    "locality,guidance.params.transform=similarity",
    "locality,guidance.params.transform=attention",
]
JOINED = ["kd+locality", "locality+lskd", "review_kd+drloc"]  # a term on logits or without a teacher beside one on maps
SMALL = ["data.holdout=0.02", "teacher.train.batch_size=32"]  # evaluated on 28 images
TWO_STEPS = [*SMALL, "train.epochs=2", "data.train_limit=64", "train.batch_size=32"]


def composed(variant, *settings, recipe_id="deit_micro/digits/baseline", protocol="quick", seed=0):
    method, *own = variant.split(",")
    recipe = REGISTRY.compose(recipe_id, protocol, [f"guidance.method={method}", *own], seed=seed)
    settings = [text for text in settings if recipe.teacher is not None or not text.startswith("teacher.")]
    return REGISTRY.compose(recipe_id, protocol, [f"guidance.method={method}", *own, *settings], seed=seed)


def arrange(recipe):
    """Dataset, accelerator and untrained teacher of a recipe on digits."""
    teacher = Teacher(recipe.teacher, 10, None, recipe.guidance.teacher) if recipe.teacher is not None else None
    return open_dataset(recipe.data, "data"), Accelerator(cpu=True), teacher


def parts(recipe, teacher, count=6):
    """Student (with a random head), methods, and images, labels and signals of a batch."""
    student = models.create_student(recipe, 10)
    torch.manual_seed(1)
    torch.nn.init.trunc_normal_(student.network.head.weight)
    shapes = teacher.shapes if teacher is not None else []
    methods = guidance.create(recipe.guidance, student.shapes, shapes, 0, student.groups)
    images, labels = torch.randn(count, 3, 16, 16), torch.arange(count) % 10
    draws = guidance.begin_epoch(methods, 0, 1, 4, count)
    theirs = teacher(teacher.resize_input(images)) if teacher is not None else None
    return student.eval(), methods, images, labels, Signals(theirs, draws)


def cast(outputs, kind):
    return outputs and Outputs(outputs.logits.to(kind), [maps.to(kind) for maps in outputs.maps])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_term_is_a_finite_fp32_scalar_whose_gradient_reaches_the_student_and_not_the_teacher(variant):
    recipe = composed(variant)
    teacher = arrange(recipe)[2]
    if teacher is not None:
        teacher.requires_grad_(True)
    student, methods, images, labels, signals = parts(recipe, teacher)
    logits, maps = student(images)
    ((name, method),) = methods.items()
    ours = cast(Outputs(logits, [maps[index] for index in method.student_maps]), torch.bfloat16)  # as in mixed precision
    theirs, samples = cast(signals.teacher, torch.bfloat16), Samples(labels, signals.draws.get(name))
    with torch.autocast("cpu", torch.bfloat16):
        term = method(ours, theirs, samples)
    assert torch.equal(term, method(cast(ours, torch.float32), cast(theirs, torch.float32), samples))
    assert term.shape == () and term.dtype == torch.float32 and term.isfinite() and term > 0
    term.backward()
    for module in (student.network, method):
        gradients = [p.grad for p in module.parameters() if p.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert sum(gradient.any().item() for gradient in gradients) > 0 or not list(module.parameters())
    assert student.network.patch_embed.proj.weight.grad.any()
    assert teacher is None or all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize("variant", VARIANTS + JOINED)
def test_the_student_starts_as_the_baseline_of_its_seed(variant):
    baseline = models.create_student(REGISTRY.compose("deit_micro/digits/baseline", "quick", seed=3), 10)
    recipe = composed(variant, seed=3)
    guided = Training(recipe, *arrange(recipe))._step.task.student
    assert all(torch.equal(p, guided.network.state_dict()[name]) for name, p in baseline.network.state_dict().items())


@pytest.mark.parametrize("variant", VARIANTS + JOINED)
def test_a_run_that_was_killed_and_stopped_ends_with_the_same_bits(variant, tmp_path):
    recipe = composed(variant, *TWO_STEPS)
    whole = Training(recipe, *arrange(recipe)).run()
    steps = itertools.count(1)

    def killed():
        """In the second epoch: the last checkpoint is that of its beginning."""
        if next(steps) == 3:
            raise KeyboardInterrupt
        return False

    def start(**more):
        return Training(recipe, *arrange(recipe), checkpoints=Checkpoints(tmp_path, "", 0), **more).run()

    with pytest.raises(KeyboardInterrupt):
        start(stop=killed)
    with pytest.raises(Stopped):  # after the first step of the second epoch
        start(stop=lambda: True)
    resumed = start()
    for one, other in ((whole.network, resumed.network), (whole.guidance, resumed.guidance)):
        assert one.keys() == other.keys() and all(torch.equal(p, other[name]) for name, p in one.items())
    for one, other in zip(whole.history, resumed.history, strict=True):
        assert {**one, "images_per_second": 0} == {**other, "images_per_second": 0}


def test_two_processes_give_the_losses_and_gradients_of_one():
    # the term of similarity is so small that at its weight it would not show in the gradients
    variants = [f"{v},guidance.params.weight=1000" if v.endswith("=similarity") else v for v in VARIANTS + JOINED]
    words = ["-m", "tests.guidance.global_gradients", *variants]
    done = [started.completed() for started in (Started(*words), *start_distributed(*words, processes=2))]
    assert [one.returncode for one in done] == [0, 0, 0], [one.stderr[-2000:] for one in done]
    alone, both = (json.loads(one.stdout.splitlines()[-1]) for one in done[:2])
    for variant in variants:
        assert len(alone[variant]["losses"]) == 6 and alone[variant]["losses"][1] > 0
        for name, tolerance in (("losses", 1e-4), ("gradients", 1e-3)):
            assert both[variant][name] == pytest.approx(alone[variant][name], rel=tolerance, abs=1e-6), (variant, name)


def teacher_runs(recipe):
    """How often the teacher is run in a training."""
    dataset, accelerator, teacher = arrange(recipe)
    calls = []
    if teacher is not None:
        teacher.register_forward_hook(lambda *_: calls.append(1))
    Training(recipe, dataset, accelerator, teacher).run()
    return len(calls)


@pytest.mark.parametrize("variant", VARIANTS + JOINED)
def test_the_teacher_is_run_where_it_is_needed_only(variant):
    """One step an epoch: guidance begins in the second and stops by itself after the third of four."""
    settings = [*SMALL, "train.epochs=4", "data.train_limit=32", "guidance.schedule.from_epoch=1"]
    early = ["guidance.schedule.adaptive=paper", "guidance.schedule.threshold=-1.0e+9"]
    recipe = composed(variant, *settings, *early)
    assert teacher_runs(recipe) == (2 if recipe.teacher is not None else 0)


def test_the_teacher_is_not_run_outside_the_schedule():
    schedule = ["guidance.schedule.from_epoch=1", "guidance.schedule.until_epoch=2"]
    assert teacher_runs(composed("kd", *SMALL, "train.epochs=3", "data.train_limit=32", *schedule)) == 1


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_compiled_method_computes_the_same(variant):
    torch._dynamo.reset()
    recipe = composed(variant)
    student, methods, images, labels, signals = parts(recipe, arrange(recipe)[2])
    ((name, method),) = methods.items()
    results = []
    for call in (method, torch.compile(method, backend="aot_eager", fullgraph=True)):
        logits, maps = student(images)
        ours = Outputs(logits, [maps[index] for index in method.student_maps])
        term = call(ours, signals.teacher, Samples(labels, signals.draws.get(name)))
        leaves = [p for p in (student.network.patch_embed.proj.weight, *method.parameters()) if p.requires_grad]
        results.append((term, torch.autograd.grad(term, leaves)))
    (eager, eager_gradients), (compiled, gradients) = results
    assert torch.allclose(eager, compiled, rtol=1e-6)
    for one, other in zip(eager_gradients, gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6 * one.abs().max().item())


def test_a_new_scale_and_new_draws_compile_nothing_again():
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    student, methods, images, labels, _ = parts(composed("drloc"), None)
    task = Task(student, methods)
    compiled, losses = torch.compile(task, backend=counter), []
    for epoch in (1, 2, 3):
        draws = guidance.begin_epoch(methods, 0, epoch, 300, len(images))
        losses.append([value.item() for value in compiled(images, labels, None, Signals(None, draws))])
    assert counter.frame_count == 1
    plain = torch.nn.functional.cross_entropy(student(images)[0], labels).item()
    for epoch, (loss, term) in zip((1, 2, 3), losses, strict=True):
        assert loss == pytest.approx(plain + 0.1 * epoch / 20 * term, rel=1e-5)


@pytest.mark.parametrize("model", STUDENTS)
def test_every_method_guides_every_student(model):
    """At 32 px, in an epoch with the full scale. All methods share one forward pass of the student."""
    small = ["model.image_size=32", "teacher.model.depth=8"]
    recipes = {v: composed(v, *small, recipe_id=f"{model}/cifar100/baseline", protocol="paper") for v in VARIANTS}
    torch.use_deterministic_algorithms(True)  # `train.deterministic`: no operation that torch then refuses
    try:
        student = models.create(next(iter(recipes.values())).model, 10, 0, all_blocks=True)
        torch.manual_seed(0)
        torch.nn.init.trunc_normal_(student.network.head.weight)
        images, labels = torch.randn(4, 3, 32, 32), torch.tensor([1, 2, 3, 3])
        scales = torch.ones(len(student.drop_path_rates), 4)
        logits, maps = student.train()(images, scales)
        teacher = Teacher(recipes["locality"].teacher, 10, None, recipes["locality"].guidance.teacher)
        theirs = teacher(images)
        first = next(p for p in student.network.parameters() if p.ndim > 1 and p.numel() > 5000)
        for variant, recipe in recipes.items():
            methods = guidance.create(recipe.guidance, student.shapes, teacher.shapes, 0, student.groups)
            signals = Signals(theirs, guidance.begin_epoch(methods, 0, 20, 300, 4))
            ((name, method),) = methods.items()
            ours = Outputs(logits, [maps[index] for index in method.student_maps])
            term = method(ours, signals.teacher, Samples(labels, signals.draws.get(name)))
            (gradient,) = torch.autograd.grad(term, first, retain_graph=True)
            assert term.isfinite() and gradient.isfinite().all() and gradient.any(), variant
    finally:
        torch.use_deterministic_algorithms(False)
