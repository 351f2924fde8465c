"""Recipe files and ids: what can be composed, from which files, and which layer wins."""

from __future__ import annotations

import dataclasses
import shutil

import pytest

from bench import models
from bench.config.registry import Registry, shipped_recipes
from bench.config.schema import RecipeError
from bench.config.suite import RESERVED
from bench.data.store import open_dataset
from tests.helpers import generated

registry = Registry()
NOT_AN_ID = """
../../etc/passwd deit_tiny/cifar10/guided/ timm:/cifar10/guided timm:hf_hub/a/b/guided
deit_tiny/folder:../x/guided deit_tiny/folder:a/b/guided deit_tiny/hub:a/b/c/guided
deit_tiny/other:a/guided
"""


def write_files(folder, files):
    """Recipe files by their path below a folder."""
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return Registry(folder)


@pytest.mark.parametrize("recipe_id", registry.ids())
def test_every_shipped_recipe_composes_under_every_protocol(recipe_id):
    protocols = registry.names("protocols")
    if recipe_id.endswith("/guided-offline"):
        protocols.remove("modern")
        with pytest.raises(RecipeError, match=r"teacher.offline: the stored features are of single images"):
            registry.compose(recipe_id, "modern")
    hashes = {p: registry.compose(recipe_id, p).hash for p in protocols}
    if registry.role(recipe_id.split("/")[0]) == "teacher":
        assert hashes.pop("modern") == hashes["paper"]  # the two share their teachers
    assert len(set(hashes.values())) == len(hashes)


@pytest.mark.parametrize("model", registry.names("models"))
def test_every_shipped_model_builds(model):
    guided = "" if registry.role(model) == "teacher" else "/guided"
    recipe = registry.compose(f"{model}/digits{guided}", "quick")
    assert len(models.create(recipe.model, recipe.data.classes, 0).shapes) == len(recipe.model.feature_layers)


def test_every_shipped_file_begins_with_what_it_is_and_its_command():
    for path in sorted(shipped_recipes().glob("*/*.yaml")):
        comment = [line for line in path.read_text().split("\n\n")[0].splitlines() if line.startswith("#")]
        assert len(comment) >= 2 and path.read_text().startswith("# "), path
        commands = [line for line in comment if line.startswith("#   ")]
        assert any(f"/{path.stem}" in line or f" {path.stem}" in line for line in commands), path


def test_the_paper_suite_has_64_recipes_and_four_teachers():
    paper = registry.suite("paper")
    assert len(paper.ids) == 64 == len(paper.models) * len(paper.datasets) * 2
    teachers = {recipe.teacher.id for _, recipe in registry.suite_recipes(paper) if recipe.teacher is not None}
    assert teachers == {f"resnet56/{dataset}" for dataset in paper.datasets}
    assert registry.suite("cifar10").models == paper.models


def test_a_teacher_on_its_own_is_the_teacher_of_a_guided_recipe():
    for protocol in registry.names("protocols"):
        for dataset, teacher in (("cifar10", "resnet56"), ("digits", "resnet8")):
            guided = registry.compose(f"deit_tiny/{dataset}/guided", protocol)
            assert guided.teacher == registry.compose(f"{teacher}/{dataset}", protocol)
    shortened = registry.compose("deit_tiny/cifar10/guided", "paper", ["teacher.train.epochs=2"]).teacher
    assert shortened == registry.compose("resnet56/cifar10", "paper", ["train.epochs=2"])


def test_a_teacher_is_trained_on_the_device_of_its_student():
    def devices(*settings):
        recipe = registry.compose("deit_tiny/cifar10/guided", "paper", settings)
        return recipe.train.device, recipe.teacher.train.device

    assert devices("train.device=cpu") == ("cpu", "cpu")
    assert devices("train.device=cpu", "teacher.train.device=cuda") == ("cpu", "cuda")


def test_a_teacher_sees_only_images_that_its_student_may_see():
    settings = ["data.holdout=0.1", "data.subset=5", "data.train_limit=2000", "augment.mean=[0.5, 0.5, 0.5]"]
    guided = registry.compose("deit_tiny/cifar100/guided", "paper", settings)
    seen = guided.teacher.data
    assert (seen.holdout, seen.subset, seen.train_limit, guided.teacher.augment.mean) == (0.1, 5, 2000, (0.5, 0.5, 0.5))
    assert guided.teacher == registry.compose("resnet56/cifar100", "paper", settings)
    more = registry.compose("deit_tiny/cifar100/guided", "paper", [*settings, "teacher.data.train_limit=2500"])
    assert more.teacher.data.train_limit == 2500


def test_later_layers_win(tmp_path):
    own = write_files(tmp_path, {"protocols/mine.yaml": "train: {epochs: 7, lr: 1.0e-2}\n"})
    recipe = own.compose("deit_tiny/cifar10/baseline", "mine", ["train.epochs=9"])
    assert (recipe.train.epochs, recipe.train.lr, recipe.train.weight_decay) == (9, 0.01, 0.05)


def test_a_model_and_a_guidance_recipe_are_one_file_each(tmp_path):
    model = "builder: vit, timm: deit_tiny_patch16_224, width: 128, depth: 3, heads: 4, image_size: 16, patch_size: 4"
    own = write_files(
        tmp_path,
        {
            "models/deit_wide.yaml": f"model: {{{model}, feature_layers: [blocks.0, blocks.1, blocks.2]}}\n",
            "guidance/gentle.yaml": "guidance: {method: locality, params: {weight: 0.5}}\nteacher: {bn: running}\n",
        },
    )
    recipe = own.compose("deit_wide/digits/gentle", "quick")
    assert recipe.guidance.params[0].weight == 0.5 and recipe.guidance.teacher.bn == "running"
    assert models.create(recipe.model, 10, 0).shapes == [(128, 4, 4)] * 3
    assert "deit_wide/cifar100/gentle" in own.ids()


def test_a_dataset_is_one_file(tmp_path):
    text = (
        "data: {layout: class_folders, places: [photos], classes: 3}\nteacher: {model: {name: resnet8, image_size: 16}}\n"
    )
    own = write_files(tmp_path / "recipes", {"datasets/mine.yaml": text})
    generated.write("folder", tmp_path, classes=3, train=4, test=2)
    dataset = open_dataset(own.compose("deit_micro/mine/guided", "quick").data, tmp_path)
    assert (len(dataset.train), len(dataset.test), dataset.classes(own.dataset("mine"))) == (12, 6, 3)


@pytest.mark.parametrize(
    ("recipe_id", "model", "dataset"),
    [
        ("timm:swin_tiny_patch4_window7_224/cifar100/guided", "timm:swin_tiny_patch4_window7_224", "cifar100"),
        ("deit_tiny/folder:photos/guided", "deit_tiny", "folder:photos"),
        ("deit_tiny/hub:uoft-cs/cifar10/guided", "deit_tiny", "hub:uoft-cs/cifar10"),
        ("deit_tiny/hub:mnist/guided", "deit_tiny", "hub:mnist"),
        ("resnet20/hub:uoft-cs/cifar10", "resnet20", "hub:uoft-cs/cifar10"),
        ("resnet20/folder:photos", "resnet20", "folder:photos"),
    ],
)
def test_ids_may_contain_names_without_a_file(recipe_id, model, dataset):
    recipe = registry.compose(recipe_id)
    assert (recipe.model.name, recipe.data.name) == (model, dataset)
    if recipe.teacher is not None:
        assert recipe.teacher.id == f"resnet56/{dataset}" and recipe.teacher.data == recipe.data


def test_a_model_of_timm_is_a_teacher_in_the_place_of_one():
    name = "teacher.model.name=timm:resnet18"
    recipe = registry.compose("deit_tiny/cifar100/guided", assignments=[name])
    teacher, shipped = recipe.teacher, registry.compose("resnet18/cifar100")
    assert (teacher.id, teacher.model.name, teacher.model.role) == ("timm:resnet18/cifar100", "timm:resnet18", "teacher")
    assert teacher.hash == shipped.hash  # trained as the teachers with a file
    assert registry.compose("timm:resnet18/cifar100/baseline").model.role == "student"
    assert registry.compose("timm:resnet18/cifar100/guided", assignments=[name]).teacher == teacher
    for changes, words in (
        (["teacher.model.name=deit_tiny"], "deit_tiny is a student; teachers are .*, resnet56, resnet8, timm:NAME"),
        (["teacher.model.name=timm:a/b"], "teacher.model.name: model 'timm:a/b': allowed are"),
        ([name, "model.feature_layers=[blocks.0]"], "the student has 1 feature layers and the teacher 3: set "),
        ([name, "teacher.model.feature_layers=[layer2]"], "the student has 3 feature layers and the teacher 1: set "),
    ):
        with pytest.raises(RecipeError, match=words):
            registry.compose("deit_tiny/cifar100/guided", assignments=changes)


@pytest.mark.parametrize(
    ("recipe_id", "words"),
    [
        ("deit_tony/cifar10/guided", ["deit_tony", "did you mean 'deit_tiny'"]),
        ("deit_tiny/cifar11/guided", ["cifar11", "did you mean 'cifar10'", "digits"]),
        ("deit_tiny/cifar10", ["guidance is missing", "deit_tiny/cifar10/guided"]),
        ("timm:vit_tiny/cifar10", ["guidance is missing", "--set teacher.model.name=timm:vit_tiny and"]),
        ("deit_tiny/hub:a/b", ["guidance is missing"]),
        ("resnet56/cifar10/guided", ["write resnet56/cifar10"]),
        ("timm:vit.in21k/cifar10/guided", ["no weights are loaded"]),
        *((name, ["<model>/<dataset>/<guidance>"]) for name in NOT_AN_ID.split()),
    ],
)
def test_an_id_that_names_nothing_gives_one_sentence(recipe_id, words):
    with pytest.raises(RecipeError) as caught:
        registry.compose(recipe_id)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value


def test_a_recipes_folder_without_recipes_is_refused(tmp_path):
    (tmp_path / "deit_wide.yaml").write_text("model: {builder: vit}\n")
    with pytest.raises(RecipeError, match="holds none of the folders models, datasets"):
        Registry(tmp_path)


def test_a_link_or_folder_under_a_recipes_name_is_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "folder.yaml").mkdir()
    (tmp_path / "models" / "nowhere.yaml").symlink_to(tmp_path / "not there")
    (tmp_path / "models" / "deit_micro.yaml").symlink_to("deit_micro.yaml")  # a shipped one must not take its place
    for name in ("folder", "nowhere", "deit_micro"):
        with pytest.raises(RecipeError, match=rf"models/{name}.yaml: (is not a plain file|cannot be read)"):
            Registry(tmp_path).compose(f"{name}/digits/baseline", "quick")


@pytest.mark.parametrize(
    ("entry", "value", "words"),
    [
        ("seeds", "[0, 0]", "seeds: got .* in which one occurs twice"),
        ("seeds", "[-1]", "allowed are numbers from 0"),
        ("models", "[]", "allowed is a list of names"),
        ("guidance", "[guidde]", "unknown guidance 'guidde'; .* did you mean 'guided'"),
        ("seed", "[0]", "'seed' is not a key; .* did you mean 'seeds'"),
        ("protocol", "slow", "unknown protocol 'slow'"),
        ("set", "{model: {name: x}}", "model.name: comes from the recipe id"),
        ("reference", "guided", "reference: got 'guided', allowed is one of the suite's guidance: baseline"),
        ("vary", "[data.train_limit]", "vary: got .*, allowed are keys with lists of values, or a list of variants"),
        ("vary", "[]", "vary: got .*, allowed are keys with lists of values, or a list of variants"),
        ("vary", "[{}]", "vary: got .*, allowed are keys with lists of values, or a list of variants"),
        ("vary", "[{data.train_limit: 5, train.lr: 1}, {data.train_limit: 6}]", "the same keys in every variant"),
        ("vary", "[{data.train_limit: 5, train.lr: 1}, {data.train_limit: 5, train.lr: 2}]", "in which one occurs twice"),
        ("vary", "[{data: {train_limit: 5}}]", "vary: 'data' is not a key: write it whole, as data.train_limit"),
        ("vary", "[{data.train_limit: 5, train.epoch: 1}]", "vary: train.epoch: is not a key; .* did you mean 'epochs'"),
        ("vary", "{data: {train_limit: [1]}}", "vary: 'data' is not a key: write it whole, as data.train_limit"),
        ("vary", "{data.train_limit: 500}", "vary: data.train_limit: got 500, allowed is a list of values"),
        ("vary", "{data.train_limit: []}", "allowed is a list of values"),
        ("vary", "{data.train_limit: [500, 500]}", "in which one occurs twice"),
        ("vary", "{data.train_limt: [500]}", "vary: data.train_limt: is not a key; .* did you mean 'train_limit'"),
        ("vary", "{seed: [0, 1]}", "seed: is given by --seed, or by the seeds of a suite"),
        ("vary", "{select: [last, best]}", "is a key of teachers"),
        ("vary", "{train.threads: [1, 2]}", "changes no result"),
        ("guidance", "baseline", "guidance: got 'baseline', allowed is a list of names"),
        ("guidance", "[kd, kd]", "in which one occurs twice"),
        ("guidance", "[kd: 1]", "allowed is a name, or a name with keys"),
        ("guidance", "[{kd: {teacher.seed: 1}, hard: {teacher.seed: 1}}]", "allowed is a name, or a name with keys"),
        ("guidance", "[kd: {guidance: {params: {alpha: 1}}}]", "guidance: kd: 'guidance' is not a whole key"),
        ("guidance", "[kd: {train.lr: 1}]", "'train.lr' is not a whole key under teacher. or guidance."),
        ("guidance", "[kd: {guidance.schedul.window: 1}]", "did you mean"),
        ("guidance", "[kd: {guidance.params.alpha: [0.5, 0.5]}]", "in which one occurs twice"),
        ("guidance", "[kd: {guidance.params.alpha: []}]", "guidance.params.alpha: got an empty list"),
        ("guidance", "[kd: {guidance.method: none}]", "guidance.method: makes it another method"),
    ],
)
def test_a_suite_that_cannot_be_run_is_refused(tmp_path, entry, value, words):
    lines = {"protocol": "quick", "models": "[deit_micro]", "datasets": "[digits]", "guidance": "[baseline]"}
    lines |= {"seeds": "[0]", entry: value}
    own = write_files(tmp_path, {"suites/mine.yaml": "".join(f"{k}: {v}\n" for k, v in lines.items())})
    with pytest.raises(RecipeError, match=f"suites/mine.yaml: .*{words}"):
        own.suite("mine")


def suite_file(**lines):
    """The text of a suite of baseline and guided on digits."""
    base = {"protocol": "quick", "models": "[deit_micro]", "datasets": "[digits]", "guidance": "[baseline, guided]"}
    return "".join(f"{key}: {value}\n" for key, value in {**base, "seeds": "[0]", **lines}.items())


@pytest.mark.parametrize("name", RESERVED)
def test_a_suite_with_the_name_of_something_else_in_the_results_folder_is_refused_when_it_is_read(tmp_path, name):
    (tmp_path / "suites").mkdir()
    shutil.copy(shipped_recipes() / "suites" / "quick.yaml", tmp_path / "suites" / f"{name}.yaml")
    with pytest.raises(RecipeError, match=f"suite {name}: the results folder has a file or folder of this name"):
        Registry(tmp_path).suite(name)


def test_varied_keys_multiply_the_cells(tmp_path):
    vary = "{data.train_limit: [500, 1000], train.lr: [1.0e-3, 0.01]}"
    text = suite_file(models="[deit_micro, deit_tiny]", vary=vary, set="{train: {epochs: 2}}")
    own = write_files(tmp_path, {"suites/mine.yaml": text})
    suite = own.suite("mine")
    pairs = own.suite_recipes(suite)
    assert [entry for entry, _ in pairs] == suite.entries and len(pairs) == 2 * 4 * 2
    first = [(entry.id, entry.variant) for entry in suite.entries[:3]]
    assert first == [
        ("deit_micro/digits/baseline", "data.train_limit=500, train.lr=0.001"),
        ("deit_micro/digits/guided", "data.train_limit=500, train.lr=0.001"),
        ("deit_micro/digits/baseline", "data.train_limit=500, train.lr=0.01"),
    ]
    for entry, recipe in pairs:  # bench/run.py composes the same from the command line
        words = suite.run_options(entry, recipe)
        assert words[:2] == ["--suite", "mine"] and words[2::2] == ["--set"] * 2
        assert own.compose(entry.id, assignments=words[3::2], suite=suite) == recipe
        assert recipe.train.epochs == 2 and f"data.train_limit={recipe.data.train_limit}" in entry.settings


def test_keys_that_vary_together_are_one_variant_named_by_the_first(tmp_path):
    vary = "[{data.train_limit: 500, train.epochs: 4, teacher.train.epochs: 8}, {teacher.train.epochs: 2, train.epochs: 2, "
    own = write_files(tmp_path, {"suites/mine.yaml": suite_file(vary=f"{vary}data.train_limit: 1000}}]")})
    suite = own.suite("mine")
    pairs = own.suite_recipes(suite)
    assert [(entry.method, entry.variant) for entry, _ in pairs] == [
        (method, f"data.train_limit={images}") for images in (500, 1000) for method in ("baseline", "guided")
    ]
    assert pairs[3][0].settings == ("data.train_limit=1000", "train.epochs=2", "teacher.train.epochs=2")
    found = [(one.data.train_limit, one.train.epochs, one.teacher and one.teacher.train.epochs) for _, one in pairs]
    assert found == [(500, 4, None), (500, 4, 8), (1000, 2, None), (1000, 2, 2)]
    for entry, recipe in pairs:  # bench/run.py composes the same from the command line
        assert own.compose(entry.id, assignments=suite.run_options(entry, recipe)[3::2], suite=suite) == recipe
    with pytest.raises(RecipeError, match=r"--set: train.epochs: suite mine varies this key"):
        suite.with_settings(["train.epochs=1"])


def test_keys_of_teacher_and_guidance_are_left_aside_for_baselines(tmp_path):
    text = suite_file(vary="{teacher.seed: [0, 1], guidance.params.weight: [1.0, 2.0]}")
    own = write_files(tmp_path, {"suites/mine.yaml": text})
    suite = own.suite("mine").with_settings(["teacher.train.epochs=1", "train.epochs=1"])
    pairs = own.suite_recipes(suite)
    baselines = [(entry, recipe) for entry, recipe in pairs if recipe.guidance is None]
    assert len(pairs) == 8 and len({recipe.hash for _, recipe in pairs}) == 5
    assert len(baselines) == 4 and len({recipe.hash for _, recipe in baselines}) == 1
    words = ["--suite", "mine", "--set", "train.epochs=1"]
    assert [suite.run_options(entry, recipe) for entry, recipe in baselines] == [words] * 4
    assert {recipe.teacher.train.epochs for _, recipe in pairs if recipe.teacher} == {1}
    with pytest.raises(RecipeError, match="has no guidance, so this would change nothing"):
        own.compose("deit_micro/digits/baseline", "quick", ["teacher.seed=1"])
    with pytest.raises(RecipeError, match=r"--set: teacher.seed: suite mine varies this key"):
        suite.with_settings(["teacher.seed=2"])


def test_a_method_has_a_row_for_each_of_its_own_values(tmp_path):
    several = "kd: {guidance.params.alpha: [0.1, 0.5], teacher.seed: 1}"
    rows = f"[baseline, kd, {several}, guided: {{guidance.params.stages: [[0]]}}]"
    text = suite_file(guidance=rows, reference="kd alpha=0.5, teacher.seed=1", vary="{train.epochs: [1, 2]}")
    own = write_files(tmp_path, {"suites/mine.yaml": text})
    suite = own.suite("mine")
    assert suite.guidance == ("baseline", "kd", "guided")
    others = ("baseline", "kd", "kd alpha=0.1, teacher.seed=1", "guided stages=[0]")
    assert suite.methods == ("kd alpha=0.5, teacher.seed=1", *others)  # the reference first
    entries = suite.entries
    assert [entry.method for entry in entries] == [*suite.methods] * 2
    assert [entry.variant for entry in entries] == ["train.epochs=1"] * 5 + ["train.epochs=2"] * 5
    recipes = dict(own.suite_recipes(suite))
    assert recipes[entries[0]].guidance.params[0].alpha == 0.5 and recipes[entries[0]].teacher.seed == 1
    assert recipes[entries[2]].guidance.params[0].alpha == 0.9 and recipes[entries[4]].guidance.params[0].stages == (0,)
    for entry, recipe in recipes.items():  # bench/run.py composes the same from the command line
        assert own.compose(entry.id, assignments=suite.run_options(entry, recipe)[3::2], suite=suite) == recipe
    with pytest.raises(RecipeError, match=r"--set: teacher.seed: suite mine has a value of its own for kd"):
        suite.with_settings(["teacher.seed=2"])
    write_files(tmp_path, {"suites/mine.yaml": suite_file(guidance="[baseline: {teacher.seed: 1}]")})
    with pytest.raises(RecipeError, match=r"suite mine: guidance: baseline teacher.seed=1: it has no guidance"):
        own.suite_recipes(own.suite("mine"))
    for line in ({"set": "{teacher: {seed: 1}}"}, {"vary": "{teacher.seed: [1]}"}):
        write_files(tmp_path, {"suites/mine.yaml": suite_file(guidance=rows, **line)})
        with pytest.raises(RecipeError, match=r"mine.yaml: teacher.seed: a row of guidance has a value of its own"):
            own.suite("mine")


@pytest.mark.parametrize("value", ["many", "2026-01-01", "{a: 1}", "[1]", "!!binary aGk=", "null", "500.5", "0"])
def test_a_varied_value_of_a_wrong_type_names_its_file(tmp_path, value):
    own = write_files(tmp_path, {"suites/mine.yaml": suite_file(vary=f"{{train.epochs: [500, {value}]}}")})
    with pytest.raises(RecipeError, match=r"suites/mine.yaml: vary: train.epochs: got .*, allowed is (a whole|from 1)"):
        own.suite_recipes(own.suite("mine"))


def test_a_suite_of_explicit_ids_has_them_by_cell_with_the_reference_first():
    ids = ("deit_micro/digits/kd", "deit_tiny/digits/kd", "deit_micro/digits/baseline")
    suite = dataclasses.replace(registry.suite("quick"), recipes=ids, file=None)
    assert [entry.id for entry in suite.entries] == [ids[2], ids[0], ids[1]]
    assert suite.run_options(suite.entries[0], registry.compose("deit_micro/digits/guided")) == ["--protocol", "quick"]


def test_a_guidance_file_must_name_its_method(tmp_path):
    own = write_files(tmp_path, {"guidance/empty.yaml": "guidance: {params: {weight: 1.0}}\n"})
    with pytest.raises(RecipeError, match=r"guidance/empty.yaml: guidance.method: missing"):
        own.compose("deit_tiny/cifar10/empty")
