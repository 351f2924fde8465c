from __future__ import annotations

import pytest

from bench.config.registry import Registry
from bench.train.schedule import learning_rate

train = Registry().compose("deit_tiny/cifar100/guided", "paper").train
teacher = Registry().compose("resnet56/cifar100", "paper").train


@pytest.mark.parametrize(
    ("epoch", "rate"),
    [
        *((0, "5.000e-07"), (1, "2.548e-05"), (19, "4.750e-04"), (20, "4.946e-04"), (299, "5.014e-06")),
        *((100, "3.7625e-04"), (150, "2.5250e-04"), (200, "1.2875e-04"), (250, "3.8159e-05")),
    ],
)
def test_learning_rates_of_the_published_protocol(epoch, rate):
    assert f"{learning_rate(epoch, train):.{len(rate) - 6}e}" == rate


def test_the_teacher_follows_a_plain_cosine_to_zero():
    assert learning_rate(0, teacher) == 0.1 and learning_rate(150, teacher) == pytest.approx(0.05)
    assert 0 < learning_rate(299, teacher) < 1e-5
