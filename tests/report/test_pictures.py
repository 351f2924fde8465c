from __future__ import annotations

import dataclasses
import itertools
import json
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import command
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.config.registry import Registry
from bench.report import palette, pictures
from bench.report.analysis import analyse
from bench.report.pictures import cost, curves, overview
from bench.report.pictures import suite as panels
from bench.report.pictures import words as measure
from bench.report.pictures.content import Curve, Curves, End, Ends, Number, Panels, Reach, Row, colours
from bench.report.pictures.layout import Scale, spread
from bench.report.pictures.sheet import WIDTH, Sheet

registry = Registry()
DRAW = {"curves": curves.draw, "overview": overview.draw, "cost": cost.draw, "suite": panels.draw}
FINAL = {"baseline": [80.0, 82.0, 84.0], "guided": [90.0, 94.0, 92.0]}


def record(suite, recipe_id, seed, final, epochs=6, **changes):
    """As a runner leaves it; accuracy rises by steps of two to its end."""
    recipe = registry.compose(recipe_id, suite=suite, seed=seed)
    curve = [final - 2.0 * (epochs - epoch) for epoch in range(1, epochs + 1)]
    teacher = {"key": "k", "id": f"resnet8/{recipe.data.name}", "seed": 0, "select": "last", "last_accuracy": 98.0}
    return {
        "id": recipe.id,
        "protocol": recipe.protocol,
        "seed": seed,
        "hash": recipe.hash,
        "last_accuracy": final,
        "best_accuracy": final,
        "best_epoch": epochs,
        "epochs": epochs,
        "seconds": 3600.0 if recipe.teacher is None else 5400.0,
        "images_per_second": 1000.0,
        "world_size": 1,
        "teacher": None if recipe.teacher is None else {**teacher, "epochs": 20, "seconds": 600.0},
        "hardware": {"device": "H200"},
        "precision": {"used": "bf16"},
        "history": {"test_accuracy": curve},
        **changes,
    }


@pytest.fixture
def wanted():
    return pictures_of(registry.suite("quick"), FINAL)


def pictures_of(suite, finals):
    records = [
        record(suite, f"{model}/{dataset}/{arm}", seed, final)
        for model, dataset in itertools.product(suite.models, suite.datasets)
        for arm, values in finals.items()
        for seed, final in enumerate(values)
    ]
    return pictures.wanted(analyse(registry, suite, records), records)


def texts(svg):
    return [
        " ".join(element.itertext()) for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


def drawn(picture):
    return DRAW[picture.kind](picture.shows)


def test_what_is_drawn_says_the_numbers_of_the_analysis(wanted):
    assert set(wanted) == {"curves/deit_micro-digits", "overview", "cost"}
    said = {name: texts(drawn(picture).svg(palette.LIGHT, "")) for name, picture in wanted.items()}
    own = said["curves/deit_micro-digits"]
    # gains are 10, 12 and 8: guided runs have the baseline's end after 1, 1 and 2 epochs of 6
    assert {"92.00 ± 2.00 %", "82.00 ± 2.00 %", "guided", "baseline", "epoch", "test accuracy (%)"} <= set(own)
    assert "epoch 1.3: 5.0× sooner" in own
    assert "Mean of 3 seeds. Band: ± 1 standard deviation. Thin lines: single seeds." in own
    assert "+10.00 [5.03, 14.97]" in said["overview"]  # Student's t with 2 degrees of freedom: 4.303 * 2 / sqrt(3)
    assert "training its teacher took: resnet8 10 min" in said["cost"] and "GPU-hours a run" in said["cost"]
    assert "deit_micro" in said["cost"]


def test_a_whole_suite_has_small_multiples_and_says_what_is_missing():
    suite = dataclasses.replace(registry.suite("paper"), models=("deit_tiny", "cvt_13"), datasets=("cifar100", "chaoyang"))
    records = [
        record(suite, f"{model}/cifar100/{arm}", seed, final)
        for model, arm in (("deit_tiny", "baseline"), ("deit_tiny", "guided"), ("cvt_13", "baseline"))
        for seed, final in enumerate(FINAL[arm])
    ]
    lost = dict.fromkeys(("last_accuracy", "best_accuracy", "best_epoch"))
    records.append(record(suite, "cvt_13/cifar100/guided", 0, 50.0, diverged=True) | lost)
    wanted = pictures.wanted(analyse(registry, suite, records), records)
    said = {name: texts(drawn(picture).svg(palette.LIGHT, "")) for name, picture in wanted.items()}
    assert set(wanted) == {"curves/deit_tiny-cifar100", "curves/cvt_13-cifar100", "overview", "cost", "suite"}
    assert {"+10.0", "deit_tiny", "cvt_13", "cifar100", "diverged"} <= set(said["suite"]) and "chaoyang" not in said[
        "suite"
    ]
    assert "4 of 8 cells not run." in said["suite"] and "4 of 8 cells not run." in said["overview"]
    assert "Left out, since their loss diverged: 1 of 1 of guided." in said["curves/cvt_13-cifar100"]


def test_only_what_has_changed_is_drawn(wanted, tmp_path):
    assert len(pictures.outdated(wanted, tmp_path)) == 12
    pictures.draw(wanted, tmp_path)
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert len(first) == 12 and not pictures.outdated(wanted, tmp_path) and not pictures.stale(wanted, tmp_path)
    damaged = tmp_path / "overview.dark.png"
    damaged.write_bytes(b"")
    times = {path: path.stat().st_mtime_ns for path in first}
    assert pictures.outdated(wanted, tmp_path) == [damaged]
    pictures.draw(wanted, tmp_path)
    assert {path: path.read_bytes() for path in first} == first  # the same data gives the same bytes
    assert {path.name.split(".")[0] for path in first if path.stat().st_mtime_ns != times[path]} == {"overview"}
    changed = pictures_of(registry.suite("quick"), {**FINAL, "guided": [90.0, 94.0, 92.5]})
    assert len(pictures.outdated(changed, tmp_path)) == 12
    (tmp_path / "curves" / "other-digits.dark.png").write_bytes(b"")
    (tmp_path / "suite.svg").write_bytes(b"")
    stale = [path.relative_to(tmp_path).as_posix() for path in pictures.stale(wanted, tmp_path)]
    assert stale == ["curves/other-digits.dark.png", "suite.svg"]


def test_many_are_drawn_in_several_processes_as_in_one(tmp_path, monkeypatch):
    suite = dataclasses.replace(registry.suite("paper"), models=("deit_tiny", "cvt_13", "pit_tiny"), datasets=("cifar100",))
    wanted = pictures_of(suite, FINAL)
    assert len(wanted) > pictures.FEW
    monkeypatch.setattr(pictures, "available_cores", lambda: [0, 1])
    pictures.draw(wanted, tmp_path / "two")
    monkeypatch.setattr(pictures, "available_cores", lambda: [0])
    pictures.draw(wanted, tmp_path / "one")
    one = {path.name: path.read_bytes() for path in (tmp_path / "one").rglob("*.*")}
    assert one == {path.name: path.read_bytes() for path in (tmp_path / "two").rglob("*.*")} and len(one) == 4 * len(wanted)


def test_themes_differ_in_nothing_but_colours(wanted):
    dark = dict(zip(palette.LIGHT.colours, palette.DARK.colours, strict=True))
    for picture in wanted.values():
        sheet = drawn(picture)
        light = sheet.svg(palette.LIGHT, "").decode()
        assert re.sub("#[0-9A-F]{6}", lambda found: dark[found.group()], light) == sheet.svg(palette.DARK, "").decode()


def test_a_png_has_the_exact_colours_and_room_for_a_readme(wanted, tmp_path):
    pictures.draw(wanted, tmp_path)
    for name in wanted:
        for theme, colours_ in pictures.THEMES.items():
            image = Image.open(tmp_path / f"{name}{theme}.png")
            assert image.width >= 1000
            found = {"#{:02X}{:02X}{:02X}".format(*colour) for _, colour in image.convert("RGB").getcolors(1 << 16)}
            assert {colours_.surface, colours_.text, colours_.baseline, colours_.guided[0]} <= found


def test_what_is_up_to_date_needs_no_matplotlib():
    script = """
import sys
from pathlib import Path
from bench.config.registry import Registry
from bench.report import gather, pictures
from bench.report.analysis import analyse

registry = Registry()
records = gather.load("results", "quick")
wanted = pictures.wanted(analyse(registry, registry.suite("quick"), records), records)
pictures.outdated(wanted, Path("results", "quick"))
print(len(wanted), "matplotlib" in sys.modules)
"""
    assert command("-c", script, check=True).stdout.strip() == "3 False"


# Below: what others' records and recipes may bring.

NAMES = st.one_of(
    st.sampled_from(
        ["$x$", "$\\frac{", "\\alpha", "</text><script>alert(1)</script>", "]]>", "&amp;", "a\nb\0c\x1b", "\ud800"]
    ),
    st.sampled_from(["\u202eevil", "文字", "🙂", "", " ", "timm:swin_tiny_patch4_window7_224", "x" * 300, "a b " * 80]),
    st.text(max_size=30),
)


@settings(max_examples=15, deadline=None)
@given(model=NAMES, dataset=NAMES, guidance=NAMES)
def test_names_are_words_whatever_they_hold(model, dataset, guidance):
    arms = [curve("baseline", "baseline", 60.0), curve(guidance, "guided0", 70.0, reach=Reach(3, 3, 2.0, 2.0))]
    own = Curves(model, dataset, arms)
    both = Ends("s", [dataset], {"baseline": "baseline", guidance: "guided0"}, [row(model, dataset, guidance)], {})
    for sheet in (
        curves.draw(own),
        panels.draw(Panels("s", [model], [dataset], [own])),
        overview.draw(both),
        cost.draw(both),
    ):
        root = ElementTree.fromstring(sheet.svg(palette.LIGHT, "digest"))
        assert {element.tag.partition("}")[2] for element in root.iter()} <= {
            *("svg", "metadata", "title", "rect", "polyline", "polygon", "circle", "text", "tspan")
        }
        assert sheet.png(palette.DARK, "digest").startswith(b"\x89PNG")
        assert inside(sheet)


def test_dollars_are_no_mathematics():
    assert texts(curves.draw(Curves("$a_b$", "$x^2$", [curve("baseline", "baseline", 60.0)])).svg(palette.LIGHT, ""))[
        0
    ] == ("$a_b$ on $x^2$")
    plain = sum(measure.width(character, 10) for character in "$x^2$")
    assert measure.width("$x^2$", 10) == pytest.approx(plain, rel=0.3)


def curve(guidance, colour, last, epochs=4, seeds=3, reach=None, diverged=0, first=3.0):
    values = np.linspace(first, last, epochs).tolist() if epochs > 1 else [last]
    return Curve(
        guidance,
        colour,
        seeds,
        diverged,
        values,
        [0.5] * epochs if seeds > 1 else None,
        [values] * seeds if seeds > 1 else [],
        Number(last, 0.5 if seeds > 1 else None),
        None if guidance == "baseline" else 1.0,
        reach,
    )


def row(model, dataset, *guided, last=60.0, hours=1.0, few=False):
    def end(number, name, colour):
        gain = None if name == "baseline" else float(number)
        bounds = (None, None) if gain is None or few else (gain - 0.5, gain + 0.5)
        value = Number(min(99.9, last + number), None if few else 0.4)
        return End(name, colour, "recorded", 0, 1 if few else 3, value, gain, *bounds, bool(gain), hours, "GPU-hours")

    named = colours(["baseline", *guided])
    return Row(model, dataset, [end(number, *pair) for number, pair in enumerate(named.items())])


def inside(sheet: Sheet) -> bool:
    """Whether all words lie within the picture."""
    marks = [mark for mark in sheet._marks if hasattr(mark, "runs")]
    right = [mark.left() + sum(mark.widths) for mark in marks]
    return all(mark.left() >= -1 for mark in marks) and all(x <= WIDTH + 1 for x in right)


@settings(max_examples=20, deadline=None)
@given(
    epochs=st.integers(1, 300),
    seeds=st.integers(1, 6),
    ends=st.lists(st.floats(0, 100), min_size=1, max_size=4),
    reached=st.lists(st.one_of(st.none(), st.floats(0.01, 1)), min_size=3, max_size=3),
    diverged=st.integers(0, 2),
)
def test_curves_of_any_shape_have_room_for_their_words(epochs, seeds, ends, reached, diverged):
    names = colours(["baseline", "guided", "attention_transfer", "timm:a_rather_long_name_of_a_guidance"])
    arms = []
    for number, ((name, colour), end) in enumerate(zip(names.items(), ends, strict=False)):
        reach = None
        if name != "baseline":
            when = reached[number - 1]
            at = when and max(1.0, when * epochs)
            reach = Reach(0 if at is None else 2, 3, at, at and epochs / at)
        arms.append(curve(name, colour, end, epochs, seeds, reach, diverged))
    for sheet in (curves.draw(Curves("m", "d", arms)), panels.draw(Panels("s", ["m"], ["d"], [Curves("m", "d", arms)]))):
        assert inside(sheet)
        sheet.svg(palette.LIGHT, "")


@settings(max_examples=20, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0, 99), st.floats(1e-4, 1e4), st.booleans()), min_size=1, max_size=8),
    guided=st.integers(0, 3),
)
def test_names_in_the_plot_of_costs_hide_neither_dots_nor_one_another(rows, guided):
    arms = ["guided", "other", "third"][:guided]
    own = [row(f"student_{i}", "d", *arms, last=last, hours=hours, few=few) for i, (last, hours, few) in enumerate(rows)]
    shown = Ends("s", ["d"], colours(["baseline", *arms]), own, {})
    assert inside(overview.draw(shown))
    sheet = cost.draw(shown)
    assert inside(sheet)
    names = [mark for mark in sheet._marks if hasattr(mark, "runs") and mark.runs[0][0].startswith("student_")]
    assert len(names) == len(own)
    boxes = [(m.left(), m.y - 11, m.left() + sum(m.widths), m.y + 2) for m in names]
    dots = [mark for mark in sheet._marks if hasattr(mark, "radius")][len(shown.colours) :]  # those of the key come first
    assert len(dots) == len(own) * (1 + guided)
    boxes += [(dot.x, dot.y, dot.x, dot.y) for dot in dots]
    for one, other in itertools.combinations(boxes, 2):
        if one[0] == one[2]:  # a dot
            continue
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


def test_accuracy_on_held_out_images_is_called_so():
    suite = registry.suite("quick")
    dataset = {"evaluated_on": "holdout"}
    records = [record(suite, f"deit_micro/digits/{arm}", 0, end[0], dataset=dataset) for arm, end in FINAL.items()]
    for picture in pictures.wanted(analyse(registry, suite, records), records).values():
        said = drawn(picture).svg(palette.LIGHT, "").decode()
        assert "held-out accuracy (%)" in said and "test accuracy" not in said


def test_an_arm_that_never_came_to_an_end_is_told_of():
    none = Curve("baseline", "baseline", 0, 3, [], None, [], None, None, None)
    said = texts(curves.draw(Curves("m", "d", [none, curve("guided", "guided0", 70.0)])).svg(palette.LIGHT, ""))
    assert "Left out, since their loss diverged: 3 of 3 of baseline." in said
    never = curve("guided", "guided0", 50.0, reach=Reach(0, 3, None, None))
    said = texts(curves.draw(Curves("m", "d", [curve("baseline", "baseline", 60.0), never])).svg(palette.LIGHT, ""))
    assert "never reaches 60.00 %" in said


def test_names_of_files_are_apart_and_short_enough():
    names = [("a-b", "c"), ("a", "b-c"), ("m", "d.dark"), ("m", "d"), ("m", "../x"), ("x" * 100, "hub:" + "/" * 100)]
    encoded = [pictures.file_name(*pair) for pair in names]
    assert len(set(encoded)) == len(names)
    assert all("/" not in name and "." not in name and len(name) <= pictures.LONGEST for name in encoded)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=4))
def test_labels_are_spread_in_their_order(places):
    out = spread(places, 25, 0, 100)
    assert all(b - a >= 25 - 1e-9 for a, b in itertools.pairwise(sorted(out)))
    assert min(out) >= -1e-9 and max(out) <= 100 + 1e-9
    assert all((out[i] <= out[j]) for i, j in itertools.combinations(range(len(places)), 2) if places[i] < places[j])


def test_ticks_are_round_and_within():
    assert Scale(3, 99.9, 0, 1).ticks(5) == [20, 40, 60, 80]
    ticks = Scale(0.012, 30, 0, 1, log=True).ticks(6)
    assert ticks == [0.1, 1, 10]
    assert Scale(1, 300, 0, 1).ticks(5, integer=True)[-1] == 300


# Colours, checked by the formulas rather than by eye.

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


@pytest.mark.parametrize("theme", [palette.LIGHT, palette.DARK])
def test_arms_can_be_told_apart_by_everyone(theme):
    assert len(set(theme.colours)) == len(theme.colours)
    assert min(contrast(arm, theme.surface) for arm in theme.arms) >= 3
    assert min(contrast(words, theme.surface) for words in (theme.text, theme.muted)) >= 4.5
    for sight in SIGHT.values():
        seen = [oklab(np.clip(np.array(sight) @ linear(arm), 0, 1)) for arm in theme.arms]
        distances = [float(np.linalg.norm(one - other)) for one, other in itertools.combinations(seen, 2)]
        assert min(distances) > 0.07 and np.linalg.norm(seen[0] - seen[1]) > 0.2


def test_digests_do_not_hang_on_the_machine(wanted):
    shown = json.dumps(dataclasses.asdict(wanted["overview"].shows))
    assert all(len(number.split(".")[1]) <= 7 for number in re.findall(r"\d+\.\d+", shown))
