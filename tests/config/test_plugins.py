"""The user's own methods and builders: found, read without running them, hashed, and refused in one sentence."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.config.compose import recipe_from_dict
from bench.config.json_schema import recipe_files_schema
from bench.config.numerics import numerics_versions
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from tests.helpers.own import documented_files, write_own
from tests.helpers.process import ROOT

OWN, BASELINE = "my_vit/digits/logit_mse", "my_vit/digits/baseline"
METHOD, BUILDER = "guidance/logit_mse.py", "models/my_vit.py"
SOURCES = documented_files()


@pytest.fixture
def own(tmp_path):
    return write_own(tmp_path / "DIR")


def composed(own, recipe_id=OWN, *assignments):
    return Registry(own).compose(recipe_id, "quick", assignments)


def as_recorded(recipe):
    """A recipe as it is read from its record, where its plug-ins are not."""
    return recipe_from_dict(json.loads(json.dumps(recipe.to_dict())), "a record")


def test_a_method_and_a_builder_are_found_and_their_parameters_are_typed(own):
    recipe = composed(own, OWN, "guidance.params.weight=2", "model.params.registers=3")
    assert (recipe.guidance.params[0].weight, recipe.model.params.registers) == (2.0, 3)
    assert recipe.guidance.needs == {"logits"} and not recipe.guidance.student_maps
    assert {(p.kind, p.name, p.path) for p in recipe.plugins} == {
        ("models", "my_vit", own / BUILDER),
        ("guidance", "logit_mse", own / METHOD),
    }
    assert str(own) not in json.dumps(recipe.to_dict())  # a record names no file
    again = pickle.loads(pickle.dumps(recipe))
    assert again == recipe and again.plugins == recipe.plugins
    joined = composed(own, "deit_micro/digits/kd", "guidance.method=kd+logit_mse", "guidance.params.weight=3")
    assert [type(params).own for params in joined.guidance.params] == [False, True]
    properties = recipe_files_schema(Registry(own).plugins)["$defs"]["model"]["properties"]
    assert properties["params"]["properties"]["registers"]["maximum"] == 7


def test_composing_runs_nothing_of_a_file_but_its_params_and_imports_no_torch(own):
    for name in (METHOD, BUILDER):
        (own / name).write_text(f"raise SystemExit('run')\n{SOURCES[name]}")
    code = f"from bench.__main__ import main; main(['show', {OWN!r}, '--protocol=quick', '--recipes-dir', {str(own)!r}])"
    check = code + "\nimport sys; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "method: logit_mse" in done.stdout, done.stderr
    assert not list(own.rglob("__pycache__"))


def test_the_last_folder_wins(own, tmp_path):
    other = write_own(tmp_path / "other")
    assert {p.path.parents[1] for p in Registry(own, other).compose(OWN, "quick").plugins} == {other}


PARAMS = {
    "guidance.params.weight": st.floats(1e-3, 1e3),
    "model.params.registers": st.integers(1, 7),
    "guidance.params.alpha": st.floats(0.01, 1),
    "model.feature_layers": st.just(["0", "1", "2"]),
}


@settings(max_examples=40, deadline=None)
@given(
    st.fixed_dictionaries({}, optional=PARAMS),
    st.sampled_from(["logit_mse", "kd+logit_mse", "logit_mse+hard", "maps+logit_mse", "logit_mse+lskd", "lskd+logit_mse"]),
)
def test_the_hash_of_a_record_needs_no_plugin(tmp_path_factory, values, method):
    own = write_own(tmp_path_factory.mktemp("own"))
    maps = SOURCES[METHOD].replace('{"logits"}', '{"maps"}').replace("weight: float", "beta: float")
    (own / "guidance" / "maps.py").write_text(maps)
    if not {"kd", "hard"} & set(method.split("+")):
        values.pop("guidance.params.alpha", None)
    set_ = [f"{key}={json.dumps(value)}" for key, value in {**values, "guidance.method": method}.items()]
    recipe = composed(own, OWN, *set_)
    again = as_recorded(recipe)
    assert again.hash == recipe.hash and again.to_dict() == recipe.to_dict() and not again.plugins
    assert again.guidance.student_maps == recipe.guidance.student_maps == ({"chosen"} if "maps" in method else set())
    assert as_recorded(again).hash == recipe.hash


def test_all_parameters_are_hashed_with_their_defaults(own):
    before, baseline = composed(own).hash, composed(own, BASELINE).hash
    assert composed(own, OWN, "guidance.params.weight=0.1").hash == before  # as in the YAML file
    assert composed(own, OWN, "guidance.params.weight=0.2").hash != before
    assert composed(own, BASELINE, "model.params.registers=3").hash != baseline
    unset = (own / "guidance" / "logit_mse.yaml").write_text("guidance: {method: logit_mse}\n") and composed(own).hash
    (own / METHOD).write_text(SOURCES[METHOD].replace("key(1.0,", "key(1,"))
    assert composed(own).hash == unset  # 1 and 1.0 are one value of a float
    (own / METHOD).write_text(SOURCES[METHOD].replace("key(1.0,", "key(2.0,"))
    assert composed(own).hash != unset
    assert composed(own, OWN, "guidance.params.weight=1").hash == unset


def test_the_versions_of_a_recipe_hold_the_digests_of_its_files(own):
    before = numerics_versions(composed(own))
    (own / METHOD).write_text(SOURCES[METHOD] + "# changed\n")
    now = numerics_versions(composed(own))
    assert [name for name in now if now[name] != before[name]] == ["guidance.logit_mse"]
    assert str(now["models.my_vit"]).startswith("sha256:") and now["train"] == before["train"]


def changed(name, *changes):
    """(file, its text with these changes)."""
    text = SOURCES[name]
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return name, text


PARAMS_LINE = "    weight: float = key(1.0, low=1e-9, high=1e6)"
NEEDS_LINE = next(line for line in SOURCES[METHOD].splitlines() if "needs:" in line)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([("guidance/kd.py", SOURCES[METHOD])], ["guidance/kd.py: kd is the name of a method of the suite"]),
        ([("models/vit.py", SOURCES[BUILDER])], ["models/vit.py: vit is the name of a builder of the suite"]),
        ([("guidance/none.py", SOURCES[METHOD])], ["none is the name"]),
        ([changed(METHOD, ("def forward(self,", "def forward(self"))], [f"{METHOD} line 23: not valid Python"]),
        ([(METHOD, "return 1\n")], [f"{METHOD} line 1: not valid Python"]),
        ([(METHOD, "\0")], [f"{METHOD}: ", "null bytes"]),
        ([(METHOD, "\ud800".encode("utf-8", "surrogatepass"))], [f"{METHOD}: cannot be read"]),
        ([changed(METHOD, ("def build", "def make"))], [f"{METHOD}: has no function build"]),
        ([changed(BUILDER, ("def build", "def make"))], [f"{BUILDER}: has no function build"]),
        ([changed(METHOD, ("class Params", "class Settings"))], [f"{METHOD}: has no class Params(MethodParams)"]),
        ([changed(METHOD, ("Params(MethodParams)", "Params"))], [f"{METHOD} line 13: class Params must be @dataclass"]),
        ([changed(METHOD, ("@dataclass(frozen=True)\n", ""))], [f"{METHOD} line 12: class Params must be @dataclass"]),
        ([changed(METHOD, ("key(1.0,", "key(F,"))], [f"{METHOD} line 15: NameError: name 'F'"]),
        (
            [changed(METHOD, ("weight: float", "weight: dict"))],
            ["line 13: class Params has a parameter weight of type dict"],
        ),
        ([changed(METHOD, ("weight: float", "weight: nowhere"))], ["parameter weight of type nowhere"]),
        ([changed(METHOD, ("weight: float", "problems: float"))], ["parameter problems, a name that MethodParams uses"]),
        ([changed(METHOD, (NEEDS_LINE, ""))], ["class Params must have needs"]),
        ([changed(METHOD, (PARAMS_LINE, PARAMS_LINE + "\n    other: int = key('x')"))], ["default of other: got 'x'"]),
        ([changed(METHOD, (PARAMS_LINE, PARAMS_LINE + "\n    other: int = key(0, low=1)"))], ["allowed is at least 1"]),
        (
            [
                changed(
                    METHOD, (PARAMS_LINE, PARAMS_LINE + "\n    def __post_init__(self):\n        raise ValueError('odd')")
                )
            ],
            [f"{METHOD} line 17: ValueError: odd"],
        ),
        ([changed(METHOD, (PARAMS_LINE, PARAMS_LINE + "\n    raise SystemExit(0)"))], [f"{METHOD} line 16: SystemExit: 0"]),
        (
            [changed(METHOD, (PARAMS_LINE, "    power: int\n" + PARAMS_LINE))],
            [f"{METHOD}: the parameter power has no default: set guidance.params.power"],
        ),
        (
            [changed(METHOD, (PARAMS_LINE, PARAMS_LINE + "\n    def problems(self, a, b):\n        return 1 / 0"))],
            [f"{METHOD} line 17: ZeroDivisionError"],
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_place(own, files, words):
    for name, text in files:
        (own / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        composed(own)
    assert all(word in str(caught.value) for word in words), caught.value
    assert "\n" not in str(caught.value) and str(own) in str(caught.value)


@pytest.mark.parametrize(
    ("recipe_id", "assignment", "words"),
    [
        (OWN, "guidance.params.wieght=1", ["guidance.params.wieght: is not a parameter of logit_mse", "'weight'"]),
        (OWN, "guidance.params.weight=0", ["guidance.params.weight: got 0, allowed is from"]),
        (OWN, "guidance.method=logit_mes", ["allowed: none, dist, ", "logit_mse; did you mean 'logit_mse'?"]),
        (OWN, "model.builder=my_vti", ["vit, my_vit; did you mean 'my_vit'?"]),
        (OWN, "model.params.registers=8", ["model.params.registers: got 8, allowed is from 1 to 7"]),
        (OWN, "model.params.registres=3", ["model.params.registres: is not a parameter of my_vit", "'registers'"]),
        (OWN, "model.params=3", ["model.params: is not a key", "params.<name>"]),
        (OWN, "teacher.model.params.registers=3", ["teacher.model.params.registers: is not a parameter of resnet_cifar"]),
        ("deit_micro/digits/kd", "model.params.registers=3", ["is not a parameter of vit; it has no parameters"]),
    ],
)
def test_parameters_that_a_file_does_not_have_are_refused(own, recipe_id, assignment, words):
    with pytest.raises(RecipeError) as caught:
        composed(own, recipe_id, assignment)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("section", "change"),
    [
        ("guidance", {"needs": ["weights"]}),
        ("guidance", {"needs": 1}),
        ("guidance", {"params": {"own": 1}}),
        ("guidance", {"params": {"a b": 1}}),
        ("guidance", {"params": {"__class__": 1}}),
        ("guidance", {"method": "../../x"}),
        ("model", {"params": {"plugin": 1}}),
        ("model", {"builder": "../x"}),
        ("model", {"builder": ""}),
    ],
)
def test_what_cannot_be_a_plugin_in_a_record_is_refused(own, section, change):
    content = composed(own).to_dict()
    content[section] |= change
    with pytest.raises(RecipeError, match=r"^a record: "):
        recipe_from_dict(content, "a record")
