"""Locality guidance against its formula in float64."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from bench.guidance import Outputs, Samples
from bench.guidance.locality import Params, attention, build, similarity
from bench.guidance.resize import Resize
from tests.helpers.plain import bilinear


def locality(student, teacher, **params):
    torch.manual_seed(0)
    return build(Params(**params), student, teacher)


def term(method, student, teacher):
    return method(Outputs(None, student), Outputs(None, teacher), Samples(torch.zeros(len(student[0]), dtype=torch.int64)))


@pytest.mark.parametrize(
    ("student", "teacher"),
    [
        ((5, 3, 3), (4, 8, 8)),  # the teacher's map is larger, as at DeiT's first feature layer
        ((5, 7, 7), (4, 4, 4)),  # the student's is larger, as at PVT's
        ((5, 4, 4), (3, 4, 4)),  # equal
        ((2, 1, 1), (3, 4, 4)),  # a student's last map of one token
        ((5, 6, 2), (4, 3, 5)),  # larger in height alone
    ],
)
def test_loss_and_gradients_equal_the_formula(student, teacher):
    student, teacher = [student, (3, 2, 2)], [teacher, (2, 5, 5)]
    method = locality(student, teacher)
    ours = [torch.randn(2, *shape, requires_grad=True) for shape in student]
    theirs = [torch.randn(2, *shape) for shape in teacher]
    loss = term(method, ours, theirs)
    loss.backward()

    doubles = [m.detach().double().requires_grad_() for m in ours]
    weights = [p.weight.detach().double()[:, :, 0, 0].requires_grad_() for p in method.projections]
    biases = [p.bias.detach().double().requires_grad_() for p in method.projections]
    expected = 0
    for s, t, weight, bias in zip(doubles, theirs, weights, biases, strict=True):
        projected = torch.einsum("oc,bchw->bohw", weight, s) + bias[None, :, None, None]
        height, width = max(s.shape[2], t.shape[2]), max(s.shape[3], t.shape[3])
        difference = bilinear(t, height, width) - bilinear(projected, height, width)
        expected = expected + (difference**2).sum() / difference.numel()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for got, want in zip(ours, doubles, strict=True):
        assert torch.allclose(got.grad.double(), want.grad, rtol=1e-4, atol=1e-7)
    for projection, weight, bias in zip(method.projections, weights, biases, strict=True):
        assert torch.allclose(projection.weight.grad.double()[:, :, 0, 0], weight.grad, rtol=1e-4, atol=1e-7)
        assert torch.allclose(projection.bias.grad.double(), bias.grad, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(("source", "target"), [(8, 14), (7, 8), (28, 56), (16, 32), (5, 5), (14, 4), (7, 2), (3, 1)])
def test_resize_is_that_of_torch(source, target):
    maps, sizes = torch.randn(2, 3, source, source), ((source, source), (target, target))
    for mode, expected in (
        ("linear", interpolate(maps, sizes[1], mode="bilinear", align_corners=False)),
        ("nearest", interpolate(maps, sizes[1], mode="nearest")),
        ("area", adaptive_avg_pool2d(maps, sizes[1])),
    ):
        assert torch.allclose(Resize(*sizes, mode)(maps), expected, atol=1e-5)


def plain_attention(maps):
    strength = (maps**2).sum(1).flatten(1) / maps.shape[1]
    return strength / (strength**2).sum(1, keepdim=True).sqrt()


def plain_similarity(maps):
    gram = torch.tensor([[(a * b).sum() for b in maps] for a in maps], dtype=torch.float64)
    return gram / (gram**2).sum(1, keepdim=True).sqrt()


@pytest.mark.parametrize(
    ("transform", "function", "plain"),
    [("attention", attention, plain_attention), ("similarity", similarity, plain_similarity)],
)
def test_transforms_compare_resized_maps_and_train_nothing(transform, function, plain):
    method = locality([(5, 2, 2)], [(4, 3, 3)], transform=transform)
    ours, theirs = torch.randn(3, 5, 2, 2), torch.randn(3, 4, 3, 3)
    assert torch.allclose(function(theirs.double()), plain(theirs.double()))
    expected = (plain(bilinear(ours, 3, 3)) - plain(theirs.double())).square().mean()
    assert term(method, [ours], [theirs]).item() == pytest.approx(expected.item(), rel=1e-5)
    assert not list(method.parameters())


def test_stages_choose_pairs_of_maps():
    shapes = [(5, 3, 3), (4, 2, 2), (3, 1, 1)]
    ours, theirs = ([torch.randn(2, *shape) for shape in shapes] for _ in "ab")
    complete, chosen = locality(shapes, shapes), locality(shapes, shapes, stages=(2, 0))
    for projection, source in zip(chosen.projections, (complete.projections[2], complete.projections[0]), strict=True):
        projection.load_state_dict(source.state_dict())
    left_out = (complete.projections[1](ours[1]) - theirs[1]).square().mean()
    expected = term(complete, ours, theirs) - left_out
    assert term(chosen, ours, theirs).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("stages", "layers", "key"),
    [
        (None, (3, 2), "model.feature_layers"),
        ((0, 2), (3, 2), "stages"),
        ((), (3, 3), "stages"),
        ((1, 1), (3, 3), "stages"),
    ],
)
def test_pairs_that_do_not_exist_are_problems(stages, layers, key):
    ((found, problem),) = Params(stages=stages).problems(*layers)
    assert found == key and problem
    assert Params(stages=(1, 0)).problems(*layers) == []
