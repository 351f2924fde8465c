from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from bench.__main__ import main
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.report import commands
from bench.report.commands import check_report, write_report
from bench.report.records import records_path, write_runs
from tests.helpers.synthetic import three_seeds

ROOT = Path(__file__).parents[2]
registry = Registry()
suite = registry.suite("quick")
TEXTS = ["quick/table.md", "quick/table.csv", "quick/table.tex", "quick/table.json", "index.html", "README.md"]


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    write_runs(three_seeds(), folder, "quick")
    return folder


def test_check_accepts_what_was_written_and_names_what_was_changed(results, capsys):
    (results.parent / "README.md").write_text("<!-- table of quick: python -m bench report --><!-- end of tables -->")
    write_report(registry, [suite], results)
    assert check_report(registry, [suite], results) == []
    assert "92.00 ± 2.00" in (results.parent / "README.md").read_text()
    for name in [*TEXTS, "../README.md"]:
        content = (results / name).read_bytes()
        (results / name).write_bytes(
            content.replace(b"<!-- end of", b"93.00 <!-- end of") if b"<!-- end of" in content else b""
        )
        (problem,) = check_report(registry, [suite], results)
        assert Path(name).name in problem and "differs from what the records give" in problem
        (results / name).write_bytes(content)
    figure = next((results / "quick").rglob("*.png"))
    figure.write_bytes(b"")
    assert main(["report", "--check", "--results-dir", str(results)]) == 1
    assert figure.name in capsys.readouterr().err


def test_changed_records_make_every_file_differ(results):
    write_report(registry, [suite], results)
    path = records_path(results, "quick")
    text = (
        path.read_text().replace('"last_accuracy": 90.0', '"last_accuracy": 91.0').replace("[91.0, 90.0]", "[91.0, 91.0]")
    )
    path.write_text(text)
    problems = "\n".join(check_report(registry, [suite], results))
    for name in [*TEXTS, ".png", ".svg"]:
        assert name in problems
    path.write_text(text.replace('"last_accuracy": 91.0', '"last_accuracy": 92.0'))
    (problem,) = check_report(registry, [suite], results)
    assert "is not that of its history" in problem
    path.unlink()
    assert "missing or empty" in check_report(registry, [suite], results)[0]


def test_other_versions_of_libraries_are_named(results, capsys, monkeypatch, tmp_path):
    write_report(registry, [suite], results)
    (tmp_path / "constraints.txt").write_text("Jinja2==0.1\npandas==0.2\n")
    monkeypatch.setattr(commands, "CONSTRAINTS", tmp_path / "constraints.txt")
    assert check_report(registry, [suite], results) == [] and capsys.readouterr().out == ""
    (results / "quick" / "table.md").write_text("formatted in another way")
    assert check_report(registry, [suite], results) == []
    words = capsys.readouterr().out
    assert "table.md: not compared" in words and "tested with 0.1" in words and "tested with 0.2" in words


def test_the_files_for_programs_hold_the_same_numbers(results):
    write_report(registry, [suite], results)
    content = json.loads((results / "quick" / "table.json").read_text())
    guided = content["cells"][1]
    assert (guided["last_mean"], guided["gain_mean"], guided["verdict"]) == (92.0, 10.0, "better")
    assert [pair["gain"] for pair in content["pairs"]] == [0.0, 0.0, 0.0, 10.0, 12.0, 8.0]
    cells = pd.read_csv(results / "quick" / "table.csv")
    assert cells["gain_mean"].tolist()[1:] == [10.0] and cells["method"].tolist() == ["baseline", "guided"]


def test_the_command_prints_the_headline_and_needs_no_torch(results):
    options = ["report", "--suite", "quick", "--results-dir", str(results)]
    command = [sys.executable, "-X", "importtime", "-m", "bench", *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and "92.00 ± 2.00" in done.stdout and " torch" not in done.stderr


def test_options_that_cannot_be(results, capsys):
    for options, words in (
        (["--figure-width", "0"], "--figure-width: got 0"),
        (["--suite", "none"], "unknown suite"),
        (["--suite", "paper"], "no run below"),
        (["--results-dir", str(results / "quick")], "no suite has records"),
    ):
        assert main(["report", "--results-dir", str(results), *options]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(RecipeError, match=r"run_all.sh quick"):
        write_report(registry, [suite], results / "empty")
