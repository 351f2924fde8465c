"""A network whose chosen inner modules hand out their outputs as feature maps, whatever layout they have there."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from bench.config.schema import Model, RecipeError
from bench.models.drop_path import DropPath, replace_drop_path


class FeatureExtractor(nn.Module):
    """A network with feature feature_layers and with drop-path masks from outside.

    Args:
        feature_layers: names of the modules to tap, first to last.

    Attributes:
        network: the network itself, under its own parameter names.
        feature_layers: as given.
        shapes: (channels, height, width) of each tapped map.
        drop_path_rates: the rate of each drop-path call in a forward, in order.
    """

    def __init__(self, network: nn.Module, model: Model, feature_layers: Sequence[str] = ()) -> None:
        super().__init__()
        replace_drop_path(network)
        self.network = network
        self.feature_layers = tuple(feature_layers)
        self._outputs: dict[int, Tensor] | None = None  # filled only while `forward` runs
        self._layouts: list[Layout] = []
        modules = dict(network.named_modules())
        for tap, name in enumerate(feature_layers):
            if name not in modules:
                raise RecipeError(f"model.feature_layers: {model.name} has no module {name!r}")
            modules[name].register_forward_hook(functools.partial(self._keep, tap))
        self._drop_paths: list[DropPath] = []
        self.shapes = self._probe(model)
        self.drop_path_rates = [module.rate for module in self._drop_paths]

    def _keep(self, tap: int, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        # The network is also called by itself, to evaluate it, and must not hoard the maps of the whole test set then.
        if self._outputs is not None:
            self._outputs[tap] = output

    def _probe(self, model: Model) -> list[tuple[int, int, int]]:
        """One forward without training mode: which drop paths are called, in which order, and the maps' shapes."""
        hooks = [
            module.register_forward_hook(lambda called, *_: self._drop_paths.append(called))
            for module in self.network.modules()
            if isinstance(module, DropPath)
        ]
        self._outputs = outputs = {}
        _forward_once(self.network, model, hooks)
        self._outputs = None
        for tap, name in enumerate(self.feature_layers):
            try:
                self._layouts.append(layout_of(outputs.get(tap), self.network))
            except ValueError as error:
                raise RecipeError(f"model.feature_layers: {model.name} cannot be tapped at {name!r}: {error}") from None
        return [tuple(to_map(outputs[tap], layout).shape[1:]) for tap, layout in enumerate(self._layouts)]

    def forward(self, images: Tensor, drop_path: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits and feature maps.

        Args:
            images: [batch, 3, size, size], normalised.
            drop_path: [calls, batch] scales from `sample_drop_path_masks`; needed in training where a rate is above zero.

        Returns:
            logits [batch, classes], and a map [batch, channels, height, width] for each tap.
        """
        self._outputs = outputs = {}
        if self.training:
            for module in self._drop_paths:
                module.scales.clear()
            for call, module in enumerate(self._drop_paths):
                module.scales.append(drop_path[call])
        logits = self.network(images)
        self._outputs = None
        return logits, [to_map(outputs[tap], layout) for tap, layout in enumerate(self._layouts)]


class Layout(NamedTuple):
    """How a module's output holds a square map.

    kind: "tokens" [batch, count, channels], "nchw" or "nhwc".
    prefix: tokens that stand before those of the map: class, distillation and register tokens.
    """

    kind: str
    prefix: int = 0


def layout_of(output: Any, network: nn.Module) -> Layout:
    """The layout of a module's output, for a square input image.

    Raises:
        ValueError: it holds no square map; the message says what it is.
    """
    if not isinstance(output, Tensor):
        raise ValueError(
            "it was not called" if output is None else f"it puts out a {type(output).__name__}, not one tensor"
        )
    shape = list(output.shape)
    if shape[0] != 1:
        raise ValueError(f"its output of shape {shape} for one image folds something else into the batch")
    if output.ndim == 4:
        one, two, three = shape[1:]
        if one == two != three or (one == two == three and getattr(network, "output_fmt", "NCHW") == "NHWC"):
            return Layout("nhwc")
        if two == three:
            return Layout("nchw")
    elif output.ndim == 3:
        # Not every block sees the tokens that the network has in the end: ConViT's and CaiT's class token enters late.
        for prefix in (getattr(network, "num_prefix_tokens", 1), 0, 1):
            count = shape[1] - prefix
            if count > 0 and math.isqrt(count) ** 2 == count:
                return Layout("tokens", prefix)
    raise ValueError(f"its output of shape {shape} is neither a map nor the tokens of a square")


def to_map(output: Tensor, layout: Layout) -> Tensor:
    """A module's output as a map [batch, channels, height, width], without the tokens that are no part of it (arXiv
    2207.10026 leaves out the class token, too)."""
    if layout.kind == "nhwc":
        return output.permute(0, 3, 1, 2)
    if layout.kind == "nchw":
        return output
    tokens = output[:, layout.prefix :].transpose(1, 2)
    side = math.isqrt(tokens.shape[2])
    return tokens.reshape(*tokens.shape[:2], side, side)


NO_BLOCKS = ("stem", "patch_embed", "downsample", "final", "head")  # what else timm builds of things it calls blocks


def default_feature_layers(network: nn.Module, model: Model) -> tuple[str, ...]:
    """The first, the middle (of n the one with n // 2 before it) and the last block of a network, by the order in which
    they are called. Blocks are what timm names so and lists one after the other, the outermost ones; those that work on a
    class token alone do not count.

    Raises:
        RecipeError: fewer than three are found.
    """
    blocks: list[str] = []
    for name, module in network.named_modules():
        kind, path = type(module).__name__, name.split(".")
        inside = any(name.startswith(f"{block}.") for block in blocks) or any(part.startswith(NO_BLOCKS) for part in path)
        if path[-1].isdigit() and "Block" in kind and "Class" not in kind and not inside:
            blocks.append(name)
    called: list[str] = []
    modules = dict(network.named_modules())
    hooks = [modules[name].register_forward_hook(lambda *_, name=name: called.append(name)) for name in blocks]
    _forward_once(network, model, hooks)
    if len(called) < 3:
        raise RecipeError(
            f"model.feature_layers: {model.name} cannot be tapped by itself, {len(called)} blocks were found in it: name three"
            " modules whose outputs are maps or tokens with model.feature_layers"
        )
    return called[0], called[len(called) // 2], called[-1]


@torch.no_grad()
def check_spatial_order(tapped: FeatureExtractor, model: Model) -> None:
    """Refuse a network whose tokens do not lie in the order of the image, as Hiera's: what changes in one cell of the image
    must change its first map most in that cell, or beside it.

    Raises:
        RecipeError: it does not.
    """
    side = tapped.shapes[0][1]
    row, column = side * 2 // 3, side // 5
    top, left = (round(model.image_size * i / side) for i in (row, column))
    cell = -(-model.image_size // side)
    images = torch.zeros(2, 3, model.image_size, model.image_size)
    images[1, :, top : top + cell, left : left + cell] = torch.linspace(-2, 2, 3).view(3, 1, 1)
    training = tapped.training
    _, maps = tapped.eval()(images)
    tapped.train(training)
    change = (maps[0][1] - maps[0][0]).norm(dim=0)
    found = divmod(int(change.argmax()), side)
    if max(abs(found[0] - row), abs(found[1] - column)) > 1:
        raise RecipeError(
            f"model.feature_layers: {model.name} cannot be tapped at {tapped.feature_layers[0]!r}: its tokens do not lie in the image's order"
        )


def _forward_once(network: nn.Module, model: Model, hooks: Sequence[RemovableHandle]) -> None:
    """One forward of a blank image without training mode, for hooks that are removed afterwards.

    Raises:
        RecipeError: the architecture does not take the size.
    """
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, 3, model.image_size, model.image_size))
    except Exception as error:  # architectures refuse sizes in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RecipeError(f"model {model.name}: does not take {model.image_size} px: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
        network.train(training)
