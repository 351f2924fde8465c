"""Knowledge distillation and hard distillation against their formulas in float64."""

from __future__ import annotations

import math

import pytest
import torch

from bench.guidance import Outputs, hard, kd


def term(module, student, teacher, **params):
    method = module.build(module.Params(**params), [], [])
    return method(Outputs(student, []), Outputs(teacher, []))


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


@pytest.mark.parametrize("module", [kd, hard])
def test_terms_are_fp32_under_autocast(module):
    student, teacher = torch.randn(3, 5).bfloat16(), torch.randn(3, 5).bfloat16()
    expected = term(module, student.float(), teacher.float())
    with torch.autocast("cpu", torch.bfloat16):
        loss = term(module, student, teacher)
    assert loss.dtype == torch.float32 and torch.equal(loss, expected)


@pytest.mark.parametrize("module", [kd, hard])
def test_alpha_divides_the_loss_between_the_term_and_cross_entropy(module):
    method = module.build(module.Params(alpha=0.3), [], [])
    assert (method.weight, method.ce_weight) == (0.3, 0.7)
