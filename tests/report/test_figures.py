from __future__ import annotations

import dataclasses
import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.text import Text
from PIL import Image

from bench.cli import suite_of_ids
from bench.config.names import split_id
from bench.config.parse import SourcedValue
from bench.config.registry import Registry
from bench.config.suite import SuiteMethod
from bench.report import documents
from bench.report.documents import markdown
from bench.report.figures import DRAW, check_figures, figure_name, plots_of_suite, write_figures
from bench.report.figures.base import COLOURS, DARK, LIGHT, figure_style, method_colour
from bench.report.page import render_page
from bench.report.suite_report import FEW_METHODS, build_suite_report
from bench.runs.record import GuidanceStop
from tests.helpers.synthetic import make_run, methods, registry_with_methods, runs_of_suite, varied_suite

registry = Registry()
quick = registry.suite("quick")
FINAL = {"baseline": (80.0, 82.0, 84.0), "guided": (90.0, 94.0, 92.0)}


def report(finals=FINAL, epochs=6):
    """The report of runs whose accuracy rises by 2 points per epoch. finals: {method: one accuracy per seed}."""
    runs = [
        make_run("quick", registry.compose(recipe_id, suite=quick, seed=seed), np.arange(2 - 2 * epochs, 1, 2) + final)
        for recipe_id in quick.ids
        for seed, final in enumerate(finals.get(split_id(recipe_id)[2], ()))
    ]
    return build_suite_report(registry, quick, runs)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Three students, two datasets, fifteen methods; some runs diverge and some are missing."""
    names = ["baseline", "guided", *(f"kd-with-a-long-name-{number}" for number in range(13))]
    wide = registry_with_methods(tmp_path_factory.mktemp("recipes"), names[2:])
    suite = dataclasses.replace(
        registry.suite("paper"),
        models=("deit_tiny", "cvt_13", "pit_tiny"),
        datasets=("cifar100", "chaoyang"),
        rows=methods(*names),
        overrides=(("train.epochs", SourcedValue(8, "test")),),
    )
    return build_suite_report(wide, suite, runs_of_suite(wide, suite, 220))


def drawn(name, report, width=5.2):
    """The Figure of this name, laid out."""
    plot = plots_of_suite(report)[name]
    with rc_context(figure_style("light", width)):
        figure = DRAW[name.partition("/")[0]](plot, width, plot.title)
        figure.draw_without_rendering()
    return figure


def texts(figure):
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")) if text.get_text()]


def svg_texts(path):
    root = ElementTree.parse(path)
    return [" ".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text")]


def test_files_of_light_and_dark_figures(tmp_path):
    paths = write_figures(report(), tmp_path)
    names = {path.relative_to(tmp_path).as_posix() for path in paths}
    endings = ("svg", "png", "pdf", "dark.svg", "dark.png")
    assert names == {f"{n}.{e}" for n in ("overview", "cost", "curves/deit_micro-digits") for e in endings}
    assert all(path.is_file() for path in paths)
    for ending, theme in (("", LIGHT), (".dark", DARK)):
        image = Image.open(tmp_path / f"curves/deit_micro-digits{ending}.png").convert("RGB")
        found = {"#{:02X}{:02X}{:02X}".format(*colour) for _, colour in image.getcolors(1 << 20)}
        assert image.width == 1040 and {theme["surface"], theme["method-0"], theme["method-1"]} <= found
    words = svg_texts(tmp_path / "overview.svg")
    assert {"deit_micro", "digits", "+10.00", "gain (points)"} <= set(words)
    assert {"guided 92.00 ± 2.00 % 5.0× as fast", "test accuracy (%)"} <= {
        re.sub(r"\s+", " ", text) for text in texts(drawn("curves/deit_micro-digits", report()))
    }


def test_only_what_changed_is_drawn_again(tmp_path):
    first = {path: path.read_bytes() for path in write_figures(report(), tmp_path)}
    times = {path: path.stat().st_mtime_ns for path in first}
    assert not check_figures(report(), tmp_path)
    damaged = tmp_path / "overview.dark.png"
    damaged.write_bytes(b"")
    assert check_figures(report(), tmp_path) == [f"{damaged}: not drawn from these records by this code"]
    write_figures(report(), tmp_path)
    assert {path: path.read_bytes() for path in first} == first  # the same data gives the same bytes
    assert {path.name.split(".")[0] for path in first if path.stat().st_mtime_ns != times[path]} == {"overview"}
    changed = report({**FINAL, "guided": (90.0, 94.0, 92.5)})
    assert len(check_figures(changed, tmp_path)) == len(first)


def test_layout_options_draw_again_but_pass_the_check(tmp_path):
    write_figures(report(), tmp_path)
    write_figures(report(), tmp_path, title=False, width=3.3)
    assert not check_figures(report(), tmp_path)
    assert Image.open(tmp_path / "overview.png").width == 660
    assert "Gain of guided over baseline" not in svg_texts(tmp_path / "overview.svg")
    assert "Accuracy against training time" not in svg_texts(tmp_path / "cost.svg")
    assert b"title no" in (tmp_path / "overview.pdf").read_bytes()


def test_files_of_figures_that_no_longer_exist_are_removed(tmp_path):
    write_figures(report(), tmp_path)
    (tmp_path / "suite.svg").write_bytes(b"")
    (tmp_path / "curves" / "other-digits.dark.png").write_bytes(b"")
    (tmp_path / "table.md").write_bytes(b"")
    assert [problem.split(": ")[1] for problem in check_figures(report(), tmp_path)] == ["no record gives this file"] * 2
    write_figures(report(), tmp_path)
    assert (tmp_path / "table.md").is_file() and not check_figures(report(), tmp_path)


def test_intervals_lie_on_an_axis_of_differences():
    accuracies, gains = drawn("overview", report()).axes
    low, high = gains.get_xlim()
    assert low < 0 and 14.97 < high < 20  # the interval of +10.00 is [5.03, 14.97]; no accuracies of 80 or 90
    teacher, joined = (line for line in accuracies.lines if line.get_marker() == "None")
    assert joined.get_xydata().tolist() == [[82, 0], [92, 0]] and set(teacher.get_xdata()) == {70}
    seeds = [line.get_xdata().tolist() for line in accuracies.lines if line.get_marker() == "."]
    assert seeds == [[80, 82, 84], [90, 94, 92]]
    lines = drawn("overview", report({"baseline": (80.0,), "guided": (90.0,)})).axes[1].lines
    (ring,) = [line for line in lines if line.get_marker() == "o"]
    assert ring.get_markerfacecolor() != ring.get_color()  # one seed: no clear difference


def test_the_baseline_is_marked_as_reached_only_where_all_seeds_reach_it():
    name = "curves/deit_micro-digits"
    # Gains are 10, 12 and 8 points of 2 points per epoch: seeds reach it after 1, 1 and 2 epochs, the baseline after 6.
    assert any("5.0× as fast" in text for text in texts(drawn(name, report())))
    some = texts(drawn(name, report({**FINAL, "guided": (90.0, 94.0, 83.0)})))
    assert not any("as fast" in text for text in some)


def test_missing_and_diverged_runs_are_named():
    suite = dataclasses.replace(quick, models=("deit_micro", "deit_tiny", "pit_tiny"))
    accuracies = {"deit_micro": ([50.0, 60.0], [50.0]), "deit_tiny": ([40.0, 50.0], [40.0, 55.0])}
    runs = [
        make_run("quick", registry.compose(f"{model}/digits/{method}", suite=suite), curve, diverged=len(curve) == 1)
        for model, curves in accuracies.items()
        for method, curve in zip(("baseline", "guided"), curves, strict=True)
    ]
    own = build_suite_report(registry, suite, runs)
    assert set(plots_of_suite(own)) == {"overview", "cost", "suite", "curves/deit_micro-digits", "curves/deit_tiny-digits"}
    assert {"diverged", "not run", "+5.00"} <= set(texts(drawn("overview", own)))
    curves = drawn("suite", own)
    assert {"diverged", "not run", "+5.0"} <= set(texts(curves))
    assert len({axes.get_position().y0 for axes in curves.axes}) == 1  # three students of one dataset, side by side
    assert any("1 of 1 of guided" in text for text in texts(drawn("curves/deit_micro-digits", own)))
    assert not plots_of_suite(build_suite_report(registry, quick, runs[1:2]))


def test_cells_without_one_of_two_methods_are_drawn():
    ids = ["deit_micro/digits/baseline", "deit_micro/digits/guided", "deit_tiny/digits/guided", "pit_tiny/cifar10/baseline"]
    suite = suite_of_ids([tuple(one.split("/")) for one in ids], quick)
    runs = [make_run(suite.name, registry.compose(one, suite=suite), [50.0, 60.0]) for one in ids[:3]]
    accuracies, gains = drawn("overview", build_suite_report(registry, suite, runs)).axes
    assert [label.get_text() for label in accuracies.get_yticklabels()] == ["deit_micro", "deit_tiny"]
    assert "incomplete" in texts(gains)


def test_accuracy_on_held_out_images_is_called_so():
    held_out = report()
    held_out.runs["evaluated_on"] = "holdout"
    for name in ("overview", "cost", "curves/deit_micro-digits"):
        words = " ".join(texts(drawn(name, held_out))).lower()
        assert "held-out accuracy" in words and "test accuracy" not in words
    for words in (markdown(held_out).lower(), render_page([held_out]).lower()):
        assert "held-out accuracy" in words and "test accuracy" not in words and "test set" not in words


@pytest.mark.parametrize("width", [3.3, 5.2])
@pytest.mark.parametrize("name", ["overview", "cost", "suite", "curves/cvt_13-cifar100"])
def test_fifteen_methods_have_room_for_their_names(large, name, width):
    figure = drawn(name, large, width)
    labels = [*figure.texts, *(text for legend in figure.legends for text in legend.get_texts())]
    for axes in figure.axes:
        labels += [*axes.texts, axes.title, axes.yaxis.label, *axes.get_yticklabels()]
    boxes = [Text.get_window_extent(label) for label in labels if label.get_text() and label.get_visible()]
    assert len(boxes) > 15 and all(box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    for axes in figure.axes:  # names at the ends of curves, or to the right of a panel
        boxes = [Text.get_window_extent(label) for label in axes.texts]
        assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("name", ["overview", "cost", "curves/deit_micro-digits"])
def test_one_epoch_and_one_seed(name):
    assert "deit_micro" in " ".join(texts(drawn(name, report({"baseline": (50.0,), "guided": (50.0,)}, epochs=1))))


@pytest.mark.parametrize("name", ["$\\frac{</text><script>alert(1)</script>", "]]>&amp;\n\0\x1b\u202e../文字", "x" * 300])
def test_names_are_only_text(tmp_path, name):
    names = {"deit_micro": name, "digits": f"hub:{name}", "guided": name}
    own = report()
    suite = dataclasses.replace(own.suite, rows=methods("baseline", name))
    hostile = dataclasses.replace(own, suite=suite, curves=own.curves.replace(names), cells=own.cells.replace(names))
    for path in write_figures(hostile, tmp_path / "results"):
        assert path.is_file() and "%" not in path.name
        if path.suffix == ".svg":
            root = ElementTree.parse(path).getroot()
            assert not [element for element in root.iter() if element.tag.endswith("script")]
    assert not check_figures(hostile, tmp_path / "results")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_varied_values_are_named_in_every_figure(tmp_path):
    recipes, suite = varied_suite(tmp_path, "vary: {data.train_limit: [100, 1000], train.lr: [0.001, 0.01]}")
    own = build_suite_report(recipes, suite, runs_of_suite(recipes, suite, 24))
    plots = plots_of_suite(own)
    names = [name for name in plots if name.startswith("curves/")]
    assert len(names) == 4 and all(name.startswith("curves/deit_micro-digits-data_train_limit_1") for name in names)
    assert plots[names[0]].title == "deit_micro on digits, 100 training images, train.lr=0.001"
    label = "deit_micro\n100 training images\ntrain.lr=0.01"
    for name in ("overview", "suite", "cost"):
        figure = drawn(name, own)
        assert label in texts(figure), name
        for axes in figure.axes:
            boxes = [Text.get_window_extent(text) for text in (*axes.texts, *axes.get_yticklabels()) if text.get_text()]
            assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2)), name


def test_gains_are_drawn_against_a_varied_number(tmp_path):
    vary = "vary: [{data.train_limit: 1000, train.epochs: 2}, {data.train_limit: 100, train.epochs: 4}]"
    recipes, suite = varied_suite(tmp_path, vary)
    finals = {"baseline": {100: 40.0, 1000: 70.0}, "guided": {100: 50.0, 1000: 71.0}}
    runs = [
        make_run(suite.name, recipe.with_seed(seed), [finals[entry.method][recipe.data.train_limit] + seed * slope])
        for entry, recipe in recipes.suite_recipes(suite)
        for seed, slope in itertools.product(range(3), (1 + (entry.method == "guided"),))
    ]
    own = build_suite_report(recipes, suite, runs)
    figure = drawn("varied", own)
    left, right = figure.axes
    assert left.get_xscale() == "log" and left.get_xlabel() == "number of training images"
    assert [text.get_text() for text in right.get_xticklabels()] == ["100", "1,000"]
    assert [[100, 11], [1000, 2]] in [line.get_xydata().tolist() for line in left.lines]
    low, high = own.cells.loc[own.cells["method"] == "guided", ["gain_low", "gain_high"]].iloc[1]
    bars = [bar.get_segments()[0][:, 1].tolist() for bar in left.collections]
    assert np.allclose(bars[0], [low, high]) and len(bars) == 2
    means = [line.get_xydata().tolist() for line in right.lines if len(line.get_xdata()) == 2]
    assert means == [[[100, 41], [1000, 71]], [[100, 52], [1000, 73]], [[100, 70], [1000, 70]]]  # the teacher is last
    curves = drawn("suite", own)
    assert [axes.get_xlim()[1] for axes in curves.axes] == [2, 4]  # each variant has its own epochs
    assert {path.name for path in write_figures(own, tmp_path)} >= {"varied.svg", "varied.dark.png", "varied.pdf"}
    assert not check_figures(own, tmp_path)
    lacking = build_suite_report(recipes, dataclasses.replace(suite, models=("deit_tiny", *suite.models)), runs[:-3])
    assert len(drawn("varied", lacking).axes) == 4  # no run of one student, and none of one value with guidance
    assert '/varied.png"' in documents.fill_readme(documents.NEW_README, [own])
    alone = build_suite_report(recipes, suite, runs[:3])
    assert "varied" not in plots_of_suite(alone) and ".png" not in documents.fill_readme(documents.NEW_README, [alone])


@pytest.mark.parametrize(
    "vary",
    [
        "{teacher.seed: [0, 1]}",
        "{teacher.bn: [batch, running]}",
        "{train.betas: [[0.9, 0.99], [0.9, 0.999]]}",
        "{train.epochs: [2]}",
        "{train.epochs: [1, 2], train.lr: [0.001, 0.01]}",
    ],
)
def test_what_is_no_single_number_on_a_scale_is_not_drawn_against(tmp_path, vary):
    assert varied_suite(tmp_path, f"vary: {vary}")[1].varied_number is None


def test_gains_over_another_reference_are_called_so():
    own = build_suite_report(registry, dataclasses.replace(quick, reference="guided"), runs_of_suite(registry, quick, 6))
    plots = plots_of_suite(own)
    assert plots["overview"].title == "Gain of baseline over guided"
    assert any("over guided with the same seed" in text.replace("\n", " ") for text in texts(drawn("overview", own)))
    colours = [plots["cost"].colour(name) for name in ("guided", "baseline")]
    assert colours == ["C0", "C1"]


def test_many_methods_are_panels_and_rows_of_one_guidance_stay_together():
    nine = (("guidance.params.weight", SourcedValue(9.0, "test")),)
    weights = [SuiteMethod(name, nine) for name in ("lskd", "dist", "mgd")]
    own = dataclasses.replace(quick, rows=(*methods("baseline", "lskd", "dist", "mgd"), *weights))
    runs, stop = [], GuidanceStop(4, -0.01, -0.001)
    for number, (_, recipe) in enumerate(registry.suite_recipes(own)):
        finals = (80 + number, 81 + number + 0.1 * number**2, 79 + number - 0.1 * number**2)
        changes = {"guidance_stop": stop} if number == 5 else {}
        runs += [make_run("quick", recipe.with_seed(seed), [50.0, end], **changes) for seed, end in enumerate(finals)]
    built = build_suite_report(registry, own, runs)
    panels = drawn("curves/deit_micro-digits", built)
    assert [axes.get_title("left") for axes in panels.axes if axes.get_visible()] == ["mgd", "dist", "lskd"]
    assert "+5.00\nweight=9.0 +6.00" in texts(panels) and any(
        "ended by itself" in text.replace("\n", " ") for text in texts(panels)
    )
    (ticks,) = [line for line in panels.axes[0].lines if line.get_marker() == "|" and len(line.get_xdata())]
    assert list(ticks.get_xdata()) == [4]
    gains = drawn("overview", built).axes[0]
    labels = [label.get_text() for label in gains.get_yticklabels()]
    assert labels == ["mgd", "weight=9.0", "dist", "weight=9.0", "lskd", "weight=9.0"]
    plain_last = dataclasses.replace(own, rows=(own.rows[0], *weights, *own.rows[1:4]))
    swapped = drawn("overview", build_suite_report(registry, plain_last, runs)).axes[0]
    assert {label.get_text() for label in swapped.get_yticklabels()} >= {"mgd", "dist", "lskd"}  # none is empty
    steps = np.diff(gains.get_yticks())
    assert max(steps[::2]) < min(steps[1::2])  # rows of one guidance are nearer
    faces = {line.get_markerfacecolor() for line in gains.lines if line.get_marker() == "o"}
    assert len(faces) > 1  # not all gains stay clear after the correction
    assert {"baseline", "mgd weight=9.0"} <= set(texts(drawn("cost", built)))


def test_file_names_are_apart_and_short():
    pairs = [("a-b", "c"), ("a", "b-c"), ("m", "d.dark"), ("m", "d"), ("m", "d_dark"), ("m", "../x"), ("x" * 99, "hub:y/z")]
    names = [figure_name(*pair) for pair in pairs]
    assert len(set(names)) == len(names) and figure_name("deit_tiny", "cifar100") == "deit_tiny-cifar100"
    assert all(re.fullmatch(r"[A-Za-z0-9_+-]{1,160}", name) for name in names)


def test_few_methods_keep_their_colours_and_many_have_one():
    names = ["baseline", *(f"m{number}" for number in range(14))]
    few = [method_colour(names[:FEW_METHODS], name) for name in names[:FEW_METHODS]]
    assert few == [f"C{number}" for number in range(FEW_METHODS)] and len(LIGHT) - len(COLOURS) == FEW_METHODS
    assert method_colour(["guided", "kd"], "guided") == method_colour(["baseline", "guided", "kd"], "guided")
    assert [method_colour(names, name) for name in names] == ["C0"] + ["C1"] * 14  # no colours that look alike


# Machado, Oliveira and Fernandes 2009, doi:10.1109/TVCG.2009.113, severity 1
SIGHT = {
    "all colours": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def linear(colour):
    values = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    light, dark = sorted((linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def oklab(light):
    """Ottosson 2020: distances in it are about as large as people see them; 0.02 is just noticeable."""
    to_cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    to_lab = [
        [0.2104542553, 0.793617785, -0.0040720468],
        [1.9779984951, -2.428592205, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.808675766],
    ]
    return np.array(to_lab) @ np.cbrt(np.array(to_cones) @ light)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_methods_can_be_told_apart_by_everyone(theme):
    methods = [colour for name, colour in theme.items() if name.startswith("method-")]
    assert min(contrast(method, theme["surface"]) for method in methods) >= 3
    assert min(contrast(theme[words], theme["surface"]) for words in ("text", "muted")) >= 4.5
    for sight in SIGHT.values():
        seen = [oklab(np.clip(np.array(sight) @ linear(method), 0, 1)) for method in methods]
        distances = [float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)]
        assert min(distances) > 0.07 and np.linalg.norm(seen[0] - seen[1]) > 0.2


def test_a_student_without_runs_hides_no_curve_of_the_others():
    suite = dataclasses.replace(registry.suite("paper"), models=("deit_tiny", "cvt_13"), datasets=("cifar100", "chaoyang"))
    runs = [run for run in runs_of_suite(registry, suite, 24) if run.record.id.startswith("deit_tiny/")]
    panels = drawn("suite", build_suite_report(registry, suite, runs)).axes
    assert [axes.get_xlim()[1] for axes in panels[:2]] == [300, 300] and len(panels) == 4
