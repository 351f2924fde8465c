"""Loads the weights of a network from a safetensors file."""

from __future__ import annotations

import safetensors.torch
from torch import nn

from bench.config.schema import RecipeError
from bench.storage import first_line


def load_weights(network: nn.Module, content: bytes, name: str, where: str) -> None:
    """Load weights into a network.

    Args:
        content: of the file.
        name: of the model, for errors.
        where: the file or folder, for errors.

    Raises:
        RecipeError: the content is no safetensors file, or the weights are of another network or number of classes.
    """
    try:
        weights = safetensors.torch.load(content)
    except Exception as error:  # safetensors, and torch beneath it, raise many kinds for files that are not theirs
        raise RecipeError(f"{where}: its weights cannot be read: {first_line(error)}") from error
    own = network.state_dict()
    others = [key for key in own if key not in weights or weights[key].shape != own[key].shape]
    if own.keys() == weights.keys() and others and all(weights[key].shape[1:] == own[key].shape[1:] for key in others):
        theirs, ours = weights[others[0]].shape[0], own[others[0]].shape[0]  # only the last layer differs, in its rows
        raise RecipeError(f"{where}: its weights are of a {name} with {theirs} classes, and {ours} are needed")
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise RecipeError(f"{where}: its weights are not those of {name}: {problem[:200]}") from error
