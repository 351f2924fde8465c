"""Tables and the figure of `python -m bench analyze`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from tabulate import tabulate

from bench.report.figures import base
from bench.report.stats import MIN_SEEDS, paired_interval
from bench.storage import write_text

ATTENTION = ["method", "seed", "block", "layer", "head", "distance_px", "uniform_px"]
SIMILARITY = ["method", "seed", "block", "layer", "other", "other_block", "other_layer", "cka"]
TEACHER = "teacher"  # in the column `other`
FIGURE = "analysis"  # name of its files
PANEL_INCHES = 1.45  # height, at the default width
FEW_METHODS = 3  # whose heads and bands can be told apart
ABOUT_ATTENTION = (
    "Mean attention distance: between the positions of a query and of a key, in px of the input, weighted by the attention;"
    " mean over queries, images and heads. Class tokens are left out and the rest of the attention is normalised again."
    " Uniform: if all keys had the same attention."
)
ABOUT_CKA = (
    "CKA: linear, between flattened maps without class tokens, with the unbiased HSIC over minibatches. 1: equal up to a"
    " rotation and a factor."
)

ABOUT_DIFFERENCES = (
    "Differences: paired over seeds, with their 95 % confidence intervals (Student's t), each by itself, not corrected for"
    " the number of blocks."
)


@dataclass(frozen=True)
class Findings:
    """What is inside the students of some runs: the result of `bench.analyze`.

    subject: student, dataset and images in words.
    reference: the method that the others are compared with.
    attention: a data frame of pandas with the columns ATTENTION; blocks count from 0. Empty if the network has no attention
        between the cells of grids.
    similarity: one with the columns SIMILARITY. other: "teacher", or the reference.
    compared: {feature layer of the teacher: the block that locality guidance compares with it}.
    notes: sentences on what is not comparable or missing.
    """

    subject: str
    reference: str
    attention: pd.DataFrame
    similarity: pd.DataFrame
    compared: Mapping[str, int]
    notes: Sequence[str]

    @property
    def methods(self) -> list[str]:
        """All methods, the reference first, in the order of the runs."""
        return list(dict.fromkeys([self.reference, *self.attention["method"], *self.similarity["method"]]))

    @property
    def with_teacher(self) -> dict[str, pd.DataFrame]:
        """{feature layer of the teacher: the rows of `similarity` with it}."""
        of_teacher = self.similarity[self.similarity["other"] == TEACHER]
        return dict(list(of_teacher.groupby("other_layer", sort=False)))

    @property
    def with_reference(self) -> pd.DataFrame:
        """The rows of `similarity` of a block and the same block of the reference."""
        return self.similarity.query("other != @TEACHER and block == other_block")


def findings(attention: Sequence[tuple], similarity: Sequence[tuple], **others: object) -> Findings:
    """Findings from tuples as rows, in the order of the columns."""
    frames = {"attention": pd.DataFrame(attention, columns=ATTENTION)}
    frames["similarity"] = pd.DataFrame(similarity, columns=SIMILARITY)
    return Findings(**frames, **others)


def markdown(found: Findings) -> str:
    """The tables: a row per method and a column per block, mean ± standard deviation over seeds."""
    parts = [f"What is inside {found.subject}"]
    if len(found.attention):
        rows = _rows(found, found.attention, "distance_px", ".2f")
        uniform = _rows(found, found.attention.assign(method="uniform", seed=0), "uniform_px", ".2f")
        differences = _differences(found, found.attention, "distance_px", ".2f")
        parts.append(_table("distance (px)", {**rows, **uniform, **differences}, found))
        parts.append(ABOUT_ATTENTION)
    for layer, own in found.with_teacher.items():
        rows = _rows(found, own, "cka", ".3f") | _differences(found, own, "cka", ".3f")
        parts.append(_table(f"CKA with teacher's {layer}", rows, found))
    if len(found.with_reference):
        parts.append(_table(f"CKA with {found.reference}", _rows(found, found.with_reference, "cka", ".3f"), found))
    if len(found.similarity):
        parts.append(ABOUT_CKA)
    if any(f" - {found.reference} " in part for part in parts):
        parts.append(ABOUT_DIFFERENCES)
    parts.append(f"Blocks: {', '.join(f'{number} {layer}' for number, layer in _blocks(found).items())}.")
    return "\n\n".join([*parts, *found.notes]) + "\n"


def write_analysis(found: Findings, folder: Path, *, title: bool = True, width: float | None = None) -> list[Path]:
    """Write table.md, attention.csv, similarity.csv and the figure in light and dark. Returns their paths."""
    width = width or base.DEFAULT_WIDTH_INCHES
    texts = {"table.md": markdown(found)}
    for name, frame in (("attention", found.attention), ("similarity", found.similarity)):
        if len(frame):
            texts[f"{name}.csv"] = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    for name, text in texts.items():
        write_text(folder / name, text)
    heading = f"Inside {found.subject.partition(':')[0]}"
    drawing = partial(draw, found, width, heading if title else None)
    base.write_figure(drawing, folder, FIGURE, width, heading, stamp=found.subject)
    return [*(folder / name for name in texts), *base.figure_paths(folder, FIGURE)]


def draw(found: Findings, width: float, title: str | None) -> Figure:
    """Draw attention distances and CKA with the reference by block, and below them CKA with each map of the teacher."""
    few, of_teacher = len(found.methods) <= FEW_METHODS, found.with_teacher
    above = {"attention distance (px)": found.attention, f"CKA with {base.clean(found.reference)}": found.with_reference}
    below = {f"teacher {base.clean(layer)}": own for layer, own in of_teacher.items()}
    rows = [row for row in ({name: own for name, own in above.items() if len(own)}, below) if row]
    legend = [Line2D([], [], label=base.clean(name), **_style(found, name)) for name in found.methods]
    if len(found.attention):
        legend.append(Line2D([], [], label="uniform attention", color=rcParams["axes.labelcolor"], linestyle=":"))
    height = len(rows) * (PANEL_INCHES * width / base.DEFAULT_WIDTH_INCHES + 3 * base.line_inches())
    figure = base.new_figure(width, height, title, _note(found, few), legend)
    for line, row in zip(figure.add_gridspec(len(rows), 1), rows, strict=True):
        ratios = None if row is below or len(row) == 1 else (3, 2)
        panels = line.subgridspec(1, len(row), width_ratios=ratios).subplots(sharey=row is below, squeeze=False)[0]
        for axes, (name, own) in zip(panels, row.items(), strict=True):
            axes.set_title(name, size="small")
            _draw_blocks(axes, found)
            if "cka" in own:
                axes.set_ylim(min(0, own["cka"].min()), 1.03)
                _draw_lines(axes, found, own, "cka", few)
            else:
                _draw_distances(axes, found, few)
        if row is below:
            panels[0].set_ylabel("CKA with teacher")
        for axes, layer in zip(panels, of_teacher if row is below else (), strict=False):
            if layer in found.compared:
                axes.axvline(found.compared[layer], color=rcParams["axes.edgecolor"], linestyle=":", linewidth=1, zorder=1)
    return figure


def _draw_blocks(axes: Axes, found: Findings) -> None:
    """The axis of the blocks, with lines between the stages of a pyramid."""
    layers = _blocks(found)
    axes.set(xlabel="block", xlim=(-0.4, len(layers) - 0.6))
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.grid(axis="y")
    stages = [layer.rpartition(".")[0] for layer in layers.values()]
    for block in range(1, len(stages)):
        if stages[block] != stages[block - 1]:
            axes.axvline(block - 0.5, color=rcParams["grid.color"], linewidth=0.8, zorder=0)


def _draw_distances(axes: Axes, found: Findings, few: bool) -> None:
    """Lines over the blocks, with a dot per head, and a dotted line for uniform attention."""
    uniform = found.attention.groupby("block")["uniform_px"].first()
    edges = pd.Series({-0.4: uniform.iloc[0], **uniform, len(_blocks(found)) - 0.6: uniform.iloc[-1]})
    axes.plot(edges, color=rcParams["axes.labelcolor"], linestyle=":", linewidth=1.2, drawstyle="steps-mid")
    axes.margins(y=0.1)
    for name, own in found.attention.groupby("method", sort=False) if few else ():
        of_heads = own.groupby(["block", "head"], as_index=False)["distance_px"].mean()
        aside = 0.12 * (found.methods.index(name) - (len(found.methods) - 1) / 2)  # so that dots do not hide each other
        dots = {"color": _style(found, name)["color"], "s": 7, "alpha": 0.55, "linewidths": 0}
        axes.scatter(of_heads["block"] + aside, of_heads["distance_px"], **dots)
    _draw_lines(axes, found, found.attention, "distance_px", few)


def _draw_lines(axes: Axes, found: Findings, frame: pd.DataFrame, column: str, few: bool) -> None:
    """A line per method over the blocks, the mean over seeds; with few methods also ± 1 standard deviation."""
    for name, own in _over_seeds(frame, column).groupby("method", sort=False):
        line, style = own.set_index("block"), _style(found, name)
        if few and line["std"].notna().all():
            low, high = line["mean"] - line["std"], line["mean"] + line["std"]
            axes.fill_between(line.index, low, high, color=style["color"], alpha=0.2, linewidth=0)
        axes.plot(line["mean"], **{**style, "markersize": 3, "linewidth": 1.3})


def _style(found: Findings, method: str) -> dict[str, object]:
    """Colour and marker of a method; where colours come again, with another marker."""
    if method == found.reference:
        return {"color": "C0", "marker": "o"}
    others = [name for name in found.methods if name != found.reference]
    turn, colour = divmod(others.index(method), len(base.LIGHT) - len(base.COLOURS) - 1)
    return {"color": f"C{colour + 1}", "marker": "os^"[turn % 3]}


def _note(found: Findings, few: bool) -> str:
    frame = found.attention if len(found.attention) else found.similarity
    seeds = frame.groupby("method")["seed"].nunique()
    text = f"{found.subject.partition(': ')[2].capitalize()}. {base.seeds_in_words(seeds)}"
    text += "; bands: ± 1 standard deviation" if few and seeds.max() > 1 else ""
    text += "; dots: heads" if few and len(found.attention) else ""
    stages = {layer.rpartition(".")[0] for layer in _blocks(found).values()}
    text += "; grey vertical line: a new stage" if len(stages) > 1 else ""
    text += "; dotted vertical line: the block that guidance compares with this map" if found.compared else ""
    return f"{text}."


def _over_seeds(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """method, block, and the mean and standard deviation over seeds of a column, of whose heads the mean is taken first."""
    of_runs = frame.groupby(["method", "seed", "block"], sort=False)[column].mean()
    return of_runs.groupby(["method", "block"], sort=False).agg(["mean", "std"]).reset_index()


def _blocks(found: Findings) -> dict[int, str]:
    """{number: module} of all blocks."""
    frame = found.similarity if len(found.similarity) else found.attention
    return frame.groupby("block")["layer"].first().to_dict()


def _rows(found: Findings, frame: pd.DataFrame, column: str, spec: str) -> dict[str, list[str]]:
    """{method: a text for each block}."""
    out = {}
    for method, own in _over_seeds(frame, column).groupby("method", sort=False):
        of_block = own.set_index("block").reindex(_blocks(found))
        texts = zip(of_block["mean"], of_block["std"], strict=True)
        out[method] = ["" if pd.isna(m) else f"{m:{spec}}" + ("" if pd.isna(s) else f" ± {s:{spec}}") for m, s in texts]
    return out


def _differences(found: Findings, frame: pd.DataFrame, column: str, spec: str) -> dict[str, list[str]]:
    """{"method - reference": a text for each block}, of methods that have enough seeds with the reference."""
    of_runs = frame.groupby(["block", "method", "seed"])[column].mean().unstack("seed")
    out = {}
    for method in (name for name in found.methods if name != found.reference):
        pairs = of_runs.xs(method, level="method") - of_runs.xs(found.reference, level="method")
        pairs = pairs.dropna(axis="columns", how="all").reindex(_blocks(found))
        if pairs.shape[1] >= MIN_SEEDS:
            intervals = [(own.mean(), *paired_interval(own.dropna())) for _, own in pairs.iterrows()]
            texts = ["" if pd.isna(m) else f"{m:+{spec}} ({low:+{spec}} to {high:+{spec}})" for m, low, high in intervals]
            out[f"{method} - {found.reference}"] = texts
    return out


def _table(title: str, rows: Mapping[str, Sequence[str]], found: Findings) -> str:
    lines = [[name, *texts] for name, texts in rows.items()]
    return tabulate(lines, [title, *map(str, _blocks(found))], tablefmt="pipe", disable_numparse=True)
