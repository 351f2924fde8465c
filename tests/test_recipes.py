from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import generated
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import models
from bench.config.registry import Registry, shipped_recipes
from bench.config.schema import SECTIONS, RecipeError
from bench.data.store import open_dataset
from bench.runs.folder import RunFolder
from tests.helpers.process import ROOT, command, refused

PINNED = json.loads(Path(__file__).with_name("suite_hashes.json").read_text())
registry = Registry()


@pytest.mark.parametrize("recipe_id", registry.ids())
def test_every_shipped_recipe_composes_under_every_protocol(recipe_id):
    hashes = {p: registry.compose(recipe_id, p).hash for p in registry.names("protocols")}
    assert len(set(hashes.values())) == len(hashes)  # protocols differ, and so must what is run


@pytest.mark.parametrize("model", registry.names("models"))
def test_every_shipped_model_builds(model):
    guided = "" if registry.role(model) == "teacher" else "/guided"
    recipe = registry.compose(f"{model}/digits{guided}", "quick")
    assert len(models.create(recipe.model, recipe.data.classes, 0).shapes) == len(recipe.model.feature_layers)


def test_hashes_of_the_shipped_suites_are_pinned():
    # A changed hash makes every recorded result of a suite stale. Change this file only together with them.
    suites = [registry.suite(name) for name in registry.names("suites")]
    assert {s.name: {i: registry.compose(i, suite=s).hash for i in s.ids} for s in suites} == PINNED


def test_what_does_not_change_the_mathematics_does_not_change_the_hash():
    recipe = registry.compose("deit_tiny/cifar100/guided", "paper")
    same = ["train.device=cpu", "data.workers=3", "train.test_batch_size=7", "data.hub=a/b", "teacher.train.device=cpu"]
    assert registry.compose(recipe.id, "paper", same, seed=5).hash == recipe.hash
    for setting in (
        "train.lr=0.1",
        "teacher.seed=1",
        "teacher.train.epochs=2",
        "train.precision=bf16",
        "data.train_limit=9000",
    ):
        assert registry.compose(recipe.id, "paper", [setting]).hash != recipe.hash, setting
    # A field that a later version adds, at its default, is left out; here: one that stands at its default now.
    assert registry.compose(recipe.id, "paper", ["augment.padding=0"]).hash == recipe.hash


def test_a_teacher_on_its_own_is_the_teacher_of_a_guided_recipe():
    for protocol in registry.names("protocols"):
        for dataset, teacher in (("cifar10", "resnet56"), ("digits", "resnet8")):
            guided = registry.compose(f"deit_tiny/{dataset}/guided", protocol)
            assert guided.teacher == registry.compose(f"{teacher}/{dataset}", protocol)
    shortened = registry.compose("deit_tiny/cifar10/guided", "paper", ["teacher.train.epochs=2"]).teacher
    assert shortened == registry.compose("resnet56/cifar10", "paper", ["train.epochs=2"])


def test_a_teacher_is_trained_where_its_student_is():
    def devices(*settings):
        recipe = registry.compose("deit_tiny/cifar10/guided", "paper", settings)
        return recipe.train.device, recipe.teacher.train.device

    assert devices("train.device=cpu") == ("cpu", "cpu")
    assert devices("train.device=cpu", "teacher.train.device=cuda") == ("cpu", "cuda")


def test_errors_name_a_key_as_the_user_wrote_it(tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets" / "mine.yaml").write_text("data: {test_images: 0}\nguide: {model: {name: resnet8}}\n")
    with pytest.raises(RecipeError, match=rf"^{tmp_path}/datasets/mine.yaml: data.test_images: got 0"):
        Registry(tmp_path).compose("deit_micro/mine/guided", "quick")
    with pytest.raises(RecipeError, match=r"^--set: teacher.train.epochs: got 0"):
        registry.compose("deit_micro/digits/guided", "quick", ["teacher.train.epochs=0"])
    with pytest.raises(RecipeError, match=r"^--set: train.epochs: got 0"):
        registry.compose("resnet8/digits", "quick", ["train.epochs=0"])


def test_a_recipes_folder_without_recipes_is_refused(tmp_path):
    (tmp_path / "deit_wide.yaml").write_text("model: {builder: vit}\n")
    with pytest.raises(RecipeError, match="holds none of the folders models, datasets"):
        Registry(tmp_path)


def test_the_readmes_files_compose(tmp_path):
    text = (ROOT / "README.md").read_text().split("```yaml\n")[1].split("```")[0]
    for part in text.split("# DIR/")[1:]:
        path = tmp_path / part.split()[0]
        path.parent.mkdir(exist_ok=True)
        path.write_text("# " + part)
    own = Registry(tmp_path)
    recipes = [own.compose(recipe_id, suite=own.suite("mine")) for recipe_id in own.suite("mine").ids]
    assert [r.id for r in recipes] == ["deit_wide/birds/baseline", "deit_wide/birds/gentle"]
    assert recipes[1].guidance.weight == 1 and recipes[1].teacher.train.batch_size == 32
    assert len(models.create(recipes[1].model, 5, 0).shapes) == 3


def test_later_layers_win(tmp_path):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.yaml").write_text("train: {epochs: 7, lr: 1.0e-2}\n")
    own = Registry(tmp_path)
    recipe = own.compose("deit_tiny/cifar10/baseline", "mine", ["train.epochs=9"])
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.weight_decay) == (9, 0.01, 0.05)


def test_a_model_and_a_guidance_method_are_one_file_each(tmp_path):
    for kind in ("models", "guidance"):
        (tmp_path / kind).mkdir()
    (tmp_path / "models" / "deit_wide.yaml").write_text(
        "model: {builder: vit, timm: deit_tiny_patch16_224, width: 128, depth: 3, heads: 4, image_size: 16, patch_size: 4,"
        " feature_layers: [blocks.0, blocks.1, blocks.2]}\n"
    )
    (tmp_path / "guidance" / "gentle.yaml").write_text("guidance: {method: locality, weight: 0.5}\n")
    own = Registry(tmp_path)
    recipe = own.compose("deit_wide/digits/gentle", "quick")
    assert recipe.guidance.weight == 0.5 and models.create(recipe.model, 10, 0).shapes == [(128, 4, 4)] * 3
    assert "deit_wide/cifar100/gentle" in own.ids()


def test_a_dataset_is_one_file(tmp_path):
    (tmp_path / "recipes" / "datasets").mkdir(parents=True)
    (tmp_path / "recipes" / "datasets" / "mine.yaml").write_text(
        "data: {layout: class_folders, places: [photos], classes: 3}\nguide: {model: {name: resnet8, image_size: 16}}\n"
    )
    generated.write("folder", tmp_path, classes=3, train=4, test=2)
    own = Registry(tmp_path / "recipes")
    store = open_dataset(own.compose("deit_micro/mine/guided", "quick").data, tmp_path)
    assert (len(store.train), len(store.test), store.classes(own.dataset("mine"))) == (12, 6, 3)


def test_every_shipped_file_opens_with_what_it_is_and_its_command():
    for path in sorted(shipped_recipes().glob("*/*.yaml")):
        comment = [line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
        assert len(comment) >= 2 and path.read_text().startswith("# "), path
        commands = [line for line in comment if line.startswith("#   ")]
        assert any(f"/{path.stem}" in c or f" {path.stem}" in c for c in commands), path


def test_the_paper_is_64_cells_and_four_teachers():
    paper = registry.suite("paper")
    assert len(paper.ids) == 64 == len(paper.models) * len(paper.datasets) * 2
    assert registry.teachers(paper) == [f"resnet56/{dataset}" for dataset in paper.datasets]
    assert set(registry.suite("cifar10").models) == set(paper.models)
    listed = command("-m", "bench", "list", "--suite", "paper", "--teachers", check=True).stdout.split()
    assert listed == registry.teachers(paper)


@pytest.mark.parametrize(
    ("recipe_id", "parts"),
    [
        ("timm:swin_tiny_patch4_window7_224/cifar100/guided", ("timm:swin_tiny_patch4_window7_224", "cifar100")),
        ("deit_tiny/folder:photos/guided", ("deit_tiny", "folder:photos")),
        ("deit_tiny/hub:uoft-cs/cifar10/guided", ("deit_tiny", "hub:uoft-cs/cifar10")),
        ("deit_tiny/hub:mnist/guided", ("deit_tiny", "hub:mnist")),
        ("resnet20/hub:uoft-cs/cifar10", ("resnet20", "hub:uoft-cs/cifar10")),
        ("resnet20/folder:photos", ("resnet20", "folder:photos")),
    ],
)
def test_ids_carry_names_from_outside(recipe_id, parts):
    recipe = registry.compose(recipe_id)
    assert (recipe.model.name, recipe.data.name) == parts
    folder = RunFolder("results", recipe).path
    assert len(folder.parts) == (5 if recipe.model.role == "teacher" else 6)  # a slash within a name makes no folder
    if recipe.teacher:
        assert recipe.teacher.id == f"resnet56/{parts[1]}" and recipe.teacher.data == recipe.data


def test_a_teacher_sees_what_its_student_may_see():
    kept = ["data.holdout=0.1", "data.subset=5", "data.train_limit=2000", "augment.mean=[0.5, 0.5, 0.5]"]
    guided = registry.compose("deit_tiny/cifar100/guided", "paper", kept)
    seen = guided.teacher.data
    assert (seen.holdout, seen.subset, seen.train_limit, guided.teacher.augment.mean) == (0.1, 5, 2000, (0.5, 0.5, 0.5))
    assert guided.teacher == registry.compose("resnet56/cifar100", "paper", kept)
    more = registry.compose("deit_tiny/cifar100/guided", "paper", [*kept, "teacher.data.train_limit=2500"])
    assert more.teacher.data.train_limit == 2500


def test_feature_layers_are_hashed_where_maps_are_imitated_alone():
    def hashes(recipe_id, *settings):
        recipe = registry.compose(recipe_id, "paper", settings)
        return recipe.hash, recipe.teacher and recipe.teacher.hash

    student, teacher = "model.feature_layers=[blocks.1, blocks.5, blocks.10]", "teacher.model.feature_layers=[conv, stages.0, stages.1]"
    guided, teacher_keys = hashes("deit_tiny/cifar100/guided")
    for setting in (student, teacher):
        changed, its_teacher = hashes("deit_tiny/cifar100/guided", setting)
        assert changed != guided and its_teacher == teacher_keys  # no teacher is trained anew for other stages of it
        assert hashes("deit_tiny/cifar100/logit-soft", setting) == hashes("deit_tiny/cifar100/logit-soft")
    assert hashes("deit_tiny/cifar100/baseline", student) == hashes("deit_tiny/cifar100/baseline")


def test_set_numbers_may_be_spelt_as_python_reads_them():
    assert registry.compose("deit_tiny/cifar10/baseline", "paper", ["train.lr=5e-4"]).train.lr == 5e-4
    assert registry.compose("deit_tiny/cifar10/baseline", "paper", ["train.lr=1"]).train.lr == 1.0


@pytest.mark.parametrize(
    ("recipe_id", "setting", "words"),
    [
        ("deit_tony/cifar10/guided", None, ["deit_tony", "did you mean 'deit_tiny'"]),
        ("deit_tiny/cifar11/guided", None, ["cifar11", "did you mean 'cifar10'", "digits"]),
        ("deit_tiny/cifar10", None, ["guidance is missing", "deit_tiny/cifar10/guided"]),
        ("resnet56/cifar10/guided", None, ["write resnet56/cifar10"]),
        ("../../etc/passwd", None, ["<model>/<dataset>/<guidance>"]),
        ("deit_tiny/cifar10/guided/", None, ["<model>/<dataset>/<guidance>"]),
        ("deit_tiny/cifar10/guided", "train.epoch=3", ["train.epoch", "did you mean 'epochs'"]),
        ("deit_tiny/cifar10/guided", "teacher.teacher.seed=3", ["teacher.teacher.seed"]),
        ("deit_tiny/cifar10/guided", "train.epochs=3.5", ["3.5", "whole number"]),
        ("deit_tiny/cifar10/guided", "train.epochs=true", ["True", "whole number"]),
        ("deit_tiny/cifar10/guided", "train.lr=.nan", ["a number"]),
        ("deit_tiny/cifar10/guided", "train.lr=fast", ["fast", "a number"]),
        ("deit_tiny/cifar10/guided", "train.epochs=0", ["from 1 to"]),
        ("deit_tiny/cifar10/guided", "train.precision=bf61", ["bf61", "did you mean 'bf16'"]),
        ("deit_tiny/cifar10/guided", "model.feature_layers=[blocks.0]", ["1 feature_layers", "3 of its teacher"]),
        ("deit_tiny/cifar10/guided", "teacher.model.name=pit_tiny", ["pit_tiny is a student"]),
        ("deit_tiny/cifar10/guided", "model.name=x", ["comes from the recipe id"]),
        ("deit_tiny/cifar10/baseline", "guidance.weight=1", ["not guided"]),
        ("deit_tiny/cifar10/baseline", "teacher.train.epochs=1", ["not guided"]),
        ("resnet56/cifar10", "teacher.train.epochs=1", ["write train.epochs"]),
        ("deit_tiny/cifar10/baseline", "train.batch_size=60000", ["60000", "50000"]),
        ("deit_tiny/cifar10/baseline", "data.train_limit=60000", ["60000", "50000"]),
        ("deit_tiny/cifar10/baseline", "train.lr", ["key.path=value"]),
        ("deit_tiny/cifar10/baseline", "train.lr=[1", ["YAML"]),
        ("deit_tiny/cifar10/baseline", "train.epochs=2020-13-45", ["YAML"]),
        ("deit_tiny/cifar10/baseline", "train.epochs=" + "9" * 5000, ["YAML"]),
        ("deit_tiny/cifar10/baseline", "train.lr=1" + "0" * 400, ["a number"]),
        ("deit_tiny/cifar10/baseline", "train.lr={[a]: 1}", ["YAML"]),
        ("deit_tiny/cifar10/baseline", "train.lr=" + "[" * 2000, ["YAML"]),
        ("deit_tiny/cifar10/baseline", "seed=1", ["--seed"]),
        ("deit_tiny/cifar10/baseline", "select=best", ["teachers"]),
        ("deit_tiny/cifar10/baseline", "model.timm=hf-hub:a/b", ["no weights are loaded"]),
        ("deit_tiny/cifar10/guided", "teacher.guidance.weight=5", ["guidance.weight", "not guided itself"]),
        ("deit_tiny/cifar10/guided", "teacher.data.name=foo", ["data.name"]),
        ("deit_tiny/cifar10/guided", "teacher.seed=-1", ["from 0"]),
        ("resnet56/cifar10", "guidance.weight=3", ["is itself a teacher"]),
        ("timm:/cifar10/guided", None, ["<model>/<dataset>/<guidance>"]),
        ("timm:hf_hub/a/b/guided", None, ["<model>/<dataset>/<guidance>"]),
        ("timm:vit.in21k/cifar10/guided", None, ["no weights are loaded"]),
        ("timm:vit_tiny/cifar10", None, ["guidance is missing"]),
        ("deit_tiny/folder:../x/guided", None, ["<model>/<dataset>/<guidance>"]),
        ("deit_tiny/folder:a/b/guided", None, ["<model>/<dataset>/<guidance>"]),
        ("deit_tiny/hub:a/b/c/guided", None, ["<model>/<dataset>/<guidance>"]),
        ("deit_tiny/hub:a/b", None, ["guidance is missing"]),
        ("deit_tiny/other:a/guided", None, ["<model>/<dataset>/<guidance>"]),
        ("deit_tiny/cifar10/guided", "data.layout=cifer", ["did you mean 'cifar'"]),
        ("deit_tiny/cifar10/guided", "data.subset=11", ["at most 10"]),
        ("deit_tiny/cifar10/guided", "data.holdout=1", ["from 0 to 0.9"]),
        ("deit_tiny/cifar10/guided", "guidance.transform=liner", ["did you mean 'linear'"]),
        ("deit_tiny/cifar10/guided", "guidance.stages=[0, 3]", ["from 0 to 2"]),
        ("deit_tiny/cifar10/guided", "guidance.stages=[]", ["from 0 to 2"]),
        ("deit_tiny/cifar10/logit-soft", "guidance.offline=true", ["kept hold no logits"]),
        ("deit_tiny/cifar10/guided", "guidance.weight=0", ["nothing would teacher"]),
        ("deit_tiny/cifar10/guided", "guidance.from_epoch=300", ["there are 300 epochs"]),
        ("deit_tiny/cifar10/guided", "guidance.temperature=4", ["would change nothing"]),
        ("deit_tiny/cifar10/logit-hard", "guidance.temperature=4", ["would change nothing"]),
        ("deit_tiny/cifar10/logit-soft", "guidance.transform=attention", ["would change nothing"]),
        ("deit_tiny/cifar10/guided-offline", "guidance.antialias=true", ["would change nothing"]),
        ("deit_tiny/cifar10/guided", "teacher.augment.mean=[0.5, 0.5, 0.5]", ["differs from the student's"]),
        ("deit_tiny/cifar10/guided", "teacher.data.holdout=0.3", ["sees what its student sees"]),
        ("deit_tiny/cifar10/guided", "data.places=[/etc]", ["below the data folder"]),
        ("deit_tiny/cifar10/guided", "data.places=['']", ["below the data folder"]),
        ("deit_tiny/cifar10/guided", "data.places=[a/../../b]", ["below the data folder"]),
        (
            "timm:vit_tiny_patch16_224/cifar10/guided",
            "teacher.model.feature_layers=[conv, stages.0, stages.1, stages.2]",
            ["3 feature_layers", "4 of"],
        ),
        ("deit_tiny/cifar10/guided", "teacher.model.feature_layers=[stages.0]", ["3 feature_layers", "1 of its teacher", "guidance.stages"]),
    ],
)
def test_bad_recipes_give_one_sentence(recipe_id, setting, words):
    with pytest.raises(RecipeError) as caught:
        registry.compose(recipe_id, "paper", [setting] if setting else [])
    sentence = str(caught.value)
    assert "\n" not in sentence
    for word in words:
        assert word in sentence


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train: {lr: 5e-4}\n", ["protocols/mine.yaml", "train.lr", "'5e-4'", "5.0e-4"]),
        ('train: {lr: "0.1"}\n', ["train.lr", "'0.1'", "a number"]),
        ("train: {lr: 0.1, lr: 0.2}\n", ["stands twice"]),
        ("model: {image_size: 32}\n", ["model is no section here", "train, data, augment, teacher"]),
        ("train: [1]\n", ["train", "must hold keys"]),
        ("train: {lr: !!python/object/apply:os.getcwd []}\n", ["not valid YAML"]),
        ("train: {lr: [\n", ["line 2", "not valid YAML"]),
        ("- 1\n", ["must hold keys"]),
        ("train: &x {lr: *x}\n", ["not valid YAML"]),
    ],
)
def test_bad_files_name_the_file(tmp_path, text, words):
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError) as caught:
        Registry(tmp_path).compose("deit_tiny/cifar10/baseline", "mine")
    for word in words:
        assert word in str(caught.value)


_paths = st.sampled_from(
    [f"{p}{s}.{f.name}" for p in ("", "teacher.") for s, c in SECTIONS.items() for f in dataclasses.fields(c)]
)
_yaml = st.one_of(
    st.dates().map(str),
    st.integers(min_value=10**400, max_value=10**401).map(str),
    st.sampled_from(["!!int abc", "0b_", "2020-13-45", "&x [*x]", "[" * 500, "!!python/name:os.system"]),
    st.text(max_size=20),
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(["null", "[]", "{a: 1}", "[1, 2]", ""]),
)


@settings(max_examples=300, deadline=None)
@given(path=st.one_of(_paths, st.text(max_size=20)), value=_yaml)
def test_any_set_gives_a_recipe_or_a_sentence(path, value):
    try:
        recipe = registry.compose("deit_tiny/cifar10/guided", "paper", [f"{path}={value}"])
    except RecipeError as error:
        assert str(error)
    else:
        assert len(recipe.hash) == 64 and json.dumps(recipe.to_dict())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_id_gives_a_recipe_or_a_sentence(recipe_id):
    for text in (
        recipe_id,
        f"deit_tiny/{recipe_id}/guided",
        f"timm:{recipe_id}/cifar10/guided",
        f"deit_tiny/folder:{recipe_id}/guided",
        f"deit_tiny/hub:{recipe_id}/guided",
        f"{recipe_id}/cifar10/guided",
        f"deit_tiny/cifar10/{recipe_id}",
    ):
        try:
            recipe = registry.compose(text)
        except RecipeError as error:
            assert str(error)
        else:
            assert recipe.id == text and not {".", ".."} & set(text.split("/"))


def test_a_suite_that_names_a_cell_twice_is_refused(tmp_path):
    (tmp_path / "suites").mkdir()
    lines = {
        "protocol": "quick",
        "models": "[deit_micro]",
        "datasets": "[digits]",
        "guidance": "[baseline]",
        "seeds": "[0, 0]",
    }
    (tmp_path / "suites" / "twice.yaml").write_text("".join(f"{k}: {v}\n" for k, v in lines.items()))
    with pytest.raises(RecipeError, match=r"seeds: got .* stands twice"):
        Registry(tmp_path).suite("twice")


def test_a_guidance_file_must_name_its_method(tmp_path):
    (tmp_path / "guidance").mkdir()
    (tmp_path / "guidance" / "empty.yaml").write_text("guidance: {weight: 1.0}\n")
    with pytest.raises(RecipeError, match=r"guidance/empty.yaml: guidance.method: missing"):
        Registry(tmp_path).compose("deit_tiny/cifar10/empty")


def test_list_and_show_answer_without_torch():
    listed = command("-X", "importtime", "-m", "bench", "list", check=True)
    assert "deit_tiny/cifar100/guided" in listed.stdout.split() and " torch" not in listed.stderr
    shown = command("-X", "importtime", "-m", "bench", "show", "deit_tiny/cifar100/guided", "--json", check=True)
    assert json.loads(shown.stdout)["hash"] == registry.compose("deit_tiny/cifar100/guided").hash
    assert " torch" not in shown.stderr
    quick = command("-m", "bench", "list", "--suite", "quick", "--json", check=True)
    assert json.loads(quick.stdout) == ["deit_micro/digits/baseline", "deit_micro/digits/guided"]


def test_show_counts_parameters():
    shown = command("-m", "bench", "show", "deit_tiny/cifar100/baseline", "--json", "--parameters", check=True)
    assert json.loads(shown.stdout)["parameters"] == 5_543_716


def test_commands_refuse_bad_input_with_exit_code_2(tmp_path):
    refused(command("-m", "bench", "show", "deit_tony/cifar10/guided"), "deit_tony")
    refused(command("-m", "bench", "list", "--suite", "slow"), "slow", "known: cifar10, paper, quick")
    run = ["bench/run.py", "--results-dir", tmp_path, "--recipe"]
    refused(command(*run, "../../etc/passwd"), "an id is")
    refused(command(*run, "deit_micro/digits/baseline", "--set", "train.epochs=x"), "train.epochs")
    refused(command(*run, "deit_micro/digits/baseline", "--data-dir", tmp_path / "none"), "none: no such folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "protocols").mkdir()
    (tmp_path / "protocols" / "mine.yaml").write_text("train: {lr: 5e-4}\n")
    mine = ["--protocol", "mine", "--recipes-dir", tmp_path]
    refused(command(*run, "deit_micro/digits/baseline", *mine), "protocols/mine.yaml", "'5e-4'", "write 5.0e-4")
