"""Sharing a trained network: the folder that `export` writes, its card, and `bench.load`."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from html.parser import HTMLParser

import generated
import huggingface_hub
import numpy as np
import pytest
import timm
import torch
import yaml
from conftest import ROOT, TINY, command
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image
from safetensors.torch import save_file

import bench
from bench import models, run
from bench.__main__ import main
from bench.share.card import BIBTEX, card, front_matter, line
from bench.data.loaders import ImageTransform, unaugmented
from bench.data.store import open_dataset
from bench.share.export import export
from bench.config.registry import Registry
from bench.runs.folder import RunFolder
from bench.storage import read_json, sha256, write_json
from bench.config.schema import RecipeError

SETTINGS = [*TINY[:4], "--set", "train.warmup_epochs=2", "--set", "train.betas=[0.9,0.95]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(folder, recipe) of a real run of one epoch."""
    results = tmp_path_factory.mktemp("results")
    words = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", *SETTINGS, "--results-dir", str(results)]
    arguments = run.parser().parse_args(words)
    run.run(arguments)
    recipe = run.compose(arguments)
    return RunFolder(results, recipe).path, recipe


def untrained(folder, record, recipe_id, *assignments, classes=10):
    """A run's folder of another recipe, whose weights and statistics nobody trained, and its network. Each of them counts:
    a head that starts at zero would tell nothing."""
    recipe = Registry().compose(recipe_id, "quick", assignments)
    network = models.create_network(recipe.model, classes, 0)
    random = torch.Generator().manual_seed(1)
    for value in network.state_dict().values():
        if value.is_floating_point():
            value += 0.05 * torch.rand(value.shape, generator=random)
    folder.mkdir()
    save_file(network.state_dict(), folder / "model.safetensors")
    own = {"id": recipe.id, "hash": recipe.hash, "seed": 0, "recipe": recipe.to_dict()}
    write_json(folder / "record.json", {**record, **own, "weights": sha256(folder / "model.safetensors")})
    return network.eval()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)\n```$", text, re.MULTILINE | re.DOTALL)


def ran(code):
    names = {}
    exec(code, names)
    return names


def test_a_run_and_its_export_give_the_recorded_predictions(finished, tmp_path):
    folder, recipe = finished
    export(folder, tmp_path / "out")
    part = open_dataset(recipe.data, "data").evaluation(recipe.data)
    images = [Image.fromarray(part.images[index]) for index in part.indices]
    for place in (folder, str(tmp_path / "out")):
        loaded = bench.load(place)
        with torch.inference_mode():
            batches = torch.stack([loaded.transform(image) for image in images]).split(60)
            given = torch.cat([loaded.model(batch).argmax(1) for batch in batches])
        assert given.tolist() == np.load(folder / "predictions.npy").tolist()
        assert loaded.classes == 10 and loaded.record == read_json(folder / "record.json") and not loaded.model.training
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        *("README.md", "config.json", "model.safetensors", "record.json")
    ]


def test_the_transform_is_the_runs_own_where_images_differ_in_size_too(tmp_path):
    top = generated.write("folder", tmp_path, classes=2, train=4, test=3, size=60)
    recipe = Registry().compose("deit_micro/folder:photos/baseline", "quick", ["data.short_side=40", "train.batch_size=4"])
    part = open_dataset(recipe.data, tmp_path).evaluation(recipe.data)
    assert part.images.size is None
    expected = unaugmented(recipe, part.images, part.indices, torch.device("cpu"))
    transform = ImageTransform(recipe, one_size=False)
    for index, name in enumerate(part.images.names[part.indices]):
        (path,) = (
            (top / "test").rglob(str(name).rpartition("/")[2]) if "/" not in str(name) else [tmp_path / "photos" / name]
        )
        assert torch.equal(transform(Image.open(path)), expected[index]), name


TIMM, OURS = True, False
STUDENTS = {
    **{"deit_micro": TIMM, "deit_tiny": TIMM, "pit_tiny": TIMM, "convit_tiny": TIMM},
    **{"t2t_vit_7": OURS, "t2t_vit_14": OURS, "pvt_tiny": OURS, "pvt_v2_b0": OURS, "cvt_13": OURS},
}
OTHERS = {"timm:xcit_nano_12_p16_224": TIMM, "resnet18": TIMM, "resnet8": OURS}


def test_every_student_is_listed():
    registry = Registry()
    assert set(STUDENTS) == {name for name in registry.names("models") if registry.role(name) == "student"}


@pytest.mark.parametrize(("name", "in_timm"), [*STUDENTS.items(), *OTHERS.items()])
def test_the_snippet_of_a_card_gives_the_same_logits(name, in_timm, finished, tmp_path, monkeypatch):
    size = 32 if name != "deit_micro" else 16
    record = read_json(finished[0] / "record.json")
    recipe_id = f"{name}/digits" if name.startswith("resnet") else f"{name}/digits/baseline"
    network = untrained(tmp_path / "run", record, recipe_id, f"model.image_size={size}")
    export(tmp_path / "run", tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    code = blocks((tmp_path / "out" / "README.md").read_text(), "python")[0]
    assert ("import timm" in code, "import bench" in code) == (in_timm, not in_timm)
    model = ran(code)["model"]
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(images)
        assert torch.equal(model(images), logits) and logits.std() > 0
        if name in ("deit_micro", "pit_tiny", "resnet18"):  # what config.json is for
            assert torch.equal(timm.create_model("local-dir:.", pretrained=True).eval()(images), logits)
    if not in_timm:
        model.train()(images)  # to go on training, with a drop path of its own


def test_the_card_tells_what_the_record_holds(finished, tmp_path):
    folder, recipe = finished
    export(folder, tmp_path)
    record, shown = read_json(folder / "record.json"), huggingface_hub.ModelCard.load(tmp_path / "README.md")
    assert (shown.data.license, shown.data.library_name, shown.data.datasets) == ("cc-by-4.0", "timm", ["digits"])
    (result,) = shown.data.eval_results
    assert (result.metric_value, result.dataset_split) == (record["last_accuracy"], "test")
    for text in (
        "360 images of the dataset's test set",
        "TrainResult on 512 images",
        record["code"]["version"],
        "CC BY 4.0",
    ):
        assert text in shown.text
    assert yaml.safe_load(blocks(shown.text, "yaml")[0]) == record["recipe"]
    words = shlex.split(blocks(shown.text, "bash")[0])
    assert words[:2] == ["python", "bench/run.py"] and run.compose(run.parser().parse_args(words[2:])) == recipe
    names = ran(blocks(shown.text, "python")[1])
    image = Image.fromarray(open_dataset(recipe.data, "data").test[0])
    level = 1.01 / 255 / min(recipe.augment.std)  # Pillow rounds elsewhere
    assert torch.allclose(names["transform"](image), bench.load(folder).transform(image), atol=level)
    (reference,) = yaml.safe_load((ROOT / "CITATION.cff").read_text())["references"]
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in reference["authors"])
    assert f"{{{authors}}}" in BIBTEX and f"{{{reference['title']}}}" in BIBTEX and BIBTEX in shown.text


def test_the_card_of_a_guided_run_names_its_teacher_and_repeats_it(finished):
    record = read_json(finished[0] / "record.json")
    asked = [
        "teacher.model.name=resnet14",
        "teacher.data.train_limit=300",
        "teacher.seed=4",
        "data.holdout=0.1",
        "train.epochs=2",
    ]
    recipe = Registry().compose("deit_micro/digits/guided", "quick", asked, seed=3)
    teacher = {"key": "k", "id": recipe.teacher.id, "seed": 4, "select": "last", "epochs": 15, "seconds": 1.0}
    dataset = {**record["dataset"], "evaluated_on": "holdout"}
    text = card({**record, "teacher": {**teacher, "last_accuracy": 97.5}, "dataset": dataset}, recipe, 10, None)
    assert "`resnet14/digits`, seed 4, 97.50 % in its `last` epoch of 15" in text and "held out from" in text
    words = shlex.split(blocks(text, "bash")[0])
    assert run.compose(run.parser().parse_args(words[2:])) == recipe
    own = dataclasses.replace(recipe, id="mine/digits/guided")
    assert "--recipes-dir" in card({**record, "id": own.id}, own, 10, None) and not blocks(
        card(record, own, 10, None), "bash"
    )


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, attrs))


HOSTILE = st.one_of(
    st.text(st.sampled_from("`\n\r#-<>[]()!|:{}*_&'\"\\ ~=\u2028\x85\x00aé")),
    st.sampled_from(
        [
            "\n---\n",
            "```\n# x\n",
            "\n```\n# x",
            "x\n\n`````\n\n<b>",
            "`</code><script>",
            "' \n---\n{",
            "![x](y)",
            "a: b",
            "- x",
            "*x",
            "%x",
            "@",
        ]
    ),
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(HOSTILE, min_size=7, max_size=7))
def test_no_text_of_a_record_breaks_out_of_its_place(texts, finished):
    folder, recipe = finished
    record = read_json(folder / "record.json")

    def made(recipe_id, name, data, licence, processor, commit, library):
        model = dataclasses.replace(recipe.model, name=name)
        of = dataclasses.replace(recipe, id=recipe_id, model=model, data=dataclasses.replace(recipe.data, name=data))
        of = dataclasses.replace(of, data=dataclasses.replace(of.data, licence=licence, hub="a/b"))
        hardware = {**record["hardware"], "processor": processor}
        changed = {"hardware": hardware, "code": {"version": "1", "commit": commit}, "libraries": {"x": library}}
        return card({**record, **changed}, of, 10, None)

    def parts(text):
        assert text.startswith("---\n")
        front, _, body = text.removeprefix("---\n").partition("\n---\n")
        return yaml.safe_load(front), Tags(MarkdownIt("commonmark").render(body)).found

    assert len(texts) == 7
    front, tags = parts(made(*texts))
    # a licence that says nothing stands in no code span
    wanted_front, wanted = parts(made("id", "name", "data", line(texts[3]) and "x", "processor", "commit", "1"))
    assert tags == wanted and front.keys() - {"license_name"} == wanted_front.keys() - {"license_name"}
    assert front["model-index"][0]["name"].endswith("seed 0")
    lines = front_matter({"a": texts[0], "b": texts[1:]}).splitlines()
    assert len(lines) == 4 + len(texts[1:]) and yaml.safe_load("\n".join(lines[1:-1])).keys() == {"a", "b"}


def test_a_folder_of_something_else_is_never_written_into(finished, tmp_path):
    folder, _ = finished
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RecipeError, match="is not empty and holds no export of this run"):
        export(folder, tmp_path / "mine")
    with pytest.raises(RecipeError, match="is not empty"):
        export(folder, folder)
    with pytest.raises(RecipeError, match="cannot be used as a folder"):
        export(folder, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    export(folder, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("old")
    (tmp_path / "out" / "notes.txt").write_text("kept")
    assert "an earlier export was replaced" in export(folder, tmp_path / "out")[0]
    assert "old" not in (tmp_path / "out" / "README.md").read_text()[:3] and (tmp_path / "out" / "notes.txt").exists()
    untrained(tmp_path / "other", read_json(folder / "record.json"), "deit_micro/digits/baseline")
    with pytest.raises(RecipeError, match="holds an export of another run, 'deit_micro/digits/baseline' seed 0"):
        export(tmp_path / "other", tmp_path / "out")
    assert bench.load(tmp_path / "out").record["hash"] == read_json(folder / "record.json")["hash"]


def test_what_is_no_trained_network_is_refused_in_a_sentence(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    record = read_json(copy / "record.json")

    def refused(match, **changes):
        write_json(copy / "record.json", {**record, **changes})
        with pytest.raises(RecipeError, match=match):
            bench.load(copy)

    refused(r"record\.json: of schema 2, and this version of the suite reads 1", schema=2)
    refused("diverged in epoch 1", diverged=True, last_accuracy=None, best_accuracy=None, best_epoch=None)
    refused("is not that of its recipe", hash="0" * 64)
    refused("model.nonsense: is no key", recipe={**record["recipe"], "model": {"nonsense": 1}})
    refused("model.builder", recipe={**record["recipe"], "model": {**record["recipe"]["model"], "builder": "os"}})
    refused("dataset.classes is None", dataset={})
    refused("its weights are not those of deit_micro", dataset={**record["dataset"], "classes": 11})
    refused("damaged, or the weights of another run", weights="0" * 64)
    write_json(copy / "record.json", {**record, "weights": None})
    for content, match in ((b"", "cannot be read"), (b"\x80\x04.", "cannot be read")):
        (copy / "model.safetensors").write_bytes(content)
        with pytest.raises(RecipeError, match=match):
            bench.load(copy)
    (copy / "model.safetensors").unlink()
    with pytest.raises(RecipeError, match="cannot be read"):
        bench.load(copy)
    for nothing in (tmp_path, tmp_path / "none", copy / "record.json", "a\0b"):
        with pytest.raises(RecipeError, match="no finished run"):
            bench.load(nothing)


def test_importing_bench_takes_no_torch():
    command("-c", "import sys, bench, bench.__main__; assert 'torch' not in sys.modules", check=True)


def test_the_verb_exports(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["bench", "export", str(finished[0]), "--to", str(tmp_path / "out")])
    assert main() == 0 and "timm" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["num_classes"] == 10
    monkeypatch.setattr("sys.argv", ["bench", "export", str(tmp_path), "--to", str(tmp_path / "out")])
    assert main() == 2 and capsys.readouterr().err.startswith(f"error: {tmp_path}: no finished run")
