"""Invalid values and files: each gives one sentence that says where, what was given and what is allowed."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import SECTIONS, RecipeError
from bench.runs.folder import RunFolder, runs_dir
from tests.helpers.hostile import HOSTILE, YAML_VALUES, sentence_problem
from tests.trials.mutated_recipes import Trials

registry = Registry()


def refusal(recipe_id, *assignments):
    """The sentence that refuses a recipe."""
    with pytest.raises(RecipeError) as caught:
        registry.compose(recipe_id, "paper", assignments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# recipe, --set text, words of the sentence
REFUSED = [
    ("guided", "train.epoch=3", ["train.epoch", "did you mean 'epochs'"]),
    ("guided", "guidance.schedul.until_epoch=3", ["did you mean 'guidance.schedule.until_epoch'"]),
    ("guided", "teacher.teacher.seed=3", ["teacher.teacher.seed"]),
    ("guided", "train.epochs=3.5", ["3.5", "whole number"]),
    ("guided", "train.epochs=true", ["True", "whole number"]),
    ("guided", "train.epochs=0", ["from 1 to"]),
    ("guided", "train.lr=.nan", ["a number"]),
    ("guided", "train.lr=fast", ["fast", "a number"]),
    ("guided", "train.precision=bf61", ["bf61", "did you mean 'bf16'"]),
    ("guided", "model.name=x", ["comes from the recipe id"]),
    ("guided", "model.feature_layers=[blocks.0]", ["student has 1", "teacher 3", "guidance.params.stages"]),
    ("guided", "data.layout=cifer", ["did you mean 'cifar'"]),
    ("guided", "data.subset=11", ["at most 10"]),
    ("guided", "data.holdout=1", ["from 0 to 0.9"]),
    ("guided", "data.places=[/etc]", ["--set: data.places", "in the data folder"]),
    ("guided", "data.places=['']", ["in the data folder"]),
    ("guided", "data.places=[a/../../b]", ["in the data folder"]),
    ("guided", "guidance.method=localty", ["did you mean 'locality'"]),
    ("guided", "guidance.method=kd+kd", ["occurs twice"]),
    ("kd", "guidance.params.hard_alpha=0.5", ["is not a parameter of kd; its parameters: temperature, alpha"]),
    ("guided", "guidance.params.weigth=1", ["parameters: weight, transform, stages", "did you mean 'weight'"]),
    ("guided", "guidance.params.weight=0", ["from 1e-09 to"]),
    ("guided", "guidance.params.weight=heavy", ["a number"]),
    ("guided", "guidance.params.transform=liner", ["did you mean 'linear'"]),
    ("guided", "guidance.params.stages=[0, 3]", ["from 0 to 2"]),
    ("guided", "guidance.params.stages=[]", ["from 0 to 2"]),
    ("guided", "guidance.params.temperature=4", ["not a parameter of locality"]),
    ("guided", "augment.mix_switch=0.3", ["has no effect without augment.mixup and augment.cutmix"]),
    ("guided", "augment.mix_prob=0.3", ["has no effect without augment.mixup or augment.cutmix"]),
    ("guided-offline", "augment.mixup=0.8", ["teacher.offline", "of single images"]),
    ("hard", "guidance.params.temperature=4", ["not a parameter of hard"]),
    ("kd", "guidance.params.transform=attention", ["not a parameter of kd"]),
    ("kd", "guidance.params.alpha=1.5", ["from 0.001 to 1"]),
    ("guided", "guidance.schedule.from_epoch=300", ["less than train.epochs, 300"]),
    ("guided", "guidance.schedule={from_epoch: 3, until_epoch: 2}", ["guidance.schedule"]),
    ("kd", "teacher.offline=true", ["no logits"]),
    ("guided-offline", "teacher.antialias=true", ["has no effect"]),
    ("guided-offline", "augment.crop=padded", ["augment.crop"]),
    ("guided", "teacher.bn=bathc", ["did you mean 'batch'"]),
    ("guided", "teacher.model.name=pit_tiny", ["pit_tiny is a student"]),
    ("guided", "teacher.model.feature_layers=[stages.0]", ["student has 3", "teacher 1"]),
    ("guided", "teacher.augment.mean=[0.5, 0.5, 0.5]", ["differs from the student's"]),
    ("guided", "teacher.data.holdout=0.3", ["sees the student's images"]),
    ("guided", "teacher.data.name=foo", ["shares the student's dataset"]),
    ("guided", "teacher.guidance.params.weight=5", ["not guided itself"]),
    ("guided", "teacher.seed=-1", ["from 0"]),
    ("baseline", "guidance.params.weight=1", ["has no guidance"]),
    ("baseline", "teacher.train.epochs=1", ["has no guidance"]),
    ("baseline", "train.batch_size=60000", ["60000", "50000"]),
    ("baseline", "data.train_limit=60000", ["60000", "50000"]),
    ("baseline", "seed=1", ["--seed"]),
    ("baseline", "select=best", ["teachers"]),
    ("baseline", "model.timm=hf-hub:a/b", ["no weights are loaded"]),
    ("baseline", "train.lr", ["key.path=value"]),
    ("baseline", "train.lr=[1", ["YAML"]),
    ("baseline", "train.epochs=2020-13-45", ["YAML"]),
    ("baseline", "train.epochs=" + "9" * 5000, ["YAML"]),
    ("baseline", "train.lr=1" + "0" * 400, ["a number"]),
    ("baseline", "train.lr={[a]: 1}", ["YAML"]),
    ("baseline", "train.lr=" + "[" * 2000, ["YAML"]),
]


@pytest.mark.parametrize(("guidance", "assignment", "words"), REFUSED)
def test_an_invalid_key_or_value_is_refused(guidance, assignment, words):
    sentence = refusal(f"deit_tiny/cifar10/{guidance}", assignment)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("teacher.train.epochs=1", "itself a teacher: write train.epochs"),
        ("teacher.bn=running", "guided recipes"),
        ("guidance.params.weight=3", "itself a teacher and is not guided"),
    ],
)
def test_a_teacher_on_its_own_has_no_keys_of_guided_recipes(assignment, words):
    assert words in refusal("resnet56/cifar10", assignment)


def test_an_error_names_a_key_as_the_user_wrote_it(tmp_path):
    (tmp_path / "datasets").mkdir()
    text = "data: {test_images: 0}\nteacher: {model: {name: resnet8}}\n"
    (tmp_path / "datasets" / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=rf"^{tmp_path}/datasets/mine.yaml: data.test_images: got 0"):
        Registry(tmp_path).compose("deit_micro/mine/guided", "quick")
    assert refusal("deit_micro/digits/guided", "teacher.train.epochs=0").startswith("--set: teacher.train.epochs: got 0")
    assert refusal("resnet8/digits", "train.epochs=0").startswith("--set: train.epochs: got 0")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {lr: 5e-4}\n", ["protocols/mine.yaml", "train.lr", "'5e-4'", "write 5.0e-4"]),
        ('train: {lr: "0.1"}\n', ["train.lr", "'0.1'", "a number"]),
        ("train: {lr: 0.1, lr: 0.2}\n", ["occurs twice"]),
        ("model: {image_size: 32}\n", ["model is not a section here", "train, data, augment, teacher"]),
        ("train: [1]\n", ["train", "must hold keys"]),
        ("train.lr: 1\n", ["write a: {b: 1}"]),
        ("train: {lr: !!python/object/apply:os.getcwd []}\n", ["not valid YAML"]),
        ("train: {lr: [\n", ["line 2", "not valid YAML"]),
        ("- 1\n", ["must hold keys"]),
        ("train: &x {lr: *x}\n", ["not valid YAML"]),
    ],
)
def test_an_invalid_file_is_named(tmp_path, text, words):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        Registry(tmp_path).compose("deit_tiny/cifar10/baseline", "mine")
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_number_after_set_may_have_any_form_that_python_reads():
    for text, value in (("5e-4", 5e-4), ("1", 1.0), ("1.5E+2", 150.0)):
        assert registry.compose("deit_tiny/cifar10/baseline", "paper", [f"train.lr={text}"]).train.lr == value


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(HOSTILE), st.sampled_from(["quick", "paper"]) | st.text(max_size=10))
def test_any_id_gives_a_sentence_or_a_folder_below_runs(part, protocol):
    parts = (
        *(part, f"{part}/digits/guided", f"deit_micro/{part}/guided", f"deit_micro/digits/{part}", f"resnet8/{part}"),
        *(f"timm:{part}/cifar10/guided", f"deit_tiny/folder:{part}/guided", f"deit_tiny/hub:{part}/guided"),
    )
    for text in parts:
        try:
            recipe = registry.compose(text, protocol)
            path = RunFolder("results", recipe).path
        except RecipeError as error:
            assert sentence_problem(str(error), "recipe", "protocol", "model", "dataset") is None, error
        else:
            assert recipe.id == text
            parts = path.resolve().relative_to(runs_dir("results").resolve()).parts
            assert len(parts) in (3, 4) and not {"", ".", ".."} & set(parts)
            assert max(len(p.encode()) for p in parts) <= 240  # with what is put before and behind it, at most 255


_keys = [f"{p}{s}.{f.name}" for p in ("", "teacher.") for s, c in SECTIONS.items() for f in dataclasses.fields(c)]
_values = st.sampled_from(YAML_VALUES) | st.text(max_size=30) | st.integers().map(str) | st.floats().map(str)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([*_keys, "train.epochs", "data", ""]) | st.text(max_size=30), _values)
@example("{a: " * 500, "{a: " * 500)  # many words
def test_any_set_text_gives_a_recipe_or_a_sentence(key, value):
    for text in (key, f"{key}={value}", f"train.{key}={value}"):
        try:
            recipe = registry.compose("deit_micro/digits/guided", "quick", [text])
        except RecipeError as error:
            assert sentence_problem(str(error), "--set") is None, error
        else:
            assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict())), "it") == recipe


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.sampled_from(HOSTILE), st.integers())
def test_any_suite_protocol_and_seed_give_a_recipe_or_a_sentence(name, seed):
    for read in (lambda: registry.suite(name), lambda: registry.compose("deit_micro/digits/guided", name)):
        with pytest.raises(RecipeError) as caught:
            read()
        assert sentence_problem(str(caught.value), "suite", "protocol") is None
    try:
        assert registry.compose("deit_micro/digits/guided", "quick", seed=seed).seed == seed
    except RecipeError as error:
        assert sentence_problem(str(error), "--seed") is None and not 0 <= seed < 2**63


def test_a_thousand_damaged_recipe_files(tmp_path):
    trials = Trials(tmp_path, builds=60, runs=12)
    for number in range(1000):
        trials.trial(number, seed=0)
    assert not trials.failures, "\n".join(trials.failures)
    counts = trials.counts
    assert counts["refused"] + counts["accepted"] == 1000 and counts["run"] == 12
    assert counts["accepted"] > 100 and counts["exit code 0"] > 5, counts  # else it would show nothing
