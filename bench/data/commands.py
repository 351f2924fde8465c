"""The verb `data`: list datasets, prepare one, check one."""

from __future__ import annotations

import argparse
import sys

from bench.cli import DONE, PROBLEMS, add_recipes_dir
from bench.config.registry import Registry
from bench.data import inventory

ACTIONS = {
    "list": "every dataset: its size, licence and source, and whether it is here",
    "prepare": "fetch a dataset if it is not here, and decode it",
    "check": "read every image of a dataset that is here, count them, name those that cannot be read",
}


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """The actions of `data` and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    for action, text in ACTIONS.items():
        options = actions.add_parser(action, help=text, description=text)
        if action != "list":
            options.add_argument("dataset", metavar="ID", help="as cifar100, folder:photos, hub:owner/name")
            options.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="as data.subset=20; may repeat"
            )
        options.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
        add_recipes_dir(options)


def run_data(arguments: argparse.Namespace) -> int:
    """List, prepare or check datasets. Exit code 1 if a check finds problems, which are printed on stderr."""
    registry = Registry(*arguments.recipes_dir)
    problems = []
    if arguments.action == "list":
        lines = [inventory.table(map(registry.dataset, registry.names("datasets")), arguments.data_dir)]
    elif arguments.action == "prepare":
        lines = inventory.prepare(registry.dataset(arguments.dataset, arguments.set), arguments.data_dir)
    else:
        lines, problems = inventory.check(registry.dataset(arguments.dataset, arguments.set), arguments.data_dir)
    for line in lines:
        print(line)
    for problem in problems:
        print(problem, file=sys.stderr)
    return PROBLEMS if problems else DONE
