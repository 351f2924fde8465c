"""Write the hashes of the shipped suites' recipes, which tests/config/test_hash.py pins.

    python -m tests.helpers.suite_hashes

A changed hash makes every published record of a suite stale. Change the file only together with them, and with a higher
SCHEMA in bench/config/schema.py.
"""

from __future__ import annotations

from pathlib import Path

from bench.config.registry import Registry
from bench.storage import write_json

PINNED = Path(__file__).parents[1] / "config" / "suite_hashes.json"


def suite_hashes() -> dict[str, dict[str, str]]:
    """{suite: {recipe id: hash}}."""
    registry = Registry()
    suites = [registry.suite(name) for name in registry.names("suites")]
    return {suite.name: {id_: registry.compose(id_, suite=suite).hash for id_ in suite.ids} for suite in suites}


if __name__ == "__main__":
    write_json(PINNED, suite_hashes())
