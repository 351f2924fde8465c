"""Accuracy on test or held-out images, each counted once on any number of processes; and the FLOPs of a network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.data.loaders import EvalLoader


@torch.inference_mode()
def predict(network: nn.Module, batches: EvalLoader, device: torch.device) -> tuple[Tensor, Tensor]:
    """The predicted and the true class of each image of this process's shard: [count] int64, on the device.

    Evaluates in fp32, as the published numbers are, and restores the network's mode. Nothing waits for the device.
    """
    training = network.training
    network.eval()
    predictions, targets = ([torch.empty(0, dtype=torch.int64, device=device)] for _ in range(2))
    with torch.autocast(device.type, enabled=False):
        for images, labels in batches:
            predictions.append(network(images).argmax(1))
            targets.append(labels)
    network.train(training)
    return torch.cat(predictions), torch.cat(targets)


def accuracy(network: nn.Module, batches: EvalLoader, accelerator: Accelerator) -> tuple[float, Tensor]:
    """Accuracy over all evaluated images in %, to four decimals, and the class predicted for each: [images] int64, on CPU.

    All processes call this together, and each gets both. Shards may differ in size by one.
    """
    own = torch.stack(predict(network, batches, accelerator.device), 1)
    count = int(accelerator.reduce(torch.tensor(len(own), device=accelerator.device), "sum"))
    shards = accelerator.gather(accelerator.pad_across_processes(own)).view(accelerator.num_processes, -1, 2)
    out = shards.transpose(0, 1).flatten(0, 1)[:count].cpu()  # process r of n has the images r, r + n, …; padding is last
    return round(100 * (out[:, 0] == out[:, 1]).sum().item() / len(out), 4), out[:, 0]


@contextmanager
def counting_flops() -> Iterator[FlopCounterMode]:
    """Count the FLOPs of what is computed inside: twice the multiply-accumulates that papers call FLOPs."""
    # attention as matrix products, since torch cannot count the fused kernels of every device
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False) as counter:
        yield counter


def flops_per_image(network: nn.Module, image_size: int, device: torch.device) -> int:
    """FLOPs of a forward pass of one image in evaluation mode."""
    training = network.training
    network.eval()
    with counting_flops() as counter:
        network(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(training)
    return counter.get_total_flops()
