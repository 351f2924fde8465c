"""What every component computes at tiny sizes, for tests/helpers/golden.py.

Training is that of a run, five epochs of one step, but in float64, so that processors differ by less than the tolerance.
Images are seeded whole numbers.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from bench import guidance, models
from bench.config.methods import method_names, params_class
from bench.config.numerics import components, numerics_versions
from bench.config.registry import Registry
from bench.config.schema import Augment, Data, Model, Recipe, Schedule, TeacherPass, Train
from bench.data.augment import sample_augment_params
from bench.data.loaders import EvalLoader, TrainLoader
from bench.data.mix import sample_mix_params
from bench.data.store import open_dataset
from bench.data.subsets import DecodedDataset, Images
from bench.guidance import Outputs, Samples
from bench.models.drop_path import sample_drop_path_masks
from bench.train.feature_cache import FeatureCache, open_teacher
from bench.train.loop import Training
from bench.train.task import learning_rate
from tests.helpers.networks import PATCH_SIZE_IS_FREE, STUDENTS

PLACES = 150  # at which pixels are compared
CPU = torch.device("cpu")
PLAIN = ["augment.crop=none", "augment.flip=0", "augment.erase=0", "augment.rand_augment=null"]
FIVE_STEPS = ["train.epochs=5", "train.warmup_epochs=1", "train.batch_size=4"]
registry = Registry()

# Compared by kind: texts are equal, whole numbers are grey levels and may differ by one, others by a tolerance. Of mappings
# the stored keys count.
Value = str | list[int] | list[float] | dict[str, object]


@dataclass(frozen=True)
class Golden:
    """A value, and the components that it depends on."""

    components: list[str]
    value: Value


def compute() -> dict[str, Golden]:
    """All golden values of the code as it is, by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return {**dict(_of_data()), **dict(_of_train()), **dict(_of_models()), **dict(_of_methods()), **dict(_losses())}
    finally:
        torch.set_num_threads(threads)


def versions() -> dict[str, object]:
    """The numerics versions of all components, now."""
    recipes = [registry.compose(recipe_id) for recipe_id in registry.ids()]
    return dict(sorted(item for recipe in recipes for item in numerics_versions(recipe).items()))


def seeded(*shape: int, seed: int = 0) -> np.ndarray:
    """Images of whole numbers, uint8: a gradient under noise, so that every operation on pixels changes something."""
    noise = np.random.default_rng(seed).integers(0, 120, shape, dtype=np.uint8)
    return noise + np.linspace(0, 135, shape[-2]).astype(np.uint8)[:, None]


def dataset(size: int, train: int = 4, test: int = 2) -> DecodedDataset:
    """A dataset of square images."""

    def split(count: int, seed: int) -> Images:
        pixels, labels = seeded(count, size, size, 3, seed=seed), np.arange(count, dtype=np.int64) % 10
        return Images(pixels.reshape(-1), np.full((count, 2), size, np.int32), labels, labels.astype(str))

    return DecodedDataset(split(train, 1), split(test, 2), None, f"golden{size}")


# ---- data


def _of_data() -> Iterator[tuple[str, Golden]]:
    for name, value in _data_values():
        yield f"data: {name}", Golden(["data"], value)


def _data_values() -> Iterator[tuple[str, Value]]:
    yield "defaults", {**_defaults(Augment), **_defaults(Data)}
    for protocol in registry.names("protocols"):
        recipe = registry.compose("deit_tiny/cifar10/baseline", protocol, ["model.image_size=48", "train.batch_size=16"])
        augment = recipe.augment
        params = sample_augment_params(augment, (32, 40), 48, 256, seed=1, epoch=2)
        whole = [params.boxes.long(), params.flips, params.erased, params.noise, params.kinds]
        yield f"parameters of {protocol}", _digest(*(np.asarray(part) for part in whole if part is not None))
        if params.arguments is not None:
            yield f"arguments of {protocol}", params.arguments.reshape(-1)[:: 512 // 40].tolist()
        if (mixing := sample_mix_params(augment, 48, 80, 1, 2, CPU)) is not None:
            yield f"shares of {protocol}", mixing.shares.tolist()
            yield f"boxes of {protocol}", mixing.boxes.flatten().tolist()
        for pipeline in ("batched", "pil"):
            data = dataclasses.replace(recipe.data, pipeline=pipeline, workers=0)
            piped = dataclasses.replace(recipe, data=data)
            batch = next(TrainLoader(piped, dataset(32, 16), CPU).epoch(0))
            yield f"pixels of {protocol}, {pipeline}", _pixels(batch.images, augment)
    quick = registry.compose("deit_micro/digits/baseline", "quick", ["augment.crop=padded", "augment.padding=1"])
    digits = open_dataset(quick.data, "data")
    batches = list(TrainLoader(quick, digits, CPU).epoch(1))[:3]
    levels = torch.cat([_levels(batch.images, quick.augment) for batch in batches])
    order = np.concatenate([batch.indices for batch in batches])
    # from 8 to 16 px all weights of the resize are exact
    yield "digits", _digest(levels.numpy(), order, np.asarray(torch.cat([batch.labels for batch in batches])))
    images, _ = next(iter(EvalLoader(registry.compose("deit_tiny/cifar10/baseline"), dataset(32), CPU)))
    yield "pixels of the evaluation", _pixels(images, Augment())
    sizes = np.array([(20 + number, 40 - number) for number in range(16)], np.int32)
    ragged = Images(seeded(sizes.prod(1).sum(), 3).reshape(-1), sizes, np.arange(16) % 10, np.arange(16).astype(str))
    mixed = DecodedDataset(ragged, ragged, None, "ragged")
    own = registry.compose("deit_tiny/folder:x/baseline", "paper", ["train.batch_size=16", "augment.rand_augment=null"])
    yield "pixels of images that differ in size", _pixels(next(TrainLoader(own, mixed, CPU).epoch(0)).images, own.augment)
    for setting in ("holdout=0.3", "train_limit=50"):
        data = registry.compose("deit_micro/digits/baseline", "quick", [f"data.{setting}"]).data
        yield f"images with {setting}", _digest(digits.training(data).indices, digits.evaluation(data).indices)
    some = registry.compose("deit_micro/digits/baseline", "quick", ["data.subset=4"]).data
    yield "classes with subset=4", open_dataset(some, "data").fingerprint
    alone = dataclasses.replace(digits, test=None)
    yield "images without a test set", _digest(alone.evaluation(quick.data).indices)


def _levels(images: Tensor, augment: Augment) -> Tensor:
    """Normalised images as whole grey levels; erased places are noise and may lie outside of 0 to 255."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (augment.mean, augment.std))
    return (255 * (images * std + mean)).round().int()


def _pixels(images: Tensor, augment: Augment) -> list[int]:
    levels = _levels(images, augment).flatten()
    return levels[:: len(levels) // PLACES].tolist()


def _digest(*arrays: np.ndarray) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(array, np.int64).tobytes() for array in arrays)).hexdigest()


def _defaults(*sections: type) -> dict[str, object]:
    """The defaults of hashed keys, as JSON has them. A hash leaves out what is at its default."""
    fields = [f for section in sections for f in dataclasses.fields(section) if f.metadata.get("hashed", True)]
    return json.loads(json.dumps({f.name: f.default for f in fields if not dataclasses.is_dataclass(f.default)}))


# ---- what all runs share


def _of_train() -> Iterator[tuple[str, Golden]]:
    train = ["train"]
    for section in (Train, Model, Schedule, TeacherPass):
        yield f"train: defaults of {section.__name__}", Golden(train, _defaults(section))
    for protocol in registry.names("protocols"):
        student = registry.compose("deit_micro/digits/guided", protocol)
        for recipe in (student, student.teacher):
            parts = 2 if recipe.train.lr_per == "step" else 1  # of an epoch
            rates = [learning_rate(number / parts, recipe.train) for number in range(parts * recipe.train.epochs)]
            yield f"train: learning rates of {recipe.model.role}s, {protocol}", Golden(train, rates)
    masks = sample_drop_path_masks([0.1, 0.3, 0.6], 8, seed=1, epoch=2)
    yield "train: drop path", Golden(train, masks.flatten().tolist())


# ---- the networks


def student_recipe(name: str, method: str = "guided", *settings: str) -> Recipe:
    """The recipe of a student on images of its own size."""
    size = 16 if name == "deit_micro" else 32
    own = [f"model.image_size={size}", *PLAIN, *FIVE_STEPS]
    own += ["teacher.model.name=resnet8"] if method != "drloc" else []  # which has no teacher
    own += ["model.patch_size=8"] if name in PATCH_SIZE_IS_FREE else []
    own += ["model.drop_path_rate=0.1"] if name == "deit_micro" else []
    return registry.compose(f"{name}/cifar10/{method}", "paper", [*own, *settings])


def _of_models() -> Iterator[tuple[str, Golden]]:
    recipes = [student_recipe(name) for name in ("deit_micro", *STUDENTS)]
    recipes += [recipes[0].teacher, registry.compose("resnet18/cifar10", "paper", ["model.image_size=32"])]
    for recipe in recipes:
        network = _in_float64(models.create(recipe.model, 10, seed=3).eval())
        size = recipe.model.image_size
        with torch.no_grad(), float64():
            logits, maps = network(torch.from_numpy(seeded(2, 3, size, size)) / 255 - 0.5)
        values = [number for output in (logits, *maps) for number in _summary(output)]
        name = f"models.{recipe.model.builder}"
        yield f"{name}: outputs of {recipe.model.name}", Golden([name], [*values, *map(float, network.drop_path_rates)])


def _summary(output: Tensor) -> list[float]:
    """Two numbers that a change of any element, or of their order, changes: means of the absolute values, without and with
    rising weights."""
    flat = output.detach().double().abs().flatten()
    return [flat.mean().item(), (flat * torch.linspace(1, 2, len(flat), dtype=flat.dtype)).mean().item()]


# ---- the guidance methods


def _of_methods() -> Iterator[tuple[str, Golden]]:
    for name in method_names():
        yield f"guidance.{name}: defaults", Golden([f"guidance.{name}"], _defaults(params_class(name)))
    student, teacher = [(6, 4, 4), (8, 2, 2), (8, 2, 2)], [(4, 8, 8), (5, 4, 4), (6, 2, 2)]
    groups = dict.fromkeys(("chosen", "all"), range(len(student)))
    for recipe_name, recipe in _method_recipes().items():
        method = recipe.guidance.method
        (module,) = guidance.create(recipe.guidance, student, teacher, 3, groups).double().values()
        ours, theirs = (
            Outputs(_random(4, 10, seed=seed), [_random(4, *shape, seed=seed) for shape in shapes])
            for seed, shapes in enumerate((student, teacher))
        )
        ours = Outputs(ours.logits, [maps.requires_grad_() for maps in (ours.logits, *ours.maps)][1:])
        draws = guidance.begin_epoch(nn.ModuleDict({method: module}), 3, 2, 5, 4)
        with float64():
            term = module(ours, theirs, Samples(torch.arange(4), draws.get(method)))
            term.backward()
        gradients = [tensor.grad for tensor in (ours.logits, *ours.maps) if tensor.grad is not None]
        values = [term.item(), module.weight, module.ce_weight, *(x for grad in gradients for x in _summary(grad))]
        yield f"guidance.{method}: loss of {recipe_name}", Golden([f"guidance.{method}"], values)
        scales = [float(module.scale(epoch, 60)) for epoch in range(0, 60, 3)]
        if set(scales) != {1.0}:
            yield f"guidance.{method}: scales of {recipe_name}", Golden([f"guidance.{method}"], scales)


def _random(*shape: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).integers(-64, 64, shape) / 32)


def _method_recipes() -> dict[str, Recipe]:
    """{recipe name: recipe} of every guided method on deit_micro."""
    names = [name for name in registry.names("guidance") if name != "baseline"]
    return {name: student_recipe("deit_micro", name) for name in names}


# ---- training


def _losses() -> Iterator[tuple[str, Golden]]:
    recipes = {f"{name} guided": student_recipe(name) for name in STUDENTS}
    recipes |= {f"deit_micro {name}": recipe for name, recipe in _method_recipes().items()}
    joined = "guidance.method=kd+locality"
    recipes["deit_micro kd+locality"] = student_recipe("deit_micro", "kd", joined)
    for name, recipe in recipes.items():
        images = dataset(recipe.model.image_size)
        yield f"losses of {name}", Golden(components(recipe), train(recipe, images))
    for protocol in registry.names("protocols"):
        # Crops to other sizes and RandAugment are left out: processors differ by a grey level there.
        settings = [*FIVE_STEPS, "data.train_limit=4", "augment.crop=none", "augment.rand_augment=null"]
        student = registry.compose("deit_micro/digits/guided", protocol, [*settings, "teacher.train.batch_size=4"])
        for recipe in (student, registry.compose("resnet8/digits", protocol, settings)):
            values = train(recipe, open_dataset(recipe.data, "data"))
            yield f"losses of {recipe.id}, {protocol}", Golden(components(recipe), values)


def train(recipe: Recipe, images: DecodedDataset) -> list[float]:
    """The loss and the guidance loss of every epoch, and a summary of averaged weights, in float64."""
    teacher = open_teacher(recipe, None, "golden", images, CPU)
    values: list[float] = []
    training = Training(
        recipe, images, Accelerator(cpu=True), teacher, lambda history: values.extend(training._losses.tolist())
    )
    _in_float64(training._step.task.student)
    training._step.task.double()
    if isinstance(teacher, FeatureCache):
        stored = teacher.stored
        teacher.stored = lambda batch: stored(dataclasses.replace(batch, boxes=batch.boxes.double()))
    elif teacher is not None:
        _in_float64(teacher.network)
    average = training._step.ema
    if average is not None:
        _in_float64(average.module)
    with float64():
        training.run()
    summary = [] if average is None else _summary(nn.utils.parameters_to_vector(average.module.parameters()))
    return (values if recipe.guidance is not None else values[::2]) + summary


def _in_float64(network: nn.Module) -> nn.Module:
    """A network with its weights and its input in float64."""
    inner = network.network if isinstance(network, models.FeatureExtractor) else network
    inner.register_forward_pre_hook(lambda module, inputs: tuple(tensor.double() for tensor in inputs))
    return network.double()


@contextlib.contextmanager
def float64() -> Iterator[None]:
    """Where the code asks for fp32, it gets float64."""
    to_float = Tensor.float
    Tensor.float = Tensor.double
    try:
        yield
    finally:
        Tensor.float = to_float
