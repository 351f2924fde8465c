"""What the documentation shows is what the suite accepts."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest

from bench import models
from bench.config.registry import Registry
from bench.config.schema import SECTIONS
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
