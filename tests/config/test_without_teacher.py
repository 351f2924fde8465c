"""Guidance without a teacher: how it is composed, hashed, stored and planned."""

from __future__ import annotations

import shlex

import pytest

from bench.config.command import command, settings
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.config.suite import read_suite
from bench.sweep.plan import PlannedRun, make_plan
from tests.helpers.own import write_own

registry = Registry()
DRLOC = "deit_micro/digits/drloc"
OWN = """
from dataclasses import dataclass
from typing import ClassVar
from bench.config.schema import MethodParams
from bench.guidance import Method

@dataclass(frozen=True)
class Params(MethodParams):
    needs: ClassVar[frozenset[str]] = frozenset()
    student_layers: ClassVar[str] = "all"

class Smooth(Method):
    def forward(self, student, teacher, samples):
        return sum(maps.float().var() for maps in student.maps)

def build(params, student, teacher):
    return Smooth()
"""


def test_a_method_that_needs_no_teacher_has_none():
    recipe = registry.compose(DRLOC, "quick")
    assert recipe.teacher is None and recipe.guidance.needs == frozenset() and recipe.guidance.student_maps
    assert "teacher" not in recipe.to_dict() and recipe_from_dict(recipe.to_dict(), "test") == recipe
    assert settings(recipe) == [] and shlex.split(command(recipe))[:4] == ["python", "bench/run.py", "--recipe", DRLOC]
    assert len({recipe.hash, registry.compose("deit_micro/digits/baseline", "quick").hash}) == 2
    layers = "model.feature_layers=[blocks.1, blocks.2]"  # it takes the last block, whatever they are
    assert registry.compose(DRLOC, "quick", [layers]).hash == recipe.hash
    joined = registry.compose(DRLOC, "quick", ["guidance.method=drloc+kd"])
    assert joined.teacher is not None and recipe_from_dict(joined.to_dict(), "test") == joined
    assert len({registry.compose(DRLOC, "quick", [f"guidance.params.{text}"]).hash for text in ("ramp=20", "ramp=10")}) == 2


def test_keys_of_a_teacher_that_is_not_there_are_refused_but_for_those_of_a_suite():
    with pytest.raises(RecipeError, match=r"teacher\.seed: drloc has no teacher, so this would change nothing"):
        registry.compose(DRLOC, "quick", ["teacher.seed=1"])
    content = {"protocol": "quick", "models": ["deit_micro"], "datasets": ["digits"], "guidance": ["kd", "drloc"]}
    suite = read_suite("mine", {**content, "seeds": [0], "vary": {"teacher.seed": [1, 2]}}, "mine.yaml")
    recipes = registry.suite_recipes(suite)
    assert len({recipe.hash for _, recipe in recipes}) == 3
    for entry, recipe in recipes:
        assert any("teacher.seed" in text for text in suite.run_options(entry, recipe)) == (recipe.teacher is not None)


def test_it_is_planned_without_a_teacher(tmp_path):
    recipes = [registry.compose(f"deit_micro/digits/{method}", "quick") for method in ("drloc", "kd")]
    plan = make_plan([PlannedRun(recipe) for recipe in recipes], tmp_path)
    assert [job.needs is None for job in plan.runs] == [True, False] and len(plan.teachers) == 1


def test_a_method_of_ones_own_may_have_no_teacher_and_its_record_says_what_it_uses(tmp_path):
    own = write_own(tmp_path / "DIR")
    (own / "guidance" / "smooth.py").write_text(OWN)
    (own / "guidance" / "smooth.yaml").write_text("guidance: {method: smooth}\n")
    recipe = Registry(own).compose("deit_micro/digits/smooth", "quick")
    assert recipe.teacher is None and recipe.guidance.student_maps == {"all"}
    stored = recipe_from_dict(recipe.to_dict(), "test")
    assert stored.hash == recipe.hash and stored.guidance.student_maps == {"all"} and stored.teacher is None
    (own / "guidance" / "smooth.py").write_text(OWN.replace("    needs:", "    other:"))
    with pytest.raises(RecipeError, match="must have needs"):
        Registry(own).compose("deit_micro/digits/smooth", "quick")
