"""Test accuracy: each test image counted once, on any number of processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.data.batches import TestBatches


@torch.inference_mode()
def predict(network: nn.Module, batches: TestBatches, device: torch.device) -> tuple[Tensor, Tensor]:
    """The class that a network gives each image of this process's part, and the right one: [count] int64, on the device.

    Runs in fp32 and in evaluation mode, as the published numbers do; the network's mode is put back afterwards. Nothing
    waits for the device.
    """
    training = network.training
    network.eval()
    given, right = [], []
    with torch.autocast(device.type, enabled=False):
        for images, labels in batches:
            given.append(network(images).argmax(1))
            right.append(labels)
    network.train(training)
    return torch.cat(given), torch.cat(right)
