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
import difflib
import functools
import hashlib
import itertools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

# Part of every hash. Raise it when the default of a hashed key changes, or when the same keys begin to mean something else.
SCHEMA = 2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class RecipeError(ValueError):
    """The user's input cannot be run; the message is one sentence that says where, what was given and what is allowed."""


def key(default: Any, *, low: float | None = None, high: float | None = None, hashed: bool = True) -> Any:
    """A recipe key: its default, the closed range it must lie in, and whether it changes the mathematics (is hashed)."""
    return field(default=default, metadata={"low": low, "high": high, "hashed": hashed})


@dataclass(frozen=True)
class Model:
    """A network: a student (vision transformer) or a guide (CNN)."""

    name: str = key("", hashed=False)  # the file in recipes/models; the builder and its arguments below are what counts
    role: Literal["student", "guide"] = "student"
    builder: str = ""  # module in bench/models
    timm: str | None = None  # timm's name of the architecture, for builders that start from one
    image_size: int = key(224, low=1, high=4096)  # px, square
    patch_size: int | None = key(None, low=1, high=1024)  # px
    width: int | None = key(None, low=1)  # channels: of the tokens, or of a CNN's first stage
    depth: int | None = key(None, low=1)  # blocks of a transformer, layers of a CNN
    heads: int | None = key(None, low=1)
    mlp_ratio: float | None = key(None, low=0.1, high=64)  # hidden width of the MLPs, in widths
    drop_path_rate: float = key(0.0, low=0, high=0.99)
    taps: tuple[str, ...] = ()  # modules whose outputs are the feature maps, first to last


@dataclass(frozen=True)
class Data:
    """A dataset and how its images reach the device."""

    name: str = ""
    # Where it comes from when it is not in the data folder: nowhere, torchvision's download, the hub, this package.
    source: Literal["files", "torchvision", "hub", "packaged"] = key("files", hashed=False)
    layout: str = key("parquet", hashed=False)  # of its files: a module in bench/data/layouts
    places: tuple[str, ...] = key((), hashed=False)  # folders or archives below the data folder, as patterns; first found
    torchvision: str | None = key(None, hashed=False)  # class in torchvision.datasets that downloads it
    hub: str | None = key(None, hashed=False)  # repository on the Hugging Face hub
    hub_config: str | None = None  # of a repository that holds several datasets
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"  # "a+b" is both
    test_split: str = "test"
    test_share: float = key(0.2, low=0.01, high=0.9)  # of each class, the test set of a dataset that has none of its own
    classes: int | None = key(None, low=2)  # None: those that are found
    train_images: int | None = key(None, low=1)  # what the splits must hold; None accepts any number
    test_images: int | None = key(None, low=1)
    short_side: int | None = key(None, low=1)  # px; larger images are shrunk to it when they are decoded
    licence: str = key("", hashed=False)
    ask: str = key("", hashed=False)  # whom to ask for a dataset that nobody may pass on
    pipeline: Literal["batched", "pil"] = "batched"  # on the device for a whole batch | timm's transform in workers
    workers: int | None = key(None, low=0, hashed=False)  # of the pil pipeline; None: one a core
    subset: int | None = key(None, low=2)  # only the first so many classes; the files need not hold the others
    # A share of each class of the training set that is evaluated in place of the test set, which is left alone: for
    # choosing epochs and settings.
    holdout: float = key(0.0, low=0, high=0.9)
    train_limit: int | None = key(None, low=1)  # a fixed random part of the training images, the same for every seed


@dataclass(frozen=True)
class Augment:
    """The training transform, in this order: crop, flip, RandAugment, normalise, erase."""

    crop: Literal["random_resized", "padded", "none"] = "random_resized"
    crop_area: tuple[float, float] = key((0.08, 1.0), low=0.0001, high=1)  # of the native image; random_resized
    crop_ratio: tuple[float, float] = key((3 / 4, 4 / 3), low=0.01, high=100)  # width / height; random_resized
    padding: int = key(0, low=0)  # native px of black on each side before a crop of the native size; padded
    flip: float = key(0.5, low=0, high=1)  # probability
    rand_augment: str | None = None  # timm's configuration string
    erase: float = key(0.25, low=0, high=1)  # probability
    mean: tuple[float, float, float] = key(IMAGENET_MEAN, low=0, high=1)
    std: tuple[float, float, float] = key(IMAGENET_STD, low=0.0001, high=1)


@dataclass(frozen=True)
class Train:
    """Optimiser and schedule. The learning rate is constant within an epoch and never scaled by batch or devices."""

    epochs: int = key(300, low=1)
    batch_size: int = key(128, low=1)  # over all processes; the last partial batch is dropped
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = key(5.0e-4, low=0)
    min_lr: float = key(0.0, low=0)
    warmup_lr: float = key(0.0, low=0)
    warmup_epochs: int = key(0, low=0)
    weight_decay: float = key(0.05, low=0)
    betas: tuple[float, float] = key((0.9, 0.999), low=0, high=0.999999)  # adamw
    momentum: float = key(0.9, low=0, high=0.999999)  # sgd, Nesterov
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = key("auto", hashed=False)
    test_batch_size: int = key(200, low=1, hashed=False)
    threads: int | None = key(None, low=1, hashed=False)  # of a process on a CPU; None: see bench/processes.py


@dataclass(frozen=True)
class Guidance:
    """How the guide's feature maps enter the student's loss (arXiv 2207.10026)."""

    method: str = "none"  # module in bench/guidance
    weight: float = key(2.5, low=0)  # of the feature term; 0 leaves it out
    transform: Literal["linear", "attention", "similarity"] = "linear"  # of a map before it is compared
    stages: tuple[int, ...] | None = key(None, low=0)  # which pairs of taps count, from 0; None: all
    from_epoch: int = key(0, low=0)  # guidance acts from this epoch, counted from 0 …
    until_epoch: int | None = key(None, low=1)  # … to before this one; None: to the end
    logits: Literal["none", "soft", "hard"] = "none"  # imitate the guide's logits too: its probabilities | its arg-max
    logit_weight: float = key(0.5, low=0, high=1)  # w: the loss is (1 - w) cross-entropy + w logit term + feature term
    temperature: float = key(1.0, low=0.01, high=1000)  # soft
    # The guide's features of the unaugmented images are computed once and kept; crop and flip are replayed on them.
    offline: bool = False
    # "batch": the guide normalises by the statistics of the batch at hand, as the released code does (train mode);
    # "running": by the running statistics it was trained with.
    guide_norm: Literal["batch", "running"] = "batch"
    guide_norm_scope: Literal["global", "local"] = "global"  # the batch of all processes | of one (released under DDP)
    antialias: bool = False  # of the bilinear resize that makes the guide's small view from the student's batch


@dataclass(frozen=True)
class Recipe:
    """Everything that a run needs to know. Build one with `Registry.compose`."""

    id: str
    protocol: str
    model: Model
    data: Data
    augment: Augment
    train: Train
    guidance: Guidance | None = None  # None for baselines and for guides
    guide: Recipe | None = None  # the recipe of the CNN that guides
    seed: int = key(0, low=0, high=2**63 - 1)
    select: Literal["last", "best"] = "last"  # guides: the epoch whose weights are kept; "best" looks at the test set

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over the fields that change the mathematics, hex. Fields at their schema default are left out, so a
        new field with a behaviour-keeping default changes no hash. The dataset's name is in it, as the dataset's identity;
        seed, other names, device, threads and workers never are."""
        content: dict[str, Any] = {"schema": SCHEMA}
        for section in ("model", "data", "augment", "train", "guidance"):
            if (config := getattr(self, section)) is not None:
                content[section] = _changed(config)
        if not self.imitates_maps:
            content["model"].pop("taps", None)  # of baselines and guides: nobody looks at their maps in training
        if self.select != "last":
            content["select"] = self.select
        if self.guide is not None:
            # One guide serves all seeds of the student, so which guide it is, its own seed included, is mathematics.
            content["guide"] = {"hash": self.guide.hash, "seed": self.guide.seed}
            if self.imitates_maps:
                content["guide"]["taps"] = list(self.guide.model.taps)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @property
    def imitates_maps(self) -> bool:
        """Whether a student is trained on its guide's feature maps, so that its own are wanted."""
        return self.guidance is not None and self.guidance.weight > 0

    def to_dict(self) -> dict[str, Any]:
        """The composed recipe as plain types, hash included; what `show` prints and records keep."""
        out: dict[str, Any] = {"id": self.id, "protocol": self.protocol, "hash": self.hash, "seed": self.seed}
        if self.model.role == "guide":
            out["select"] = self.select
        for section in ("model", "data", "augment", "train", "guidance"):
            if (config := getattr(self, section)) is not None:
                out[section] = {name: _plain(value) for name, value in dataclasses.asdict(config).items()}
        if self.guide is not None:
            out["guide"] = self.guide.to_dict()
        return out


SECTIONS: dict[str, type] = {"model": Model, "data": Data, "augment": Augment, "train": Train, "guidance": Guidance}
# What a guide shares with its student unless it is told otherwise: where it is trained, and which images it may see.
# A student's batch is normalised once for both.
GUIDES_OWN_DATA = ("pipeline", "workers")
SHARED_WITH_GUIDE = (
    *("train.device", "train.threads", "augment.mean", "augment.std"),
    *(f"data.{f.name}" for f in fields(Data) if f.name not in GUIDES_OWN_DATA),
)
# What each kind of file may say. A protocol touches only how to train, for the student and for its guide.
LAYER_SECTIONS = {
    "models": ("model",),
    "datasets": ("data", "guide"),
    "guidance": ("guidance", "guide"),
    "protocols": ("train", "data", "augment", "guide"),
    "suites": (*SECTIONS, "guide"),
}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _changed(config: Any) -> dict[str, Any]:
    """The hashed fields of a section that differ from their default."""
    return {
        f.name: _plain(value)
        for f in fields(config)
        if f.metadata.get("hashed", True) and (value := getattr(config, f.name)) != f.default
    }


# --- Reading values -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """A value together with where it was written, so that an error can say so."""

    value: Any
    where: str  # a file, or "--set"


def _nearest(name: object, allowed: Iterable[str]) -> str:
    close = difflib.get_close_matches(str(name), list(allowed), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _fail(given: Given, path: str, problem: str) -> typing.NoReturn:
    raise RecipeError(f"{given.where}: {path}: {problem}")


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(h) if h is not types.NoneType else "null" for h in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        count = "" if Ellipsis in inner else f"{len(inner)} "
        return f"a list of {count}{ {str: 'texts', float: 'numbers', int: 'whole numbers'}[inner[0]] }"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}[hint]


def _convert(value: Any, hint: Any, from_text: bool) -> Any:
    """`value` as `hint` wants it; raises TypeError where it does not fit. Text from a command line may spell a number in
    any way Python reads; in a file YAML has typed it already and a text stays a text."""
    origin = typing.get_origin(hint)
    if origin is Literal:
        if isinstance(value, str) and value in typing.get_args(hint):
            return value
        raise TypeError
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        return _convert(value, next(h for h in typing.get_args(hint) if h is not types.NoneType), from_text)
    if origin is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list) or (Ellipsis not in inner and len(value) != len(inner)):
            raise TypeError
        return tuple(_convert(v, inner[0], from_text) for v in value)
    if hint is float and from_text and isinstance(value, str):
        try:
            value = float(value)  # YAML 1.1 takes 5e-4 for a text; on a command line everything is text
        except ValueError:
            raise TypeError from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise TypeError from None
    if type(value) is not hint or (hint is float and not math.isfinite(value)):
        raise TypeError
    return value


def _read(section: type, name: str, given: Given, path: str) -> Any:
    """The value of one key, converted and checked against its type and range."""
    hint = typing.get_type_hints(section)[name]
    from_text = given.where == "--set"
    try:
        value = _convert(given.value, hint, from_text)
    except TypeError:
        hint_text = _describe(hint)
        advice = ""
        if hint is float and isinstance(given.value, str) and re.fullmatch(r"[+-]?\d+[eE][+-]?\d+", given.value):
            mantissa, exponent = re.split("[eE]", given.value)
            advice = f" (YAML reads {given.value} as text: write {mantissa}.0e{exponent})"
        elif typing.get_origin(hint) is Literal:
            advice = _nearest(given.value, typing.get_args(hint))
        _fail(given, path, f"got {given.value!r}, allowed is {hint_text}{advice}")
    spec = next(f for f in fields(section) if f.name == name).metadata
    low, high = spec.get("low"), spec.get("high")
    for number in value if isinstance(value, tuple) else (value,):
        if number is None or isinstance(number, str):
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            bounds = f"at least {low}" if high is None else f"from {low} to {high}"
            _fail(given, path, f"got {given.value!r}, allowed is {bounds}")
    return value


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error rather than a silent overwrite."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key_node.value!r} stands twice", node.start_mark)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


def read_yaml(text: str, where: str) -> Any:
    """Plain data from YAML; a syntax error becomes one sentence that names `where` and the line."""
    try:
        content = yaml.load(text, _UniqueKeyLoader)
        json.dumps(content, default=str)  # refuses what refers to itself, and numbers of thousands of digits
        return content
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        # PyYAML's constructors raise the latter four: impossible dates and numbers, keys that are lists, endless nesting
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error or type(error).__name__).partition("\n")[0]
        raise RecipeError(f"{where}{line}: not valid YAML: {problem}") from None


def parse_set(assignments: Sequence[str]) -> dict[str, Given]:
    """`--set key.path=value` arguments as {key path: value}; values are read as YAML, then by the type of their key."""
    out = {}
    for text in assignments:
        path, sep, value = text.partition("=")
        if not sep or not path.strip():
            raise RecipeError(f"--set {text}: must be key.path=value, as in --set train.epochs=2")
        out[path.strip()] = Given(read_yaml(value, "--set " + path) if value else "", "--set")
    return out


def _flatten(content: Any, where: str, allowed: Sequence[str], prefix: str = "") -> dict[str, Given]:
    """{"train.epochs": Given} from a nested mapping; unknown sections and keys are refused here."""
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: {prefix.rstrip('.') or 'the file'} must hold keys, got {content!r}")
    out = {}
    for name, value in content.items():
        path = f"{prefix}{name}"
        if not prefix and name not in allowed:
            raise RecipeError(f"{where}: {path} is no section here; allowed: {', '.join(allowed)}{_nearest(name, allowed)}")
        if isinstance(value, Mapping) or (not prefix and name in SECTIONS):
            out.update(_flatten(value, where, allowed, path + "."))
        else:
            out[path] = Given(value, where)
    return out


def _check_known(path: str, given: Given) -> None:
    """Refuse a key path that no recipe has."""
    inner = path.removeprefix("guide.")
    section, _, name = inner.partition(".")
    if path != inner and (section == "guidance" or inner in ("data.name", "model.role")):
        _fail(given, path, "is no key of a guide, which is not guided itself and shares the student's dataset")
    own_data = (*GUIDES_OWN_DATA, "train_limit")
    if path != inner and section == "data" and name not in own_data and name in [f.name for f in fields(Data)]:
        _fail(given, path, f"is no key of a guide, which sees what its student sees; its own: {', '.join(own_data)}")
    if inner in ("seed", "select"):  # which of the two a recipe on its own may set, `compose` decides
        return
    if section in SECTIONS and name in (known := [f.name for f in fields(SECTIONS[section])]):
        return
    prefix = path[: len(path) - len(inner)]
    if section in SECTIONS:
        given_as = f"{prefix}{section}.{name}" if name else f"{prefix}{section}"
        _fail(given, given_as, f"is no key; allowed under {section}: {', '.join(known)}{_nearest(name, known)}")
    every = [f"{s}.{f.name}" for s, c in SECTIONS.items() for f in fields(c)] + (["seed", "select"] if prefix else [])
    sections = ", ".join([*SECTIONS, "guide"] if not prefix else [*SECTIONS, "seed", "select"])
    _fail(given, path, f"is no key; it must lie under {sections}{_nearest(inner, every)}")


# --- The registry -------------------------------------------------------------------------------------------------------


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


NAME = "[A-Za-z0-9][A-Za-z0-9_.-]*"
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
            if not Path(folder).is_dir():
                raise RecipeError(f"--recipes-dir {folder}: no such folder")
        self._dirs = [shipped_recipes(), *map(Path, extra_dirs)]
        self._cache: dict[tuple[str, str], dict[str, Given]] = {}

    def names(self, kind: str) -> list[str]:
        """The names that `recipes/<kind>/*.yaml` define, sorted."""
        return sorted({path.stem for folder in self._dirs for path in (folder / kind).glob("*.yaml")})

    def _path(self, kind: str, name: str, part_of: str = "") -> Path:
        known = self.names(kind)
        if name not in known:
            # A name is only ever compared with the files that are there, so no id can point outside the folders.
            singular = {"models": "model", "datasets": "dataset", "protocols": "protocol", "suites": "suite"}.get(
                kind, kind
            )
            raise RecipeError(f"{part_of}unknown {singular} {name!r}; known: {', '.join(known)}{_nearest(name, known)}")
        return next(p for d in reversed(self._dirs) if (p := d / kind / f"{name}.yaml").is_file())

    def _layer(self, kind: str, name: str, part_of: str = "") -> dict[str, Given]:
        """One file's keys, flattened and checked."""
        if (kind, name) not in self._cache:
            content, where = _from_outside(kind, name), name
            if content is None:
                path = self._path(kind, name, part_of)
                where = f"recipes/{kind}/{path.name}"
                content = _read_file(path, where)
            flat = _flatten(content, where, LAYER_SECTIONS[kind])
            for inner, given in flat.items():
                _check_known(inner, given)
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
                _fail(given, path, "is no key of a dataset: it must lie under data")
            _check_known(path, given)
        given = {**self._layer("datasets", name), **overrides}
        values = {
            f.name: _read(Data, f.name, given[f"data.{f.name}"], f"data.{f.name}")
            for f in fields(Data)
            if f"data.{f.name}" in given
        }
        data = dataclasses.replace(Data(**values), name=name)

        def fail(path: str, problem: str) -> typing.NoReturn:
            _fail(given.get(path, Given(None, f"dataset {name!r}")), path, problem)

        _check_data(data, fail)
        return data

    def suite(self, name: str) -> Suite:
        """A suite by name; raises RecipeError for an unknown name or an invalid file."""
        path = self._path("suites", name)
        where = f"recipes/suites/{path.name}"
        content = _read_file(path, where)
        allowed = ("protocol", "models", "datasets", "guidance", "seeds", "set")
        for entry in content:
            if entry not in allowed:
                raise RecipeError(f"{where}: {entry} is no key; allowed: {', '.join(allowed)}{_nearest(entry, allowed)}")
        lists = {}
        for entry, inner in (("models", str), ("datasets", str), ("guidance", str), ("seeds", int)):
            value = content.get(entry)
            if not isinstance(value, list) or not value or any(type(v) is not inner for v in value):
                kind = "whole numbers" if inner is int else "names"
                raise RecipeError(f"{where}: {entry}: got {value!r}, allowed is a list of {kind}")
            if len(set(value)) < len(value):
                raise RecipeError(f"{where}: {entry}: got {value!r}, in which one stands twice")
            lists[entry] = tuple(value)
        for kind in ("models", "datasets", "guidance"):
            for part in lists[kind]:
                self._layer(kind, part, f"{where}: ")
        self._path("protocols", str(content.get("protocol")), f"{where}: ")
        overrides = _flatten(content.get("set", {}), where, LAYER_SECTIONS["suites"])
        for inner, given in overrides.items():
            _check_known(inner, given)
        return Suite(name, content["protocol"], **lists, overrides=tuple(overrides.items()))

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
            _check_known(path, given)
            if path in ("model.name", "model.role", "data.name"):
                _fail(given, path, "comes from the recipe id and cannot be set")
            if path == "seed":
                _fail(given, path, "is given by --seed")
            if path == "select" and guidance is not None:
                _fail(given, path, f"is a key of guides; a student keeps its last epoch, and its guide is guide.{path}")
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
                    _fail(given, path, f"{recipe_id} is itself a guide: write {path.removeprefix('guide.')}")
                if path.startswith("guidance."):
                    _fail(given, path, f"{recipe_id} is itself a guide and is not guided")
            return self._guide(model, dataset, protocol, {**said, **overrides}, seed, prefix="")

        own, said = _split_guide(self._layer("models", model), *files, overrides)
        if "guidance.method" not in own:
            raise RecipeError(f"recipes/guidance/{guidance}.yaml: guidance.method: missing; a baseline says none")
        if own["guidance.method"].value == "none":
            for path, given in overrides.items():
                if path.startswith(("guide.", "guidance.")):
                    _fail(given, path, f"{recipe_id} is not guided, so this would change nothing")
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
        prefix: str = "guide.",
    ) -> Recipe:
        """The recipe of a guide. It sees the data and the transform of the protocol's students, but trains by what is
        `said` of guides alone; so `resnet56/cifar100` on its own is the guide of `deit_tiny/cifar100/guided`."""
        if (given := said.get("model.name")) and self.role(model, f"{given.where}: guide.model.name: ") != "guide":
            guides = [name for name in self.names("models") if self.role(name) == "guide"]
            _fail(given, "guide.model.name", f"{model} is a student; guides are {', '.join(guides)}")
        seen, _ = _split_guide(self._layer("datasets", dataset), self._layer("protocols", protocol))
        seen = {path: given for path, given in seen.items() if not path.startswith("train.")}
        own = {**self._layer("models", model), **seen, **said}
        if seed is None:
            seed = _read(Recipe, "seed", own["seed"], "guide.seed") if "seed" in own else 0
        return _build(f"{model}/{dataset}", protocol, model, dataset, own, seed, prefix=prefix)

    def _split(self, recipe_id: str) -> tuple[str, str, str | None]:
        """(model, dataset, guidance or None)."""
        model, _, rest = recipe_id.partition("/")
        if not re.fullmatch(rf"(timm:)?{NAME}", model) or not re.fullmatch(rf"{DATASET}(/{NAME})?", rest):
            raise RecipeError(
                f"recipe {recipe_id!r}: an id is <model>/<dataset>/<guidance>, as deit_tiny/cifar100/guided, or"
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


def _from_outside(kind: str, name: str) -> dict[str, Any] | None:
    """What a file would say of a model or dataset that has none: of `timm:`, `folder:` and `hub:`. None for other names."""
    source, colon, inner = name.partition(":")
    if not colon or kind not in ("models", "datasets"):
        return None
    if not re.fullmatch(DATASET if kind == "datasets" else f"timm:{NAME}", name):
        forms = "timm:NAME" if kind == "models" else "folder:NAME, hub:NAME and hub:OWNER/NAME"
        raise RecipeError(f"{kind[:-1]} {name!r}: allowed are names of {kind}, and {forms}")
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


def _read_file(path: Path, where: str) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{where}: cannot be read: {error}") from None
    content = read_yaml(text, where)
    if not isinstance(content, Mapping):
        raise RecipeError(f"{where}: must hold keys, got {content!r}")
    return content


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
    prefix: str = "",
) -> Recipe:
    """A checked recipe from merged layers. An error names keys with the prefix that they have in the user's input."""
    sections = {}
    for section, cls in SECTIONS.items():
        if section == "guidance" and guide is None:
            continue
        paths = {f.name: f"{section}.{f.name}" for f in fields(cls)}
        values = {name: _read(cls, name, given[path], prefix + path) for name, path in paths.items() if path in given}
        sections[section] = cls(**values)
    sections["model"] = dataclasses.replace(sections["model"], name=model)
    sections["data"] = dataclasses.replace(sections["data"], name=dataset)
    select = _read(Recipe, "select", given["select"], prefix + "select") if "select" in given else "last"
    recipe = Recipe(recipe_id, protocol, **sections, guide=guide, seed=seed, select=select)
    _check_together(recipe, given, prefix)
    return recipe


@functools.cache
def _modules_with(function: str, package: str) -> list[str]:
    """The modules of bench/<package> that define a function: the models, guidance methods or layouts a recipe can name."""
    files = (Path(__file__).parent / package).glob("*.py")
    return sorted(path.stem for path in files if f"\ndef {function}(" in path.read_text(encoding="utf-8"))


def _check_together(recipe: Recipe, given: Mapping[str, Given], prefix: str) -> None:
    """Refuse keys that fit one by one and not together."""
    model, data, augment, train = recipe.model, recipe.data, recipe.augment, recipe.train

    def fail(path: str, problem: str) -> typing.NoReturn:
        _fail(given.get(path, Given(None, f"recipe {recipe.id!r}")), prefix + path, problem)

    if model.builder not in (builders := _modules_with("build", "models")):
        fail("model.builder", f"got {model.builder!r}, allowed: {', '.join(builders)}{_nearest(model.builder, builders)}")
    if model.timm is not None and not re.fullmatch(r"[A-Za-z0-9_]+", model.timm):
        fail("model.timm", f"got {model.timm!r}, allowed is the name of an architecture; no weights are loaded")
    if augment.rand_augment and data.pipeline == "batched":
        fail("augment.rand_augment", "needs data.pipeline=pil; the batched pipeline has no RandAugment yet")
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


def _check_data(data: Data, fail: Callable[[str, str], typing.NoReturn]) -> None:
    """Refuse keys of a dataset that do not fit together."""
    if data.layout not in (layouts := _modules_with("read", "data/layouts")):
        fail("data.layout", f"got {data.layout!r}, allowed: {', '.join(layouts)}{_nearest(data.layout, layouts)}")
    for place in data.places:
        if not place or place.startswith("/") or ".." in place.split("/"):
            fail("data.places", f"got {place!r}, allowed are names and patterns below the data folder")
    if data.subset and data.classes and data.subset > data.classes:
        fail("data.subset", f"got {data.subset}, allowed is at most {data.classes}, the classes of {data.name}")


def _check_guidance(recipe: Recipe, fail: Callable[[str, str], typing.NoReturn]) -> None:
    """Refuse guidance that does not fit the student, the guide or the data."""
    config, student, guide = recipe.guidance, recipe.model, recipe.guide.model
    if config.method not in (methods := _modules_with("build", "guidance")):
        fail(
            "guidance.method",
            f"got {config.method!r}, allowed: none, {', '.join(methods)}{_nearest(config.method, methods)}",
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
