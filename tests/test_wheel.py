"""The wheel has everything that an installed suite needs: recipes, templates, scripts, published numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile

import pytest

from bench import __version__
from bench.config.registry import Registry
from tests.helpers.process import ROOT
from tests.helpers.synthetic import runs_of_suite, write_runs

registry = Registry()
DIGITS_RUN = ["--recipe", "deit_micro/digits/baseline", "--protocol", "quick", "--set", "train.epochs=1"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the unpacked wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob(f"locality_bench-{__version__}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def python(installed, tmp_path, monkeypatch):
    """Runs Python with the unpacked wheel in an empty folder. Returns its output."""
    (tmp_path / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def call(*words):
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, cwd=tmp_path / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return call


def test_it_lists_all_recipes(python, installed):
    assert python("-c", "import bench; print(bench.__file__)").strip() == str(installed / "bench" / "__init__.py")
    assert python("-m", "bench", "list").split() == registry.ids()


def test_it_draws_tables_figures_and_page(python, tmp_path):
    write_runs(runs_of_suite(registry, registry.suite("quick"), 6), tmp_path / "results", "quick")
    python("-m", "bench", "publish", "--results-dir", tmp_path / "results")
    python("-m", "bench", "report", "--results-dir", tmp_path / "results", "--check")
    page = (tmp_path / "results" / "index.html").read_text()
    assert "uPlot" in page and "deit_micro" in page and list((tmp_path / "results" / "quick").rglob("*.pdf"))


def test_it_trains_on_the_packaged_digits(python, installed, tmp_path):
    python(installed / "bench" / "run.py", *DIGITS_RUN, "--set", "data.train_limit=64", "--results-dir", tmp_path / "r")
    assert len(list((tmp_path / "r").rglob("record.json"))) == 1
