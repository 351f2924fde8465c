"""Results change only with the numerics version of a component; see tests/helpers/golden.py."""

from __future__ import annotations

import dataclasses

import pytest

from tests.helpers import golden
from tests.helpers.golden import changes, problems, same
from tests.helpers.golden_values import compute, versions

VERSIONS, STORED = golden.read()
LOSSES = [name for name in STORED if name.startswith("losses of")]
OF_STUDENTS = [name for name in LOSSES if "resnet8" not in name]


def altered(*names):
    """The stored values, some of them changed a little more than the tolerance."""
    return {name: change(one) if name in names else one for name, one in STORED.items()}


def change(one):
    if isinstance(one.value, str):
        return dataclasses.replace(one, value="other")
    if isinstance(one.value, dict):
        return dataclasses.replace(one, value={**one.value, next(iter(one.value)): "other"})
    last = one.value[-1]
    last = last + 2 if type(last) is int else last * (1 + 1.1e-5) or 1e-300
    return dataclasses.replace(one, value=[*one.value[:-1], last])


def test_results_change_only_with_a_version():
    now, present = compute(), versions()
    raised = {name for name, version in present.items() if VERSIONS.get(name) != version}
    assert not problems(STORED, now, raised)
    anew = "`python -m tests.helpers.golden` writes the golden values of the new version"
    assert present == VERSIONS and now.keys() == STORED.keys(), anew


def test_every_component_has_a_value_of_its_own():
    assert {part for one in STORED.values() for part in one.components} == set(VERSIONS)
    assert {one.components[0] for one in STORED.values() if len(one.components) == 1} == set(VERSIONS)


@pytest.mark.parametrize(
    ("names", "component"),
    [
        (["guidance.kd: loss of kd", "losses of deit_micro kd", "losses of deit_micro kd+locality"], "guidance.kd"),
        (["models.pvt: outputs of pvt_tiny", "losses of pvt_tiny guided"], "models.pvt"),
        (["losses of pvt_tiny guided"], "models.pvt"),  # how the family trains
        (["data: digits", *LOSSES], "data"),
        (["data: defaults"], "data"),
        (["train: learning rates of students, paper"], "train"),
        (["train: drop path", *OF_STUDENTS], "train"),
        (OF_STUDENTS, "train"),
        (LOSSES, "train"),
        ([name for name in LOSSES if "resnet8" in name], "train"),  # its optimiser
    ],
)
def test_the_component_that_changed_is_named(names, component):
    assert list(changes(STORED, altered(*names))) == [component]
    assert not changes(STORED, altered(*names), raised={component})
    (problem,) = problems(STORED, altered(*names))
    file = {"data": "bench/data/__init__.py", "train": "bench/train/__init__.py"}
    assert f"raise NUMERICS in {file.get(component, f'bench/{component.replace(chr(46), chr(47))}.py')};" in problem
    assert "`python -m tests.helpers.golden`" in problem


def test_a_raised_version_allows_no_other_change():
    both = altered("guidance.kd: loss of kd", "losses of deit_micro kd", "guidance.hard: loss of hard")
    assert list(changes(STORED, both, raised={"guidance.kd"})) == ["guidance.hard"]


def test_values_are_compared_by_their_kind():
    assert same([1.0, -2.0], [1 + 9e-7, -2.0]) and not same([1.0], [1 + 2e-6]) and not same([1.0], [1.0, 1.0])
    assert same([7, 0], [8, 0]) and not same([7], [9])
    assert same({"a": 1}, {"a": 1, "new": 2}) and not same({"a": 1}, {"a": 2}) and not same({"a": 1}, {})
    assert same("x", "x") and not same("x", "y") and not same([1.0], "x")


def test_the_command_writes_no_change_without_a_version(tmp_path):
    path, name = tmp_path / "golden.json", "guidance.kd: loss of kd"
    assert not golden.write(STORED, VERSIONS, path)
    assert path.read_text() == golden.GOLDEN.read_text()
    (problem,) = golden.write(altered(name), VERSIONS, path)
    assert problem.startswith("guidance.kd: results have changed (guidance.kd: loss of kd)")
    assert path.read_text() == golden.GOLDEN.read_text()
    raised = {**VERSIONS, "guidance.kd": 2}
    assert not golden.write(altered(name), raised, path)
    written, values = golden.read(path)
    assert written == raised and [n for n, one in values.items() if one != STORED[n]] == [name]
