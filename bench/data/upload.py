"""Copies from the host to the device that nothing waits for."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def upload(values: np.ndarray, device: torch.device) -> Tensor:
    """An array as a tensor on the device. It is copied from pinned memory, so that the host does not wait for a GPU."""
    tensor = torch.from_numpy(values)
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)
