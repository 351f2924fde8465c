from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from mutated_recipes import RAW, one_sentence, trials

import bench.__main__ as bench_main
from bench import run as bench_run
from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.runs.folder import RunFolder
from bench.train.checkpoint import Checkpoints
from tests.helpers.process import TINY, command, refused

registry = Registry()
HOSTILE = [
    *(
        "..",
        ".",
        "",
        "/",
        "a/../..",
        "../../x",
        "..%2f..%2fx",
        "%2e%2e",
        "..\\..\\x",
        "C:\\x",
        "/etc/passwd",
        "~",
        "~root/x",
    ),
    *(
        "a\0b",
        "a\nb",
        "\ud800",
        "...",
        "..a",
        "a" * 97,
        "a" * 5000,
        "-rf",
        "$(touch ran)",
        "`touch ran`",
        ";touch ran",
        "*",
        "**",
    ),
    *(
        "CON",
        "é",
        "\u202e",
        "a b",
        "x:y",
        "timm:..",
        "timm:../x",
        "folder:..",
        "folder:../x",
        "hub:../x",
        "hub:a/..",
        "hub:a/../../x",
    ),
    *("folder:" + "a" * 96, "hub:" + "a." * 48 + "/" + "b." * 48, "timm:" + "a" * 96, "folder:a" + "." * 95),
]


def called(monkeypatch, capsys, main, *words):
    """A command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["program", *map(str, words)])
    capsys.readouterr()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = main()
    except SystemExit as ended:  # argparse's own
        code = ended.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return (code, *capsys.readouterr())


def answered(outcome, *names):
    """Exit code 0, or 2 and one sentence, or verify's 1."""
    code, _, said = outcome
    assert "Traceback" not in said
    if code == 1 and "the kept weights do not give what is recorded" in said:
        return  # another accuracy is damage too
    if code == 0:
        return
    assert code == 2, outcome
    assert said.startswith(("error: ", "usage: ")), said
    assert said.startswith("usage: ") or one_sentence(said.rstrip("\n"), *names) is None, said


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Everything that lies around a results folder, to see that nothing is added to it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()

    def outside():
        return sorted(str(p) for p in tmp_path.rglob("*") if p.relative_to(tmp_path).parts[0] not in ("results", "recipes"))

    before = outside()
    yield tmp_path
    assert outside() == before


def test_two_thousand_damaged_recipe_files(tmp_path):
    found = trials(2000, 0, 16, tmp_path, builds=100)
    assert not found.failures, "\n".join(found.failures)
    counts = found.counts
    assert counts["refused"] + counts["accepted"] == 2000 and counts["run"] == 16
    assert counts["accepted"] > 100 and counts["exit code 0"] > 5, counts  # else it would show nothing


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(HOSTILE), st.sampled_from(["quick", "paper"]) | st.text(max_size=10))
def test_any_id_gives_a_sentence_or_a_folder_of_its_own_below_runs(part, protocol):
    runs = Path("results", "runs").resolve()
    for text in (
        part,
        f"{part}/digits/guided",
        f"deit_micro/{part}/guided",
        f"deit_micro/digits/{part}",
        f"resnet8/{part}",
    ):
        try:
            recipe = registry.compose(text, protocol)
            path = RunFolder("results", recipe).path
        except RecipeError as error:
            assert one_sentence(str(error), "recipe", "protocol", "model", "dataset") is None, error
        else:
            parts = path.resolve().relative_to(runs).parts
            assert len(parts) in (3, 4) and not {"", ".", ".."} & set(parts)
            assert max(len(p.encode()) for p in parts) <= 240  # with what is put before and behind it, no more than 255


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30) | st.sampled_from(RAW), st.sampled_from(RAW) | st.text(max_size=30))
@example("{a: " * 500, "{a: " * 500)  # many words
def test_any_set_text_gives_a_recipe_or_a_sentence(path, value):
    for text in (
        path,
        f"{path}={value}",
        f"train.{path}={value}",
        f"train.epochs={value}",
        f"model.feature_layers={value}",
        f"data={value}",
    ):
        try:
            recipe = registry.compose("deit_micro/digits/guided", "quick", [text])
        except RecipeError as error:
            assert one_sentence(str(error), "--set") is None, error
        else:
            assert recipe_from_dict(json.loads(json.dumps(recipe.to_dict())), "it") == recipe


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30) | st.sampled_from(HOSTILE), st.integers())
def test_any_suite_protocol_and_seed(name, seed):
    for ask in (lambda: registry.suite(name), lambda: registry.compose("deit_micro/digits/guided", name)):
        with pytest.raises(RecipeError) as caught:
            ask()
        assert one_sentence(str(caught.value), "suite", "protocol") is None
    try:
        assert registry.compose("deit_micro/digits/guided", "quick", seed=seed).seed == seed
    except RecipeError as error:
        assert one_sentence(str(error), "--seed") is None and not 0 <= seed < 2**63


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_in_any_place_of_a_command_line(text, files, monkeypatch, capsys):
    words = ["--results-dir", "results"]
    wrong = [*words, "--num-processes=7"]  # so that what is accepted is not trained
    for main, arguments in (
        (bench_run.main, [f"--recipe={text}", *wrong]),
        (bench_run.main, [f"--recipe={text}/digits/guided", "--protocol=quick", *wrong]),
        (bench_run.main, [f"--recipe=deit_micro/{text}/guided", "--protocol=quick", *wrong]),
        (bench_run.main, ["--recipe=deit_micro/digits/guided", f"--protocol={text}", *wrong]),
        (bench_run.main, ["--recipe=deit_micro/digits/guided", f"--suite={text}", *wrong]),
        (bench_run.main, ["--recipe=deit_micro/digits/guided", f"--seed={text}", *wrong]),
        (bench_run.main, ["--recipe=deit_micro/digits/guided", f"--set={text}", *wrong]),
        (
            bench_run.main,
            ["--recipe=deit_micro/digits/guided", "--protocol=quick", f"--set=data.places=['{text}']", *wrong],
        ),
        (bench_run.main, ["--recipe=deit_micro/digits/guided", f"--recipes-dir={text}", *wrong]),
        (bench_main.main, ["show", f"deit_micro/{text}/guided"]),
        (bench_main.main, ["list", f"--suite={text}"]),
        (bench_main.main, ["report", f"--suite={text}", *words]),
        (bench_main.main, ["sweep", text, "--dry-run", *words]),
        (bench_main.main, ["data", "check", text]),
        (bench_main.main, ["verify", f"results/{text}"]),
    ):
        code, out, said = called(monkeypatch, capsys, main, *arguments)
        assert code == 2 or arguments[0] == "show", (arguments, code, out)
        answered((code, out, said), "recipe", "suite", "protocol", "--", "dataset", "results", "'")


def test_recipe_files_with_odd_names_lead_nowhere(files, monkeypatch, capsys):
    suite = "protocol: quick\nmodels: [deit_micro]\ndatasets: [digits]\nguidance: [baseline]\nseeds: [0]\n"
    for kind in ("suites", "models", "protocols"):
        (files / "recipes" / kind).mkdir(parents=True)
    for name in ("..", ".", "a b", "a\nb", "-x", "a" * 200, "é", "x\\y"):
        (files / "recipes" / "suites" / f"{name}.yaml").write_text(suite)
        (files / "recipes" / "models" / f"{name}.yaml").write_text("model: {builder: vit}\n")
        (files / "recipes" / "protocols" / f"{name}.yaml").write_text("train: {epochs: 1}\n")
    own = ["--recipes-dir", files / "recipes"]
    listed = called(monkeypatch, capsys, bench_main.main, "list", *own)[1].splitlines()
    assert listed == registry.ids()
    for name in ("..", ".", "a b", "a\nb", "-x", "a" * 200, "é", "x\\y"):
        for words in (["report", f"--suite={name}"], ["sweep", "--dry-run", *own, "--", name], ["list", f"--suite={name}"]):
            outcome = called(monkeypatch, capsys, bench_main.main, *words[:1], *([] if "--" in words else own), *words[1:])
            assert outcome[0] == 2, outcome
            answered(outcome, "suite")


def test_links_and_folders_under_a_recipes_name_are_named(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "folder.yaml").mkdir()
    (tmp_path / "models" / "nowhere.yaml").symlink_to(tmp_path / "not there")
    (tmp_path / "models" / "deit_micro.yaml").symlink_to("deit_micro.yaml")  # a shipped one must not take its place
    for name in ("folder", "nowhere", "deit_micro"):
        with pytest.raises(RecipeError, match=rf"models/{name}.yaml: (is no plain file|cannot be read)"):
            Registry(tmp_path).compose(f"{name}/digits/baseline", "quick")


TINY_SUITE = """\
protocol: quick
models: [deit_micro]
datasets: [digits]
guidance: [baseline]
seeds: [0]
set: {train: {epochs: 2}, data: {train_limit: 96}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The results of one small run and its report, and a suite `tiny` in recipes/."""
    results = tmp_path_factory.mktemp("finished")
    (results / "recipes" / "suites").mkdir(parents=True)
    (results / "recipes" / "suites" / "tiny.yaml").write_text(TINY_SUITE)
    own = ["--results-dir", results, "--recipes-dir", results / "recipes"]
    assert command("bench/run.py", "--recipe", "deit_micro/digits/baseline", "--suite", "tiny", *own).returncode == 0
    assert command("-m", "bench", "report", "--suite", "tiny", *own).returncode == 0
    return results


def copied(finished):
    """A copy of the results, the folder of its run, and the options that name them."""
    results = Path(tempfile.mkdtemp(dir=finished.parent))
    shutil.copytree(finished, results, dirs_exist_ok=True)
    own = ["--results-dir", results, "--recipes-dir", finished / "recipes"]
    return results, next(results.rglob("record.json")).parent, own


@st.composite
def damaged_json(draw, text):
    """JSON with one value replaced, a key gone, or the text cut or changed."""
    how = draw(st.integers(0, 4))
    if how == 0:
        return text[: draw(st.integers(0, len(text)))]
    if how == 1:
        place = draw(st.integers(0, len(text)))
        return text[:place] + draw(st.characters()) + text[place + 1 :]
    content = json.loads(text)
    inside, path = content, []
    while True:
        name = draw(st.sampled_from(sorted(inside)))
        path.append(name)
        if not isinstance(inside[name], dict) or not inside[name] or draw(st.integers(0, 2)) == 0:
            break
        inside = inside[name]
    if how == 2:
        del inside[name]
        return json.dumps(content)
    inside[name] = "@@"
    odd = [
        "null",
        "1e999",
        "-1e999",
        "NaN",
        "1" + "0" * 400,
        '""',
        "[]",
        "{}",
        "[[]]",
        "-1",
        "true",
        '"\\ud800"',
        "[" * 3000,
        "0.5",
    ]
    odd += ['"../../x"', "9" * 5000, "[null]", "[NaN]", '{"a": 1}', "[1e999]", '"x"', "1", "2", '"best"']
    return json.dumps(content).replace('"@@"', draw(st.sampled_from(odd)))


CHECKS = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@CHECKS
@given(data=st.data())
def test_a_damaged_record_gives_a_sentence(data, finished, monkeypatch, capsys):
    monkeypatch.setattr("bench.report.pictures.draw", lambda *_: None)  # seconds each
    results, run, own = copied(finished)
    shutil.rmtree(results / "tiny")
    path = run / "record.json"
    path.write_text(data.draw(damaged_json(path.read_text())), encoding="utf-8", errors="surrogatepass")
    for main, words in (
        (bench_main.main, ["report", "--suite=tiny", *own]),
        (bench_main.main, ["verify", run]),
        (bench_main.main, ["export", run, f"--to={results / 'shared'}"]),
        (bench_main.main, ["sweep", "tiny", "--dry-run", *own]),
        (
            bench_run.main,
            ["--recipe=deit_micro/digits/baseline", "--suite=tiny", *own, "--num-processes=7"],
        ),
    ):
        answered(called(monkeypatch, capsys, main, *words), "record", "--num-processes", "suite tiny", str(results))
    shutil.rmtree(results)


@CHECKS
@given(data=st.data())
def test_a_damaged_records_file_gives_a_sentence(data, finished, monkeypatch, capsys):
    monkeypatch.setattr("bench.report.pictures.draw", lambda *_: None)
    results, _, own = copied(finished)
    shutil.rmtree(results / "runs")
    path = results / "tiny" / "records.jsonl"
    text = data.draw(damaged_json(path.read_text().rstrip("\n")))
    path.write_text(text + data.draw(st.sampled_from(["", "\n", "\n\n", "\nx"])), encoding="utf-8", errors="surrogatepass")
    answered(called(monkeypatch, capsys, bench_main.main, "report", *own), "record", str(results))
    code, _, said = called(monkeypatch, capsys, bench_main.main, "report", "--check", *own)
    assert code in (0, 1, 2) and "Traceback" not in said
    shutil.rmtree(results)


@CHECKS
@given(data=st.data())
def test_a_damaged_history_or_status_gives_a_sentence(data, finished, monkeypatch, capsys):
    monkeypatch.setattr("bench.report.pictures.draw", lambda *_: None)
    results, run, own = copied(finished)
    shutil.rmtree(results / "tiny")
    path = run / "history.csv"
    whole = path.read_text()
    place = data.draw(st.integers(0, len(whole)))
    odd = ["", ",", "\n", '"', "nan", "inf", "1e999", "\0", "x", "-", "9" * 400, "é", "\r", "0"]
    inserted = data.draw(st.sampled_from(odd))
    path.write_text(whole[:place] + inserted + whole[place + data.draw(st.integers(0, 30)) :])
    recipe = registry.compose("deit_micro/digits/baseline", suite=Registry(finished / "recipes").suite("tiny"))
    answered(
        called(monkeypatch, capsys, bench_main.main, "report", "--suite=tiny", *own),
        str(results),
        "record",
    )
    (run / "status.json").write_bytes(
        data.draw(st.binary(max_size=20) | st.sampled_from([b"[" * 9999, b"1", b"[]", b"null", b"{}"]))
    )
    assert isinstance(RunFolder(results, recipe).status(), dict)
    shutil.rmtree(results)


def test_files_with_odd_names_among_the_checkpoints(tmp_path, capsys):
    checkpoints = Checkpoints(tmp_path, "a run", every=0)
    checkpoints.save(1, 0, {})
    for name in (
        "checkpoint-.pt",
        "checkpoint-x-y.pt",
        "checkpoint-999999-99999999.pt.tmp",
        "checkpoint-..pt",
        "checkpoint-é.pt",
    ):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "checkpoint-999999-99999999.pt").mkdir()
    (tmp_path / "checkpoint-999998-00000000.pt").symlink_to(tmp_path / "nowhere")
    (tmp_path / "checkpoint-999997-00000000.pt").write_bytes(b"x")
    assert checkpoints.newest()["epoch"] == 1
    said = capsys.readouterr().err
    assert (
        all(line.startswith("warning: ") for line in said.splitlines())
        and "checkpoint-999997-00000000.pt is damaged" in said
    )
    checkpoints.save(2, 0, {})
    assert checkpoints.newest()["epoch"] == 2
    checkpoints.clear()


def test_real_command_lines(tmp_path):
    run = ["bench/run.py", "--results-dir", tmp_path / "results", "--protocol", "quick"]
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bomb.yaml").write_text("model: {a: &a [x, x], b: [*a, *a]}\n")
    (tmp_path / "models" / "code.yaml").write_text("model: !!python/object/apply:os.system ['touch ran']\n")
    for name, words in (
        ("bomb", ["models/bomb.yaml", "refers to another place"]),
        ("code", ["models/code.yaml", "os.system"]),
    ):
        refused(command(*run, "--recipe", f"{name}/digits/baseline", "--recipes-dir", tmp_path), *words)
    refused(
        command(*run, "--recipe", "deit_micro/digits/baseline", "--set", "model.width=8192", "--set=model.depth=99"),
        "weights",
    )
    decay = "train.weight_decay=1001"
    refused(command(*run, "--recipe", "deit_micro/digits/baseline", *TINY[:4], "--set", decay), decay[:18], "0 to 1000")
    assert not (tmp_path / "results").exists() and not Path("ran").exists()
