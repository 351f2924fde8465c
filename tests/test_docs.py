"""What the documentation shows is what the suite accepts."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import textwrap
from dataclasses import fields

import pytest

import bench
from bench import models
from bench.__main__ import VERBS
from bench.cli import compose, selected_suites
from bench.config.registry import Registry
from bench.config.schema import SECTIONS
from bench.report.stats import paired_interval
from bench.run import parser as run_parser
from tests.helpers.own import write_own
from tests.helpers.process import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
RECIPES = (ROOT / "docs" / "recipes.md").read_text()


def test_the_recipe_files_in_the_docs_compose(tmp_path):
    block = next(text for text in RECIPES.split("```yaml\n") if text.startswith("# DIR/")).split("```")[0]
    for text in block.split("# DIR/")[1:]:
        path = tmp_path / text.split()[0]
        path.parent.mkdir(exist_ok=True)
        path.write_text("# " + text)
    own = Registry(tmp_path)
    recipes = [own.compose(recipe_id, suite=own.suite("mine")) for recipe_id in own.suite("mine").ids]
    assert [r.id for r in recipes] == ["deit_wide/birds/baseline", "deit_wide/birds/gentle"]
    assert recipes[1].guidance.params[0].weight == 1 and recipes[1].teacher.train.batch_size == 32
    assert len(models.create(recipes[1].model, 5, 0).shapes) == 3


def documented_commands() -> list[list[str]]:
    """The words of each command in a block of bash, from bench/run.py or the verb on, but for those with placeholders."""
    out = []
    for page in PAGES:
        for block in re.findall(r"^ *```bash\n(.*?)^ *```", page.read_text(), re.M | re.S):
            for line in block.replace("\\\n", " ").splitlines():
                found = re.search(r"(?:bench/run\.py|-m bench) [^|]*", line.partition(" #")[0])
                if found and not re.search(r"[…$;&<>`]", found[0]):
                    words = subprocess.run(["bash", "-fc", f"printf '%s\\0' {found[0]}"], capture_output=True, text=True)
                    out.append(words.stdout.rstrip("\0").removeprefix("-m\0bench\0").split("\0"))
    return out


@pytest.fixture(scope="module")
def folder_of_the_docs(tmp_path_factory):
    """A folder for `--recipes-dir` with the files that the pages show."""
    own = write_own(tmp_path_factory.mktemp("own"))
    pets = re.search(r"mine/suites/pets\.yaml.*?```yaml\n(.*?)```", (ROOT / "docs" / "data.md").read_text(), re.S)
    (own / "suites").mkdir()
    (own / "suites" / "pets.yaml").write_text(textwrap.dedent(pets[1]))
    return own


@pytest.mark.parametrize("words", documented_commands(), ids=shlex.join)
def test_the_commands_in_the_docs_are_accepted_and_their_recipes_compose(words, folder_of_the_docs):
    first, *rest = words
    for place in (i + 1 for i, word in enumerate(rest) if word == "--recipes-dir"):
        rest[place] = str(folder_of_the_docs)
    if first == "bench/run.py":
        assert compose(run_parser().parse_args([*rest, "--recipes-dir", str(folder_of_the_docs)])).id in rest
        return
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.set_defaults(verb=first)
    getattr(importlib.import_module(VERBS[first][0]), f"add_{first}_options")(parser)
    arguments = parser.parse_args(rest)
    if first in ("plan", "sweep", "compare", "doctor"):
        registry = Registry(*arguments.recipes_dir)
        assert all(registry.suite_recipes(suite) for suite in selected_suites(arguments, registry))
    elif first in ("show", "speed"):
        arguments.recipes_dir = [str(folder_of_the_docs)]
        assert compose(arguments).id in rest


def test_the_pages_have_commands():
    assert len(documented_commands()) > 50


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_is_documented_with_its_default(section):
    text = "\n".join(page.read_text() for page in PAGES)
    table = text.split(f"### `{section}`")[1].split("\n## ")[0].split("\n### ")[0]
    rows = dict(re.findall(r"^\| `(\w+)`(?: °)? \| (.*?) \|", table, re.M))
    documented = {f.name for f in fields(SECTIONS[section])} - {"name"}
    assert set(rows) >= documented, documented - set(rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_lead_somewhere(page):
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        assert link.startswith(("http://", "https://")) or (page.parent / link).exists(), link


def test_the_tests_that_the_docs_name_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    named = set(re.findall(r"tests/[\w/]+\.(?:py|sh)", text))
    named |= {f"{name.replace('.', '/')}.py" for name in re.findall(r"-m (tests\.[\w.]+)", text)}
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_number_of_what_was_found_is_in_the_tables_that_its_section_links():
    sections = (ROOT / "docs" / "results.md").read_text().split("\n## ")[1:]
    with_tables = {section: re.findall(r"\]\(([^)\s]+/table\.md)\)", section) for section in sections}
    assert sum(map(bool, with_tables.values())) > 2
    for section, links in with_tables.items():
        tables = "\n".join((ROOT / "docs" / link).read_text() for link in links)
        numbers = set(re.findall(r"\d+\.\d+", section)) if links else set()
        assert not {number for number in numbers if not re.search(rf"(?<![\d.]){number}(?!\d)", tables)}, section[:60]


def test_the_comparison_of_methods_on_photographs_is_that_of_the_published_runs():
    runs = bench.results("methods-photos", results_dir=ROOT / "results", origin="published")
    accuracies = runs[runs["model"] == "pvt_v2_b0"].pivot_table(index="seed", columns="method", values="last_accuracy")
    section = (ROOT / "docs" / "guidance.md").read_text().split("## What methods-photos found")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\S+)` \| (\S+ \(.*?\)) \|", section, re.M))
    assert set(rows) == set(accuracies) - {"guided", "baseline"}
    for method, row in rows.items():
        differences = accuracies[method] - accuracies["guided"]
        low, high = paired_interval(differences)
        assert row == f"{differences.mean():+.2f} ({low:.2f} to {high:.2f})", method
