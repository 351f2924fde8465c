"""The model card of an exported run: front matter for the Hugging Face hub, then Markdown from model_card.md.jinja.

Strangers may write records, so no text from a record may break the Markdown around it. Each text is on one line in the YAML
that the library writes, in a code span, or in a code block whose fence is longer than any row of backticks in the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from bench.config.command import command
from bench.config.schema import Recipe
from bench.runs.record import Record

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
# licences with an identifier on the hub, as recipes of datasets write them, in lower case
HUB_LICENCES = r"apache-2\.0|mit|cc0-1\.0|cc-by(-nc)?-[234]\.0|cc-by(-nc)?-sa-[34]\.0|cc-by(-nc)?-nd-4\.0"
TAGS = {"maps": "locality-guidance", "logits": "knowledge-distillation"}
MAX_TEXT_CHARS = 200  # of a text from a record


def model_card(record: Record, recipe: Recipe, timm_call: Mapping[str, Any] | None) -> str:
    """The text of README.md.

    Args:
        record: of a finished run.
        timm_call: the arguments with which `timm.create_model` makes the network, or None.
    """
    card = ModelCard.from_template(
        _card_data(record, recipe, timm_call is not None),
        template_path=str(TEMPLATE),
        span=span,
        block=block,
        line=line,
        record=record,
        recipe=recipe,
        is_teacher=recipe.model.role == "teacher",
        timm_call=timm_call,
        licence=hub_licence(recipe.data.licence)["license"],
        command=command(recipe, record.world_size, record.hardware.device not in ("cpu", "mps")),
        recipe_yaml=yaml.safe_dump(recipe.to_dict(), sort_keys=False),
    )
    return f"{card}\n"


def line(text: object) -> str:
    """A text on one line, without control characters."""
    out = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return out if len(out) <= MAX_TEXT_CHARS else f"{out[:MAX_TEXT_CHARS]}…"


def span(text: object) -> str:
    """A text in a code span that it cannot end."""
    out = line(text)
    fence = "`" * (_longest_row(out) + 1)
    return f"{fence} {out} {fence}" if "`" in out or not out else f"{fence}{out}{fence}"


def block(text: str, language: str) -> str:
    """A text in a code block that it cannot end."""
    fence = "`" * max(3, _longest_row(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _longest_row(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def hub_licence(licence: str) -> dict[str, str]:
    """The hub's keys for a licence: its identifier there, `unknown` if none is stated, else `other` with a name."""
    identifier = re.sub(r"\s+", "-", licence.strip().lower())
    if re.fullmatch(HUB_LICENCES, identifier):
        return {"license": identifier}
    if not identifier or identifier.startswith(("none", "unknown")):
        return {"license": "unknown"}
    return {"license": "other", "license_name": "terms-of-the-dataset"}


def _card_data(record: Record, recipe: Recipe, in_timm: bool) -> ModelCardData:
    """The front matter."""
    dataset, hub = line(recipe.data.name), line(recipe.data.hub or recipe.data.name)
    needs = recipe.guidance.needs if recipe.guidance is not None else ()
    result = EvalResult(
        task_type="image-classification",
        task_name="Image Classification",
        dataset_type=hub,
        dataset_name=dataset,
        dataset_split="test" if record.dataset.evaluated_on == "test" else "train",  # of which a part was set aside
        metric_type="accuracy",
        metric_name=f"accuracy of the {recipe.select} epoch, %",
        metric_value=record.accuracy,
    )
    return ModelCardData(
        **hub_licence(recipe.data.licence),
        library_name="timm" if in_timm else "locality-bench",
        pipeline_tag="image-classification",
        tags=[
            "image-classification",
            "vision-transformer" if recipe.model.role == "student" else "resnet",
            *(tag for need, tag in TAGS.items() if need in needs),
            "small-datasets",
            *(["timm"] if in_timm else []),
        ],
        datasets=None if recipe.data.name.startswith("folder:") else [hub],
        metrics=["accuracy"],
        model_name=f"{line(recipe.id)} seed {recipe.seed}",
        eval_results=[result],
    )
