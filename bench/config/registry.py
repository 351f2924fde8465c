"""The registry: all recipes that the files in one or more `recipes/` folders make possible.

The files of a recipe are merged in this order, and later ones win:

    schema defaults < model < dataset < guidance < protocol < suite < --set

Keys under `teacher.` belong to the teacher's own recipe, so `teacher.train.epochs=2` shortens the teacher's training.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.config.checks import check_data
from bench.config.compose import Known, build_recipe, build_teacher, has_teacher, read_section, split_teacher
from bench.config.names import DATASET, MODEL, NAME, NAME_RULE, TIMM, external_content
from bench.config.parse import (
    SourcedValue,
    check_known,
    fail_at,
    flatten,
    nearest,
    parse_set,
    read_file,
    short_repr,
)
from bench.config.plugins import find_plugins
from bench.config.schema import LAYER_SECTIONS, TEACHER_PASS_KEYS, Data, Recipe, RecipeError
from bench.config.suite import GUIDED_ONLY, Suite, SuiteEntry, check_override, read_suite
from bench.config.teacher_file import refuse_training_keys


def shipped_recipes() -> Path:
    """The `recipes/` of this package: inside it in a wheel, beside it in a checkout."""
    inside = Path(__file__).parents[1] / "_recipes"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "recipes"


class Registry:
    """All recipes that the files in one or more `recipes/` folders make possible; later folders win.

    Args:
        extra_dirs: folders of the user, laid out as `recipes/`, which may hold plug-ins.

    Attributes:
        plugins: the user's own methods and builders in these folders.
    """

    def __init__(self, *extra_dirs: str | Path) -> None:
        for folder in extra_dirs:
            if not os.path.isdir(folder):  # also answers for names that are too long
                raise RecipeError(f"--recipes-dir {folder}: no such folder")
            if not any(Path(folder, kind).is_dir() for kind in LAYER_SECTIONS):
                raise RecipeError(f"--recipes-dir {folder}: holds none of the folders {', '.join(LAYER_SECTIONS)}")
        self._dirs = [shipped_recipes(), *map(Path, extra_dirs)]
        self.plugins = {key: path for folder in extra_dirs for key, path in find_plugins(Path(folder)).items()}
        self._known = Known(self.plugins)
        self._cache: dict[tuple[str, str], dict[str, SourcedValue]] = {}

    def names(self, kind: str) -> list[str]:
        """The names that `recipes/<kind>/*.yaml` define, sorted. Files whose name no id can contain are left out."""
        stems = {path.stem for folder in self._dirs for path in (folder / kind).glob("*.yaml")}
        return sorted(stem for stem in stems if re.fullmatch(NAME, stem))

    def _path(self, kind: str, name: str, needed_by: str = "") -> Path:
        known = self.names(kind)
        if name not in known:
            # A name is only compared with the files that exist, so no id can point outside the folders.
            form = "" if re.fullmatch(NAME, name) else f" ({NAME_RULE})"
            own = "; one of your own needs --recipes-dir (in Python recipes_dir)" if len(self._dirs) == 1 else ""
            raise RecipeError(
                f"{needed_by}unknown {kind.removesuffix('s')} {short_repr(name)}{form}; known: {', '.join(known)}"
                f"{nearest(name, known) or own}"
            )
        return next(p for d in reversed(self._dirs) if os.path.lexists(p := d / kind / f"{name}.yaml"))

    def _named(self, path: Path) -> str:
        """A file as errors name it: recipes/… for a shipped one, the path for a user's own."""
        shipped = self._dirs[0]
        return f"recipes/{path.relative_to(shipped).as_posix()}" if path.is_relative_to(shipped) else str(path)

    def _layer(self, kind: str, name: str, needed_by: str = "") -> dict[str, SourcedValue]:
        """One file's keys, flattened and checked."""
        if (kind, name) not in self._cache:
            content, where = external_content(kind, name, needed_by), name
            if content is None:
                path = self._path(kind, name, needed_by)
                where = self._named(path)
                content = read_file(path, where)
            flat = flatten(content, where, LAYER_SECTIONS[kind])
            for given in flat.values():
                check_known(given)
            self._cache[kind, name] = flat
        return self._cache[kind, name]

    def role(self, model: str, needed_by: str = "") -> str:
        """The role of a model, "student" or "teacher"."""
        given = self._layer("models", model, needed_by).get("model.role")
        return given.value if given else "student"

    def ids(self) -> list[str]:
        """Every recipe id: students x datasets x guidance, then teachers x datasets."""
        models = {role: [m for m in self.names("models") if self.role(m) == role] for role in ("student", "teacher")}
        students = itertools.product(models["student"], self.names("datasets"), self.names("guidance"))
        teachers = itertools.product(models["teacher"], self.names("datasets"))
        return ["/".join(parts) for parts in (*students, *teachers)]

    def suite_recipes(self, suite: Suite) -> list[tuple[SuiteEntry, Recipe]]:
        """The entries of a suite with their recipes, seed 0.

        Keys of teacher and guidance change nothing in a baseline, so several entries may have a recipe of the same hash.
        """
        return [(entry, self.suite_recipe(suite, entry)) for entry in suite.entries]

    def suite_recipe(self, suite: Suite, entry: SuiteEntry) -> Recipe:
        """The recipe of an entry of a suite, seed 0."""
        if self.split(entry.id)[2] is None:  # a teacher on its own, to which the keys without `teacher.` belong
            own = [text for text in suite.assignments if not text.startswith(GUIDED_ONLY)]
            return self.compose(entry.id, suite.protocol, own)
        varied = dataclasses.replace(suite, overrides=(*suite.overrides, *entry.overrides))
        recipe = self.compose(entry.id, suite=varied)
        if recipe.teacher is not None and recipe.teacher.sha256 is not None:
            refuse_training_keys((*parse_set(suite.assignments).values(), *dict(entry.overrides).values()))
        if recipe.guidance is None and entry.method != self.split(entry.id)[2]:
            raise RecipeError(
                f"suite {suite.name}: guidance: {entry.method}: it has no guidance, so this would change nothing"
            )
        return recipe

    def dataset(self, name: str, assignments: Sequence[str] = ()) -> Data:
        """A dataset by the second part of a recipe id, with `data.key=value` texts laid over it.

        Raises:
            RecipeError: anything unknown, of a wrong type or impossible, in one sentence.
        """
        overrides = parse_set(assignments)
        for path, given in overrides.items():
            if not path.startswith("data."):
                fail_at(given, "is not a key of a dataset: it must be under data")
            check_known(given)
        given = {**self._layer("datasets", name), **overrides}
        data = dataclasses.replace(read_section(Data, "data.", given), name=name)

        def fail(path: str, problem: str) -> typing.NoReturn:
            fail_at(given.get(path, SourcedValue(None, f"dataset {name!r}", path)), problem)

        check_data(data, fail)
        return data

    def suite(self, name: str) -> Suite:
        """A suite by name. Raises RecipeError for an unknown name or an invalid file."""
        path = self._path("suites", name)
        where = self._named(path)
        suite = read_suite(name, read_file(path, where), where)
        for kind, names in (("models", suite.models), ("datasets", suite.datasets), ("guidance", suite.guidance)):
            for part in names:
                self._layer(kind, part, f"{where}: ")
        self._path("protocols", suite.protocol, f"{where}: ")
        return suite

    def compose(
        self,
        recipe_id: str,
        protocol: str = "paper",
        assignments: Sequence[str] = (),
        *,
        seed: int = 0,
        suite: Suite | None = None,
    ) -> Recipe:
        """The recipe of an id.

        Args:
            recipe_id: `<model>/<dataset>/<guidance>`, or `<model>/<dataset>` for a teacher on its own.
            protocol: a name in recipes/protocols; a suite's own protocol wins.
            assignments: `key.path=value` texts, the last layer.
            seed: of weights, sample order and augmentation; not part of the hash.
            suite: its settings override the protocol's.

        Raises:
            RecipeError: anything unknown, of a wrong type or impossible, in one sentence.
        """
        model, dataset, guidance = self.split(recipe_id)
        if not 0 <= seed < 2**63:
            raise RecipeError(f"--seed {seed}: must be a whole number from 0 to 2**63 - 1")
        protocol = suite.protocol if suite else protocol
        overrides = parse_set(assignments)
        for path, given in overrides.items():
            if path != "select" or guidance is not None:
                check_override(given)
        files = [
            self._layer("datasets", dataset, f"recipe {recipe_id!r}: "),
            self._layer("guidance", guidance, f"recipe {recipe_id!r}: ") if guidance else {},
            self._layer("protocols", protocol),
            dict(suite.overrides) if suite else {},
        ]
        if guidance is None:
            _refuse_student_keys(recipe_id, overrides)
            shared, teacher_keys = split_teacher(*files)
            layers = self._teacher_layers(model, dataset, protocol)
            return build_teacher(recipe_id, protocol, layers, {**teacher_keys, **overrides}, shared, self._known, seed=seed)
        own, teacher_keys = split_teacher(self._layer("models", model), *files, overrides)
        if "guidance.method" not in own:
            raise RecipeError(f"recipes/guidance/{guidance}.yaml: guidance.method: missing; a baseline has none")
        if own["guidance.method"].value == "none":
            for path, given in overrides.items():
                if path.startswith(GUIDED_ONLY):
                    fail_at(given, f"{recipe_id} has no guidance, so this would change nothing")
            own = {path: given for path, given in own.items() if not path.startswith("guidance.")}
            return build_recipe(recipe_id, protocol, own, seed, self._known)
        method = str(own["guidance.method"].value)
        if not has_teacher(method, self._known):
            for path, given in overrides.items():
                if path.startswith("teacher."):
                    fail_at(given, f"{method} has no teacher, so this would change nothing")
            return build_recipe(recipe_id, protocol, own, seed, self._known)
        if "model.name" not in teacher_keys:
            raise RecipeError(
                f"recipes/datasets/{dataset}.yaml: teacher.model.name: missing, so {recipe_id} has no teacher"
            )
        given = teacher_keys["model.name"]
        teacher_model = str(given.value)
        role = self.role(teacher_model, f"{given.where}: teacher.model.name: ")
        if role != "teacher" and not teacher_model.startswith(TIMM):
            teachers = [*(name for name in self.names("models") if self.role(name) == "teacher"), "timm:NAME"]
            fail_at(given, f"{teacher_model} is a student; teachers are {', '.join(teachers)}")
        layers = self._teacher_layers(teacher_model, dataset, protocol)
        teacher = build_teacher(f"{teacher_model}/{dataset}", protocol, layers, teacher_keys, own, self._known)
        if teacher.sha256 is not None:
            refuse_training_keys(overrides.values())
        return build_recipe(recipe_id, protocol, own, seed, self._known, teacher=teacher, teacher_keys=teacher_keys)

    def _teacher_layers(self, model: str, dataset: str, protocol: str) -> dict[str, SourcedValue]:
        """The keys of a teacher that do not stand under `teacher.`: its model's, and data and transform of the students."""
        shared, _ = split_teacher(self._layer("datasets", dataset), self._layer("protocols", protocol))
        own = self._layer("models", model)
        if model.startswith(TIMM):  # it has no file, so its role is set here; like other teachers it has no drop path
            fixed = {"model.role": "teacher", "model.drop_path_rate": 0.0}
            own = {**own, **{path: SourcedValue(value, model, path) for path, value in fixed.items()}}
        return {**own, **{p: given for p, given in shared.items() if not p.startswith("train.")}}

    def split(self, recipe_id: str) -> tuple[str, str, str | None]:
        """(model, dataset, guidance) of a recipe id; guidance is None for a teacher. Raises RecipeError for a bad id."""
        model, _, rest = recipe_id.partition("/")
        if not re.fullmatch(MODEL, model) or not re.fullmatch(rf"{DATASET}(/{NAME})?", rest):
            raise RecipeError(
                f"recipe {short_repr(recipe_id)}: an id is <model>/<dataset>/<guidance>, as deit_tiny/cifar100/guided, or"
                " <model>/<dataset> for a teacher, as resnet56/cifar100; `python -m bench list` prints them all"
            )
        dataset, _, guidance = rest.rpartition("/")
        if self.role(model, f"recipe {recipe_id!r}: ") == "teacher":
            if guidance in self.names("guidance") and dataset:
                raise RecipeError(
                    f"recipe {recipe_id!r}: {model} is a teacher and is not guided itself: write {model}/{dataset}"
                )
            return model, rest, None
        # `hub:a/b` might be a dataset without its guidance, or the dataset `hub:a` with the guidance `b`
        if not dataset or (rest.startswith("hub:") and rest.count("/") == 1 and guidance not in self.names("guidance")):
            options = ", ".join(f"{recipe_id}/{name}" for name in self.names("guidance"))
            if model.startswith(TIMM):
                options += f"; --set teacher.model.name={model} and --teacher-only of a guided recipe train it as a teacher"
            raise RecipeError(f"recipe {recipe_id!r}: the guidance is missing; allowed: {options}")
        return model, dataset, guidance


def _refuse_student_keys(teacher_id: str, overrides: Mapping[str, SourcedValue]) -> None:
    """Raise RecipeError for keys that only a student's recipe has."""
    for path, given in overrides.items():
        inner = path.removeprefix("teacher.")
        if path.startswith("guidance."):
            fail_at(given, f"{teacher_id} is itself a teacher and is not guided")
        if inner != path:
            advice = f"{path} is a key of guided recipes" if inner in TEACHER_PASS_KEYS else f"write {inner}"
            fail_at(given, f"{teacher_id} is itself a teacher: {advice}")
