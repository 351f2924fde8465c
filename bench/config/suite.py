"""Suites: which recipes are compared, with which seeds."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.config.names import split_id
from bench.config.parse import SourcedValue, check_known, fail_at, flatten, nearest, parse_set, set_text, short_repr
from bench.config.schema import LAYER_SECTIONS, SECTIONS, Recipe, RecipeError

BASELINE = "baseline"
RESERVED = ("local", "runs", "slurm", "index.html", "README.md")  # in results/ and results/local/, and not a suite's
KEYS = ("protocol", "models", "datasets", "guidance", "seeds", "set", "vary", "reference")
GUIDED_ONLY = ("teacher.", "guidance.")  # begin the keys that a recipe without guidance does not have

Overrides = tuple[tuple[str, SourcedValue], ...]  # (key, value) pairs


@dataclass(frozen=True)
class SuiteMethod:
    """A row of a suite: a guidance method, with its own values of some keys or as its file has them.

    overrides: these keys, under `guidance.` and `teacher.`.
    """

    guidance: str
    overrides: Overrides = ()

    @property
    def label(self) -> str:
        """Its name in tables: "kd", or "kd alpha=0.5" with keys of its own."""
        own = [text.removeprefix("guidance.").removeprefix("params.") for text in _set_texts(self.overrides)]
        return f"{self.guidance} {', '.join(own)}" if own else self.guidance


@dataclass(frozen=True)
class SuiteEntry:
    """A recipe of a suite: an id with settings.

    method: the label of its row. variant: the varied keys with their values here, as text; of keys that vary together,
        only the first. It is "" if the suite varies nothing.
    overrides: the keys of its row and the varied ones.
    """

    id: str
    method: str
    variant: str = ""
    overrides: Overrides = dataclasses.field(default=(), compare=False)

    @property
    def settings(self) -> tuple[str, ...]:
        """The overrides as `--set` texts, "data.train_limit=500" for example."""
        return _set_texts(self.overrides)


@dataclass(frozen=True)
class Suite:
    """A set of recipes to compare: students x datasets x guidance methods, with seeds, under one protocol.

    rows: the guidance methods; a teacher's suite has none.
    overrides: keys that override the protocol.
    vary: the values of each varied key, or of keys that vary together. Each combination is a variant: it has cells of its
        own, and is named by the first key of those that vary together.
    reference: the label of the method over which gains are computed.
    recipes: explicit recipe ids, instead of students x datasets x guidance methods.
    file: the name of the suite's file; None for a suite that has none. content: of that file.
    assignments: the `--set` texts of a command, which are in `overrides` too.
    """

    name: str
    protocol: str
    models: tuple[str, ...]
    datasets: tuple[str, ...]
    rows: tuple[SuiteMethod, ...]
    seeds: tuple[int, ...]
    overrides: Overrides = ()
    vary: tuple[tuple[Overrides, ...], ...] = ()
    reference: str = BASELINE
    recipes: tuple[str, ...] = ()
    file: str | None = None
    content: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    assignments: tuple[str, ...] = ()

    @property
    def guidance(self) -> tuple[str, ...]:
        """The names of the guidance methods."""
        return tuple(dict.fromkeys(row.guidance for row in self.rows))

    @property
    def methods(self) -> tuple[str, ...]:
        """The labels of the rows, the reference first."""
        return tuple(sorted((row.label for row in self.rows), key=lambda label: label != self.reference))

    @property
    def varied(self) -> tuple[str, ...]:
        """The keys that vary."""
        return tuple(path for values in self.vary for path, _ in values[0])

    @property
    def varied_number(self) -> str | None:
        """The key that varies, the first of those that vary together, if its values are numbers on a scale."""
        if len(self.vary) != 1 or len(self.vary[0]) < 2:
            return None
        (key, _), *_ = self.vary[0][0]
        values = [variant[0][1].value for variant in self.vary[0]]
        is_number = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        return key if is_number and not key.endswith("seed") else None

    @property
    def reading_order(self) -> tuple[bool, int, bool, str]:
        """What suites are sorted by for a reader: by the number of students x datasets, the most first, and by name.

        Trials on held-out images are last, and a suite that varies keys is after others of its size.
        """
        cells = {split_id(recipe_id)[:2] for recipe_id in self.ids}
        return "data.holdout" in dict(self.overrides), -len(cells), bool(self.vary), self.name

    @property
    def ids(self) -> list[str]:
        """The recipe ids: `recipes` as given; else the product, in which one student and dataset are neighbours."""
        product = ("/".join(parts) for parts in itertools.product(self.models, self.datasets, self.guidance))
        return list(self.recipes or product)

    @property
    def entries(self) -> list[SuiteEntry]:
        """Every row with every variant: cell by cell (student, dataset, variant), in each the reference first."""
        cells: dict[tuple[str, ...], list[str]] = {}
        for recipe_id in self.ids:
            cells.setdefault(split_id(recipe_id)[:2], []).append(recipe_id)
        out = []
        for ids, values in itertools.product(cells.values(), itertools.product(*self.vary)):
            variant = tuple(itertools.chain(*values))
            shown = ", ".join(_set_texts(first for first, *_ in values))
            rows = [
                SuiteEntry(recipe_id, row.label, shown, row.overrides + variant)
                for recipe_id in ids
                for row in self._rows_of(recipe_id)
            ]
            out += sorted(rows, key=lambda entry: entry.method != self.reference)
        return out

    def _rows_of(self, recipe_id: str) -> list[SuiteMethod]:
        """The rows of the guidance of an id; a teacher's id has one."""
        guidance = split_id(recipe_id)[2:]
        return [row for row in self.rows if (row.guidance,) == guidance] or [SuiteMethod("")]

    def with_settings(self, assignments: Sequence[str]) -> Suite:
        """The suite with `--set` texts over its settings. Raises RecipeError for a key that no suite may set."""
        given = parse_set(assignments)
        for path, value in given.items():
            check_override(value)
            if path in self.varied:
                fail_at(value, f"suite {self.name} varies this key, so it cannot be set")
            if rows := [row.label for row in self.rows if path in dict(row.overrides)]:
                fail_at(value, f"suite {self.name} has a value of its own for {rows[0]}, so it cannot be set")
        overrides = tuple({**dict(self.overrides), **given}.items())
        return dataclasses.replace(self, overrides=overrides, assignments=(*self.assignments, *assignments))

    def run_options(self, entry: SuiteEntry, recipe: Recipe) -> list[str]:
        """The options with which bench/run.py composes the recipe of an entry from its id.

        A run without guidance refuses keys of teacher and guidance, one without a teacher those of a teacher.
        """
        refused = GUIDED_ONLY if recipe.guidance is None else "teacher." if recipe.teacher is None else ()
        settings = [text for text in (*self.assignments, *entry.settings) if not text.startswith(refused)]
        where = ["--protocol", self.protocol] if self.file is None else ["--suite", self.file]
        return where + [word for text in settings for word in ("--set", text)]


def _set_texts(overrides: Iterable[tuple[str, SourcedValue]]) -> tuple[str, ...]:
    return tuple(f"{path}={set_text(given.value)}" for path, given in overrides)


def check_override(given: SourcedValue) -> None:
    """Raise RecipeError for a key that neither a suite nor `--set` may set for students."""
    check_known(given)
    if given.path in ("model.name", "model.role", "data.name"):
        fail_at(given, "comes from the recipe id and cannot be set")
    if given.path == "seed":
        fail_at(given, "is given by --seed, or by the seeds of a suite")
    if given.path == "select":
        fail_at(given, "is a key of teachers; a student keeps its last epoch; for its teacher, set teacher.select")


def changes_results(path: str) -> bool:
    """Whether a key is in the hash of recipes; `teacher.model.name` is not itself, but stands for the keys of a file."""
    section, _, key = path.removeprefix("teacher.").rpartition(".")
    hashed = section not in SECTIONS or SECTIONS[section].__dataclass_fields__[key].metadata.get("hashed", True)
    return hashed or path == "teacher.model.name"


def read_suite(name: str, content: Mapping[str, Any], where: str) -> Suite:
    """A suite from the content of its file. Whether the names in it exist is left to the registry.

    Args:
        where: the file, for errors.

    Raises:
        RecipeError: a key is unknown, missing or of a wrong type, or the name is reserved.
    """
    if name in RESERVED:
        raise RecipeError(f"{where}: suite {name}: the results folder has a file or folder of this name: rename the suite")
    for entry in content:
        if entry not in KEYS:
            allowed = f"{', '.join(KEYS)}{nearest(entry, KEYS)}"
            raise RecipeError(f"{where}: {short_repr(entry)} is not a key; allowed: {allowed}")
    lists = {}
    for entry, kind in (("models", str), ("datasets", str), ("seeds", int)):
        value = content.get(entry)
        if not isinstance(value, list) or not value or any(type(v) is not kind for v in value):
            allowed = "whole numbers" if kind is int else "names"
            raise RecipeError(f"{where}: {entry}: got {short_repr(value)}, allowed is a list of {allowed}")
        lists[entry] = tuple(_without_repeats(value, f"{where}: {entry}"))
    if not all(0 <= seed < 2**63 for seed in lists["seeds"]):
        raise RecipeError(f"{where}: seeds: got {short_repr(content['seeds'])}, allowed are numbers from 0 to 2**63 - 1")
    if not isinstance(protocol := content.get("protocol"), str):
        raise RecipeError(f"{where}: protocol: got {short_repr(protocol)}, allowed is a name")
    rows = _read_rows(content.get("guidance"), where)
    labels = [row.label for row in rows]
    if (reference := content.get("reference", BASELINE)) not in labels and "reference" in content:
        allowed = f"one of the suite's guidance: {', '.join(labels)}"
        raise RecipeError(f"{where}: reference: got {short_repr(reference)}, allowed is {allowed}")
    overrides = flatten(content.get("set", {}), where, LAYER_SECTIONS["suites"])
    for given in overrides.values():
        check_override(given)
    vary = _read_vary(content.get("vary", {}), where, overrides)
    own = {"rows": rows, "overrides": tuple(overrides.items()), "vary": vary, "reference": reference}
    suite = Suite(name, protocol, **lists, **own, file=name, content=content)
    for path in {path for row in rows for path, _ in row.overrides} & {*overrides, *suite.varied}:
        raise RecipeError(f"{where}: {path}: a row of guidance has a value of its own, so it cannot be in set or vary")
    return suite


def _read_rows(content: object, where: str) -> tuple[SuiteMethod, ...]:
    """The rows of a suite: names, and names with keys of their own, as `kd: {guidance.params.alpha: 0.5}`.

    A list of values, as in `vary`, makes a row for each.
    """
    place, rows = f"{where}: guidance", []
    if not isinstance(content, list) or not content:
        raise RecipeError(f"{place}: got {short_repr(content)}, allowed is a list of names")
    for item in content:
        if isinstance(item, str):
            rows.append(SuiteMethod(item))
            continue
        ((name, keys),) = item.items() if isinstance(item, Mapping) and len(item) == 1 else ((None, None),)
        if not isinstance(name, str) or not isinstance(keys, Mapping) or not keys:
            form = "a name, or a name with keys: kd: {guidance.params.alpha: 0.5}"
            raise RecipeError(f"{place}: got {short_repr(item)}, allowed is {form}")
        lists = []  # of each key: (key, value) pairs
        for path, values in keys.items():
            given = SourcedValue(values, f"{place}: {name}", path)
            if not isinstance(path, str) or not path.startswith(GUIDED_ONLY) or isinstance(values, Mapping):
                allowed = f"a whole key under {' or '.join(GUIDED_ONLY)}"
                raise RecipeError(f"{given.where}: {short_repr(path)} is not {allowed}")
            _check_own_value(given)
            if path == "guidance.method":
                fail_at(given, "makes it another method: write a row of that method")
            values = values if isinstance(values, list) else [values]
            if not values:
                fail_at(given, "got an empty list, allowed is a value, or a list of values with a row for each")
            lists.append([(path, SourcedValue(value, given.where, path)) for value in values])
        rows += [SuiteMethod(name, overrides) for overrides in itertools.product(*lists)]
    labels = [row.label for row in rows]
    _without_repeats(labels, place)
    return tuple(rows)


def _read_vary(content: object, where: str, overrides: Mapping[str, SourcedValue]) -> tuple[tuple[Overrides, ...], ...]:
    """What varies, as `Suite.vary` has it, from keys with lists of values, or a list of variants with several keys."""
    place, own = f"{where}: vary", "write it whole, as data.train_limit"
    if isinstance(content, Mapping):
        lists = []
        for path, values in content.items():
            if isinstance(values, Mapping):
                raise RecipeError(f"{place}: {short_repr(path)} is not a key: {own}: [500, 1000]")
            if not isinstance(values, list) or not values:
                raise RecipeError(f"{place}: {path}: got {short_repr(values)}, allowed is a list of values")
            lists.append([{path: value} for value in values])
    elif isinstance(content, list) and content and all(isinstance(variant, Mapping) and variant for variant in content):
        lists = [content]
    else:
        allowed = "keys with lists of values, or a list of variants: [{data.train_limit: 500, train.epochs: 80}]"
        raise RecipeError(f"{place}: got {short_repr(content)}, allowed are {allowed}")
    out = []
    for variants in lists:
        paths = list(variants[0])  # the first one names the variants
        for variant in variants:
            if set(variant) != set(paths):
                raise RecipeError(f"{place}: got {short_repr(variant)}, allowed are the same keys in every variant")
        _without_repeats([variant[paths[0]] for variant in variants], f"{place}: {paths[0]}")
        for path in paths:
            if not isinstance(path, str) or isinstance(variants[0][path], Mapping):
                raise RecipeError(f"{place}: {short_repr(path)} is not a key: {own}")
            _check_own_value(SourcedValue(variants[0][path], place, path))
            if path in overrides:
                raise RecipeError(f"{place}: {path}: is in set too: remove it there")
            if not changes_results(path):
                raise RecipeError(f"{place}: {path}: changes no result, so all its values would be one run")
        out.append(tuple(tuple((path, SourcedValue(variant[path], place, path)) for path in paths) for variant in variants))
    return tuple(out)


def _check_own_value(given: SourcedValue) -> None:
    """Raise RecipeError for a key that may not differ between the runs of a suite."""
    check_override(given)
    if given.path in ("teacher.weights", "teacher.sha256"):
        fail_at(given, "must be in set, since one file is the teacher of all runs")


def _without_repeats(values: list[Any], place: str) -> list[Any]:
    """The values of a list. Raises RecipeError if one occurs twice."""
    if any(value in values[:i] for i, value in enumerate(values)):
        raise RecipeError(f"{place}: got {short_repr(values)}, in which one occurs twice")
    return values
