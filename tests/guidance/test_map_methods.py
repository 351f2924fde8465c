"""LG-all, ReviewKD, MGD and DrLoc against their formulas in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d

from bench.guidance import Outputs, Samples, drloc, lg_all, mgd, review_kd
from tests.helpers.plain import bilinear

BATCH = 3


def arrange(module, student, teacher, **params):
    """A method with random weights, random maps of student and teacher, and those of the weights in float64."""
    torch.manual_seed(0)
    method = module.build(module.Params(**params), student, teacher)
    with torch.no_grad():
        for parameter in method.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    maps = [[torch.randn(BATCH, *shape) for shape in shapes] for shapes in (student, teacher)]
    return method, *maps, {name: value.double() for name, value in method.state_dict().items()}


def term(method, student, teacher, draws=None):
    return method(Outputs(None, student), Outputs(None, teacher), Samples(torch.zeros(BATCH).long(), draws)).item()


def project(maps, weights, name):
    """A 1 x 1 convolution written as a sum over channels."""
    out = torch.einsum("oc,bchw->bohw", weights[f"{name}.weight"][:, :, 0, 0], maps.double())
    return out + weights[f"{name}.bias"][None, :, None, None] if f"{name}.bias" in weights else out


@pytest.mark.parametrize(
    ("student", "width"),
    [([(5, 4, 4)] * 4, None), ([(5, 4, 4)] * 4, 3), ([(2, 8, 8), (3, 4, 4), (4, 4, 4), (6, 2, 2)], None)],
)
def test_lg_all_mixes_all_blocks(student, width):
    teacher = [(4, 8, 8), (5, 2, 2)]
    method, ours, theirs, weights = arrange(lg_all, student, teacher, width=width)
    common = width or (5 if len({c for c, *_ in student}) == 1 else 192)
    blocks = []
    for i, maps in enumerate(ours):
        same = maps.shape[1] == common
        blocks.append(bilinear(maps.double() if same else project(maps, weights, f"align.{i}.0"), 4, 4))
    expected = 0
    for k, maps in enumerate(theirs):
        shares = weights[f"mix.{k}"].exp() / weights[f"mix.{k}"].exp().sum()
        mixed = sum(share * block for share, block in zip(shares, blocks, strict=True))
        side = max(4, maps.shape[2])
        projected = project(mixed, weights, f"locality.projections.{k}")
        expected += (bilinear(maps, side, side) - bilinear(projected, side, side)).square().mean().item()
    assert term(method, ours, theirs) == pytest.approx(expected, rel=1e-5)
    fresh = lg_all.build(lg_all.Params(), student, teacher)
    assert not any(shares.any() for shares in fresh.mix) and fresh.weight == 2.5  # a uniform mixture


def batch_norm(x, weights, name):
    mean = x.mean((0, 2, 3), keepdim=True)
    out = (x - mean) / ((x - mean).square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    return out * weights[f"{name}.weight"][None, :, None, None] + weights[f"{name}.bias"][None, :, None, None]


def averaged(maps, side):
    """Means over the cells of a grid of side x side, for sizes that it divides."""
    cell = maps.shape[2] // side
    return maps.reshape(*maps.shape[:2], side, cell, side, cell).mean((3, 5))


@pytest.mark.parametrize("sides", [(8, 8, 8), (16, 8, 4)])
def test_review_kd_fuses_maps_and_compares_them_at_several_scales(sides):
    student = [(3, sides[0], sides[0]), (4, sides[1], sides[1]), (6, sides[2], sides[2])]
    method, ours, theirs, weights = arrange(review_kd, student, [(2, 8, 8), (3, 4, 4), (5, 2, 2)])
    expected, review = 0, None
    for k in (2, 1, 0):
        own = batch_norm(project(ours[k], weights, f"reduce.{k}.0"), weights, f"reduce.{k}.1")
        if review is not None:
            times = sides[k] // sides[k + 1]
            review = review.repeat_interleave(times, 2).repeat_interleave(times, 3)
            gates = 1 / (1 + (-project(torch.cat([own, review], 1), weights, f"fuse.{k}")).exp())
            own = gates[:, :1] * own + gates[:, 1:] * review
        review = own
        fused = batch_norm(conv2d(review, weights[f"expand.{k}.0.weight"], padding=1), weights, f"expand.{k}.1")
        target = bilinear(theirs[k], sides[k], sides[k])
        terms = [(1.0, (fused - target).square().mean())]
        for side in (4, 2, 1):
            if side < sides[k]:
                difference = averaged(fused, side) - averaged(target, side)
                terms.append((terms[-1][0] / 2, difference.square().mean()))
        expected += sum(share * value for share, value in terms) / sum(share for share, _ in terms)
    assert term(method, ours, theirs) == pytest.approx(expected.item(), rel=1e-4)
    assert [method.scale(epoch, 300) for epoch in (0, 10, 20, 299)] == [0, 0.5, 1, 1] and method.weight == 0.6


@pytest.mark.parametrize(("module", "count"), [(lg_all, 21.7e3), (review_kd, 307e3), (mgd, 86e3), (drloc, 461e3)])
def test_a_method_has_as_many_parameters_as_in_publications_with_deit_tiny(module, count):
    blocks = [(192, 14, 14)] * (12 if module is lg_all else 3)
    method = module.build(module.Params(), blocks, [(16, 32, 32), (32, 16, 16), (64, 8, 8)])
    assert sum(p.numel() for p in method.parameters()) == pytest.approx(count, rel=0.005)


def test_mgd_generates_the_teachers_map_from_a_masked_one():
    method, ours, theirs, weights = arrange(mgd, [(3, 4, 4), (5, 4, 4)], [(2, 8, 8), (4, 2, 2)])
    draws = method.draw(np.random.default_rng(0), BATCH)
    assert draws.shape == (BATCH, 4)
    masked = project(ours[1], weights, "align") * draws.double()[:, :, None, None]
    hidden = conv2d(masked, weights["generate.0.weight"], weights["generate.0.bias"], padding=1).clamp(min=0)
    made = conv2d(hidden, weights["generate.2.weight"], weights["generate.2.bias"], padding=1)
    expected = (made - bilinear(theirs[1], 4, 4)).square().sum().item() / BATCH
    assert term(method, ours, theirs, draws) == pytest.approx(expected, rel=1e-5) and method.weight == 7e-5
    assert term(method, ours, theirs, ~draws) != pytest.approx(expected, rel=1e-2)
    many = method.draw(np.random.default_rng(1), 10_000).float()
    assert many.mean().item() == pytest.approx(0.85, abs=0.01) and many.std(0).min() > 0.3


@pytest.mark.parametrize("pool", [False, True])
def test_drloc_predicts_distances_of_random_pairs(pool):
    method, ours, _, weights = arrange(drloc, [(4, 2, 2), (5, 3, 4)], [], pairs=7, pool=pool)
    draws = method.draw(np.random.default_rng(0), BATCH)
    maps = ours[1].double()
    if pool:  # windows of 3 x 3 with stride 2, cut at the border
        rows = [
            [maps[:, :, max(0, 2 * i - 1) : 2 * i + 2, max(0, 2 * j - 1) : 2 * j + 2] for j in range(2)] for i in range(2)
        ]
        maps = torch.stack([torch.stack([window.mean((2, 3)) for window in row], 2) for row in rows], 2)
    width, errors = maps.shape[3], []
    for image in range(BATCH):
        for one, other in draws[image].T.tolist():
            places = [divmod(cell, width) for cell in (one, other)]
            x = torch.cat([maps[image, :, row, column] for row, column in places])
            for layer in (0, 2, 4):
                x = weights[f"mlp.{layer}.weight"] @ x.clamp(min=0 if layer else -1e9) + weights[f"mlp.{layer}.bias"]
            distance = torch.tensor([abs(places[0][axis] - places[1][axis]) for axis in (0, 1)])
            errors += (x - distance).abs().tolist()
    assert term(method, ours, [], draws) == pytest.approx(np.mean(errors), rel=1e-4)
    many = method.draw(np.random.default_rng(1), 5000)
    assert many.min() == 0 and many.max() == maps[0, 0].numel() - 1
    assert (many[:, 0] == many[:, 1]).float().mean().item() == pytest.approx(1 / maps[0, 0].numel(), abs=0.02)


def test_the_weight_of_drloc_rises_and_falls():
    method = drloc.build(drloc.Params(), [(5, 2, 2)], [])
    assert [method.scale(epoch, 300) for epoch in (0, 10, 20, 160)] == [0, 0.5, 1, 0.5] and method.weight == 0.1
    assert [method.scale(epoch, 30) for epoch in (0, 1, 2, 16)] == [0, 0.5, 1, 0.5]
    assert method.scale(0, 1) == 0
