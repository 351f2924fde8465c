"""`python -m bench export`: the folder that it writes, and what it never overwrites."""

from __future__ import annotations

import json
import re

import pytest
import timm
import torch

import bench
from bench.__main__ import main
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.share.export import export
from bench.storage import read_json

IN_TIMM, OURS = True, False
STUDENTS = {
    **{"deit_micro": IN_TIMM, "deit_tiny": IN_TIMM, "pit_tiny": IN_TIMM, "convit_tiny": IN_TIMM},
    **{"t2t_vit_7": OURS, "t2t_vit_14": OURS, "pvt_tiny": OURS, "pvt_v2_b0": OURS, "cvt_13": OURS},
}
OTHERS = {"timm:xcit_nano_12_p16_224": IN_TIMM, "resnet18": IN_TIMM, "resnet8": OURS}


def test_every_student_is_listed():
    registry = Registry()
    assert set(STUDENTS) == {name for name in registry.names("models") if registry.role(name) == "student"}


@pytest.mark.parametrize(("name", "in_timm"), [*STUDENTS.items(), *OTHERS.items()])
def test_the_snippet_of_a_card_gives_the_same_logits(name, in_timm, untrained, tmp_path, monkeypatch):
    size = 32 if name != "deit_micro" else 16
    recipe_id = f"{name}/digits" if name.startswith("resnet") else f"{name}/digits/baseline"
    folder, network = untrained(recipe_id, f"model.image_size={size}")
    export(folder, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    code = re.search(r"^```python\n(.*?)\n```$", (tmp_path / "out" / "README.md").read_text(), re.MULTILINE | re.DOTALL)[1]
    assert ("import timm" in code, "import bench" in code) == (in_timm, not in_timm)
    names = {}
    exec(code, names)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = network(images)
        assert torch.equal(names["model"](images), logits) and logits.std() > 0
        if name in ("deit_micro", "pit_tiny", "resnet18"):  # timm reads config.json
            assert torch.equal(timm.create_model("local-dir:.", pretrained=True).eval()(images), logits)
    if not in_timm:
        names["model"].train()(images)  # can be trained further, with a drop path of its own


def test_a_folder_with_other_files_is_never_written_into(finished, untrained, tmp_path):
    folder, recipe = finished
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(RecipeError, match="is not empty and has no export of this run"):
        export(folder, tmp_path / "mine")
    with pytest.raises(RecipeError, match="is not empty"):
        export(folder, folder)
    with pytest.raises(RecipeError, match="cannot be used as a folder"):
        export(folder, tmp_path / "mine" / "thesis.txt")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    export(folder, tmp_path / "out")
    (tmp_path / "out" / "README.md").write_text("old")
    (tmp_path / "out" / "notes.txt").write_text("mine")
    assert "an earlier export was replaced" in export(folder, tmp_path / "out")[0]
    assert (tmp_path / "out" / "README.md").read_text() != "old" and (tmp_path / "out" / "notes.txt").exists()
    other, _ = untrained("deit_micro/digits/baseline")
    with pytest.raises(RecipeError, match="has an export of another run, 'deit_micro/digits/baseline' seed 0"):
        export(other, tmp_path / "out")
    assert bench.load(tmp_path / "out").record.hash == recipe.hash


def test_the_verb_exports(finished, tmp_path, capsys):
    assert main(["export", str(finished[0]), "--to", str(tmp_path / "out")]) == 0 and "timm" in capsys.readouterr().out
    content = json.loads((tmp_path / "out" / "config.json").read_text())
    assert content["label_names"] == list("0123456789")  # a key of timm, which transformers reads as id2label
    assert content["num_classes"] == 10 and content["locality_bench"]["version"] == bench.__version__
    assert read_json(tmp_path / "out" / "record.json") == read_json(finished[0] / "record.json")
    assert main(["export", str(tmp_path), "--to", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}: no finished run")
    assert main(["export", str(finished[0]), "--teacher", "--to", str(tmp_path / "out")]) == 2
    assert "error: --teacher: deit_micro/digits/baseline has no teacher" in capsys.readouterr().err
