"""Feature maps of a network: the outputs of some of its modules, in any layout, as [batch, channels, height, width]."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from bench.config.plugins import place
from bench.config.schema import Model, RecipeError
from bench.models.drop_path import DropPath, replace_drop_path
from bench.storage import first_line

# parts of the names of modules that timm builds of blocks, but that are no blocks of the network
NOT_BLOCKS = ("stem", "patch_embed", "downsample", "final", "head")
MIN_CELLS = 4  # a side, of the maps of a teacher of timm: a smaller map says little of where something is


class FeatureExtractor(nn.Module):
    """A new network that returns feature maps beside its logits, and whose drop-path masks come from outside.

    Attributes:
        network: the network, under its own parameter names.
        feature_layers: names of the modules whose outputs are the maps: the feature layers, then other blocks.
        shapes: (channels, height, width) of each map.
        groups: the indices of the maps of "chosen", the feature layers, and of "all", blocks in the order of their calls.
        drop_path_rates: the rate of each drop-path call in a forward pass, in order.
    """

    def __init__(
        self, network: nn.Module, model: Model, feature_layers: Sequence[str] = (), blocks: Sequence[str] = ()
    ) -> None:
        super().__init__()
        replace_drop_path(network)
        self.network = network
        self.feature_layers = names = (*feature_layers, *(name for name in blocks if name not in feature_layers))
        self.groups = {"chosen": [*range(len(feature_layers))], "all": [*map(names.index, blocks)]}
        modules = dict(network.named_modules())
        for name in names:
            if name not in modules:
                raise RecipeError(f"model.feature_layers: {model.name} has no module {name!r}")
        layers = [modules[name] for name in names]
        drop_paths = [module for module in modules.values() if isinstance(module, DropPath)]
        calls = _record_calls(network, model, {*layers, *drop_paths})
        self._drop_paths = [module for module, _ in calls if isinstance(module, DropPath)]
        self.drop_path_rates = [module.rate for module in self._drop_paths]
        self._outputs: dict[int, Tensor] | None = None  # filled only while `forward` runs
        outputs = dict(calls)
        self._layouts: list[Layout] = []
        self.shapes: list[tuple[int, int, int]] = []
        for index, layer in enumerate(layers):
            try:
                self._layouts.append(layout_of(outputs.get(layer), network))
            except ValueError as error:
                where = f"{model.name} has no feature map at {names[index]!r}"
                raise RecipeError(f"model.feature_layers: {where}: {error}") from None
            self.shapes.append(tuple(to_map(outputs[layer], self._layouts[index]).shape[1:]))
            layer.register_forward_hook(functools.partial(self._collect, index))

    def synchronise_batch_norms(self) -> None:
        """Let batch norms use the statistics of the samples of all processes, also those that are feature layers."""
        before = [self.network.get_submodule(name) for name in self.feature_layers]
        # timm's knows its own layers, which are batch norm and activation in one; hooks are lost
        self.network = convert_sync_batchnorm(self.network)
        for index, (name, layer) in enumerate(zip(self.feature_layers, before, strict=True)):
            if (synchronised := self.network.get_submodule(name)) is not layer:
                synchronised.register_forward_hook(functools.partial(self._collect, index))

    def _collect(self, index: int, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        # Evaluation calls the network itself, and must not collect the maps of the whole test set.
        if self._outputs is not None:
            self._outputs[index] = output

    def forward(self, images: Tensor, drop_path: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits [batch, classes], and a map [batch, channels, height, width] per feature layer.

        Args:
            images: [batch, 3, size, size], normalised.
            drop_path: [calls, batch] scales from `sample_drop_path_masks`; required in training if a rate is above zero.
        """
        self._outputs = outputs = {}
        if self.training:
            for module in self._drop_paths:
                module.scales.clear()
            for call, module in enumerate(self._drop_paths):
                module.scales.append(drop_path[call])
        logits = self.network(images)
        self._outputs = None
        return logits, [to_map(outputs[index], layout) for index, layout in enumerate(self._layouts)]


class Layout(NamedTuple):
    """How a module's output holds a square map.

    kind: "tokens" [batch, count, channels], "nchw" or "nhwc".
    prefix: number of tokens before those of the map: class, distillation and register tokens.
    """

    kind: str
    prefix: int = 0


def layout_of(output: object, network: nn.Module) -> Layout:
    """The layout of a module's output for one square image. Raises ValueError if it is no square map."""
    if output is None:
        raise ValueError("it was not called")
    if not isinstance(output, Tensor):
        raise ValueError(f"its output is a {type(output).__name__}, not one tensor")
    shape = list(output.shape)
    if shape[0] != 1:
        raise ValueError(f"its output of shape {shape} for one image folds something else into the batch")
    if output.ndim == 4:
        one, two, three = shape[1:]
        if one == two != three or (one == two == three and getattr(network, "output_fmt", "NCHW") == "NHWC"):
            return Layout("nhwc")
        if two == three:
            return Layout("nchw")
    elif output.ndim == 3 and (prefix := prefix_tokens(shape[1], network)) is not None:
        return Layout("tokens", prefix)
    raise ValueError(f"its output of shape {shape} is neither a map nor the tokens of a square")


def prefix_tokens(count: int, network: nn.Module) -> int | None:
    """The number of class, distillation and register tokens before a square map; None if `count` allows no square."""
    # Not every block sees all tokens that the network has at its end: ConViT's and CaiT's class token enters late.
    for prefix in (getattr(network, "num_prefix_tokens", 1), 0, 1):
        if count > prefix and math.isqrt(count - prefix) ** 2 == count - prefix:
            return prefix
    return None


def to_map(output: Tensor, layout: Layout) -> Tensor:
    """A module's output as a map [batch, channels, height, width], without class tokens and the like, as in
    arXiv 2207.10026."""
    if layout.kind == "nhwc":
        return output.permute(0, 3, 1, 2)
    if layout.kind == "nchw":
        return output
    tokens = output[:, layout.prefix :].transpose(1, 2)
    side = math.isqrt(tokens.shape[2])
    return tokens.reshape(*tokens.shape[:2], side, side)


def default_feature_layers(network: nn.Module, model: Model) -> tuple[str, ...]:
    """The first, the middle (number n // 2 of n, from 0) and the last block of a network, in the order of their calls.

    Of a teacher of timm, the last layers of three resolutions. Raises RecipeError if fewer than three blocks are found.
    """
    if model.role == "teacher" and (layers := _last_of_resolutions(network, model)):
        return layers
    called = block_names(network, model)
    return called[0], called[len(called) // 2], called[-1]


def _last_of_resolutions(network: nn.Module, model: Model) -> tuple[str, ...]:
    """The last layer of each resolution of a CNN, fine to coarse: the three coarsest of MIN_CELLS or more a side.

    If there are fewer, the three finest. Empty if timm's `feature_info` does not list three resolutions.
    """
    listed, modules = getattr(network, "feature_info", None), dict(network.named_modules())
    listed = [one for one in listed if one["module"] in modules] if isinstance(listed, list) else []
    layers = {one["reduction"]: one["module"] for one in listed}
    names, large = tuple(layers.values()), sum(model.image_size >= MIN_CELLS * reduction for reduction in layers)
    return names[: max(3, large)][-3:] if len(names) >= 3 else ()


def block_names(network: nn.Module, model: Model) -> list[str]:
    """The names of a network's blocks, in the order of their calls.

    Blocks are the outermost modules in lists whose class timm calls a block, but for those that process only a class token.
    Raises RecipeError if fewer than three are found.
    """
    blocks: dict[nn.Module, str] = {}
    for name, module in network.named_modules():
        kind, path = type(module).__name__, name.split(".")
        nested = any(name.startswith(f"{block}.") for block in blocks.values())
        inside = nested or any(part.startswith(NOT_BLOCKS) for part in path)
        if path[-1].isdigit() and "Block" in kind and "Class" not in kind and not inside:
            blocks[module] = name
    called = [blocks[module] for module, _ in _record_calls(network, model, blocks)]
    if len(called) < 3:
        raise RecipeError(
            f"model.feature_layers: {model.name} has no default feature layers, since only {len(called)} blocks were found:"
            " set model.feature_layers to three modules whose outputs are maps or tokens"
        )
    return called


@torch.no_grad()
def check_spatial_order(extractor: FeatureExtractor, model: Model) -> None:
    """Raise RecipeError if the tokens of a network are not in the order of the image, as Hiera's.

    A change in one cell of the image must change the first map most in that cell, or beside it.
    """
    side = extractor.shapes[0][1]
    row, column = side * 2 // 3, side // 5
    top, left = (round(model.image_size * i / side) for i in (row, column))
    cell = -(-model.image_size // side)
    images = torch.zeros(2, 3, model.image_size, model.image_size)
    images[1, :, top : top + cell, left : left + cell] = torch.linspace(-2, 2, 3).view(3, 1, 1)
    _, maps = extractor.eval()(images)
    extractor.train()
    change = (maps[0][1] - maps[0][0]).norm(dim=0)
    found = divmod(int(change.argmax()), side)
    if max(abs(found[0] - row), abs(found[1] - column)) > 1:
        raise RecipeError(
            f"model.feature_layers: {model.name} has no feature map at {extractor.feature_layers[0]!r}: its tokens are not"
            " in the order of the image"
        )


def _record_calls(network: nn.Module, model: Model, modules: Iterable[nn.Module]) -> list[tuple[nn.Module, object]]:
    """Run a blank image through a new network. Returns (module, output) for each call of these modules, in order.

    Raises RecipeError if the architecture does not take the image size.
    """
    calls: list[tuple[nn.Module, object]] = []
    hooks = [m.register_forward_hook(lambda module, _, output: calls.append((module, output))) for m in modules]
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, model.image_size, model.image_size))
    except Exception as error:  # architectures refuse sizes in many ways
        problem = f"does not take {model.image_size} px: {first_line(error)}"
        raise RecipeError(f"{place(error) or f'model {model.name}'}: {problem}") from error
    for hook in hooks:
        hook.remove()
    network.train()
    return calls
