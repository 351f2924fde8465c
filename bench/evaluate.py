"""Test accuracy: each test image counted once, on any number of processes."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.data.batches import TestBatches


@torch.inference_mode()
def predict(network: nn.Module, batches: TestBatches, device: torch.device) -> tuple[Tensor, Tensor]:
    """The class that a network gives each image of this process's part, and the right one: [count] int64, on the device.

    Runs in fp32 and in evaluation mode, as the published numbers do; the network's mode is put back afterwards. Nothing
    waits for the device. A part without images gives none.
    """
    training = network.training
    network.eval()
    given, right = ([torch.empty(0, dtype=torch.int64, device=device)] for _ in range(2))
    with torch.autocast(device.type, enabled=False):
        for images, labels in batches:
            given.append(network(images).argmax(1))
            right.append(labels)
    network.train(training)
    return torch.cat(given), torch.cat(right)


def accuracy(network: nn.Module, batches: TestBatches, accelerator: Accelerator) -> tuple[float, Tensor]:
    """Of all evaluated images the share that a network tells right, in %, and the class it gives each, [images] int64
    on the CPU, in their order. All processes call this together, and each gets both; the parts may differ in size."""
    given, right = predict(network, batches, accelerator.device)
    world = accelerator.num_processes
    counts = accelerator.gather(torch.tensor([len(given)], device=accelerator.device)).tolist()
    out = torch.empty(sum(counts), 2, dtype=torch.int64)
    parts = accelerator.gather(accelerator.pad_across_processes(torch.stack([given, right], 1))).view(world, -1, 2).cpu()
    for rank, (part, count) in enumerate(zip(parts, counts, strict=True)):
        out[rank::world] = part[:count]
    return 100 * (out[:, 0] == out[:, 1]).sum().item() / len(out), out[:, 0]


def flops_per_image(network: nn.Module, image_size: int, device: torch.device) -> int:
    """FLOPs of a forward pass of one image in evaluation, a multiplication and an addition counted as two (so twice the
    multiply-accumulates that papers call FLOPs)."""
    training = network.training
    network.eval()
    # Attention by its own matrix products, since not every device's fused kernel is one that torch can count.
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(training)
    return counter.get_total_flops()
