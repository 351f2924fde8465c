"""Which components a recipe uses, and how their versions are read."""

from __future__ import annotations

import hashlib
import shutil

import pytest

from bench.config import numerics
from bench.config.methods import method_names, modules_defining
from bench.config.numerics import component_file, components, numerics_versions
from bench.config.registry import Registry

registry = Registry()
ALL = ["train", "data", *(f"models.{name}" for name in modules_defining("build", numerics.PACKAGE / "models"))]
ALL += [f"guidance.{name}" for name in method_names()]


def guided(*settings):
    return registry.compose("deit_micro/digits/guided", "quick", settings)


@pytest.mark.parametrize(
    ("recipe_id", "settings", "expected"),
    [
        ("pvt_tiny/digits/baseline", [], ["train", "data", "models.pvt"]),
        ("resnet18/digits", [], ["train", "data", "models.any_timm"]),
        (
            "pvt_tiny/digits/guided",
            [],
            ["train", "data", "models.pvt", "guidance.locality", "models.resnet_cifar"],
        ),
        (
            "deit_tiny/digits/kd",
            ["guidance.method=kd+locality", "teacher.model.name=resnet18"],
            ["train", "data", "models.vit", "guidance.kd", "guidance.locality", "models.any_timm"],
        ),
    ],
)
def test_the_components_of_a_recipe(recipe_id, settings, expected):
    recipe = registry.compose(recipe_id, "quick", settings)
    assert components(recipe) == list(numerics_versions(recipe)) == expected


@pytest.mark.parametrize("name", ALL)
def test_every_component_of_the_suite_has_a_number(name):
    assert f"\nNUMERICS = {numerics._version(component_file(name))}" in component_file(name).read_text()


def test_a_version_is_the_number_in_the_file_else_the_digest_of_the_file(tmp_path, monkeypatch):
    before = numerics_versions(guided())
    monkeypatch.setattr(numerics, "PACKAGE", shutil.copytree(numerics.PACKAGE, tmp_path / "bench"))
    assert numerics_versions(guided()) == before
    for name, old, new in (("guidance/kd.py", "NUMERICS = 1", "NUMERICS = 12"), ("models/vit.py", "NUMERICS = 1  #", "#")):
        path = tmp_path / "bench" / name
        path.write_text(path.read_text().replace(old, new))
    numerics._version.cache_clear()  # a process keeps what it has read, since it has imported that code
    source = hashlib.sha256((tmp_path / "bench" / "models" / "vit.py").read_bytes()).hexdigest()
    now = numerics_versions(registry.compose("deit_micro/digits/kd", "quick"))
    assert (now["guidance.kd"], now["models.vit"]) == (12, f"sha256:{source}")
