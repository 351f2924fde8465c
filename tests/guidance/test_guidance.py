from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from conftest import command, refused
from torchvision.transforms.functional import resized_crop

from bench import guidance
from bench.data.loaders import Batch, unaugmented
from bench.data.store import open_dataset
from bench.guidance.locality import Resize, attention, similarity
from bench.guidance.logits import logit_loss
from bench.train.teacher import Teacher
from bench.train.feature_cache import feature_cache, replay
from bench.config.registry import Registry
from bench.config.schema import Guidance, RecipeError
from bench.train.loop import train

CPU = torch.device("cpu")


def bilinear(source, height, width):
    """Bilinear interpolation of [channels, h, w] in float64, pixel by pixel from its definition (align_corners off)."""
    h, w = source.shape[-2:]
    out = torch.zeros(*source.shape[:-2], height, width, dtype=torch.float64)
    for i in range(height):
        y = min(max((i + 0.5) * h / height - 0.5, 0), h - 1)
        top, bottom = int(y), min(int(y) + 1, h - 1)
        for j in range(width):
            x = min(max((j + 0.5) * w / width - 0.5, 0), w - 1)
            left, right = int(x), min(int(x) + 1, w - 1)
            above = source[..., top, left] * (1 - (x - left)) + source[..., top, right] * (x - left)
            below = source[..., bottom, left] * (1 - (x - left)) + source[..., bottom, right] * (x - left)
            out[..., i, j] = above * (1 - (y - top)) + below * (y - top)
    return out


def plain_loss(student_maps, teacher_maps, weights, biases):
    """The loss from its formula, in float64, sharing no code with the suite."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t, weight, bias in zip(student_maps, teacher_maps, weights, biases, strict=True):
        projected = torch.einsum("oc,bchw->bohw", weight, s) + bias[None, :, None, None]
        height, width = max(s.shape[2], t.shape[2]), max(s.shape[3], t.shape[3])
        difference = bilinear(t, height, width) - bilinear(projected, height, width)
        total = total + (difference**2).sum() / difference.numel()
    return total


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((5, 3, 3), (4, 8, 8)),  # the teacher's map is larger, as at DeiT's first tap
        ((5, 7, 7), (4, 4, 4)),  # the student's is larger, as at PVT's
        ((5, 4, 4), (3, 4, 4)),  # equal
        ((2, 1, 1), (3, 4, 4)),  # a student's last map of one token
        ((5, 6, 2), (4, 3, 5)),  # larger in height alone
    ],
)
def test_loss_and_gradient_equal_the_plain_computation(student, teacher):
    shapes_s, shapes_t = [student, (3, 2, 2)], [teacher, (2, 5, 5)]
    method = guidance.create(Guidance("locality"), shapes_s, shapes_t, seed=0)
    random = torch.Generator().manual_seed(1)
    ours = [torch.randn(2, *s, generator=random, requires_grad=True) for s in shapes_s]
    theirs = [torch.randn(2, *t, generator=random) for t in shapes_t]
    loss = method(ours, theirs)
    loss.backward()

    doubles = [m.detach().double().requires_grad_() for m in ours]
    weights = [p.weight.detach().double()[:, :, 0, 0].requires_grad_() for p in method.projections]
    biases = [p.bias.detach().double().requires_grad_() for p in method.projections]
    expected = plain_loss(doubles, [t.double() for t in theirs], weights, biases)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, want in zip(ours, doubles, strict=True):
        assert torch.allclose(got.grad.double(), want.grad, rtol=1e-4, atol=1e-7)
    for projection, weight, bias in zip(method.projections, weights, biases, strict=True):
        assert torch.allclose(projection.weight.grad.double()[:, :, 0, 0], weight.grad, rtol=1e-4, atol=1e-7)
        assert torch.allclose(projection.bias.grad.double(), bias.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("source", "target"), [(8, 14), (7, 8), (14, 16), (28, 56), (16, 32), (5, 5)])
def test_resize_is_torch_interpolate(source, target):
    maps = torch.randn(2, 3, source, source)
    expected = torch.nn.functional.interpolate(maps, (target, target), mode="bilinear", align_corners=False)
    assert torch.allclose(Resize((source, source), (target, target))(maps), expected, atol=1e-5)


def test_loss_is_fp32_under_autocast():
    method = guidance.create(Guidance("locality"), [(5, 3, 3)], [(4, 4, 4)], seed=0)
    maps = torch.randn(2, 5, 3, 3), torch.randn(2, 4, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(method([maps[0]], [maps[1]]), method([maps[0].float()], [maps[1]]))
        assert method([maps[0].bfloat16()], [maps[1].bfloat16()]).dtype == torch.float32


def test_the_bnalises_by_the_batch_or_by_its_running_statistics():
    recipe = Registry().compose("resnet8/digits", "quick")
    view = torch.randn(6, 3, 16, 16)
    by_batch, by_running = (Teacher(recipe, 10, None, Guidance("locality", bn=norm)) for norm in ("batch", "running"))
    network = Teacher(recipe, 10, None, Guidance("locality", bn="running")).network
    _, in_eval_mode = network.eval()(view)
    _, in_train_mode = network.train()(view)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(by_batch(view)[1], in_train_mode, strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(by_running(view)[1], in_eval_mode, strict=True))
    before = {name: value.clone() for name, value in by_running.state_dict().items()}
    by_running(view)
    assert all(torch.equal(value, before[name]) for name, value in by_running.state_dict().items())
    assert not any(p.requires_grad for p in by_batch.parameters())


def test_the_teachers_view_is_a_plain_bilinear_resize():
    recipe = Registry().compose("resnet8/digits", "quick", ["model.image_size=4"])
    image = torch.randn(1, 3, 12, 12)
    plain, antialiased = (Teacher(recipe, 10, None, Guidance("locality", antialias=a)).view(image) for a in (False, True))
    assert torch.allclose(plain[0].double(), bilinear(image[0].double(), 4, 4), atol=1e-5)
    assert not torch.allclose(plain, antialiased)


def test_attention_is_its_formula():
    maps = torch.randn(2, 3, 2, 2, dtype=torch.float64)
    for sample, got in zip(maps, attention(maps), strict=True):
        strength = [sum(sample[c, i, j] ** 2 for c in range(3)) / 3 for i in range(2) for j in range(2)]
        length = sum(value**2 for value in strength) ** 0.5
        assert got.tolist() == pytest.approx([(value / length).item() for value in strength])


def test_similarity_is_its_formula():
    maps = torch.randn(3, 2, 2, 2, dtype=torch.float64)
    gram = [[(a * b).sum().item() for b in maps] for a in maps]
    expected = [[value / sum(v**2 for v in row) ** 0.5 for value in row] for row in gram]
    assert torch.allclose(similarity(maps), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("transform", "function"), [("attention", attention), ("similarity", similarity)])
def test_transforms_compare_resized_maps_and_train_nothing(transform, function):
    method = guidance.create(Guidance("locality", transform=transform), [(5, 2, 2)], [(4, 3, 3)], seed=0)
    ours, theirs = torch.randn(3, 5, 2, 2), torch.randn(3, 4, 3, 3)
    larger = torch.stack([bilinear(m.double(), 3, 3) for m in ours])
    expected = (function(larger) - function(theirs.double())).square().mean()
    assert method([ours], [theirs]).item() == pytest.approx(expected.item(), rel=1e-5)
    assert not list(method.parameters())


def test_stages_choose_pairs_of_maps():
    shapes, random = [(5, 3, 3), (4, 2, 2), (3, 1, 1)], torch.Generator().manual_seed(0)
    ours, theirs = ([torch.randn(2, *shape, generator=random) for shape in shapes] for _ in "ab")
    every = guidance.create(Guidance("locality"), shapes, shapes, seed=0)
    chosen = guidance.create(Guidance("locality", stages=(2, 0)), shapes, shapes, seed=0)
    for own, of_all in zip(chosen.projections, (every.projections[2], every.projections[0]), strict=True):
        own.load_state_dict(of_all.state_dict())
    left_out = every.projections[1](ours[1]) - theirs[1]
    assert chosen(ours, theirs).item() == pytest.approx((every(ours, theirs) - left_out.square().mean()).item(), rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_logits_are_their_formula(temperature):
    student, teacher = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    loss = logit_loss(student, teacher, "soft", temperature)
    expected = 0.0
    for ours, theirs in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(v / temperature) for v in logits] for logits in (theirs, ours))
        expected += sum(a / sum(p) * math.log(a / sum(p) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    assert loss.item() == pytest.approx(temperature**2 * expected / 3, rel=1e-4)
    loss.backward()
    assert student.grad.any() and teacher.grad is None
    assert logit_loss(teacher, teacher, "soft", temperature).item() == pytest.approx(0, abs=1e-6)


def test_hard_logits_take_the_teachers_arg_max_as_label():
    student, teacher = torch.randn(3, 5), torch.tensor([[0, 9, 0, 0, 0], [5, 4, 3, 2, 1], [0, 0, 0, 0, 1]])
    expected = -sum(student[i].log_softmax(0)[label] for i, label in enumerate((1, 0, 4))) / 3
    assert logit_loss(student, teacher, "hard").item() == pytest.approx(expected.item(), rel=1e-5)


def test_logit_terms_are_fp32_under_autocast():
    student, teacher = torch.randn(3, 5).bfloat16(), torch.randn(3, 5).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        for kind in ("soft", "hard"):
            assert torch.equal(logit_loss(student, teacher, kind), logit_loss(student.float(), teacher.float(), kind))


# --- Offline: kept features ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [1, 8, 32])
def test_replayed_crops_are_those_of_the_released_code(side):
    """torchvision's resized_crop by the image's box, cut down to whole cells, without antialiasing, then a flip."""
    maps, random = torch.randn(40, 3, side, side), np.random.default_rng(0)
    boxes, flips, expected = [], [], []
    for sample in maps:
        tall, wide = random.integers(8, 33, 2)
        top, left = random.integers(0, 33 - tall), random.integers(0, 33 - wide)
        share = [value / 32 for value in (top, left, tall, wide)]
        cells = [int(value * side) for value in share]
        cells = [min(cells[0], side - 1), min(cells[1], side - 1), max(cells[2], 1), max(cells[3], 1)]
        flip = bool(random.integers(2))
        image = resized_crop(sample, *cells, size=[side, side], antialias=False)
        expected.append(image.flip(-1) if flip else image)
        boxes.append(share)
        flips.append(flip)
    got = replay(maps, torch.tensor(boxes, dtype=torch.float32), torch.tensor(flips))
    assert torch.allclose(got, torch.stack(expected), atol=1e-5)


def arrange_offline(*settings):
    recipe = Registry().compose("deit_micro/digits/guided-offline", "quick", ["data.train_limit=450", *settings])
    store = open_dataset(recipe.data, "data")
    return recipe, store, Teacher(recipe.teacher, 10, None, recipe.guidance)


def test_feature_cache_are_the_teachers_of_the_unaugmented_images(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path))
    recipe, store, teacher = arrange_offline()
    part = store.training(recipe.data)
    kept = feature_cache(teacher, "teacher", recipe, store, CPU)
    values = sum(c * h * w for c, h, w in teacher.shapes)
    assert f"450 images of {values:,} values, {2 * 450 * values / 2**20:,.0f} MiB" in capsys.readouterr().out
    assert kept.shapes == teacher.shapes
    images = unaugmented(recipe.teacher, part.images, part.indices, CPU)
    chosen = np.array([3, 449, 201])
    batch = Batch(
        images[chosen], torch.zeros(3), slice(0, 3), chosen, torch.tensor([[0.0, 0, 1, 1]] * 3), torch.zeros(3).bool()
    )
    # batch statistics of 200 consecutive images, the last ones of the 50 that are left
    for stage, got in enumerate(kept.maps(batch)):
        whole = torch.cat([teacher(rows)[1][stage] for rows in images.split(200)])
        assert torch.allclose(got, whole[chosen], atol=2e-2, rtol=1e-3) and got.abs().max() > 0.5
    monkeypatch.setattr("bench.train.feature_cache._compute", None)  # a second look must not compute
    feature_cache(teacher, "teacher", recipe, store, CPU)


def test_offline_and_online_guidance_agree_without_augmentation(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path))
    # Both see the native 8 px, since training resizes with another kernel than evaluation does.
    settings = ["guidance.bn=running", "train.epochs=2", "model.image_size=8", "teacher.model.image_size=8"]
    recipe, store, teacher = arrange_offline(*settings)
    online = Registry().compose("deit_micro/digits/guided", "quick", ["data.train_limit=450", *settings])
    kept = feature_cache(teacher, "teacher", recipe, store, CPU)
    one, other = train(recipe, store, Accelerator(cpu=True), kept), train(online, store, Accelerator(cpu=True), teacher)
    for offline_row, online_row in zip(one.history, other.history, strict=True):
        assert offline_row["train_loss"] == pytest.approx(online_row["train_loss"], rel=1e-3)


def test_features_that_do_not_fit_on_the_disk_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LOCALITY_BENCH_CACHE", str(tmp_path))
    recipe, store, teacher = arrange_offline()
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(RecipeError, match=r"guidance.offline: the features take \d+ MiB, 0 MiB are free"):
        feature_cache(teacher, "teacher", recipe, store, CPU)
    assert not list((tmp_path / "features").glob("teacher*/*"))


# --- When it acts -------------------------------------------------------------------------------------------------------


def test_guidance_acts_between_its_epochs_alone():
    def losses(arm, *settings):
        recipe = Registry().compose(
            f"deit_micro/digits/{arm}", "quick", ["data.train_limit=320", "train.epochs=3", *settings]
        )
        teacher = Teacher(recipe.teacher, 10, None, recipe.guidance) if recipe.teacher else None
        return train(recipe, open_dataset(recipe.data, "data"), Accelerator(cpu=True), teacher).history

    alone, late = losses("baseline"), losses("guided", "guidance.from_epoch=1", "guidance.until_epoch=2")
    assert late[0]["train_loss"] == alone[0]["train_loss"] and late[0]["guidance_loss"] is None
    assert late[1]["guidance_loss"] > 0 and late[1]["train_loss"] > alone[1]["train_loss"] + 1
    assert late[2]["guidance_loss"] is None and late[2]["train_loss"] != alone[2]["train_loss"]
    assert late[2]["train_loss"] < 3  # cross-entropy alone again


def test_similarity_is_refused_on_several_processes(tmp_path):
    words = ["--recipe", "deit_micro/digits/guided-similarity", "--protocol", "quick", "--results-dir", tmp_path]
    one_of_two = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}  # as a launcher starts it
    done = command("bench/run.py", *words, env=one_of_two)
    refused(done, "similarity compares the samples of one process; 2 were started")
