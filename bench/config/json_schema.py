"""A JSON Schema of recipe files, with which editors complete and check them."""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any, Literal

from bench.config.methods import method_names, params_class, plugin_params
from bench.config.params import ModelParams, Params
from bench.config.parse import field_types, inner_type
from bench.config.plugins import NO_PLUGINS, PluginFiles, read_plugin
from bench.config.schema import SECTIONS, Recipe, Schedule, TeacherPass
from bench.config.suite import GUIDED_ONLY

JSON_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


def recipe_files_schema(plugins: PluginFiles = NO_PLUGINS) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of all kinds of recipe files: models, datasets, guidance, protocols, suites.

    Args:
        plugins: the user's own methods and builders, whose parameters are keys too.
    """
    own = {key: plugin_params(read_plugin(*key, path)) for key, path in plugins.items()}
    methods = {name: params_class(name) for name in method_names()}
    methods |= {name: cls for (kind, name), cls in own.items() if kind == "guidance"}
    defs = {name: _closed(_properties(cls)) for name, cls in SECTIONS.items()}
    defs["model"]["properties"]["params"] = _merged([cls for (kind, _), cls in own.items() if kind == "models"])
    sections = {name: {"$ref": f"#/$defs/{name}"} for name in SECTIONS}
    of_teacher = {**_properties(TeacherPass), **_properties(Recipe, ("seed", "select", "weights", "sha256"))}
    settings = {**sections, "guidance": _guidance(methods), "teacher": _closed({**sections, **of_teacher})}
    names = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
    seeds = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True}
    values = {"type": "array", "minItems": 1, "uniqueItems": True}
    suite = {"protocol": {"type": "string"}, "models": names, "datasets": names, "seeds": seeds, "set": _closed(settings)}
    paths = _paths(settings, defs)
    varied = {"type": "object", "propertyNames": {"enum": paths}, "additionalProperties": values}
    variant = {"type": "object", "propertyNames": {"$ref": "#/properties/vary/anyOf/0/propertyNames"}, "minProperties": 1}
    suite["vary"] = {"anyOf": [varied, {"type": "array", "items": variant, "minItems": 1, "uniqueItems": True}]}
    suite["reference"] = {"type": "string"}
    keys = [path for path in paths if path.startswith(GUIDED_ONLY)]
    row_keys = {"type": "object", "propertyNames": {"enum": keys}, "minProperties": 1}
    with_keys = {"type": "object", "additionalProperties": row_keys, "minProperties": 1, "maxProperties": 1}
    rows = {**names, "items": {"anyOf": [names["items"], with_keys]}}
    # `guidance` is a list of methods in a suite and a section elsewhere
    either = {**settings, **suite, "guidance": {"anyOf": [rows, settings["guidance"]]}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Recipe file of the locality-guidance benchmark",
        "$defs": defs,
        **_closed(either),
    }


def _paths(sections: dict[str, Any], defs: Mapping[str, Any], prefix: str = "") -> list[str]:
    """The keys in sections as whole paths, "train.epochs" for example. defs: what their references mean."""
    out = []
    for name, content in sections.items():
        inner = (defs[name] if "$ref" in content else content).get("properties")
        out += [prefix + name] if inner is None else _paths(inner, defs, f"{prefix}{name}.")
    return out


def _guidance(methods: Mapping[str, type[Params]]) -> dict[str, Any]:
    method = {"type": "string", "description": f"none, {', '.join(methods)}, or several joined by +"}
    params = _merged(methods.values())
    params["patternProperties"] = {f"^({'|'.join(methods)})_": {}}  # METHOD_NAME, of joined methods: `param_keys`
    return _closed({"method": method, "params": params, "schedule": _closed(_properties(Schedule))})


def _merged(classes: Iterable[type[Params]]) -> dict[str, Any]:
    """The schema of the parameters of several methods or builders."""
    params: dict[str, list[dict[str, Any]]] = {}
    for cls in classes:
        for name, spec in _properties(cls).items():
            params.setdefault(name, []).append(spec)
    return _closed({name: specs[0] if len(specs) == 1 else {"anyOf": specs} for name, specs in params.items()})


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _properties(cls: type, only: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The schemas of a section's keys, or of some of them, without `model.params`."""
    hints, out = field_types(cls), {}
    for f in fields(cls):
        if hints[f.name] is not ModelParams and (only is None or f.name in only):
            default = None if f.default is MISSING else f.default
            out[f.name] = _value(hints[f.name], f.metadata.get("low"), f.metadata.get("high"), default)
    return out


def _value(hint: Any, low: float | None, high: float | None, default: Any = None) -> dict[str, Any]:
    """The schema of a key's value: its type, range and default."""
    out: dict[str, Any] = {} if default is None else {"default": list(default) if isinstance(default, tuple) else default}
    if (optional := inner_type(hint)) is not None:
        return out | {"anyOf": [_value(optional, low, high), {"type": "null"}]}
    if typing.get_origin(hint) is Literal:
        return out | {"enum": list(typing.get_args(hint))}
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        items = {"type": "array", "items": _value(inner[0], low, high)}
        length = {} if Ellipsis in inner else {"minItems": len(inner), "maxItems": len(inner)}
        return out | items | length
    bounds = {"minimum": low, "maximum": high}
    return out | {"type": JSON_TYPES[hint], **{name: value for name, value in bounds.items() if value is not None}}
