"""Damaged records and histories: every command that reads them answers with a sentence."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bench.report.records import records_path
from bench.runs.folder import runs_dir
from tests.helpers.commands import assert_sentence, call
from tests.helpers.process import command

TINY_SUITE = """\
protocol: quick
models: [deit_micro]
datasets: [digits]
guidance: [baseline]
seeds: [0]
set: {train: {epochs: 2}, data: {train_limit: 96}}
"""
ODD_JSON = ["null", "1e999", "-1e999", "NaN", "1" + "0" * 400, '""', "[]", "{}", "[[]]", "-1", "true", '"\\ud800"', "0.5"]
ODD_JSON += ["[" * 3000, '"../../x"', "9" * 5000, "[null]", "[NaN]", '{"a": 1}', "[1e999]", '"x"', "1", "2", '"best"']
ODD_CSV = ["", ",", "\n", '"', "nan", "inf", "1e999", "\0", "x", "-", "9" * 400, "é", "\r", "0"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The results of one small run and its report, and a suite `tiny` in recipes/."""
    results = tmp_path_factory.mktemp("finished") / "results"
    (results / "recipes" / "suites").mkdir(parents=True)
    (results / "recipes" / "suites" / "tiny.yaml").write_text(TINY_SUITE)
    own = ["--results-dir", results, "--recipes-dir", results / "recipes"]
    command("bench/run.py", "--recipe", "deit_micro/digits/baseline", "--suite", "tiny", *own, check=True)
    command("-m", "bench", "report", "tiny", *own, check=True)
    shutil.copytree(results / "local" / "tiny", results / "tiny")
    return results


@pytest.fixture
def results(finished, tmp_path, monkeypatch):
    """Makes copies of these results, and figures that take no time."""
    monkeypatch.setattr("bench.report.output.write_figures", lambda *_, **__: [])
    monkeypatch.setattr("bench.report.committed.check_figures", lambda *_, **__: [])

    def copy():
        shutil.rmtree(tmp_path / "results", ignore_errors=True)
        return shutil.copytree(finished, tmp_path / "results")

    return copy


def options(results):
    return ["--results-dir", results, "--recipes-dir", results / "recipes"]


@st.composite
def damaged_json(draw, text):
    """JSON with one value replaced, a key missing, or the text cut or changed."""
    how = draw(st.integers(0, 4))
    if how == 0:
        return text[: draw(st.integers(0, len(text)))]
    if how == 1:
        place = draw(st.integers(0, len(text)))
        return text[:place] + draw(st.characters()) + text[place + 1 :]
    inside = content = json.loads(text)
    name = draw(st.sampled_from(sorted(inside)))
    while isinstance(inside[name], dict) and inside[name] and draw(st.integers(0, 2)):
        inside = inside[name]
        name = draw(st.sampled_from(sorted(inside)))
    if how == 2:
        del inside[name]
        return json.dumps(content)
    inside[name] = "@@"
    return json.dumps(content).replace('"@@"', draw(st.sampled_from(ODD_JSON)))


CHECKS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@CHECKS
@given(data=st.data())
def test_a_damaged_record_gives_a_sentence(data, results, capsys):
    results = results()
    shutil.rmtree(results / "local" / "tiny")
    (path,) = runs_dir(results).rglob("record.json")
    path.write_text(data.draw(damaged_json(path.read_text())), encoding="utf-8", errors="surrogatepass")
    for program, *words in (
        ("bench", "report", "tiny", *options(results)),
        ("bench", "verify", path.parent),
        ("bench", "export", path.parent, f"--to={results / 'shared'}"),
        ("bench", "sweep", "tiny", "--dry-run", *options(results)),
        ("run.py", "--recipe=deit_micro/digits/baseline", "--suite=tiny", *options(results), "--num-processes=7"),
    ):
        code, _, errors = call(capsys, program, *words)
        assert code in (0, 1, 2) and "Traceback" not in errors
        if code == 2:
            assert_sentence(errors, "record", "--num-processes", "suite tiny", str(results))
        assert code != 1 or words[0] == "verify"  # other accuracies than those of the weights are damage, too


@CHECKS
@given(data=st.data())
def test_a_damaged_file_of_published_records_gives_a_sentence(data, results, capsys):
    results = results()
    shutil.rmtree(runs_dir(results))
    path = records_path(results, "tiny")
    text = data.draw(damaged_json(path.read_text().rstrip("\n")))
    path.write_text(text + data.draw(st.sampled_from(["", "\n", "\n\n", "\nx"])), encoding="utf-8", errors="surrogatepass")
    (results / "other" / "tiny").mkdir(parents=True)
    other = shutil.copy(path, results / "other" / "tiny")
    for words in (["publish"], ["report", "--check"], ["merge", other], ["plan", "tiny"]):
        code, _, errors = call(capsys, "bench", *words, *options(results))
        assert code in ((0, 1, 2) if "--check" in words else (0, 2)) and "Traceback" not in errors
        if code == 2:
            assert_sentence(errors, "record", str(results))


@CHECKS
@given(data=st.data())
def test_a_damaged_history_gives_a_sentence(data, results, capsys):
    results = results()
    shutil.rmtree(results / "local" / "tiny")
    (path,) = runs_dir(results).rglob("history.csv")
    whole = path.read_text()
    place, removed = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, 30))
    path.write_text(whole[:place] + data.draw(st.sampled_from(ODD_CSV)) + whole[place + removed :])
    code, _, errors = call(capsys, "bench", "report", "tiny", *options(results))
    assert code in (0, 2)
    if code == 2:
        assert_sentence(errors, "record", str(results))
