"""Operations on the global batch of all processes, with the gradients that one process with this batch would have."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor, nn


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, own: Tensor) -> Tensor:
        parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, own.contiguous())
        ctx.rows = len(own)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may use the given one again
        torch.distributed.all_reduce(gradient)  # the losses of all processes depend on these rows
        first = torch.distributed.get_rank() * ctx.rows
        return gradient[first : first + ctx.rows]


@torch.compiler.disable  # collectives are not captured
def _gather(own: Tensor) -> Tensor:
    return _Gather.apply(own)


def gather(own: Tensor) -> Tensor:
    """The rows of all processes, in the order of the global batch: [batch of a process, ...] to [global batch, ...].

    Its backward pass sums the gradients of the losses of all processes. Data parallelism then divides by the number of
    processes. The result is the gradient of the mean loss, whether a loss is of local samples or of the global batch.
    """
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return _gather(own) if distributed and torch.distributed.get_world_size() > 1 else own


class BatchNorm(nn.Module):
    """Batch norm of [batch, channels, height, width] with the statistics of the global batch, always. eps as in PyTorch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        # every process has as many samples
        centred = x - gather(x.mean((0, 2, 3), keepdim=True)).mean(0)
        variance = gather(centred.square().mean((0, 2, 3), keepdim=True)).mean(0)
        return centred * torch.rsqrt(variance + 1e-5) * self.weight[:, None, None] + self.bias[:, None, None]
