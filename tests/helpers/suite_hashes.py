"""Write the hashes of the shipped suites' recipes, which tests/config/test_hash.py pins.

    python -m tests.helpers.suite_hashes

A changed hash makes every published record of a suite stale. Change the file only together with them, and with a higher
SCHEMA in bench/config/schema.py.
"""

from __future__ import annotations

import json
from pathlib import Path

from bench.config.registry import Registry

PINNED = Path(__file__).parents[1] / "config" / "suite_hashes.json"


def suite_hashes() -> dict[str, dict[str, str]]:
    """{suite: {recipe id, and settings of its row: hash}}."""
    registry = Registry()
    suites = [registry.suite(name) for name in registry.names("suites")]
    return {
        suite.name: {" ".join([entry.id, *entry.settings]): recipe.hash for entry, recipe in registry.suite_recipes(suite)}
        for suite in suites
    }


if __name__ == "__main__":
    suites = [f"{json.dumps(name)}: {json.dumps(hashes)}" for name, hashes in suite_hashes().items()]
    PINNED.write_text("{\n" + ",\n".join(suites) + "\n}\n")  # a line per suite
