"""Runs with the user's own methods and models: the documented examples, several processes, changed files, and errors."""

from __future__ import annotations

import logging

import pytest
import torch

import bench
from bench import models
from bench.config.registry import Registry
from bench.config.schema import RecipeError
from bench.runs.folder import RunFolder
from bench.runs.record import read_history
from bench.share.export import export
from bench.share.verify import verify
from tests.helpers.commands import assert_sentence, call
from tests.helpers.own import documented_files, write_own
from tests.helpers.process import ROOT, TINY, Started, launch_variables

OWN = "my_vit/digits/logit_mse"
METHOD, BUILDER = "guidance/logit_mse.py", "models/my_vit.py"
SOURCES = documented_files()
RUN = ["--recipe", OWN, "--protocol", "quick", *TINY]


def run_folder(results, own, recipe_id=OWN):
    recipe = Registry(own).compose(recipe_id, "quick", TINY[1::2])
    return recipe, RunFolder(results, recipe)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with the documented files in DIR and the results of their run, started with a relative path."""
    folder = tmp_path_factory.mktemp("own")
    write_own(folder / "DIR")
    Started(ROOT / "bench" / "run.py", *RUN, "--recipes-dir=DIR", "--results-dir=results", cwd=folder).completed()
    return folder


def test_the_documented_method_and_model_run_and_their_digests_are_recorded(trained):
    recipe, folder = run_folder(trained / "results", trained / "DIR")
    record = folder.record(recipe)
    assert record.numerics["guidance.logit_mse"] == recipe.guidance.params[0].plugin.digest
    assert record.numerics["models.my_vit"] == recipe.model.params.plugin.digest
    assert read_history(folder.path / "history.csv")[0]["guidance_loss"] > 0
    assert len(SOURCES[METHOD].splitlines()) <= 30 and len(SOURCES[BUILDER].splitlines()) <= 45
    assert not list((trained / "DIR").rglob("__pycache__"))


def test_a_changed_file_makes_its_runs_stale(trained, tmp_path, capsys):
    own = write_own(tmp_path / "DIR")
    words = ["plan", OWN, "--protocol", "quick", *TINY, "--recipes-dir", own, "--results-dir", trained / "results"]
    assert "finished" in call(capsys, "bench", *words)[1]
    (own / METHOD).write_text(SOURCES[METHOD].replace("F.mse_loss(", "100 * F.mse_loss("))
    assert "recorded with other code" in call(capsys, "bench", *words)[1]


def test_a_network_is_loaded_where_its_file_is_named(trained, tmp_path, caplog):
    _, folder = run_folder(trained / "results", trained / "DIR")
    images = torch.randn(2, 3, 16, 16)
    for run in (folder.path, tmp_path / "out"):
        with pytest.raises(RecipeError, match="my_vit is a plug-in whose file is not here"):
            bench.load(run)
        if run == folder.path:
            export(run, tmp_path / "out", [trained / "DIR"])
        assert bench.load(run, recipes_dir=trained / "DIR").model(images).shape == (2, 10)
    assert verify(folder.path, "data", [trained / "DIR"])[1]
    own = write_own(tmp_path / "DIR")
    (own / BUILDER).write_text(SOURCES[BUILDER] + "# changed\n")
    logging.getLogger("bench").propagate = True
    bench.load(folder.path, recipes_dir=own)
    assert "my_vit.py has changed since this run" in caplog.text


def test_a_run_with_an_own_method_loads_without_its_file(tmp_path):
    own = write_own(tmp_path / "DIR")
    recipe_id = "deit_micro/digits/logit_mse"
    words = [*RUN, f"--recipe={recipe_id}", "--recipes-dir", own, "--results-dir", tmp_path / "results"]
    assert Started("bench/run.py", *words).completed().returncode == 0
    _, folder = run_folder(tmp_path / "results", own, recipe_id)
    assert bench.load(folder.path).model(torch.randn(1, 3, 16, 16)).shape == (1, 10)


def test_two_processes_train_with_own_files_of_a_relative_folder(tmp_path):
    write_own(tmp_path / "DIR")
    words = [ROOT / "bench" / "run.py", *RUN, "--set", "teacher.seed=5", "--recipes-dir=DIR", "--results-dir=results"]
    started = [Started(*words, cwd=tmp_path, env=variables) for variables in launch_variables(2)]
    done = [process.completed() for process in started]
    assert [d.returncode for d in done] == [0, 0], done[0].stderr
    assert "is the teacher of this recipe and is trained first" in done[0].stdout and "2 processes" in done[0].stdout


def broken(name, old, new):
    assert old in SOURCES[name]
    return name, SOURCES[name].replace(old, new)


TERM = "return F.mse_loss(student.logits.float(), teacher.logits.float())"
NETWORK, HEAD = "return MyViT(model, classes)", "nn.Linear(model.width, classes)"


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (
            broken(METHOD, "import torch.nn.functional", "import nowhere, torch.nn.functional"),
            "line 6: ModuleNotFoundError",
        ),
        (broken(METHOD, "return LogitRegression(params)", "return 1 / 0"), "line 28: ZeroDivisionError"),
        (broken(METHOD, "return LogitRegression(params)", "return params"), "line 27: build returned Params, allowed is a"),
        (broken(METHOD, TERM, TERM.replace("())", "(), reduction='none')")), "a tensor of shape [2, 10], allowed is a"),
        (broken(METHOD, TERM, "return 1.0"), "line 23: forward returned float"),
        (broken(METHOD, TERM, f"{TERM} * float('nan')"), "line 23: forward returned nan for random images"),
        (broken(METHOD, TERM, f"{TERM}.detach()"), "line 23: forward returned a term without a gradient"),
        (broken(METHOD, TERM, "return student.maps[0].mean()"), "line 24: IndexError"),
        (broken(BUILDER, NETWORK, "return 1 / 0"), "line 41: "),
        (broken(BUILDER, NETWORK, "return None"), "line 40: build returned NoneType, allowed is a torch.nn.Module"),
        (
            broken(BUILDER, HEAD, "nn.Identity()"),
            "gives [1, 32] for one image, allowed are logits [1, 10]",
        ),
        (
            broken(BUILDER, HEAD, f"nn.Sequential(nn.Dropout(0.1), {HEAD})"),
            "line 40: build returned a network with dropout",
        ),
        (broken(BUILDER, ".transpose(1, 2)", ""), "RuntimeError"),
        (
            broken(BUILDER, "    def no_weight", "    @property\n    def no_weight"),
            "TypeError: 'set' object is not callable",
        ),
    ],
)
def test_a_file_that_does_not_work_is_refused_before_a_teacher_is_trained(tmp_path, capsys, file, words):
    name, text = file
    own = write_own(tmp_path / "DIR")
    (own / name).write_text(text)
    code, out, errors = call(capsys, "run.py", *RUN, "--recipes-dir", own, "--results-dir", tmp_path / "results")
    assert code == 2 and words in errors, errors
    assert_sentence(errors, str(own / name))
    assert "trained first" not in out


def test_names_without_weight_decay_need_no_parameter_as_in_networks_of_timm(tmp_path):
    own = write_own(tmp_path / "DIR")
    (own / BUILDER).write_text(SOURCES[BUILDER].replace('"registers"}', '"registers", "dist_token"}'))
    model = Registry(own).compose(OWN, "quick").model
    assert "dist_token" in models.create_network(model, 10, 0).no_weight_decay()


def test_a_method_that_fails_in_training_ends_the_run_with_its_place(tmp_path, capsys):
    own = write_own(tmp_path / "DIR")
    (own / METHOD).write_text(SOURCES[METHOD].replace(TERM, f"{TERM} if len(student.logits) < 5 else 1 / 0"))
    code, _, errors = call(capsys, "run.py", *RUN, "--recipes-dir", own, "--results-dir", tmp_path / "results")
    assert code == 3 and errors.strip() == f"error: {own / METHOD} line 24: ZeroDivisionError: division by zero"
    (own / METHOD).write_text(SOURCES[METHOD].replace(TERM, f"{TERM} * (1 if len(student.logits) < 5 else float('inf'))"))
    code, _, errors = call(capsys, "run.py", *RUN, "--recipes-dir", own, "--results-dir", tmp_path / "results")
    assert code == 3 and "diverged" in errors and str(own / METHOD) in errors
