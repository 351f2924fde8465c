from __future__ import annotations

import pytest
import torch

from bench import guidance
from bench.guidance.locality import Resize
from bench.guide import Guide
from bench.recipes import Guidance, Registry


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


def plain_loss(student_maps, guide_maps, weights, biases):
    """The loss from its formula, in float64, sharing no code with the suite."""
    total = torch.zeros((), dtype=torch.float64)
    for s, t, weight, bias in zip(student_maps, guide_maps, weights, biases, strict=True):
        projected = torch.einsum("oc,bchw->bohw", weight, s) + bias[None, :, None, None]
        height, width = max(s.shape[2], t.shape[2]), max(s.shape[3], t.shape[3])
        difference = bilinear(t, height, width) - bilinear(projected, height, width)
        total = total + (difference**2).sum() / difference.numel()
    return total


@pytest.mark.parametrize(
    ("student", "guide"),
    [
        ((5, 3, 3), (4, 8, 8)),  # the guide's map is larger, as at DeiT's first tap
        ((5, 7, 7), (4, 4, 4)),  # the student's is larger, as at PVT's
        ((5, 4, 4), (3, 4, 4)),  # equal
        ((2, 1, 1), (3, 4, 4)),  # a student's last map of one token
        ((5, 6, 2), (4, 3, 5)),  # larger in height alone
    ],
)
def test_loss_and_gradient_equal_the_plain_computation(student, guide):
    shapes_s, shapes_t = [student, (3, 2, 2)], [guide, (2, 5, 5)]
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


def test_the_guide_normalises_by_the_batch_or_by_its_running_statistics():
    recipe = Registry().compose("resnet8/digits", "quick")
    view = torch.randn(6, 3, 16, 16)
    by_batch, by_running = (Guide(recipe, None, Guidance("locality", guide_norm=norm)) for norm in ("batch", "running"))
    network = Guide(recipe, None, Guidance("locality", guide_norm="running")).network
    _, in_eval_mode = network.eval()(view)
    _, in_train_mode = network.train()(view)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(by_batch(view), in_train_mode, strict=True))
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(by_running(view), in_eval_mode, strict=True))
    before = {name: value.clone() for name, value in by_running.state_dict().items()}
    by_running(view)
    assert all(torch.equal(value, before[name]) for name, value in by_running.state_dict().items())
    assert not any(p.requires_grad for p in by_batch.parameters())


def test_the_guides_view_is_a_plain_bilinear_resize():
    recipe = Registry().compose("resnet8/digits", "quick", ["model.image_size=4"])
    image = torch.randn(1, 3, 12, 12)
    plain, antialiased = (Guide(recipe, None, Guidance("locality", antialias=a)).view(image) for a in (False, True))
    assert torch.allclose(plain[0].double(), bilinear(image[0].double(), 4, 4), atol=1e-5)
    assert not torch.allclose(plain, antialiased)
