"""The keys of a recipe, with their types, defaults and ranges, and the hash of a composed recipe."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from bench.config.params import NO_PARAMS, MethodParams, ModelParams, Params, Plugin, key, param_keys, scaled_epochs

# Part of every hash. Raise it when the default of a hashed key changes, or when a key gets another meaning.
SCHEMA = 3

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


MAX_ERROR_CHARS = 1200


class RecipeError(ValueError):
    """The user's input cannot be run. The message is one sentence: where it was written, what was given, what is valid."""

    def __init__(self, sentence: str) -> None:
        # It quotes text of users and libraries, which may hold line breaks, control characters and words of any length.
        # The place is named at the beginning and what is allowed at the end, so a long sentence is cut in the middle.
        line = "".join(character if character.isprintable() else " " for character in sentence)
        line = re.sub(r"\S{400,}", lambda word: f"{word[0][:100]}…", line)
        too_long = len(line) > MAX_ERROR_CHARS
        super().__init__(f"{line[: MAX_ERROR_CHARS - 403]} … {line[-400:]}" if too_long else line)


@dataclass(frozen=True)
class Model:
    """A network: a student (vision transformer) or a teacher (CNN)."""

    name: str = key("", hashed=False)  # the file in recipes/models; the hash takes the builder and its arguments
    role: Literal["student", "teacher"] = "student"
    builder: str = ""  # module in bench/models
    timm: str | None = None  # timm's name of the architecture, for builders that use timm
    image_size: int = key(224, low=1, high=1024)  # px, square
    patch_size: int | None = key(None, low=1, high=1024)  # px
    width: int | None = key(None, low=1, high=8192)  # channels: of the tokens, or of a CNN's first stage
    depth: int | None = key(None, low=1, high=256)  # blocks of a transformer, layers of a CNN
    heads: int | None = key(None, low=1, high=1024)
    mlp_ratio: float | None = key(None, low=0.1, high=64)  # hidden width of the MLPs, in widths
    drop_path_rate: float = key(0.0, low=0, high=0.99)
    feature_layers: tuple[str, ...] = ()  # modules whose outputs are the feature maps, first to last; (): chosen
    params: ModelParams = NO_PARAMS  # that the builder declares


@dataclass(frozen=True)
class Data:
    """A dataset and how its images reach the device."""

    name: str = ""
    # packaged: in this package; else where it is downloaded if it is not in the data folder: nowhere, torchvision, the hub.
    source: Literal["files", "torchvision", "hub", "packaged"] = key("files", hashed=False)
    layout: str = key("parquet", hashed=False)  # of the files: a module in bench/data/layouts
    places: tuple[str, ...] = key((), hashed=False)  # patterns in the data folder; the first with the dataset counts
    torchvision: str | None = key(None, hashed=False)  # class in torchvision.datasets that downloads it
    hub: str | None = key(None, hashed=False)  # repository on the Hugging Face hub
    hub_config: str | None = None  # for a repository with several datasets
    image_column: str = "image"
    label_column: str = "label"
    train_split: str = "train"  # "a+b" is both
    test_split: str = "test"
    test_share: float = key(0.2, low=0.01, high=0.9)  # of each class: the test set of a dataset without one
    classes: int | None = key(None, low=2, high=100_000)  # None: as many as are found
    train_images: int | None = key(None, low=1)  # expected number; None accepts any
    test_images: int | None = key(None, low=1)
    short_side: int | None = key(None, low=1, high=65_536)  # px; larger images are shrunk to it when decoded
    licence: str = key("", hashed=False)
    ask: str = key("", hashed=False)  # whom to ask for a dataset that may not be redistributed
    pipeline: Literal["batched", "pil"] = "batched"  # on the device, a whole batch at once | timm's transform in workers
    # Where the batched pipeline keeps the pixels. host: each step's pixels are copied to the device; auto: on the device if
    # they fit. Images that differ in size stay on the host.
    residence: Literal["auto", "device", "host"] = key("auto", hashed=False)
    # For the pil pipeline, and for crops on the host. None: one per core.
    workers: int | None = key(None, low=0, high=256, hashed=False)
    # Use only N classes, spread evenly over their order: of 200, 20 are every tenth. The files need not hold the others.
    subset: int | None = key(None, low=2, high=100_000)
    # Evaluate on this share of each training class instead of the test set, to choose epochs and settings.
    holdout: float = key(0.0, low=0, high=0.9)
    train_limit: int | None = key(None, low=1)  # train on a fixed random part of the images, the same for every seed


@dataclass(frozen=True)
class Augment:
    """The training transform, in this order: crop, flip, RandAugment, normalise, erase, mix."""

    crop: Literal["random_resized", "padded", "none"] = "random_resized"
    crop_area: tuple[float, float] = key((0.08, 1.0), low=0.0001, high=1)  # of the native image; random_resized
    crop_ratio: tuple[float, float] = key((3 / 4, 4 / 3), low=0.01, high=100)  # width / height; random_resized
    padding: int = key(0, low=0, high=256)  # black native px on each side before a crop of the native size; padded
    flip: float = key(0.5, low=0, high=1)  # probability
    rand_augment: str | None = None  # timm's configuration string; the batched pipeline takes m, mstd, inc, n and p
    erase: float = key(0.25, low=0, high=1)  # probability
    mean: tuple[float, float, float] = key(IMAGENET_MEAN, low=0, high=1)
    std: tuple[float, float, float] = key(IMAGENET_STD, low=0.0001, high=1)
    mixup: float = key(0.0, low=0, high=100)  # alpha of the Beta distribution of shares; 0: no Mixup
    cutmix: float = key(0.0, low=0, high=100)  # the same for CutMix
    mix_switch: float = key(0.5, low=0, high=1)  # probability of CutMix for a pair, where both are on
    mix_prob: float = key(1.0, low=0, high=1)  # probability that a pair is mixed

    @property
    def mixes(self) -> bool:
        """Whether samples are mixed, in pairs."""
        return self.mixup > 0 or self.cutmix > 0


@dataclass(frozen=True)
class Train:
    """Optimiser and schedule. The learning rate is not scaled by batch size or devices."""

    epochs: int = key(300, low=1, high=100_000)
    batch_size: int = key(128, low=1, high=1_000_000)  # over all processes; the last incomplete batch is dropped
    # Samples per forward pass of a process; gradients add up to those of the whole batch. Changes memory and speed only.
    micro_batch: int | None = key(None, low=1, hashed=False)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    lr: float = key(5.0e-4, low=0)
    min_lr: float = key(0.0, low=0)
    warmup_lr: float = key(0.0, low=0)
    warmup_epochs: int = key(0, low=0, high=100_000)
    lr_per: Literal["epoch", "step"] = "epoch"  # how often the learning rate changes
    weight_decay: float = key(0.05, low=0, high=1000)
    betas: tuple[float, float] = key((0.9, 0.999), low=0, high=0.999999)  # adamw
    momentum: float = key(0.9, low=0, high=0.999999)  # sgd, Nesterov
    label_smoothing: float = key(0.0, low=0, high=0.99)
    # Decay of the average over the weights of all steps, which is evaluated and kept; 0: none. With timm's warm-up.
    ema: float = key(0.0, low=0, high=0.999999)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = key("auto", hashed=False)
    # torch.compile. default: no CUDA graphs; graphs: one CUDA graph per step; auto: off without CUDA, else graphs, or
    # default where graphs are not possible.
    compile: Literal["auto", "off", "default", "graphs"] = key("auto", hashed=False)
    test_batch_size: int = key(200, low=1, high=1_000_000, hashed=False)
    evaluate_every: int = key(1, low=1, high=100_000)  # epochs between two evaluations; the last epoch is always evaluated
    checkpoint_seconds: float = key(60.0, low=0, hashed=False)  # least time between two checkpoints, at epoch ends
    # Use only operations that give the same bits every time, also on a GPU; slower.
    deterministic: bool = key(False, hashed=False)
    threads: int | None = key(None, low=1, high=1024, hashed=False)  # per process; None: its share of the cores


@dataclass(frozen=True)
class Schedule:
    """The epochs in which guidance is active, counted from 0, and whether it ends by itself."""

    from_epoch: int = key(0, low=0)
    until_epoch: int | None = key(None, low=1)  # exclusive; None: to the end
    # ALG, bench/guidance/schedule.py: guidance ends once its loss falls too slowly. The rest has effect with it only.
    adaptive: Literal["none", "paper", "researcher"] = "none"
    window: int = key(50, low=1, scaled=True)
    threshold: float = -0.02  # change of the loss per epoch
    first_test: int = key(20, low=1, scaled=True)  # researcher: no adaptive stop before this many guided epochs


@dataclass(frozen=True)
class TeacherPass:
    """How the frozen teacher processes the student's batch."""

    # "batch": batch norm uses the statistics of the batch, as the released code does (train mode); "running": it uses the
    # running statistics of the teacher's training.
    bn: Literal["batch", "running"] = "batch"
    bn_scope: Literal["global", "local"] = "global"  # the batch of all processes | of one process (released under DDP)
    antialias: bool = False  # of the bilinear resize from the student's batch to the teacher's input size
    # The teacher's features of the unaugmented images are computed once; crop and flip are replayed on them.
    offline: bool = False


@dataclass(frozen=True)
class Guidance:
    """How the student is guided, by a teacher (arXiv 2207.10026) or by a task of its own.

    method: a file in bench/guidance or a plug-in, or several joined by "+", whose losses are added.
    params: the parameters of each of these methods, in this order.
    """

    method: str
    params: tuple[MethodParams, ...]
    schedule: Schedule = Schedule()
    teacher: TeacherPass = TeacherPass()

    @property
    def keys(self) -> list[tuple[str, MethodParams, str]]:
        """All parameters, as (key below `guidance.params`, `Params` of the method, name of the parameter in it)."""
        params = dict(zip(self.method.split("+"), self.params, strict=True))
        names = param_keys({method: [f.name for f in fields(own)] for method, own in params.items()})
        return [(key, params[method], name) for method, own in names.items() for name, key in own.items()]

    @property
    def needs(self) -> frozenset[str]:
        """The teacher's outputs that the methods use, of "maps" and "logits"; empty: there is no teacher."""
        return frozenset().union(*(params.needs for params in self.params))

    @property
    def student_maps(self) -> frozenset[str]:
        """The student's maps that the methods use, of "chosen" and "all"."""
        return frozenset(params.student_maps for params in self.params) - {None}

    @property
    def needs_whole_batch(self) -> bool:
        """Whether the loss compares samples of one batch, so that a batch may not be split into micro-batches."""
        return any(params.needs_whole_batch for params in self.params)

    def scaled_epochs(self, epochs: int) -> dict[str, int]:
        """The keys that count epochs of the published runs, as {key: number for a run of `epochs`}."""
        keys = [(f"guidance.params.{key}", params, name) for key, params, name in self.keys]
        if self.schedule.adaptive != "none":
            keys += [(f"guidance.schedule.{f.name}", self.schedule, f.name) for f in fields(Schedule)]
        return {
            key: scaled_epochs(getattr(section, name), epochs)
            for key, section, name in keys
            if section.__dataclass_fields__[name].metadata.get("scaled")
        }


@dataclass(frozen=True)
class Recipe:
    """Everything that a run needs to know. `Registry.compose` builds it."""

    id: str
    protocol: str
    model: Model
    data: Data
    augment: Augment
    train: Train
    guidance: Guidance | None = None  # None for baselines and teachers
    teacher: Recipe | None = None  # of the CNN that guides the student; None too for guidance without a teacher
    seed: int = key(0, low=0, high=2**63 - 1)
    select: Literal["last", "best"] = "last"  # of a teacher: the epoch whose weights are used; "best" looks at the test set
    # Of a teacher that is not trained here: its file, or the folder that has it as model.safetensors. No path is recorded.
    weights: str | None = dataclasses.field(default=None, compare=False, metadata={"hashed": False})
    sha256: str | None = None  # of that file, hex

    @functools.cached_property
    def hash(self) -> str:
        """SHA-256 over the fields that change the mathematics, hex.

        Fields at their schema default are left out, so a new field whose default keeps the behaviour changes no hash. The
        dataset's name is included; seed, other names, device, threads and workers are not.
        """
        content: dict[str, Any] = {"schema": SCHEMA}
        for section in ("model", "data", "augment", "train"):
            content[section] = _non_default(getattr(self, section))
        if self.guidance is None or "chosen" not in self.guidance.student_maps:
            content["model"].pop("feature_layers", None)  # baselines and teachers are trained without them
        if self.select != "last":
            content["select"] = self.select
        if self.sha256 is not None:
            content["sha256"] = self.sha256
        if self.guidance is not None:
            params = self._method_params(_non_default)
            schedule = _non_default(self.guidance.schedule)
            content["guidance"] = {"method": self.guidance.method, "params": params, "schedule": schedule}
        if self.teacher is not None:
            # All student seeds share one teacher, so the teacher's seed changes the mathematics.
            teacher = {"hash": self.teacher.hash, "seed": self.teacher.seed, **_non_default(self.guidance.teacher)}
            if "maps" in self.guidance.needs:
                teacher["feature_layers"] = list(self.teacher.model.feature_layers)
            content["teacher"] = teacher
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def _method_params(self, plain: Callable[[MethodParams], dict[str, Any]]) -> dict[str, Any]:
        """{key: value} of the methods' parameters. plain: {name: value} of one method, perhaps without some names."""
        values = ((key, name, plain(own)) for key, own, name in self.guidance.keys)
        return {key: of_method[name] for key, name, of_method in values if name in of_method}

    @property
    def plugins(self) -> list[Plugin]:
        """The user's own files that a run executes, for its teacher too. They are not in `hash` and not in `to_dict`."""
        used = [self.model.params, *(self.guidance.params if self.guidance is not None else ())]
        own = [params.plugin for params in used if params.plugin is not None]
        return list(dict.fromkeys(own + (self.teacher.plugins if self.teacher is not None else [])))

    def with_seed(self, seed: int) -> Recipe:
        """The same recipe with another seed. Much faster than composing, since the hash is kept."""
        other = dataclasses.replace(self, seed=seed)
        vars(other)["hash"] = self.hash
        return other

    def to_dict(self) -> dict[str, Any]:
        """The composed recipe as plain types, hash included, as `show` prints it and records store it."""
        out: dict[str, Any] = {"id": self.id, "protocol": self.protocol, "hash": self.hash, "seed": self.seed}
        if self.model.role == "teacher":
            out |= {"select": self.select} if self.sha256 is None else {"sha256": self.sha256}
        unused = TRAINING_KEYS if self.sha256 is not None else ()
        for section in ("model", "data", "augment", "train"):
            plain = _to_plain(getattr(self, section))
            out[section] = {name: value for name, value in plain.items() if f"{section}.{name}" not in unused}
        if self.guidance is not None:
            params = self._method_params(_to_plain)
            schedule = _to_plain(self.guidance.schedule)
            out["guidance"] = {"method": self.guidance.method, "params": params, "schedule": schedule}
            if any(params.own for params in self.guidance.params):  # elsewhere the file that says so is not there
                out["guidance"]["needs"] = sorted(self.guidance.needs)
                out["guidance"]["student_maps"] = sorted(self.guidance.student_maps)
        if self.teacher is not None:
            out["teacher"] = {**_to_plain(self.guidance.teacher), **self.teacher.to_dict()}
        return out


SECTIONS: dict[str, type] = {"model": Model, "data": Data, "augment": Augment, "train": Train}
TEACHER_PASS_KEYS = tuple(f.name for f in fields(TeacherPass))  # under `teacher.`: how a student's run uses its teacher
TEACHER_DATA_KEYS = ("pipeline", "workers")
# A teacher takes these from its student unless it has its own: where it is trained, and which images it may see. A
# student's batch is normalised once for both.
SHARED_WITH_TEACHER = (
    *("train.device", "train.threads", "augment.mean", "augment.std"),
    *(f"data.{f.name}" for f in fields(Data) if f.name not in TEACHER_DATA_KEYS),
)
# Keys that only say how a teacher is trained, without effect on one that is read from a file.
TRAINING_KEYS = frozenset(
    [*("seed", "select", "data.train_limit"), *(f"data.{name}" for name in TEACHER_DATA_KEYS)]
    + [f"train.{f.name}" for f in fields(Train)]
    + [f"augment.{f.name}" for f in fields(Augment) if f.name not in ("mean", "std")]
)
# The sections of each kind of recipe file. A protocol says how to train student and teacher, and nothing else.
LAYER_SECTIONS = {
    "models": ("model",),
    "datasets": ("data", "teacher"),
    "guidance": ("guidance", "teacher"),
    "protocols": ("train", "data", "augment", "teacher"),
    "suites": (*SECTIONS, "guidance", "teacher"),
}


def _to_plain(section: Any) -> dict[str, Any]:
    """A section as plain types: tuples become lists, parameters become a mapping."""
    return {f.name: _plain(getattr(section, f.name)) for f in fields(section)}


def _plain(value: Any) -> Any:
    if isinstance(value, Params):
        return _to_plain(value)
    return list(value) if isinstance(value, tuple) else value


def _non_default(section: Any) -> dict[str, Any]:
    """The hashed fields of a section that differ from their default, as plain types; all of a user's own parameters."""
    plain = _to_plain(section)
    if isinstance(section, Params) and section.own:
        return plain
    hashed = (f for f in fields(section) if f.metadata.get("hashed", True))
    return {f.name: plain[f.name] for f in hashed if plain[f.name] != _plain(f.default)}
