"""Recipes: what is run, composed from YAML files into a frozen, typed object with a hash.

A recipe id is `<model>/<dataset>/<guidance>` for a student (`deit_tiny/cifar100/guided`) and `<model>/<dataset>` for a
guide CNN (`resnet56/cifar100`). Each part names a file below `recipes/`, or something from outside: `timm:<name>`, any
model of timm; `folder:<name>`, class folders in the data folder; `hub:<name>`, a dataset of the hub, whose name may hold a
slash. A protocol says how to train. Later layers win:

    schema defaults < model < dataset < guidance < protocol < suite < --set

Keys under `guide.` are those of the guide's own recipe, so `guide.train.epochs=2` shortens the guide's training.
This module needs no torch: composing, listing and hashing take milliseconds.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import os
import re
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bench.reading import Given, check_known, fail_at, flatten, nearest, parse_set, read_file, read_value, shown
from bench.schema import LAYER_SECTIONS, SECTIONS, SHARED_WITH_GUIDE, Data, Guidance, Model, Recipe, RecipeError


@dataclass(frozen=True)
class Suite:
    """A set of cells to compare: students x datasets x guidance methods, over seeds, under one protocol."""

    name: str
    protocol: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    guidance: tuple[str, ...]
    seeds: tuple[int, ...]
    overrides: tuple[tuple[str, Given], ...] = ()

    @property
    def ids(self) -> list[str]:
        """The recipe ids, baseline and guided of one student side by side."""
        return ["/".join(parts) for parts in itertools.product(self.models, self.datasets, self.guidance)]


LONGEST = 96  # characters of a name, as on the hub; names become parts of file names
NAME = f"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{LONGEST - 1}}}"
MOST_WEIGHTS, MOST_TOKENS = 5e8, 4096  # of a network: ViT-L has 3e8 weights; 64 x 64 tokens
DATASET = rf"({NAME}|folder:{NAME}|hub:{NAME}(/{NAME})?)"


def split_id(recipe_id: str, role: str = "student") -> tuple[str, ...]:
    """(model, dataset, guidance) of a student's id, (model, dataset) of a guide's. A dataset's name may hold slashes."""
    model, _, rest = recipe_id.partition("/")
    return (model, rest) if role == "guide" else (model, *rest.rsplit("/", 1))


def shipped_recipes() -> Path:
    """The `recipes/` that came with the package: inside it in a wheel, beside it in a checkout."""
    inside = Path(__file__).parent / "_recipes"
    return inside if inside.is_dir() else Path(__file__).parents[1] / "recipes"


class Registry:
    """All recipes that the files below one or more `recipes/` folders make possible; later folders win."""

    def __init__(self, *extra_dirs: str | Path) -> None:
        for folder in extra_dirs:
            if not os.path.isdir(folder):  # which answers for names that are too long as well
                raise RecipeError(f"--recipes-dir {folder}: no such folder")
            if not any(Path(folder, kind).is_dir() for kind in LAYER_SECTIONS):
                raise RecipeError(f"--recipes-dir {folder}: holds none of the folders {', '.join(LAYER_SECTIONS)}")
        self._dirs = [shipped_recipes(), *map(Path, extra_dirs)]
        self._cache: dict[tuple[str, str], dict[str, Given]] = {}

    def names(self, kind: str) -> list[str]:
        """The names that `recipes/<kind>/*.yaml` define, sorted. A file of another kind of name, which no id could hold and
        which might point elsewhere (`...yaml`), is none of them."""
        stems = {path.stem for folder in self._dirs for path in (folder / kind).glob("*.yaml")}
        return sorted(stem for stem in stems if re.fullmatch(NAME, stem))

    def _path(self, kind: str, name: str, part_of: str = "") -> Path:
        known = self.names(kind)
        if name not in known:
            # A name is only ever compared with the files that are there, so no id can point outside the folders.
            singular = {"models": "model", "datasets": "dataset", "protocols": "protocol", "suites": "suite"}.get(
                kind, kind
            )
            form = "" if re.fullmatch(NAME, name) else f" (letters, digits, _, . and -, at most {LONGEST}, a letter first)"
            raise RecipeError(
                f"{part_of}unknown {singular} {shown(name)}{form}; known: {', '.join(known)}{nearest(name, known)}"
            )
        return next(p for d in reversed(self._dirs) if os.path.lexists(p := d / kind / f"{name}.yaml"))

    def _named(self, path: Path) -> str:
        """A file as errors name it: a shipped one below recipes/, a user's own by its path."""
        shipped = self._dirs[0]
        return f"recipes/{path.relative_to(shipped).as_posix()}" if path.is_relative_to(shipped) else str(path)

    def _layer(self, kind: str, name: str, part_of: str = "") -> dict[str, Given]:
        """One file's keys, flattened and checked."""
        if (kind, name) not in self._cache:
            content, where = _from_outside(kind, name, part_of), name
            if content is None:
                path = self._path(kind, name, part_of)
                where = self._named(path)
                content = read_file(path, where)
            flat = flatten(content, where, LAYER_SECTIONS[kind])
            for inner, given in flat.items():
                check_known(inner, given)
            self._cache[kind, name] = flat
        return self._cache[kind, name]

    def role(self, model: str, part_of: str = "") -> str:
        """ "student" or "guide"."""
        given = self._layer("models", model, part_of).get("model.role")
        return given.value if given else "student"

    def ids(self) -> list[str]:
        """Every recipe id: students x datasets x guidance, then guides x datasets."""
        models = {role: [m for m in self.names("models") if self.role(m) == role] for role in ("student", "guide")}
        students = itertools.product(models["student"], self.names("datasets"), self.names("guidance"))
        guides = itertools.product(models["guide"], self.names("datasets"))
        return ["/".join(parts) for parts in (*students, *guides)]

    def guides(self, suite: Suite) -> list[str]:
        """The ids of the guides that a suite's cells need."""
        recipes = (self.compose(recipe_id, suite=suite) for recipe_id in suite.ids)
        return list(dict.fromkeys(recipe.guide.id for recipe in recipes if recipe.guide is not None))

    def dataset(self, name: str, assignments: Sequence[str] = ()) -> Data:
        """A dataset by the second part of a recipe id, with `data.key=value` texts laid over it.

        Raises:
            RecipeError: anything unknown, of a wrong type or impossible, in one sentence.
        """
        overrides = parse_set(assignments)
        for path, given in overrides.items():
            if not path.startswith("data."):
                fail_at(given, path, "is no key of a dataset: it must lie under data")
            check_known(path, given)
        given = {**self._layer("datasets", name), **overrides}
        values = {
            f.name: read_value(Data, f.name, given[f"data.{f.name}"], f"data.{f.name}")
            for f in fields(Data)
            if f"data.{f.name}" in given
        }
        data = dataclasses.replace(Data(**values), name=name)

        def fail(path: str, problem: str) -> typing.NoReturn:
            fail_at(given.get(path, Given(None, f"dataset {name!r}")), path, problem)

        _check_data(data, fail)
        return data

    def suite(self, name: str) -> Suite:
        """A suite by name; raises RecipeError for an unknown name or an invalid file."""
        path = self._path("suites", name)
        where = self._named(path)
        content = read_file(path, where)
        allowed = ("protocol", "models", "datasets", "guidance", "seeds", "set")
        for entry in content:
            if entry not in allowed:
                raise RecipeError(
                    f"{where}: {shown(entry)} is no key; allowed: {', '.join(allowed)}{nearest(entry, allowed)}"
                )
        lists = {}
        for entry, inner in (("models", str), ("datasets", str), ("guidance", str), ("seeds", int)):
            value = content.get(entry)
            if not isinstance(value, list) or not value or any(type(v) is not inner for v in value):
                kind = "whole numbers" if inner is int else "names"
                raise RecipeError(f"{where}: {entry}: got {shown(value)}, allowed is a list of {kind}")
            if len(set(value)) < len(value):
                raise RecipeError(f"{where}: {entry}: got {shown(value)}, in which one stands twice")
            lists[entry] = tuple(value)
        if not all(0 <= seed < 2**63 for seed in lists["seeds"]):
            raise RecipeError(f"{where}: seeds: got {shown(content['seeds'])}, allowed are numbers from 0 to 2**63 - 1")
        for kind in ("models", "datasets", "guidance"):
            for part in lists[kind]:
                self._layer(kind, part, f"{where}: ")
        if not isinstance(protocol := content.get("protocol"), str):
            raise RecipeError(f"{where}: protocol: got {shown(protocol)}, allowed is a name")
        self._path("protocols", protocol, f"{where}: ")
        overrides = flatten(content.get("set", {}), where, LAYER_SECTIONS["suites"])
        for inner, given in overrides.items():
            check_known(inner, given)
        return Suite(name, protocol, **lists, overrides=tuple(overrides.items()))

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
            recipe_id: `<model>/<dataset>/<guidance>`, or `<model>/<dataset>` for a guide.
            protocol: a name in recipes/protocols; a suite's own protocol wins.
            assignments: `key.path=value` texts, the last layer.
            seed: of the student's weights, sample order and augmentation. Not part of the hash.
            suite: its overrides are laid over the protocol.

        Raises:
            RecipeError: anything unknown, of a wrong type or impossible, in one sentence.
        """
        model, dataset, guidance = self._split(recipe_id)
        if not 0 <= seed < 2**63:
            raise RecipeError(f"--seed {seed}: must be a whole number from 0 to 2**63 - 1")
        protocol = suite.protocol if suite else protocol
        overrides = parse_set(assignments)
        for path, given in overrides.items():
            check_known(path, given)
            if path in ("model.name", "model.role", "data.name"):
                fail_at(given, path, "comes from the recipe id and cannot be set")
            if path == "seed":
                fail_at(given, path, "is given by --seed")
            if path == "select" and guidance is not None:
                fail_at(given, path, f"is a key of guides; a student keeps its last epoch, and its guide is guide.{path}")
        files = [
            self._layer("datasets", dataset, f"recipe {recipe_id!r}: "),
            self._layer("guidance", guidance, f"recipe {recipe_id!r}: ") if guidance else {},
            self._layer("protocols", protocol),
            dict(suite.overrides) if suite else {},
        ]
        if guidance is None:
            shared, said = _split_guide(*files)
            said = {**_shared(shared), **said}
            for path, given in overrides.items():
                if path.startswith("guide."):
                    fail_at(given, path, f"{recipe_id} is itself a guide: write {path.removeprefix('guide.')}")
                if path.startswith("guidance."):
                    fail_at(given, path, f"{recipe_id} is itself a guide and is not guided")
            return self._guide(model, dataset, protocol, {**said, **overrides}, seed, alone=True)

        own, said = _split_guide(self._layer("models", model), *files, overrides)
        if "guidance.method" not in own:
            raise RecipeError(f"recipes/guidance/{guidance}.yaml: guidance.method: missing; a baseline says none")
        if own["guidance.method"].value == "none":
            for path, given in overrides.items():
                if path.startswith(("guide.", "guidance.")):
                    fail_at(given, path, f"{recipe_id} is not guided, so this would change nothing")
            own = {path: given for path, given in own.items() if not path.startswith("guidance.")}
            return _build(recipe_id, protocol, model, dataset, own, seed)
        if "model.name" not in said:
            raise RecipeError(f"recipes/datasets/{dataset}.yaml: guide.model.name: missing, so {recipe_id} has no guide")
        guide = self._guide(str(said["model.name"].value), dataset, protocol, {**_shared(own), **said})
        return _build(recipe_id, protocol, model, dataset, own, seed, guide)

    def _guide(
        self,
        model: str,
        dataset: str,
        protocol: str,
        said: Mapping[str, Given],
        seed: int | None = None,
        alone: bool = False,
    ) -> Recipe:
        """The recipe of a guide. It sees the data and the transform of the protocol's students, but trains by what is
        `said` of guides alone; so `resnet56/cifar100` on its own is the guide of `deit_tiny/cifar100/guided`."""
        if (given := said.get("model.name")) and self.role(model, f"{given.where}: guide.model.name: ") != "guide":
            guides = [name for name in self.names("models") if self.role(name) == "guide"]
            fail_at(given, "guide.model.name", f"{model} is a student; guides are {', '.join(guides)}")
        seen, _ = _split_guide(self._layer("datasets", dataset), self._layer("protocols", protocol))
        seen = {path: given for path, given in seen.items() if not path.startswith("train.")}
        own = {**self._layer("models", model), **seen, **said}
        if seed is None:
            seed = read_value(Recipe, "seed", own["seed"], "guide.seed") if "seed" in own else 0
        of_guide = () if alone else [path for path in said if path not in seen or said[path] != seen[path]]
        return _build(f"{model}/{dataset}", protocol, model, dataset, own, seed, of_guide=of_guide)

    def _split(self, recipe_id: str) -> tuple[str, str, str | None]:
        """(model, dataset, guidance or None)."""
        model, _, rest = recipe_id.partition("/")
        if not re.fullmatch(rf"(timm:)?{NAME}", model) or not re.fullmatch(rf"{DATASET}(/{NAME})?", rest):
            raise RecipeError(
                f"recipe {shown(recipe_id)}: an id is <model>/<dataset>/<guidance>, as deit_tiny/cifar100/guided, or"
                " <model>/<dataset> for a guide, as resnet56/cifar100; `python -m bench list` prints them all"
            )
        dataset, _, guidance = rest.rpartition("/")
        if self.role(model, f"recipe {recipe_id!r}: ") == "guide":
            if guidance in self.names("guidance") and dataset:
                raise RecipeError(
                    f"recipe {recipe_id!r}: {model} is a guide CNN and is not guided itself: write {model}/{dataset}"
                )
            return model, rest, None
        # `hub:a/b` might be a dataset without its guidance, or the dataset `hub:a` with the guidance `b`
        if not dataset or (rest.startswith("hub:") and rest.count("/") == 1 and guidance not in self.names("guidance")):
            options = ", ".join(f"{recipe_id}/{name}" for name in self.names("guidance"))
            raise RecipeError(f"recipe {recipe_id!r}: the guidance is missing; allowed: {options}")
        return model, dataset, guidance


def _from_outside(kind: str, name: str, part_of: str) -> dict[str, Any] | None:
    """What a file would say of a model or dataset that has none: of `timm:`, `folder:` and `hub:`. None for other names."""
    source, colon, inner = name.partition(":")
    if not colon or kind not in ("models", "datasets"):
        return None
    if not re.fullmatch(DATASET if kind == "datasets" else f"timm:{NAME}", name):
        forms = "timm:NAME" if kind == "models" else "folder:NAME, hub:NAME and hub:OWNER/NAME"
        raise RecipeError(f"{part_of}{kind[:-1]} {shown(name)}: allowed are names of {kind}, and {forms}")
    if kind == "models":
        # the drop path of the paper's students; taps are chosen from the network itself
        return {"model": {"builder": "any_timm", "timm": inner, "drop_path_rate": 0.1}}
    data: dict[str, Any] = {"short_side": 512, "licence": "the source's own"}
    if source == "folder":
        archives = [f"{inner}{ending}" for ending in (".zip", ".tar", ".tar.gz", ".tgz")]
        data |= {"source": "files", "layout": "class_folders", "places": [inner, *archives]}
    else:
        data |= {"source": "hub", "layout": "parquet", "places": [inner], "hub": inner}
    return {"data": data, "guide": {"model": {"name": "resnet56"}}}


def _shared(own: Mapping[str, Given]) -> dict[str, Given]:
    return {path: own[path] for path in SHARED_WITH_GUIDE if path in own}


def _split_guide(*layers: Mapping[str, Given]) -> tuple[dict[str, Given], dict[str, Given]]:
    """Layers merged, the last one winning: (what they say of the recipe itself, what they say of its guide)."""
    merged = {path: given for layer in layers for path, given in layer.items()}
    own = {path: given for path, given in merged.items() if not path.startswith("guide.")}
    return own, {path.removeprefix("guide."): given for path, given in merged.items() if path.startswith("guide.")}


def _build(
    recipe_id: str,
    protocol: str,
    model: str,
    dataset: str,
    given: Mapping[str, Given],
    seed: int,
    guide: Recipe | None = None,
    of_guide: Collection[str] = (),
) -> Recipe:
    """A checked recipe from merged layers. An error names the keys of `of_guide` with `guide.` before them, as the user
    wrote them."""
    sections = {}
    for section, cls in SECTIONS.items():
        if section == "guidance" and guide is None:
            continue
        paths = {f.name: f"{section}.{f.name}" for f in fields(cls)}
        values = {
            name: read_value(cls, name, given[path], "guide." * (path in of_guide) + path)
            for name, path in paths.items()
            if path in given
        }
        sections[section] = cls(**values)
    sections["model"] = dataclasses.replace(sections["model"], name=model)
    sections["data"] = dataclasses.replace(sections["data"], name=dataset)
    select = (
        read_value(Recipe, "select", given["select"], "guide." * ("select" in of_guide) + "select")
        if "select" in given
        else "last"
    )
    recipe = Recipe(recipe_id, protocol, **sections, guide=guide, seed=seed, select=select)
    _check_together(recipe, given, of_guide)
    return recipe


def recipe_from_dict(content: Any, where: str) -> Recipe:
    """The recipe that `Recipe.to_dict` made plain, as records hold it, checked like one that is composed.

    Args:
        where: it was read, for an error.

    Raises:
        RecipeError: it is no recipe of this version of the suite.
    """
    try:
        given = flatten({name: content[name] for name in SECTIONS if name in content}, where, tuple(SECTIONS))
        given |= {name: Given(content[name], where) for name in ("seed", "select") if name in content}
        for path, value in given.items():
            check_known(path, value)
        names = [read_value(Recipe, name, Given(content[name], where), name) for name in ("id", "protocol", "seed")]
        parts = [read_value(cls, "name", given[path], path) for cls, path in ((Model, "model.name"), (Data, "data.name"))]
        guide = recipe_from_dict(content["guide"], where) if "guide" in content else None
    except (KeyError, TypeError, RecursionError) as error:
        raise RecipeError(f"{where}: holds no recipe of this version of the suite: {error}") from None
    return _build(names[0], names[1], *parts, given, names[2], guide)


@functools.cache
def _modules_with(function: str, package: str) -> list[str]:
    """The modules of bench/<package> that define a function: the models, guidance methods or layouts a recipe can name."""
    files = (Path(__file__).parent / package).glob("*.py")
    return sorted(path.stem for path in files if f"\ndef {function}(" in path.read_text(encoding="utf-8"))


def _check_together(recipe: Recipe, given: Mapping[str, Given], of_guide: Collection[str]) -> None:
    """Refuse keys that fit one by one and not together."""
    model, data, augment, train = recipe.model, recipe.data, recipe.augment, recipe.train

    def fail(path: str, problem: str) -> typing.NoReturn:
        fail_at(given.get(path, Given(None, f"recipe {recipe.id!r}")), "guide." * (path in of_guide) + path, problem)

    if model.builder not in (builders := _modules_with("build", "models")):
        fail("model.builder", f"got {model.builder!r}, allowed: {', '.join(builders)}{nearest(model.builder, builders)}")
    if model.timm is not None and not re.fullmatch(r"[A-Za-z0-9_]+", model.timm):
        fail("model.timm", f"got {model.timm!r}, allowed is the name of an architecture; no weights are loaded")
    _check_size(model, fail)
    if augment.crop != "random_resized" and data.pipeline == "pil":
        fail("augment.crop", f"{augment.crop!r} needs data.pipeline=batched; timm's transform crops at random sizes")
    if augment.padding and augment.crop != "padded":
        fail("augment.padding", f"got {augment.padding}, but augment.crop={augment.crop} pads nothing")
    for path, pair in (("augment.crop_area", augment.crop_area), ("augment.crop_ratio", augment.crop_ratio)):
        if pair[0] > pair[1]:
            fail(path, f"got {list(pair)}, allowed is the smaller number first")
    _check_data(data, fail)
    images = None if data.subset or data.holdout else data.train_images  # else known when the dataset is open
    if data.train_limit and images and data.train_limit > images:
        fail("data.train_limit", f"got {data.train_limit}, allowed is at most {images}, the training images of {data.name}")
    if train.batch_size > (limit := data.train_limit or images or train.batch_size):
        fail(
            "train.batch_size",
            f"got {train.batch_size}, but there are {limit} training images and only whole batches count",
        )
    if recipe.guide is not None:
        _check_guidance(recipe, fail)


def _check_size(model: Model, fail: Callable[[str, str], typing.NoReturn]) -> None:
    """Refuse what would fill the memory of any machine when it is built."""
    a_layer = 64 if model.role == "guide" else 4 + 2 * (model.mlp_ratio or 4)  # weights in widths squared, about
    weights = (model.depth or 12) * (model.width or 0) ** 2 * a_layer
    if weights > MOST_WEIGHTS:
        fail("model.width", f"got {model.width}, about {weights:.0e} weights in all, allowed are {MOST_WEIGHTS:.0e}")
    side = model.image_size // model.patch_size if model.patch_size else 0
    if side**2 > MOST_TOKENS:
        fail("model.patch_size", f"got {model.patch_size}: {side} x {side} tokens, allowed are at most {MOST_TOKENS}")


def _check_data(data: Data, fail: Callable[[str, str], typing.NoReturn]) -> None:
    """Refuse keys of a dataset that do not fit together."""
    if data.layout not in (layouts := _modules_with("read", "data/layouts")):
        fail("data.layout", f"got {data.layout!r}, allowed: {', '.join(layouts)}{nearest(data.layout, layouts)}")
    for place in data.places:
        if {"", ".", "..", "**"} & set(place.split("/")) or "**" in place:
            fail("data.places", f"got {shown(place)}, allowed are names and patterns below the data folder, without **")
    if data.hub is not None and not re.fullmatch(f"{NAME}(/{NAME})?", data.hub):
        fail("data.hub", f"got {shown(data.hub)}, allowed is the name of a dataset on the hub, as owner/name")
    if data.subset and data.classes and data.subset > data.classes:
        fail("data.subset", f"got {data.subset}, allowed is at most {data.classes}, the classes of {data.name}")


def _check_guidance(recipe: Recipe, fail: Callable[[str, str], typing.NoReturn]) -> None:
    """Refuse guidance that does not fit the student, the guide or the data."""
    config, student, guide = recipe.guidance, recipe.model, recipe.guide.model
    if config.method not in (methods := _modules_with("build", "guidance")):
        fail(
            "guidance.method",
            f"got {config.method!r}, allowed: none, {', '.join(methods)}{nearest(config.method, methods)}",
        )
    if not config.weight and config.logits == "none":
        fail("guidance.weight", "got 0 with guidance.logits=none, so nothing would guide")
    if config.from_epoch >= recipe.train.epochs:
        fail("guidance.from_epoch", f"got {config.from_epoch}, but there are {recipe.train.epochs} epochs")
    taps = len(student.taps) or 3  # as many are chosen where the recipe names none
    if recipe.imitates_maps and config.stages is None and taps != len(guide.taps):
        fail(
            "model.taps",
            f"{taps} taps of {student.name} meet {len(guide.taps)} of its guide {guide.name}: set model.taps or"
            " guide.model.taps, or choose pairs with guidance.stages",
        )
    pairs = min(taps, len(guide.taps))
    if config.stages is not None and (
        not config.stages or len(set(config.stages)) < len(config.stages) or max(config.stages) >= pairs
    ):
        fail("guidance.stages", f"got {list(config.stages)}, allowed are different numbers from 0 to {pairs - 1}")
    if config.until_epoch is not None and config.until_epoch <= config.from_epoch:
        fail("guidance.until_epoch", f"got {config.until_epoch}, allowed is more than from_epoch, {config.from_epoch}")
    if config.offline and config.logits != "none":
        fail("guidance.logits", "needs guidance.offline=false: the features that are kept hold no logits")
    if config.offline and recipe.augment.crop == "padded":
        fail("guidance.offline", "the kept features have no border: augment.crop must be random_resized or none")
    if not config.offline and (recipe.augment.mean, recipe.augment.std) != (
        recipe.guide.augment.mean,
        recipe.guide.augment.std,
    ):
        fail("guide.augment.mean", "differs from the student's, whose normalised batch the guide is given")
    inert = {
        "transform": not config.weight,
        "stages": not config.weight,
        "logit_weight": config.logits == "none",
        "temperature": config.logits != "soft",
        "antialias": config.offline,
        "guide_norm_scope": config.offline,
    }
    for name, is_inert in inert.items():
        if is_inert and getattr(config, name) != getattr(Guidance(), name):
            fail(f"guidance.{name}", "would change nothing here, and may not change the hash then")
