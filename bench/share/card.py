"""The model card of an exported run: front matter for the Hugging Face hub, then Markdown.

Records come from others, so a text of theirs stands on one line, in YAML that PyYAML writes, in a code span or in a code
block, whose fences are longer than any row of backticks in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from bench.config.command import command
from bench.config.schema import Recipe

PAPER = "Locality Guidance for Improving Vision Transformers on Tiny Datasets"
ARXIV = "2207.10026"
BIBTEX = f"""@inproceedings{{li2022locality,
  title     = {{{PAPER}}},
  author    = {{Li, Kehan and Yu, Runyi and Wang, Zhennan and Yuan, Li and Song, Guoli and Chen, Jie}},
  booktitle = {{European Conference on Computer Vision (ECCV)}},
  year      = {{2022}},
  note      = {{arXiv:{ARXIV}}}
}}"""
# Licences that the hub has a word for, as the recipes of datasets write them in lower case.
HUB_LICENCES = (
    *("apache-2.0", "mit", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0"),
    "cc-by-nc-nd-4.0",
)
EVALUATED_ON = {
    "test": "images of the dataset's test set",
    "holdout": "images held out from the training set; the test set was left alone",
    "share": "images set aside from the dataset's only set",
}
LONGEST = 200  # characters of a text from a record


def card(record: Mapping[str, Any], recipe: Recipe, classes: int, timm_call: Mapping[str, Any] | None) -> str:
    """The text of README.md.

    Args:
        record: of a finished run, checked.
        timm_call: arguments with which `timm.create_model` makes the network, or None.
    """
    sections = (
        f"# {span(recipe.id)}, seed {recipe.seed}",
        _what(recipe),
        "## Results",
        _results(record, recipe),
        "## Loading it",
        _loading(recipe, classes, timm_call),
        "## Dataset and licence",
        _dataset(record, recipe),
        "## Training",
        _training(record, recipe),
        "The whole recipe:",
        block(yaml.safe_dump(recipe.to_dict(), sort_keys=False), "yaml"),
        "## Citation",
        block(BIBTEX, "bibtex"),
    )
    return front_matter(_metadata(record, recipe, timm_call is not None)) + "\n" + "\n\n".join(sections) + "\n"


def snippet(recipe: Recipe, classes: int, timm_call: Mapping[str, Any] | None) -> str:
    """Python that loads the network in the folder of its files: `model`, in evaluation mode."""
    if timm_call is None:
        return 'import bench\n\nloaded = bench.load(".")\nmodel, transform = loaded.model, loaded.transform'
    name, *options = (f"{name}={value!r}" for name, value in timm_call.items())
    words = ", ".join([name.partition("=")[2].replace("'", '"'), *options, 'checkpoint_path="model.safetensors"'])
    return f"import timm\n\nmodel = timm.create_model({words})\nmodel.eval()"


def line(text: object) -> str:
    """A text on one line, without control characters."""
    out = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    return out if len(out) <= LONGEST else f"{out[:LONGEST]}…"


def span(text: object) -> str:
    """A text in a code span that it cannot end."""
    out = line(text)
    fence = "`" * (_longest_row(out) + 1)
    return f"{fence} {out} {fence}" if "`" in out or not out else f"{fence}{out}{fence}"


def block(text: str, language: str) -> str:
    """A text in a code block that it cannot end."""
    fence = "`" * max(3, _longest_row(text) + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def front_matter(content: Mapping[str, Any]) -> str:
    """YAML between lines of ---; every text in it stands on one line."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: plain(inner) for name, inner in value.items()}
        if isinstance(value, list):
            return [plain(inner) for inner in value]
        return line(value) if isinstance(value, str) else value

    return f"---\n{yaml.safe_dump(plain(content), sort_keys=False, allow_unicode=True, width=float('inf'))}---\n"


def _longest_row(text: str) -> int:
    return max(map(len, re.findall("`+", text)), default=0)


def licence_on_hub(licence: str) -> dict[str, str]:
    """The keys of a licence on the hub: its word for it, `unknown` where none is stated, else `other` with a name."""
    word = re.sub(r"\s+", "-", licence.strip().lower())
    if word in HUB_LICENCES:
        return {"license": word}
    if not word or word.startswith(("none", "unknown")):
        return {"license": "unknown"}
    return {"license": "other", "license_name": "terms-of-the-dataset"}


def _metadata(record: Mapping[str, Any], recipe: Recipe, in_timm: bool) -> dict[str, Any]:
    student = recipe.model.role == "student"
    hub = recipe.data.hub or recipe.data.name
    public = not recipe.data.name.startswith("folder:")
    split = line(record["dataset"].get("evaluated_on", "test"))
    return {
        **licence_on_hub(recipe.data.licence),
        "library_name": "timm" if in_timm else "locality-bench",
        "pipeline_tag": "image-classification",
        "tags": [
            "image-classification",
            "vision-transformer" if student else "resnet",
            *(["locality-guidance"] if recipe.guidance is not None else []),
            "small-datasets",
            *(["timm"] if in_timm else []),
        ],
        **({"datasets": [hub]} if public else {}),
        "metrics": ["accuracy"],
        "model-index": [
            {
                "name": f"{recipe.id} seed {recipe.seed}",
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image Classification"},
                        "dataset": {"type": hub, "name": recipe.data.name, "split": split},
                        "metrics": [
                            {
                                "type": "accuracy",
                                "value": record[f"{recipe.select}_accuracy"],
                                "name": f"accuracy of the {recipe.select} epoch, %",
                            }
                        ],
                    }
                ],
            }
        ],
    }


def _what(recipe: Recipe) -> str:
    suite = f"of the locality-guidance benchmark (arXiv [{ARXIV}](https://arxiv.org/abs/{ARXIV}))"
    name, data = span(recipe.model.name), span(recipe.data.name)
    if recipe.model.role == "teacher":
        return f"{name}, a small CNN, trained from scratch on {data}: a teacher {suite}."
    start = f"{name}, a vision transformer, trained from scratch on {data}"
    if recipe.guidance is None:
        return f"{start} without guidance: a baseline {suite}."
    return (
        f"{start} with locality guidance: while it was trained, it also imitated a small CNN,"
        f" {span(recipe.teacher.id)}, which it does not need any more. A student {suite}."
    )


def _results(record: Mapping[str, Any], recipe: Recipe) -> str:
    dataset, teacher = record["dataset"], record.get("teacher")
    counted = EVALUATED_ON.get(dataset.get("evaluated_on", "test"), "images")
    last = f"{record['last_accuracy']:.2f} % after the last of {record['epochs']} epochs"
    best = f"{record['best_accuracy']:.2f} % in the best epoch, {record['best_epoch']}"
    kept, other = (last, best) if recipe.select == "last" else (best, last)
    flatters = "chosen by the images that it is counted on, which flatters"
    lines = [
        f"**Accuracy: {kept}**: the weights of this folder{'' if recipe.select == 'last' else f', {flatters}'}",
        f"{other}{f', {flatters}; not these weights' if recipe.select == 'last' else ''}",
        f"Counted on {_count(dataset.get('test_images'))} {counted}",
        f"TrainResult on {_count(dataset.get('train_images'))} images",
        f"One run, of seed {recipe.seed}: a comparison of methods takes several",
    ]
    if teacher is not None:
        accuracy = teacher[f"{teacher['select']}_accuracy"]
        lines.append(
            f"Its teacher: {span(teacher['id'])}, seed {teacher['seed']}, {accuracy:.2f} % in its {span(teacher['select'])} epoch"
            f" of {teacher['epochs']}"
        )
    return "\n".join(f"- {text}" for text in lines)


def _loading(recipe: Recipe, classes: int, timm_call: Mapping[str, Any] | None) -> str:
    size = recipe.model.image_size
    mean, std = (list(values) for values in (recipe.augment.mean, recipe.augment.std))
    takes = (
        f"It takes RGB images of {size} x {size} px, [batch, 3, {size}, {size}]: resized to that square (bilinear, no"
        f" crop), scaled to 0 … 1, then normalised by mean {mean} and standard deviation {std}. It gives logits"
        f" [batch, {classes}], the classes in the order in which the dataset numbers them."
    )
    by_suite = "`bench.load` is part of the benchmark, installed by `pip install -e .` in its checkout"
    text = block(snippet(recipe, classes, timm_call), "python")
    if timm_call is None:
        return (
            f"In this folder, with the suite ({by_suite}), since timm alone does not give this network:\n\n{text}\n\n"
            f"`transform` is what the run saw its test images through, from a PIL image to [3, {size}, {size}].\n\n{takes}"
        )
    transform = (
        "from torchvision import transforms\n\ntransform = transforms.Compose([\n"
        f"    transforms.Resize(({size}, {size})),\n"
        "    transforms.ToTensor(),\n"
        f"    transforms.Normalize({mean}, {std}),\n])"
    )
    return (
        f"In this folder, with timm:\n\n{text}\n\n{takes} Within a grey level or so of each pixel that is, for RGB images"
        f' of PIL:\n\n{block(transform, "python")}\n\nThe run\'s own, for any image: `bench.load(".")` gives `model` and'
        f" `transform` ({by_suite})."
    )


def _dataset(record: Mapping[str, Any], recipe: Recipe) -> str:
    data = recipe.data
    lines = [f"Dataset: {span(data.name)}" + (f", on the hub {span(data.hub)}" if data.hub else "")]
    if "fingerprint" in record["dataset"]:
        lines.append(f"Its pixels and labels, by SHA-256: {span(record['dataset']['fingerprint'])}")
    hub = licence_on_hub(data.licence)["license"]
    lines.append(f"Its licence: {span(data.licence) if line(data.licence) else 'not stated'}")
    if hub == "unknown":
        lines.append("No licence is known, so ask its authors before you pass on weights that were learnt from it")
    elif hub == "other":
        lines.append("Those are terms of its own: read them before you use or pass on weights that were learnt from it")
    else:
        lines.append("Weights that were learnt from it carry its terms")
    lines.append("The benchmark's code, which is not in this folder: Apache-2.0")
    return "\n".join(f"- {text}" for text in lines)


def _training(record: Mapping[str, Any], recipe: Recipe) -> str:
    hardware, world = record["hardware"], record["world_size"]
    gpu = hardware["device"] not in ("cpu", "mps")
    repeats = command(recipe, world, gpu)
    if repeats is None:
        said = "The recipe names files of its author's own (`--recipes-dir`), so no command of the suite alone repeats it."
    else:
        where = "" if recipe.data.source == "packaged" else ", with the dataset in `data/` or fetched"
        said = f"The command that repeats it, in the benchmark's checkout{where}:\n\n{block(repeats, 'bash')}"
    processes = f"{world} process{'es' if world != 1 else ''}"
    machine = [span(hardware[name]) for name in ("device", "processor") if name in hardware]
    lines = [
        f"Hardware: {', '.join(machine)}; {processes}, precision {span(record['precision']['used'])},"
        f" {record['seconds']:,.0f} s",
        f"Code: {_code(record.get('code'))}",
    ]
    if isinstance(libraries := record.get("libraries"), dict):
        lines.append("Libraries: " + ", ".join(span(f"{name} {version}") for name, version in libraries.items()))
    return said + "\n\n" + "\n".join(f"- {text}" for text in lines)


def _code(code: Any) -> str:
    if not isinstance(code, dict):
        return "not recorded"
    said = f"version {span(code.get('version'))}"
    if code.get("commit") is None:
        return f"{said}, not of a checkout"
    dirty = code.get("dirty")
    changed = (
        "with changes that are not committed" if dirty else "whether changed is not known" if dirty is None else "unchanged"
    )
    return f"{said}, commit {span(code['commit'])}, {changed}"


def _count(value: Any) -> str:
    return f"{value:,}" if type(value) is int else "its"
