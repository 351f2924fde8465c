"""What a recipe can say: its sections and keys, with their types, defaults and ranges, and the hash of a composed recipe.

This module needs no torch, nor anything else of the suite.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from dataclasses import dataclass, field, fields
from typing import Any, Literal

# Part of every hash. Raise it when the default of a hashed key changes, or when the same keys begin to mean something else.
SCHEMA = 2

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


LONGEST = 1200  # characters of an error's sentence


class RecipeError(ValueError):
    """The user's input cannot be run; the message is one sentence that says where, what was given and what is allowed, in
    at most `LONGEST` characters."""

    def __init__(self, sentence: str) -> None:
        # It quotes what users, and libraries, have written: line breaks, control characters, words of any length and any
        # number of words. Where it is written stands at the beginning, what is allowed at the end.
        line = "".join(character if character.isprintable() else " " for character in sentence)
        line = re.sub(r"\S{400,}", lambda word: f"{word[0][:100]}…", line)
        super().__init__(line if len(line) <= LONGEST else f"{line[: LONGEST - 403]} … {line[-400:]}")


def key(default: Any, *, low: float | None = None, high: float | None = None, hashed: bool = True) -> Any:
    """A recipe key: its default, the closed range it must lie in, and whether it changes the mathematics (is hashed)."""
    return field(default=default, metadata={"low": low, "high": high, "hashed": hashed})


@dataclass(frozen=True)
class Model:
    """A network: a student (vision transformer) or a guide (CNN)."""

    name: str = key("", hashed=False)  # the file in recipes/models; the builder and its arguments below are what counts
    role: Literal["student", "guide"] = "student"
    builder: str = ""  # module in bench/models
    timm: str | None = None  # timm's name of the architecture, for builders that start from one
    image_size: int = key(224, low=1, high=1024)  # px, square
    patch_size: int | None = key(None, low=1, high=1024)  # px
    width: int | None = key(None, low=1, high=8192)  # channels: of the tokens, or of a CNN's first stage
    depth: int | None = key(None, low=1, high=256)  # blocks of a transformer, layers of a CNN
    heads: int | None = key(None, low=1, high=1024)
    mlp_ratio: float | None = key(None, low=0.1, high=64)  # hidden width of the MLPs, in widths
    drop_path_rate: float = key(0.0, low=0, high=0.99)
    taps: tuple[str, ...] = ()  # modules whose outputs are the feature maps, first to last


@dataclass(frozen=True)
class Data:
    """A dataset and how its images reach the device."""

    name: str = ""
    # Where it comes from when it is not in the data folder: nowhere, torchvision's download, the hub, this package.
    source: Literal["files", "torchvision", "hub", "packaged"] = key("files", hashed=False)
    layout: str = key("parquet", hashed=False)  # of its files: a module in bench/data/layouts
    places: tuple[str, ...] = key((), hashed=False)  # folders or archives below the data folder, as patterns; first found
    torchvision: str | None = key(None, hashed=False)  # class in torchvision.datasets that downloads it
    hub: str | None = key(None, hashed=False)  # repository on the Hugging Face hub
    hub_config: str | None = None  # of a repository that holds several datasets
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"  # "a+b" is both
    test_split: str = "test"
    test_share: float = key(0.2, low=0.01, high=0.9)  # of each class, the test set of a dataset that has none of its own
    classes: int | None = key(None, low=2, high=100_000)  # None: those that are found
    train_images: int | None = key(None, low=1)  # what the splits must hold; None accepts any number
    test_images: int | None = key(None, low=1)
    short_side: int | None = key(None, low=1, high=65_536)  # px; larger images are shrunk to it when they are decoded
    licence: str = key("", hashed=False)
    ask: str = key("", hashed=False)  # whom to ask for a dataset that nobody may pass on
    pipeline: Literal["batched", "pil"] = "batched"  # on the device for a whole batch | timm's transform in workers
    # Where the batched pipeline keeps the pixels: on the device, or on the host, which then feeds them step by step; auto:
    # on the device where they fit. Images that differ in size stay on the host.
    residence: Literal["auto", "device", "host"] = key("auto", hashed=False)
    # Of the pil pipeline, and of crops on the host; None: one a core.
    workers: int | None = key(None, low=0, high=256, hashed=False)
    # Only the first so many classes; the files need not hold the others.
    subset: int | None = key(None, low=2, high=100_000)
    # A share of each class of the training set that is evaluated in place of the test set, which is left alone: for
    # choosing epochs and settings.
    holdout: float = key(0.0, low=0, high=0.9)
    train_limit: int | None = key(None, low=1)  # a fixed random part of the training images, the same for every seed


@dataclass(frozen=True)
class Augment:
    """The training transform, in this order: crop, flip, RandAugment, normalise, erase."""

    crop: Literal["random_resized", "padded", "none"] = "random_resized"
    crop_area: tuple[float, float] = key((0.08, 1.0), low=0.0001, high=1)  # of the native image; random_resized
    crop_ratio: tuple[float, float] = key((3 / 4, 4 / 3), low=0.01, high=100)  # width / height; random_resized
    padding: int = key(0, low=0, high=256)  # native px of black on each side before a crop of the native size; padded
    flip: float = key(0.5, low=0, high=1)  # probability
    rand_augment: str | None = None  # timm's configuration string; batched takes m, mstd, inc, n and p
    erase: float = key(0.25, low=0, high=1)  # probability
    mean: tuple[float, float, float] = key(IMAGENET_MEAN, low=0, high=1)
    std: tuple[float, float, float] = key(IMAGENET_STD, low=0.0001, high=1)


@dataclass(frozen=True)
class Train:
    """Optimiser and schedule. The learning rate is constant within an epoch and never scaled by batch or devices."""

    epochs: int = key(300, low=1, high=100_000)
    batch_size: int = key(128, low=1, high=1_000_000)  # over all processes; the last partial batch is dropped
    # Samples that a process computes at once; gradients add up to those of the whole batch, so it changes memory and speed.
    micro_batch: int | None = key(None, low=1, hashed=False)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = key(5.0e-4, low=0)
    min_lr: float = key(0.0, low=0)
    warmup_lr: float = key(0.0, low=0)
    warmup_epochs: int = key(0, low=0, high=100_000)
    weight_decay: float = key(0.05, low=0, high=1000)
    betas: tuple[float, float] = key((0.9, 0.999), low=0, high=0.999999)  # adamw
    momentum: float = key(0.9, low=0, high=0.999999)  # sgd, Nesterov
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = key("auto", hashed=False)
    # torch.compile: auto is graphs on a GPU and off elsewhere; default without, graphs with CUDA graphs.
    compile: Literal["auto", "off", "default", "graphs"] = key("auto", hashed=False)
    test_batch_size: int = key(200, low=1, high=1_000_000, hashed=False)
    checkpoint_seconds: float = key(60.0, low=0, hashed=False)  # between two checkpoints, at epoch ends
    # Only operations that give the same bits each time, on a GPU too; slower.
    deterministic: bool = key(False, hashed=False)
    threads: int | None = key(None, low=1, high=1024, hashed=False)  # of a process on a CPU; None: see bench/processes.py


@dataclass(frozen=True)
class Guidance:
    """How the guide's feature maps enter the student's loss (arXiv 2207.10026)."""

    method: str = "none"  # module in bench/guidance
    weight: float = key(2.5, low=0, high=1e6)  # of the feature term; 0 leaves it out
    transform: Literal["linear", "attention", "similarity"] = "linear"  # of a map before it is compared
    stages: tuple[int, ...] | None = key(None, low=0)  # which pairs of taps count, from 0; None: all
    from_epoch: int = key(0, low=0)  # guidance acts from this epoch, counted from 0 …
    until_epoch: int | None = key(None, low=1)  # … to before this one; None: to the end
    logits: Literal["none", "soft", "hard"] = "none"  # imitate the guide's logits too: its probabilities | its arg-max
    logit_weight: float = key(0.5, low=0, high=1)  # w: the loss is (1 - w) cross-entropy + w logit term + feature term
    temperature: float = key(1.0, low=0.01, high=1000)  # soft
    # The guide's features of the unaugmented images are computed once and kept; crop and flip are replayed on them.
    offline: bool = False
    # "batch": the guide normalises by the statistics of the batch at hand, as the released code does (train mode);
    # "running": by the running statistics it was trained with.
    guide_norm: Literal["batch", "running"] = "batch"
    guide_norm_scope: Literal["global", "local"] = "global"  # the batch of all processes | of one (released under DDP)
    antialias: bool = False  # of the bilinear resize that makes the guide's small view from the student's batch


@dataclass(frozen=True)
class Recipe:
    """Everything that a run needs to know. Build one with `Registry.compose`."""

    id: str
    protocol: str
    model: Model
    data: Data
    augment: Augment
    train: Train
    guidance: Guidance | None = None  # None for baselines and for guides
    guide: Recipe | None = None  # the recipe of the CNN that guides
    seed: int = key(0, low=0, high=2**63 - 1)
    select: Literal["last", "best"] = "last"  # guides: the epoch whose weights are kept; "best" looks at the test set

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over the fields that change the mathematics, hex. Fields at their schema default are left out, so a
        new field with a behaviour-keeping default changes no hash. The dataset's name is in it, as the dataset's identity;
        seed, other names, device, threads and workers never are."""
        content: dict[str, Any] = {"schema": SCHEMA}
        for section in ("model", "data", "augment", "train", "guidance"):
            if (config := getattr(self, section)) is not None:
                content[section] = _changed(config)
        if not self.imitates_maps:
            content["model"].pop("taps", None)  # of baselines and guides: nobody looks at their maps in training
        if self.select != "last":
            content["select"] = self.select
        if self.guide is not None:
            # One guide serves all seeds of the student, so which guide it is, its own seed included, is mathematics.
            content["guide"] = {"hash": self.guide.hash, "seed": self.guide.seed}
            if self.imitates_maps:
                content["guide"]["taps"] = list(self.guide.model.taps)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe, and so the same hash, under another seed: a thousandth of the time that composing takes."""
        other = dataclasses.replace(self, seed=seed)
        vars(other)["hash"] = self.hash
        return other

    @property
    def imitates_maps(self) -> bool:
        """Whether a student is trained on its guide's feature maps, so that its own are wanted."""
        return self.guidance is not None and self.guidance.weight > 0

    def to_dict(self) -> dict[str, Any]:
        """The composed recipe as plain types, hash included; what `show` prints and records keep."""
        out: dict[str, Any] = {"id": self.id, "protocol": self.protocol, "hash": self.hash, "seed": self.seed}
        if self.model.role == "guide":
            out["select"] = self.select
        for section in ("model", "data", "augment", "train", "guidance"):
            if (config := getattr(self, section)) is not None:
                out[section] = {name: _plain(value) for name, value in dataclasses.asdict(config).items()}
        if self.guide is not None:
            out["guide"] = self.guide.to_dict()
        return out


SECTIONS: dict[str, type] = {"model": Model, "data": Data, "augment": Augment, "train": Train, "guidance": Guidance}
# What a guide shares with its student unless it is told otherwise: where it is trained, and which images it may see.
# A student's batch is normalised once for both.
GUIDES_OWN_DATA = ("pipeline", "workers")
SHARED_WITH_GUIDE = (
    *("train.device", "train.threads", "augment.mean", "augment.std"),
    *(f"data.{f.name}" for f in fields(Data) if f.name not in GUIDES_OWN_DATA),
)
# What each kind of file may say. A protocol touches only how to train, for the student and for its guide.
LAYER_SECTIONS = {
    "models": ("model",),
    "datasets": ("data", "guide"),
    "guidance": ("guidance", "guide"),
    "protocols": ("train", "data", "augment", "guide"),
    "suites": (*SECTIONS, "guide"),
}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _changed(config: Any) -> dict[str, Any]:
    """The hashed fields of a section that differ from their default."""
    return {
        f.name: _plain(value)
        for f in fields(config)
        if f.metadata.get("hashed", True) and (value := getattr(config, f.name)) != f.default
    }
