"""The command line: exit codes and sentences, whatever the words of the user are."""

from __future__ import annotations

import json

import pytest

from bench import packages
from bench.__main__ import VERBS
from bench.config.registry import Registry
from tests.helpers.commands import assert_sentence, call
from tests.helpers.hostile import HOSTILE
from tests.helpers.process import ROOT, TINY, command, refused

registry = Registry()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """A working folder, in which nothing may appear outside results/."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()

    def outside():
        return sorted(str(p) for p in tmp_path.rglob("*") if p.relative_to(tmp_path).parts[0] not in ("results", "recipes"))

    before = outside()
    yield tmp_path
    assert outside() == before


@pytest.mark.parametrize("text", HOSTILE)
def test_a_hostile_text_in_any_place_of_a_command_line(text, files, capsys):
    results = ["--results-dir", "results"]
    recipe = "--recipe=deit_micro/digits/guided"
    not_trained = [*results, "--num-processes=7"]
    for program, *words in (
        ("run.py", f"--recipe={text}", *not_trained),
        ("run.py", f"--recipe={text}/digits/guided", "--protocol=quick", *not_trained),
        ("run.py", f"--recipe=deit_micro/{text}/guided", "--protocol=quick", *not_trained),
        ("run.py", recipe, f"--protocol={text}", *not_trained),
        ("run.py", recipe, f"--suite={text}", *not_trained),
        ("run.py", recipe, f"--seed={text}", *not_trained),
        ("run.py", recipe, f"--set={text}", *not_trained),
        ("run.py", recipe, "--protocol=quick", f"--set=data.places=['{text}']", *not_trained),
        ("run.py", recipe, f"--recipes-dir={text}", *not_trained),
        ("bench", "list", f"--suite={text}"),
        ("bench", "compare", "--dry-run", *results, "--", text),
        ("bench", "report", *results, "--", text),
        ("bench", "sweep", "--dry-run", *results, "--", text),
        ("bench", "plan", *results, "--", text),
        ("bench", "data", "check", "--", text),
        ("bench", "verify", f"results/{text}"),
        ("bench", "publish", *results, "--", text),
        ("bench", "merge", *results, "--", f"{text}/records.jsonl"),
        ("bench", "report", "--check", f"--results-dir={text}/x"),
    ):
        code, out, errors = call(capsys, program, *words)
        assert code == 2, (words, code, out, errors)
        assert_sentence(errors, "recipe", "suite", "protocol", "--", "dataset", "results", "merge", "'")
    code, _, errors = call(capsys, "bench", "show", f"deit_micro/{text}/guided")
    assert code in (0, 2)
    if code == 2:
        assert_sentence(errors, "recipe", "dataset")


def test_recipe_files_with_odd_names_lead_nowhere(files, capsys):
    suite = "protocol: quick\nmodels: [deit_micro]\ndatasets: [digits]\nguidance: [baseline]\nseeds: [0]\n"
    contents = {"suites": suite, "models": "model: {builder: vit}\n", "protocols": "train: {epochs: 1}\n"}
    names = ("..", ".", "a b", "a\nb", "-x", "a" * 200, "é", "x\\y")
    for kind, text in contents.items():
        (files / "recipes" / kind).mkdir(parents=True)
        for name in names:
            (files / "recipes" / kind / f"{name}.yaml").write_text(text)
    own = ["--recipes-dir", files / "recipes"]
    assert call(capsys, "bench", "list", *own)[1].splitlines() == registry.ids()
    for name in names:
        for words in (["report", *own, "--", name], ["sweep", "--dry-run", *own, "--", name]):
            code, _, errors = call(capsys, "bench", *words)
            assert code == 2
            assert_sentence(errors, "suite")


def test_list_and_show_print_ids_and_recipes(capsys):
    assert call(capsys, "bench", "list")[1].split() == registry.ids()
    quick = call(capsys, "bench", "list", "--suite", "quick", "--json")[1]
    assert json.loads(quick) == ["deit_micro/digits/baseline", "deit_micro/digits/guided"]
    some = call(capsys, "bench", "list", "micro/digits/guided", "--suite", "quick", "pit*")[1]
    assert some.split() == ["deit_micro/digits/guided"]
    code, _, errors = call(capsys, "bench", "list", "garden", "--data-dir", "none")
    assert code == 2 and "'garden': no id has this text" in errors and "--suite NAME" in errors
    globs = call(capsys, "bench", "list", "pit_tiny/cifar10/k*", "cvt_13/chaoyang/baseline")[1]
    assert globs.split() == ["cvt_13/chaoyang/baseline", "pit_tiny/cifar10/kd"]
    shown = json.loads(call(capsys, "bench", "show", "deit_tiny/cifar100/guided", "--json")[1])
    assert shown == registry.compose("deit_tiny/cifar100/guided").to_dict()
    counted = call(capsys, "bench", "show", "deit_tiny/cifar100/baseline", "--json", "--parameters")[1]
    assert json.loads(counted)["parameters"] == 5_543_716


@pytest.mark.parametrize("verb", VERBS)
def test_wrong_options_print_the_usage_of_their_verb(verb, capsys):
    code, _, errors = call(capsys, "bench", verb, "--no-such-option", "x")
    assert code == 2 and errors.startswith(f"usage: python -m bench {verb} ")


def test_a_missing_package_is_one_sentence_with_the_remedy(monkeypatch, capsys):
    for words in (["-m", "bench", "plan", "quick"], ["bench/run.py", "--recipe", "deit_micro/digits/guided"]):
        refused(command("-S", *words), "is not installed for this Python")  # without site-packages
    for venv, remedy in ((ROOT / "bench", "source bench/bin/activate"), (ROOT / "none", "pip install -c constraints.txt")):
        monkeypatch.setattr(packages, "VENV", venv)
        monkeypatch.chdir(ROOT)
        with pytest.raises(SystemExit, match="2"), packages.required_packages():
            raise ModuleNotFoundError("No module named 'yaml'", name="yaml")
        assert remedy in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError), packages.required_packages():
        raise ModuleNotFoundError("No module named 'bench.x'", name="bench.x")
    monkeypatch.setattr("sys.prefix", str(ROOT / "none"))
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert packages.activation_note().endswith(": source none/bin/activate")


def test_a_word_that_is_nearly_right_gets_a_proposal(capsys):
    assert "did you mean 'plan'?" in call(capsys, "bench", "pln", "quick")[2]
    assert "did you mean '--seeds'?" in call(capsys, "bench", "plan", "quick", "--sed=3")[2]


def test_real_command_lines_refuse_bad_input(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "bomb.yaml").write_text("model: {a: &a [x, x], b: [*a, *a]}\n")
    (tmp_path / "models" / "code.yaml").write_text("model: !!python/object/apply:os.system ['touch ran']\n")
    words = ["bench/run.py", "--results-dir", tmp_path / "results", "--protocol", "quick"]
    baseline = [*words, "--recipe", "deit_micro/digits/baseline"]
    for options, *sentence in (
        ([*words, "--recipe", "../../etc/passwd"], "an id is"),
        ([*words, "--recipe", "bomb/digits/baseline", "--recipes-dir", tmp_path], "models/bomb.yaml", "another place"),
        ([*words, "--recipe", "code/digits/baseline", "--recipes-dir", tmp_path], "models/code.yaml", "os.system"),
        ([*baseline, "--set", "train.epochs=x"], "train.epochs"),
        ([*baseline, "--suite", "quick"], "--protocol quick: suite quick has its own"),
        ([*baseline, "--set", "model.width=8192", "--set=model.depth=99"], "weights"),
        ([*baseline, *TINY[:4], "--set", "train.weight_decay=1001"], "train.weight_decay", "0 to 1000"),
        ([*baseline, "--data-dir", tmp_path / "none"], "none: no such folder"),
        (["-m", "bench", "show", "deit_tony/cifar10/guided"], "deit_tony"),
        (
            ["-m", "bench", "list", "--suite", "slow"],
            "slow",
            "known: cifar10, ",
            "; one of your own needs --recipes-dir",
        ),
    ):
        refused(command(*options), *sentence)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["models"]
