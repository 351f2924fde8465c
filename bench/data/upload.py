"""Numbers from the host to the device without waiting for it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the device, of the same shape and type; by way of pinned memory, so that a GPU is not waited
    for."""
    tensor = torch.from_numpy(values)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
