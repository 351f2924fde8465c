"""The methods on logits against their formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from bench.guidance import Outputs, Samples, dist, dkd, hard, kd, lskd

LABELS = torch.tensor([2, 0, 4])


def term(module, student, teacher, **params):
    method = module.build(module.Params(**params), [], [])
    return method(Outputs(student, []), Outputs(teacher, []), Samples(LABELS))


def softmax(logits, temperature=1.0):
    powers = [math.exp(value / temperature) for value in logits.tolist()]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_kd_is_its_formula(temperature):
    student, teacher = torch.randn(3, 5, requires_grad=True), torch.randn(3, 5, requires_grad=True)
    loss = term(kd, student, teacher, temperature=temperature)
    divergences = [
        sum(p * math.log(p / q) for p, q in zip(softmax(t, temperature), softmax(s, temperature), strict=True))
        for s, t in zip(student, teacher, strict=True)
    ]
    assert loss.item() == pytest.approx(temperature**2 * sum(divergences) / 3, rel=1e-4)
    loss.backward()
    assert student.grad.any() and teacher.grad is None
    assert term(kd, teacher, teacher, temperature=temperature).item() == pytest.approx(0, abs=1e-6)


def test_hard_takes_the_most_likely_class_of_the_teacher_as_label():
    student, teacher = torch.randn(3, 5), torch.tensor([[0, 9, 0, 0, 0], [5, 4, 3, 2, 1], [0, 0, 0, 0, 1]])
    expected = -sum(math.log(softmax(student[i])[label]) for i, label in enumerate((1, 0, 4))) / 3
    assert term(hard, student, teacher).item() == pytest.approx(expected, rel=1e-5)


def divergence(teacher, student):
    return sum(p * math.log(p / q) for p, q in zip(teacher, student, strict=True))


def standardised(row):
    row = row.double()
    mean = row.sum() / len(row)
    return (row - mean) / ((row - mean).square().sum() / (len(row) - 1)).sqrt()


@pytest.mark.parametrize("temperature", [2.0, 3.0])
def test_lskd_compares_standardised_logits(temperature):
    student, teacher = torch.randn(3, 5), 7 * torch.randn(3, 5) + 3
    rows = [[softmax(standardised(row), temperature) for row in logits] for logits in (teacher, student)]
    expected = temperature**2 * sum(map(divergence, *rows)) / 3
    assert term(lskd, student, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-4)
    assert term(lskd, 5 * student + 2, teacher, temperature=temperature).item() == pytest.approx(expected, rel=1e-4)
    method = lskd.build(lskd.Params(), [], [])
    assert (method.weight, method.ce_weight, method.temperature) == (10, 0.5, 2)


def test_dkd_compares_the_target_and_the_other_classes():
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    expected = 0
    for ours, theirs, label in zip(student.double(), teacher.double(), LABELS.tolist(), strict=True):
        targets = (softmax(row, 4)[label] for row in (theirs, ours))
        p, q = ([target, 1 - target] for target in targets)
        p_others, q_others = (softmax(row[torch.arange(5) != label], 4) for row in (theirs, ours))
        expected += 16 * (divergence(p, q) + 8 * divergence(p_others, q_others)) / 3
    assert term(dkd, student, teacher).item() == pytest.approx(expected, rel=1e-4)
    method = dkd.build(dkd.Params(), [], [])
    assert [method.scale(epoch, 300) for epoch in (0, 9, 19, 20, 299)] == [0.05, 0.5, 1, 1, 1]
    assert [method.scale(epoch, 30) for epoch in (0, 1, 29)] == [0.5, 1, 1]


def pearson(one, other):
    one, other = (torch.tensor(values, dtype=torch.float64) for values in (one, other))
    one, other = one - one.sum() / len(one), other - other.sum() / len(other)
    return ((one * other).sum() / (one.square().sum() * other.square().sum()).sqrt()).item()


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_dist_is_one_minus_the_correlations_over_classes_and_over_samples(temperature):
    student, teacher = torch.randn(3, 5), torch.randn(3, 5)
    ours, theirs = ([softmax(row, temperature) for row in logits] for logits in (student, teacher))
    over_classes = sum(map(pearson, ours, theirs)) / 3
    over_samples = sum(map(pearson, zip(*ours, strict=True), zip(*theirs, strict=True))) / 5
    expected = temperature**2 * (2 * (1 - over_classes) + 3 * (1 - over_samples))
    got = term(dist, student, teacher, temperature=temperature, beta=2.0, gamma=3.0)
    assert got.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("module", [kd, hard])
def test_alpha_divides_the_loss_between_the_term_and_cross_entropy(module):
    method = module.build(module.Params(alpha=0.3), [], [])
    assert (method.weight, method.ce_weight) == (0.3, 0.7)
