"""The model card of an export: its content, and texts of records that try to break out of their place."""

from __future__ import annotations

import dataclasses
import re
import shlex
from html.parser import HTMLParser

import huggingface_hub
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

import bench
from bench import run
from bench.cli import compose
from bench.config.registry import Registry
from bench.data.store import open_dataset
from bench.runs.record import Code, Compilation, TeacherSummary, read_record
from bench.share.card import line, model_card
from bench.share.export import export
from tests.helpers.process import ROOT


@pytest.fixture
def record(finished):
    return read_record(finished[0] / "record.json")


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


def composed(text):
    """The recipe of the command in a card."""
    words = shlex.split(blocks(text, "bash")[0])
    assert words[:2] == ["python", "bench/run.py"]
    return compose(run.parser().parse_args(words[2:]))


def test_the_card_shows_what_the_record_holds(finished, record, tmp_path):
    folder, recipe = finished
    export(folder, tmp_path)
    card = huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert (card.data.license, card.data.library_name, card.data.datasets) == ("cc-by-4.0", "timm", ["digits"])
    (result,) = card.data.eval_results
    assert (result.metric_value, result.dataset_split) == (record.last_accuracy, "test")
    accuracy = f"**Accuracy: {record.last_accuracy:.2f} % after epoch 1, the last and also the best** (the weights in this"
    classes = "the classes `0`, `1`, `2`, `3`, `4`, `5`, `6`, `7`, `8`, `9`."
    for text in (accuracy, classes, "360 images of the dataset's test set", "on 512 images", record.code.version, "CC BY"):
        assert text in card.text
    assert "not these weights" not in card.text
    assert yaml.safe_load(blocks(card.text, "yaml")[0]) == record.recipe
    assert composed(card.text) == recipe
    names = {}
    exec(blocks(card.text, "python")[1], names)
    image = Image.fromarray(open_dataset(recipe.data, "data").test[0])
    level = 1.01 / 255 / min(recipe.augment.std)  # Pillow rounds elsewhere
    assert torch.allclose(names["transform"](image), bench.load(folder).transform(image), atol=level)
    (reference,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in reference["authors"])
    (bibtex,) = blocks(card.text, "bibtex")
    assert f"{{{authors}}}" in bibtex and f"{{{reference['title']}}}" in bibtex and "{arXiv:2207.10026}" in bibtex


def test_the_card_of_a_guided_run_names_its_teacher_and_repeats_it(record):
    assignments = ["teacher.model.name=resnet14", "teacher.data.train_limit=300", "teacher.seed=4", "data.holdout=0.1"]
    recipe = Registry().compose("deit_micro/digits/guided", "quick", assignments, seed=3)
    teacher = TeacherSummary("key", recipe.teacher.id, "hash", 4, "best", 96.0, 97.5, epochs=15, seconds=1.0)
    dataset = dataclasses.replace(record.dataset, evaluated_on="holdout")
    text = model_card(dataclasses.replace(record, teacher=teacher, dataset=dataset), recipe, None)
    assert "`resnet14/digits`, seed 4, 97.50 % in its `best` epoch of 15" in text and "held out from" in text
    assert "\n      split: train\n" in text  # of which the images were held out
    assert "- locality-guidance\n" in text and "- knowledge-distillation\n" not in text
    assert composed(text) == recipe
    own = dataclasses.replace(recipe, id="mine/digits/guided")
    text = model_card(record, own, None)
    assert "--recipes-dir" in text and not blocks(text, "bash")


def test_the_card_of_a_teacher_says_when_its_accuracy_is_optimistic(record):
    recipe = Registry().compose("resnet8/digits", "quick", ["select=best"])
    text = model_card(dataclasses.replace(record, best_accuracy=99.5, recipe=recipe.to_dict()), recipe, None)
    assert "`resnet8`, a small CNN" in text and "value: 99.5\n" in text
    assert "**Accuracy: 99.50 % after epoch 1, the best and also the last** (the weights in this folder; chosen by" in text


@pytest.mark.parametrize(
    ("select", "best", "first", "second"),
    [
        (
            "last",
            (98.0, 2),
            "97.00 % after epoch 4, the last** (the weights",
            "98.00 % after epoch 2, the best (not these weights;",
        ),
        ("last", (97.0, 2), "97.00 % after epoch 4, the last and also the best** (the weights", None),
        (
            "best",
            (98.0, 2),
            "98.00 % after epoch 2, the best** (the weights",
            "97.00 % after epoch 4, the last (not these weights)",
        ),
        (
            "best",
            (97.0, 2),
            "97.00 % after epoch 2, the best** (the weights",
            "97.00 % after epoch 4, the last (not these weights)",
        ),
    ],
)
def test_the_card_says_which_weights_have_which_accuracy(record, select, best, first, second):
    recipe = Registry().compose("resnet8/digits", "quick", [f"select={select}"])
    accuracies = {"last_accuracy": 97.0, "epochs": 4, "best_accuracy": best[0], "best_epoch": best[1]}
    text = model_card(dataclasses.replace(record, **accuracies), recipe, None)
    assert f"- **Accuracy: {first}" in text
    assert f"- {second}" in text if second else "not these weights" not in text


def test_the_card_shortens_a_long_list_of_classes(record, finished):
    dataset = dataclasses.replace(record.dataset, classes=12, class_names=tuple(f"kind {i}" for i in range(12)))
    text = model_card(dataclasses.replace(record, dataset=dataset), finished[1], None)
    assert "`kind 0`, `kind 1`," in text and "`kind 9` and 2 more, all in `label_names` of config.json." in text
    dataset = dataclasses.replace(record.dataset, class_names=None)
    assert "the classes in the dataset's order." in model_card(
        dataclasses.replace(record, dataset=dataset), finished[1], None
    )


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))


HOSTILE = st.one_of(
    st.text(st.sampled_from("`\n\r#-<>[]()!|:{}%*_&'\"\\ ~=\u2028\x85\x00aé")),
    st.sampled_from(["\n---\n", "```\n# x\n", "\n```\n# x", "x\n\n`````\n\n<b>", "`</code><script>", "' \n---\n{"]),
    st.sampled_from(["![x](y)", "a: b", "- x", "*x", "%x", "@", "{{ recipe }}", "{% if x %}", "x" * 300]),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(HOSTILE, min_size=9, max_size=9))
def test_no_text_of_a_record_breaks_out_of_its_place(texts, finished, record):
    def parts(recipe_id, name, dataset, licence, processor, commit, library, label, reason):
        data = dataclasses.replace(finished[1].data, name=dataset, licence=licence, hub="a/b")
        model = dataclasses.replace(finished[1].model, name=name)
        recipe = dataclasses.replace(finished[1], id=recipe_id, model=model, data=data)
        hardware = dataclasses.replace(record.hardware, processor=processor)
        code, libraries = Code("1", commit or "0", False), {"x": library}
        labels = dataclasses.replace(record.dataset, class_names=(label, *"123456789"))
        changes = {"hardware": hardware, "code": code, "libraries": libraries, "dataset": labels}
        changes["compilation"] = Compilation(1, 0, 0, 0, (reason,), "math", 1.0)
        text = model_card(dataclasses.replace(record, **changes), recipe, None)
        front, _, body = text.removeprefix("---\n").partition("\n---\n")
        return yaml.safe_load(front), Tags(MarkdownIt("commonmark").render(body)).found

    front, tags = parts(*texts)
    # a licence without any visible character is not in a code span
    expected_front, expected = parts("id", "name", "data", line(texts[3]) and "x", "processor", "commit", "1", "0", "no")
    assert tags == expected and front.keys() - {"license_name"} == expected_front.keys() - {"license_name"}
    (index,) = front["model-index"]
    assert index["name"] == f"{line(texts[0])} seed 0"
    assert index["results"][0]["dataset"]["name"] == line(texts[2])
