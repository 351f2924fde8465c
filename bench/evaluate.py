"""Test accuracy: each test image counted once, on any number of processes."""

from __future__ import annotations

import torch
from torch import nn

from bench.data.batches import TestBatches


@torch.inference_mode()
def count_correct(network: nn.Module, batches: TestBatches, device: torch.device) -> torch.Tensor:
    """How many images of this process's part are classified correctly and how many there are: [2] float32, on the device.

    Runs in fp32 and in evaluation mode, as the published numbers do; the network's mode is put back afterwards. Nothing
    waits for the device; add the counts of all processes, then read them.
    """
    training = network.training
    network.eval()
    counts = torch.zeros(2, device=device)  # whole numbers, exact in fp32 up to 16 million images
    with torch.autocast(device.type, enabled=False):
        for images, labels in batches:
            counts[0] += (network(images).argmax(1) == labels).sum()
            counts[1] += len(labels)
    network.train(training)
    return counts
