"""The adaptive schedule (ALG) against its definition, and its stop in whole runs."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st

from bench.config.registry import Registry
from bench.config.schema import RecipeError, Schedule
from bench.data.store import open_dataset
from bench.guidance.schedule import stop
from bench.runs.record import GuidanceStop
from bench.train.checkpoint import Checkpoints
from bench.train.loop import Training
from bench.train.request import Stopped
from bench.train.teacher import Teacher

REGISTRY = Registry()


def plain(losses, window, threshold, first, strict):
    """The definition, epoch by epoch from 1, for losses {1: L_1, 2: L_2, …}."""
    change = {}
    for e in range(2, len(losses) + 1):
        if e <= window:
            change[e] = (losses[e] - sum(losses[i] for i in range(1, e)) / (e - 1)) / e
        else:
            change[e] = (losses[e] - losses[e - window]) / window
        recent = [change[i] for i in range(max(2, e - window + 1), e + 1)]
        s = sum(recent) / len(recent)
        if e >= first and (s > threshold if strict else s >= threshold):
            return e, s
    return None


@given(
    st.lists(st.floats(-10, 10), max_size=40),
    st.integers(1, 12),
    st.floats(-1, 1),
    st.integers(1, 15),
    st.sampled_from(["paper", "researcher"]),
)
def test_the_stop_is_that_of_the_definition(losses, window, threshold, first, variant):
    schedule = Schedule(adaptive=variant, window=window, threshold=threshold, first_test=first)
    strict = variant == "researcher"
    expected = plain(dict(enumerate(losses, 1)), window, threshold, first if strict else 1, strict)
    found = stop(schedule, 300, losses)
    if found is None or expected is None or found[0] != expected[0]:
        # only rounding may decide otherwise, where s_e is the threshold itself
        assert found == expected or any(abs(one[1] - threshold) < 1e-9 for one in (found, expected) if one is not None)
    else:
        assert found[1] == pytest.approx(expected[1], abs=1e-9)


def test_published_numbers_and_their_scaling():
    losses = [20 * math.exp(-e / 40) + 1 for e in range(300)]
    assert (plain(dict(enumerate(losses, 1)), 50, -0.02, 1, False) or (0,))[0] > 100
    for variant, first in (("paper", 1), ("researcher", 20)):
        expected = plain(dict(enumerate(losses, 1)), 50, -0.02, first, variant == "researcher")
        assert stop(Schedule(adaptive=variant), 300, losses)[0] == expected[0]
    flat = [5.0] * 300
    assert stop(Schedule(adaptive="paper"), 300, flat)[0] == 2  # no change can be tested earlier
    assert stop(Schedule(adaptive="researcher"), 300, flat)[0] == 20
    assert stop(Schedule(adaptive="researcher"), 60, flat)[0] == 4  # 20 of 300 epochs
    assert stop(Schedule(adaptive="none"), 300, flat) is None
    guidance = REGISTRY.compose("deit_tiny/cifar100/lg-all").guidance
    assert guidance.scaled_epochs(60) == {"guidance.schedule.window": 10, "guidance.schedule.first_test": 4}
    assert REGISTRY.compose("deit_tiny/cifar100/guided").guidance.scaled_epochs(60) == {}


def train(recipe, **more):
    teacher = Teacher(recipe.teacher, 10, None, recipe.guidance.teacher)
    return Training(recipe, open_dataset(recipe.data, "data"), Accelerator(cpu=True), teacher, **more)


def test_the_epoch_of_the_stop_survives_a_kill_and_is_in_the_result(tmp_path, caplog):
    settings = ["train.epochs=6", "data.train_limit=64", "teacher.train.batch_size=32", "guidance.schedule.from_epoch=1"]
    # with a window of one epoch, s_e is the last change; a loss of about 1e-4 has two digits in the history
    settings += ["guidance.schedule.window=1", "guidance.params.transform=attention", "guidance.schedule.threshold=-1.0e-6"]
    recipe = REGISTRY.compose("deit_micro/digits/alg", "quick", settings)
    with caplog.at_level("INFO"):
        whole = train(recipe).run()
    found = whole.guidance_stop
    said = [record.getMessage() for record in caplog.records if "guidance ended" in record.getMessage()]
    assert len(said) == 1 and said[0].startswith(f"guidance ended with epoch {found.epoch}: ")
    guided = [row["epoch"] for row in whole.history if row["guidance_loss"] is not None]
    assert guided == list(range(2, found.epoch + 1)) and 3 <= found.epoch < 6
    last = whole.history[found.epoch - 1]["guidance_loss"]
    assert found.slope >= -1e-6 and found.relative_slope == pytest.approx(found.slope / last, rel=0.1)
    for step in (5, 8, 11):  # in other epochs
        asked, folder = iter([False] * (step - 1) + [True]), tmp_path / str(step)
        folder.mkdir()
        with pytest.raises(Stopped):
            train(recipe, checkpoints=Checkpoints(folder, "", 0), stop=asked.__next__).run()
        resumed = train(recipe, checkpoints=Checkpoints(folder, "", 0)).run()
        assert resumed.guidance_stop == found and isinstance(found, GuidanceStop)
        assert all(torch.equal(p, resumed.network[name]) for name, p in whole.network.items())


def test_a_loss_of_zero_ends_guidance():
    assert stop(Schedule(adaptive="paper"), 300, [0.0, 0.0]) == (2, 0.0, 0.0)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["window=3"], "guidance.schedule.window: has no effect with guidance.schedule.adaptive=none"),
        (["adaptive=paper", "first_test=3"], "first_test: has no effect with guidance.schedule.adaptive=paper"),
        (["adaptive=maybe"], "allowed is one of none, paper, researcher"),
    ],
)
def test_keys_without_effect_are_refused(settings, words):
    with pytest.raises(RecipeError) as caught:
        REGISTRY.compose("deit_micro/digits/guided", "quick", [f"guidance.schedule.{text}" for text in settings])
    assert words in str(caught.value)


def test_the_schedule_is_part_of_the_hash():
    def digest(*settings):
        return REGISTRY.compose("deit_micro/digits/guided", "quick", settings).hash

    adaptive = "guidance.schedule.adaptive=paper"
    published = ["guidance.schedule.window=50", "guidance.schedule.threshold=-0.02"]
    assert len({digest(), digest(adaptive), digest(adaptive, "guidance.schedule.window=49")}) == 3
    assert digest(adaptive, *published) == digest(adaptive) == REGISTRY.compose("deit_micro/digits/alg", "quick").hash
    assert digest("guidance.schedule.adaptive=none") == digest()
