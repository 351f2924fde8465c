"""Tables and figure of `python -m bench analyze`, from made-up distances and similarities."""

from __future__ import annotations

import itertools

import pytest
from matplotlib import rc_context
from matplotlib.text import Text
from PIL import Image

from bench.report.analysis import draw, findings, markdown, write_analysis
from bench.report.figures.base import DARK, LIGHT, figure_style
from bench.share.analysis import AttentionRow, SimilarityRow

LAYERS = [f"stages.{stage}.blocks.{block}" for stage in range(4) for block in range(2)]


def made_up(methods=("baseline", "guided"), seeds=3, layers=LAYERS, attention=True, teacher=True):
    """Findings whose distances are 10 px + the method's number + the seed, with heads half a pixel around them."""
    runs = list(itertools.product(enumerate(methods), range(seeds), enumerate(layers)))
    rows = [
        AttentionRow(method, seed, block, layer, head, 10 + number + seed + head - 0.5, 12)
        for ((number, method), seed, (block, layer)) in runs
        for head in range(2)
    ]
    similar = [
        SimilarityRow(method, seed, block, layer, other, stage, stage_layer, 0.9 - 0.1 * stage - 0.01 * number)
        for ((number, method), seed, (block, layer)) in runs
        for other, of_other in (("teacher", ["stages.0", "stages.1", "stages.2"]), (methods[0], layers))
        for stage, stage_layer in enumerate(of_other)
        if (teacher if other == "teacher" else number)
    ]
    compared = {"stages.0": 0, "stages.2": len(layers) - 1} if teacher else {}
    about = {"subject": "pvt_v2_b0 on cifar100: 256 test images of 224 px", "reference": methods[0], "notes": ["A note."]}
    return findings(rows if attention else [], similar, compared=compared, **about)


def drawn(found, width=5.2):
    with rc_context(figure_style("light", width)):
        figure = draw(found, width, "A title")
        figure.draw_without_rendering()
    return figure


def test_tables_have_means_and_deviations_over_seeds():
    text = markdown(made_up(layers=LAYERS[:2]))
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "| distance (px) | 0 | 1 |" in lines
    assert "| baseline | 11.00 ± 1.00 | 11.00 ± 1.00 |" in lines and "| guided | 12.00 ± 1.00 | 12.00 ± 1.00 |" in lines
    assert "| uniform | 12.00 | 12.00 |" in lines
    assert "| guided - baseline | +1.00 (+1.00 to +1.00) | +1.00 (+1.00 to +1.00) |" in lines  # each seed by 1 px
    few = markdown(made_up(seeds=2))  # too few for an interval
    assert " - baseline" not in few and "Differences:" not in few and "Differences: paired over seeds" in text
    assert lines[lines.index("| CKA with baseline | 0 | 1 |") + 2] == "| guided | 0.890 ± 0.000 | 0.790 ± 0.000 |"
    assert "Blocks: 0 stages.0.blocks.0, 1 stages.0.blocks.1." in lines and lines[-1] == "A note."


def test_files_in_light_and_dark_are_the_same_each_time(tmp_path):
    first, second = (write_analysis(made_up(), tmp_path / name) for name in ("one", "other"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second] and len(first) == 8
    for ending, theme in (("", LIGHT), (".dark", DARK)):
        image = Image.open(tmp_path / "one" / f"analysis{ending}.png").convert("RGB")
        found = {"#{:02X}{:02X}{:02X}".format(*colour) for _, colour in image.getcolors(1 << 20)}
        assert image.width == 1040 and {theme["surface"], theme["method-0"], theme["method-1"]} <= found


@pytest.mark.parametrize("width", [3.3, 5.2])
@pytest.mark.parametrize("count", [2, 15])
def test_words_have_room(width, count):
    methods = ["baseline", "guided", *(f"kd-with-a-long-name-{number}" for number in range(13))][:count]
    figure = drawn(made_up(methods), width)
    for axes in figure.axes:
        labels = [axes._left_title, axes.xaxis.label, axes.yaxis.label]
        boxes = [Text.get_window_extent(label) for label in labels if label.get_text() and label.get_visible()]
        assert all(box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 for box in boxes)
    titles = [Text.get_window_extent(axes._left_title) for axes in figure.axes]
    assert len(titles) == 5 and not any(one.overlaps(other) for one, other in itertools.combinations(titles, 2))


def test_what_is_missing_has_no_panel():
    panels = {
        (True, True): ["attention distance (px)", "CKA with baseline", *(f"teacher stages.{k}" for k in range(3))],
        (False, True): ["CKA with baseline", *(f"teacher stages.{k}" for k in range(3))],
        (True, False): ["attention distance (px)", "CKA with baseline"],
    }
    for (attention, teacher), titles in panels.items():
        figure = drawn(made_up(attention=attention, teacher=teacher))
        assert [axes.get_title("left") for axes in figure.axes] == titles
    alone = made_up(["baseline"], teacher=False)
    assert alone.similarity.empty and [axes.get_title("left") for axes in drawn(alone).axes] == titles[:1]
    assert "CKA" not in markdown(alone)
