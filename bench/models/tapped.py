"""A network whose chosen inner modules hand out their outputs as feature maps."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn

from bench.models.drop_path import DropPath, replace_drop_path
from bench.recipes import Model, RecipeError


class Tapped(nn.Module):
    """A network with feature taps and with drop-path masks from outside.

    Attributes:
        network: the network itself, under its own parameter names.
        shapes: (channels, height, width) of each tapped map.
        drop_path_rates: the rate of each drop-path call in a forward, in order.
    """

    def __init__(self, network: nn.Module, model: Model, *, taps: bool = True) -> None:
        super().__init__()
        replace_drop_path(network)
        self.network = network
        self._outputs: dict[int, Tensor] | None = None  # filled only while `forward` runs
        modules = dict(network.named_modules())
        for tap, name in enumerate(model.taps if taps else ()):
            if name not in modules:
                raise RecipeError(f"model.taps: {model.name} has no module {name!r}")
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
        training = self.network.training
        self.network.eval()
        try:
            with torch.no_grad():
                _, maps = self(torch.zeros(1, 3, model.image_size, model.image_size))
        finally:
            for hook in hooks:
                hook.remove()
            self.network.train(training)
        return [tuple(m.shape[1:]) for m in maps]

    def forward(self, images: Tensor, drop_path: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Logits and feature maps.

        Args:
            images: [batch, 3, size, size], normalised.
            drop_path: [calls, batch] scales from `draw_scales`; needed in training where a rate is above zero.

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
        return logits, [to_map(outputs[tap]) for tap in sorted(outputs)]


def to_map(output: Tensor) -> Tensor:
    """A module's output as a map [batch, channels, height, width].

    Tokens [batch, count, channels] become the largest square they fill; the class token, if there is one, stands first and
    is left out (arXiv 2207.10026). A map stays as it is.

    Raises:
        RecipeError: the tokens fill no square.
    """
    if not isinstance(output, Tensor):
        raise RecipeError(f"model.taps: a module puts out a {type(output).__name__}, not one tensor of maps or tokens")
    if output.ndim == 4:
        return output
    count = output.shape[1]
    side = math.isqrt(count)
    if output.ndim != 3 or count - side * side > 1:
        raise RecipeError(f"model.taps: an output of shape {list(output.shape)} is neither a map nor tokens of a square")
    tokens = output[:, count - side * side :]
    return tokens.transpose(1, 2).reshape(output.shape[0], output.shape[2], side, side)
