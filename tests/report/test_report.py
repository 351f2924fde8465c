from __future__ import annotations

import csv
import dataclasses
import io
import json

import pytest
import synthetic
from conftest import command

from bench.config.registry import Registry
from bench.runs.folder import RunFolder
from bench.report import analysis, check, gather, latex, markdown, tidy, write
from bench.config.schema import RecipeError

registry = Registry()
suite = registry.suite("quick")
ACCURACIES = {"baseline": [80.0, 82.0, 84.0], "guided": [90.0, 94.0, 92.0]}


def record_run(results, arm, seed, accuracy, precision="fp32"):
    """A run folder as the runner leaves it, of two epochs, the first of them better by one."""
    recipe = registry.compose(f"deit_micro/digits/{arm}", suite=suite, seed=seed)
    folder = RunFolder(results, recipe)
    teacher = {"key": "resnet8-digits-0", "id": "resnet8/digits", "seed": 0, "select": "last", "last_accuracy": 98.0}
    row = {"lr": 0.1, "train_loss": 1.0, "guidance_loss": None, "images_per_second": 1000.0}
    folder.write_history([{**row, "epoch": e, "test_accuracy": a} for e, a in ((1, accuracy + 1), (2, accuracy))])
    folder.write_record(
        {
            **{
                "id": recipe.id,
                "seed": seed,
                "hash": recipe.hash,
                "last_accuracy": accuracy,
                "best_accuracy": accuracy + 1,
            },
            **{"best_epoch": 1, "epochs": 2, "seconds": 61.4, "images_per_second": 1000.0, "world_size": 1},
            "teacher": {**teacher, "epochs": 20, "seconds": 9.0} if arm == "guided" else None,
            "hardware": {"device": "cpu", "processor": "Z80", "threads": 1},
            "precision": {"asked": "fp32", "used": precision},
            "recipe": recipe.to_dict(),
        }
    )


@pytest.fixture
def results(tmp_path):
    for arm, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            record_run(tmp_path / "results", arm, seed, accuracy)
    return tmp_path / "results"


def report(results):
    """Draw the report of the suite; the text of its table.md."""
    write(registry, [suite], results)
    return (results / "quick" / "table.md").read_text()


def rows(text, heading):
    """The rows of the first table below a heading, a list of cells each, without the header and its line."""
    section = text.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().replace("`", "") for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_the_tables_of_known_records(results):
    text = report(results)
    ((student, baseline, guided, gain),) = rows(text, "Last epoch")
    assert (student, baseline, guided, gain) == ("deit_micro", "82.00 ± 2.00 (3)", "92.00 ± 2.00 (3)", "+10.00 ± 2.00 ▲")
    assert rows(text, "PairedDifference")[0][3:6] == ["+10.00 ± 2.00", "+5.03 to +14.97", "+10.00, +12.00, +8.00"]
    assert [row[3] for row in rows(text, "Best epoch, and published numbers")] == ["83.00 ± 2.00 (3)", "93.00 ± 2.00 (3)"]
    assert rows(text, "Convergence")[1][3:6] == ["1.0 ± 0.0 (3 of 3)", "2.0 ± 0.0 ×", "2.0 ± 0.0 ×"]
    assert rows(text, "Costs")[0][4:8] == ["not recorded", "1000 ± 0", "61 s", "0.05 core-hours"]
    assert ["deit_micro/digits/guided", "1"] in [row[:2] for row in rows(text, "Runs")]  # every run by itself
    assert "Teacher `resnet8/digits` (seed 0" in text and "98.00 % after 20 epochs" in text
    assert "1 x Z80, 1 thread, fp32" in text and "is not the published one" in text


def test_what_has_not_run_says_so(tmp_path):
    record_run(tmp_path, "baseline", 0, 80.0)
    text = report(tmp_path)
    assert rows(text, "Last epoch") == [["deit_micro", "80.00 (1)", "not run", "not run"]]
    assert "No seed has both" in text


def test_a_gain_is_of_the_seeds_that_both_arms_have(tmp_path):
    for arm, seed, accuracy in (("baseline", 0, 80.0), ("baseline", 1, 90.0), ("guided", 1, 93.0), ("guided", 2, 99.0)):
        record_run(tmp_path, arm, seed, accuracy)
    text = report(tmp_path)
    assert rows(text, "Last epoch")[0][3] == "+3.00"
    assert rows(text, "PairedDifference")[0][-1] == "1 seed: too few to say"


def test_the_same_numbers_as_csv_json_and_latex(results):
    report(results)
    quick = results / "quick"
    arms = list(csv.DictReader(io.StringIO((quick / "table.csv").read_text())))
    assert [(arm["guidance"], arm["last_mean"], arm["seeds"]) for arm in arms] == [
        ("baseline", "82.0", "3"),
        ("guided", "92.0", "3"),
    ]
    assert (arms[1]["gain_mean"], arms[1]["gain_verdict"], arms[0]["gain_mean"]) == ("10.0", "higher", "")
    content = json.loads((quick / "table.json").read_text())
    assert content["cells"][0]["arms"][1]["last"]["values"] == {"0": 90.0, "1": 94.0, "2": 92.0}
    tex = (quick / "table.tex").read_text()
    assert r"deit\_micro & $82.00${\tiny$\,\pm$2.00} & $92.00${\tiny$\,\pm$2.00} & $+10.00${\tiny$\,\pm$2.00}" in tex
    assert "over 3 seeds" in tex


def test_the_readme_keeps_what_people_wrote(results):
    readme = results / "README.md"
    report(results)
    assert "92.00 ± 2.00 (3)" in readme.read_text()
    begin, end = "<!-- tables: python -m bench report -->", "<!-- end of tables -->"
    readme.write_text(f"mine\n{begin}\nof before\n{end}\nmine too\n")
    assert any("README.md" in problem for problem in check(registry, [suite], results))
    report(results)
    text = readme.read_text()
    assert text.startswith("mine\n") and text.endswith("\nmine too\n") and "of before" not in text and "92.00" in text
    readme.write_text("no markers\n")
    beside = results.parent / "README.md"
    beside.write_text(
        f"<!-- table of quick: python -m bench report -->{end}<!-- table of other: python -m bench report -->{end}"
    )
    report(results)
    assert readme.read_text() == "no markers\n" and check(registry, [suite], results) == []
    assert "92.00 ± 2.00 (3)" in beside.read_text() and f"]({results.name}/quick/table.md)" in beside.read_text()
    assert beside.read_text().endswith(f"<!-- table of other: python -m bench report -->{end}")


def test_check_accepts_what_was_written_and_names_what_was_changed(results):
    report(results)
    assert check(registry, [suite], results) == []
    for name, change in (
        ("quick/table.md", lambda b: b.replace(b"92.00", b"93.00", 1)),
        ("quick/table.csv", lambda b: b.replace(b"92.0", b"93.0", 1)),
        ("quick/table.json", lambda b: b""),
        ("index.html", lambda b: b + b" "),
        ("quick/curves/deit_micro-digits.svg", lambda b: b.replace(b"digest ", b"digset ")),
        ("quick/curves/deit_micro-digits.png", lambda b: b""),
    ):
        content = (results / name).read_bytes()
        (results / name).write_bytes(change(content))
        (problem,) = check(registry, [suite], results)
        assert name in problem
        (results / name).write_bytes(content)
    (results / "quick" / "curves" / "other.png").write_bytes(b"")
    assert "other.png" in check(registry, [suite], results)[0]
    done = command("-m", "bench", "report", "--check", "--results-dir", results)
    assert done.returncode == 1 and "other.png" in done.stderr


def test_changed_records_make_every_drawing_stale(results):
    report(results)
    path = results / "quick" / "records.jsonl"
    path.write_text(
        path.read_text().replace('"last_accuracy": 90.0', '"last_accuracy": 91.0').replace("[91.0, 90.0]", "[91.0, 91.0]")
    )
    problems = "\n".join(check(registry, [suite], results))
    for name in ("table.md", "table.csv", "table.tex", "table.json", "index.html", "README.md", "digits.svg", "digits.png"):
        assert name in problems
    lines = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(lines[0]), "hash": "0" * 64}), *lines[1:]]) + "\n")
    assert any("hash 00000000 is not its recipe's" in problem for problem in check(registry, [suite], results))


def test_a_fresh_clone_draws_from_the_committed_records(results, tmp_path_factory):
    text = report(results)
    clone = tmp_path_factory.mktemp("clone")
    (clone / "quick").mkdir()
    (clone / "quick" / "records.jsonl").write_bytes((results / "quick" / "records.jsonl").read_bytes())
    assert report(clone) == text
    record_run(clone, "guided", 1, 95.0)  # a run of one's own takes the place of the committed record
    assert "92.33 ± 2.52" in report(clone)
    assert [r["seed"] for r in gather.load(clone, "quick")] == [0, 1, 2, 0, 1, 2]


def test_further_seeds_count_and_stale_hashes_do_not(results):
    record_run(results, "guided", 3, 96.0)
    report(results)
    stale = {**gather.load(results, "quick")[0], "seed": 9, "hash": "f" * 64}
    with (results / "quick" / "records.jsonl").open("a") as file:
        file.write(json.dumps(stale) + "\n")
    report(results)
    assert [r["seed"] for r in gather.load(results, "quick")] == [0, 1, 2, 0, 1, 2, 3]


def test_records_that_are_none_give_one_sentence(tmp_path):
    (tmp_path / "quick").mkdir()
    for content in (b"[1]\n", b"{}\n", b"nothing\n", b"\xff\n", b'{"id": "deit_micro/digits/baseline", "seed": "0"}\n'):
        (tmp_path / "quick" / "records.jsonl").write_bytes(content)
        with pytest.raises(RecipeError, match=r"records.jsonl"):
            report(tmp_path)
    with pytest.raises(RecipeError, match="nothing is recorded"):
        report(tmp_path / "empty")


def test_seeds_that_diverged_are_counted_and_not_averaged(results):
    for arm, seeds in (("baseline", (2,)), ("guided", (0, 1, 2))):
        for seed in seeds:
            recipe = registry.compose(f"deit_micro/digits/{arm}", suite=suite, seed=seed)
            folder = RunFolder(results, recipe)
            record = folder.record(recipe)
            lost = dict.fromkeys(("last_accuracy", "best_accuracy", "best_epoch"))
            folder.write_record({**record, **lost, "diverged": True})
    text = report(results)
    assert rows(text, "Last epoch") == [["deit_micro", "81.00 ± 1.41 (2, 1 diverged)", "diverged", "diverged"]]
    assert text.count("diverged in epoch 2") == 4 and check(registry, [suite], results) == []
    folder.write_record({**record, "diverged": True})
    with pytest.raises(RecipeError, match="diverged and has accuracies"):
        report(results)


def test_damaged_runs_give_one_sentence(results):
    recipe = registry.compose("deit_micro/digits/guided", suite=suite, seed=1)
    folder = RunFolder(results, recipe).path
    for name, content in (("record.json", "[]"), ("record.json", "{"), ("history.csv", ""), ("history.csv", "epoch\n1\n")):
        kept = (folder / name).read_text()
        (folder / name).write_text(content)
        with pytest.raises(RecipeError, match=name):
            report(results)
        (folder / name).write_text(kept)
    assert report(results)


def test_records_that_contradict_themselves_are_refused_by_name(results):
    recipe = registry.compose("deit_micro/digits/guided", suite=suite, seed=1)
    folder = RunFolder(results, recipe)
    honest = json.loads((folder.path / "record.json").read_text())
    other = {**honest["recipe"], "train": {**honest["recipe"]["train"], "epochs": 300}}
    for change, words in (
        ({"recipe": other}, "is not that of the recipe it holds"),
        ({"recipe": {}}, "holds no recipe"),
        ({"last_accuracy": 99.0}, "not that of its history"),
        ({"best_accuracy": 99.0}, "not that of its history"),
    ):
        folder.write_record({**honest, **change})
        with pytest.raises(RecipeError, match=f"record deit_micro/digits/guided seed 1: .*{words}"):
            report(results)
    folder.write_record(honest)
    report(results)
    path = gather.records_path(results, "quick")
    path.write_text(path.read_text().replace('"last_accuracy": 94.0', '"last_accuracy": 98.0'))
    assert any("not that of its history" in problem for problem in check(registry, [suite], results))


def test_runs_that_are_not_of_one_kind_are_pointed_out(results):
    assert "Not of one kind" not in report(results)
    record_run(results, "guided", 3, 95.0, precision="bf16")
    assert "**Not of one kind: the runs on digits differ in precision" in report(results)


def test_a_teacher_kept_for_its_best_epoch_is_shown_by_it(results):
    report(results)
    records = gather.load(results, "quick")
    for record in records:
        if record["teacher"]:
            record["teacher"] |= {"select": "best", "last_accuracy": 61.0, "best_accuracy": 98.25}
    assert "best epoch kept): 98.25 %" in markdown.document(analysis.analyse(registry, suite, records), records)


def test_the_report_needs_no_torch(results):
    report(results)
    done = command("-X", "importtime", "-m", "bench", "report", "--suite", "quick", "--results-dir", results, check=True)
    assert " torch" not in done.stderr and "92.00 ± 2.00" in done.stdout


def test_columns_of_several_methods(results):
    report(results)
    records = gather.load(results, "quick")
    more = dataclasses.replace(suite, guidance=("baseline", "guided", "guided-attention"))
    found = analysis.analyse(registry, more, records)
    header = next(markdown.accuracies(found)).splitlines()[0].replace("`", "").replace("digits<br>", "")
    names = ["student", "baseline", "guided", "guided-attention", "gain of guided", "gain of guided-attention"]
    assert [name.strip() for name in header.split("|")[1:-1]] == names
    assert latex.document(found).count(" & ") == 1 + 2 * 5  # a heading over five columns, their names, one row


@pytest.fixture(scope="module")
def paper():
    of_paper = registry.suite("paper")
    records = synthetic.records(registry, of_paper, 256)
    return analysis.analyse(registry, of_paper, records), records


def test_a_suite_of_many_cells(paper):
    found, records = paper
    table = next(markdown.accuracies(found)).splitlines()
    assert len(table) == 2 + 8 and {line.count("|") for line in table} == {1 + 1 + 4 * 3}
    text = markdown.document(found, records)
    for verdict in ("▲", "▼", "≈", "not run", "diverged"):
        assert verdict in rows(text, "Last epoch")[0:8].__str__()
    assert "Deviations from the published protocol" in text and "published: fp32" in text
    best = {tuple(row[:3]): row for row in rows(text, "Best epoch, and published numbers")}
    deit = best["deit_tiny", "cifar100", "guided"]
    ours = float(deit[3].partition(" ")[0])
    assert deit[5:] == ["78.15", f"{ours - 78.15:+.2f}", "LG (Li et al. ECCV 2022)"]
    assert len(list(csv.DictReader(io.StringIO(tidy.to_csv(found))))) == 64


def test_words_of_others_are_shown_and_nothing_else(results):
    report(results)
    records = gather.load(results, "quick")
    hostile = "a|b <script>alert(1)</script> [x](javascript:y) `c` \n# d"
    for record in records:
        record["hardware"] = {"device": hostile}
    text = markdown.document(analysis.analyse(registry, suite, records), records)
    assert "<script" not in text and "[x](" not in text and "\n# d" not in text
    assert {len(row) for row in rows(text, "Costs")} == {10}
