"""The model card of an exported run: front matter for the Hugging Face hub, then Markdown from model_card.md.jinja.

Records come from others, so none of their texts may end its place: each is one line, in the YAML of the library, in a code
span, or in a code block whose fence is longer than any row of backticks in it.
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
PAPER = "Locality Guidance for Improving Vision Transformers on Tiny Datasets"
ARXIV = "2207.10026"
BIBTEX = f"""@inproceedings{{li2022locality,
  title     = {{{PAPER}}},
  author    = {{Li, Kehan and Yu, Runyi and Wang, Zhennan and Yuan, Li and Song, Guoli and Chen, Jie}},
  booktitle = {{European Conference on Computer Vision (ECCV)}},
  year      = {{2022}},
  note      = {{arXiv:{ARXIV}}}
}}"""
# licences with an identifier on the hub, as recipes of datasets write them, in lower case
HUB_LICENCES = (
    *("apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    "cc-by-nc-nd-4.0",
)
LICENCE_NOTES = {
    "unknown": "No licence is known: ask the dataset's authors before you share weights that were trained on it",
    "other": "These are terms of its own: read them before you use or share weights that were trained on it",
}
EVALUATED_ON = {
    "test": "images of the dataset's test set",
    "holdout": "images held out from the training set; the test set was not used",
    "share": "images set aside from a dataset without a test set",
}
TAGS = {"maps": "locality-guidance", "logits": "knowledge-distillation"}
MAX_TEXT_CHARS = 200  # of a text from a record


def model_card(record: Record, recipe: Recipe, timm_call: Mapping[str, Any] | None) -> str:
    """The text of README.md.

    Args:
        record: of a finished run.
        timm_call: the arguments with which `timm.create_model` makes the network, or None.
    """
    last = f"{record.last_accuracy:.2f} % in the last epoch, {record.epochs}"
    best = f"{record.best_accuracy:.2f} % in the best epoch, {record.best_epoch}"
    is_last = recipe.select == "last"
    mean, std, size = list(recipe.augment.mean), list(recipe.augment.std), recipe.model.image_size
    licence = hub_licence(recipe.data.licence)["license"]
    card = ModelCard.from_template(
        _card_data(record, recipe, timm_call is not None),
        template_path=str(TEMPLATE),
        **{"span": span, "block": block, "line": line, "record": record, "recipe": recipe},
        arxiv=ARXIV,
        bibtex=BIBTEX,
        is_teacher=recipe.model.role == "teacher",
        is_last=is_last,
        accuracy=last if is_last else best,
        other_accuracy=best if is_last else last,
        optimistic="chosen by its accuracy on the evaluated images, so it is optimistic",
        evaluated_on=EVALUATED_ON.get(record.dataset.evaluated_on, "images"),
        in_timm=timm_call is not None,
        snippet=snippet(timm_call),
        size=size,
        mean=mean,
        std=std,
        transform=(
            "from torchvision import transforms\n\ntransform = transforms.Compose([\n"
            f"    transforms.Resize(({size}, {size})),\n"
            "    transforms.ToTensor(),\n"
            f"    transforms.Normalize({mean}, {std}),\n])"
        ),
        licence_note=LICENCE_NOTES.get(licence, "Weights that were trained on it are subject to its terms"),
        command=command(recipe, record.world_size, record.hardware.device not in ("cpu", "mps")),
        recipe_yaml=yaml.safe_dump(recipe.to_dict(), sort_keys=False),
    )
    return f"{card}\n"


def snippet(timm_call: Mapping[str, Any] | None) -> str:
    """Python that loads the network in the folder of its files: `model`, in evaluation mode."""
    if timm_call is None:
        return 'import bench\n\nloaded = bench.load(".")\nmodel, transform = loaded.model, loaded.transform'
    options = [f"{name}={value!r}" for name, value in timm_call.items() if name != "model_name"]
    call = ", ".join([f'"{timm_call["model_name"]}"', *options, 'checkpoint_path="model.safetensors"'])
    return f"import timm\n\nmodel = timm.create_model({call})\nmodel.eval()"


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
    if identifier in HUB_LICENCES:
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
        dataset_split=line(record.dataset.evaluated_on),
        metric_type="accuracy",
        metric_name=f"accuracy of the {recipe.select} epoch, %",
        metric_value=record.last_accuracy if recipe.select == "last" else record.best_accuracy,
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
