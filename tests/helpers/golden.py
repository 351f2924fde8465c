"""Golden values of every component, compared with the stored ones and pinned to the components' numerics versions.

    python -m tests.helpers.golden        # writes tests/train/golden.json anew

Values that changed are only written if the NUMERICS of their component was raised.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from bench.config.numerics import PACKAGE, component_file
from tests.helpers.golden_values import Golden, Value, compute, versions

GOLDEN = Path(__file__).parents[1] / "train" / "golden.json"
TOLERANCE = 1e-6  # relative; plain and vector kernels differ by 2.5e-7 in losses: initial weights are fp32
OUTPUT_TOLERANCE = 1e-5  # of the outputs of untrained networks, in which they differ by 6e-7


def unchanged(stored: Golden, now: Golden) -> bool:
    """Whether a golden value is as it was stored."""
    is_output = len(now.components) == 1 and now.components[0].startswith("models.")
    return same(stored.value, now.value, OUTPUT_TOLERANCE if is_output else TOLERANCE)


def same(stored: Value, now: Value, tolerance: float = TOLERANCE) -> bool:
    """Whether two values are equal within the tolerance of their kind."""
    if isinstance(stored, dict):
        return isinstance(now, dict) and all(name in now and now[name] == value for name, value in stored.items())
    if not isinstance(stored, list) or not isinstance(now, list) or len(stored) != len(now):
        return stored == now
    whole = all(type(value) is int for value in stored)
    pairs = zip(stored, now, strict=True)
    return all(abs(a - b) <= 1 if whole else abs(a - b) <= tolerance * max(abs(a), abs(b)) for a, b in pairs)


def changes(
    stored: Mapping[str, Golden], now: Mapping[str, Golden], raised: set[str] = frozenset()
) -> dict[str, list[str]]:
    """{component: names of its values} of what has changed without a reason.

    Components are known by the values that are theirs alone. If only losses have changed, it is how networks train: one
    family is to blame if all its losses have changed and no others, else what all runs share, `train`.

    Args:
        raised: components with a new version, whose values may change.
    """
    changed = [n for n, golden in now.items() if n in stored and not unchanged(stored[n], golden)]
    changed = [name for name in changed if not raised & set(now[name].components)]
    out: dict[str, list[str]] = {}
    for name in changed:
        if len(now[name].components) == 1:
            out.setdefault(now[name].components[0], []).append(name)
    losses = {name: set(golden.components) for name, golden in now.items() if len(golden.components) > 1}
    unexplained = [name for name in changed if name in losses and not out.keys() & losses[name]]
    same_in = set().union(*(parts for name, parts in losses.items() if name not in changed))
    families = {part for name in unexplained for part in losses[name] - same_in if part.startswith("models.")}
    if unexplained:
        out.setdefault(families.pop() if len(families) == 1 else "train", []).extend(unexplained)
    return out


def problems(stored: Mapping[str, Golden], now: Mapping[str, Golden], raised: set[str] = frozenset()) -> list[str]:
    """A sentence for each component whose values have changed and whose version has not."""
    return [
        f"{component}: results have changed ({', '.join(names[:4])}{', …' if len(names) > 4 else ''}). If that is meant,"
        f" raise NUMERICS in {component_file(component).relative_to(PACKAGE.parent)}; then `python -m tests.helpers.golden`"
        " writes the golden values anew. Refactoring must not change them; another version of torch or timm may."
        for component, names in changes(stored, now, raised).items()
    ]


def read(path: Path = GOLDEN) -> tuple[dict[str, object], dict[str, Golden]]:
    """The stored versions and values."""
    content = json.loads(path.read_text())
    return content["versions"], {name: Golden(**golden) for name, golden in content["values"].items()}


def write(now: Mapping[str, Golden], present: Mapping[str, object], path: Path = GOLDEN) -> list[str]:
    """Write values and versions; if values have changed without a version, write nothing and return the `problems`."""
    if path.exists():
        before, stored = read(path)
        raised = {name for name, version in present.items() if before.get(name) != version}
        if found := problems(stored, now, raised):
            return found
        # what has not changed keeps its last digits, which differ between processors
        kept = {name: golden for name, golden in stored.items() if name in now and unchanged(golden, now[name])}
        kept = {name: golden for name, golden in kept.items() if not isinstance(golden.value, dict)}  # may have new keys
        now = {
            name: dataclasses.replace(golden, value=kept[name].value) if name in kept else golden
            for name, golden in now.items()
        }
    values = (f"{json.dumps(name)}: {json.dumps(asdict(_rounded(golden)))}" for name, golden in now.items())
    path.write_text(f'{{"versions": {json.dumps(present)},\n"values": {{\n' + ",\n".join(values) + "\n}}\n")
    return []


def _rounded(golden: Golden) -> Golden:
    """With nine digits of each number."""
    if not isinstance(golden.value, list):
        return golden
    return Golden(golden.components, [value if type(value) is int else float(f"{value:.9g}") for value in golden.value])


if __name__ == "__main__":
    logging.getLogger("bench").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["LOCALITY_BENCH_CACHE"] = cache
        found = write(compute(), versions())
    print("\n".join(found) or f"{GOLDEN} is written", file=sys.stderr)
    sys.exit(bool(found))
