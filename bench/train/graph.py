"""A training step as one CUDA graph, which the host launches in one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from bench.data.mix import Mixed
from bench.train.feature_cache import StoredMaps

T = TypeVar("T")
WARM_UP_STEPS = 3  # that torch recommends: they compile, and fill the caches of its libraries


class Inputs(NamedTuple):
    """What a step reads beside weights and states: tensors on the device."""

    images: Tensor  # [batch, 3, size, size]
    labels: Tensor  # [batch]
    drop_path: Tensor  # [calls, batch]
    mixed: Mixed | None  # of mixed images
    draws: dict[str, Tensor] | None  # of methods that have some, [batch, ...] by name; None in an epoch without guidance
    stored: StoredMaps | None  # of the teacher, with stored features


class StepGraph:
    """A training step that is captured once, and then replayed.

    The first WARM_UP_STEPS calls train without a graph, on another stream. Then the caller calls `capture`, which trains
    nothing, and all later calls replay the graph. So each call is one step of training. If the capture is refused, later
    calls train as the first ones do.

    Args:
        step: the work of a step; it may neither wait for the device nor depend on values of the host that change.
        pool: of memory, shared with graphs that never run at the same time; from `torch.cuda.graph_pool_handle`.
        stream: where the first steps run and captures are made, shared as the pool.

    Attributes:
        captured: whether there is a graph.
    """

    def __init__(self, step: Callable[[Inputs], None], pool: tuple[int, int], stream: torch.cuda.Stream) -> None:
        self._step, self._pool, self._stream = step, pool, stream
        self._inputs: Inputs | None = None  # in fixed places
        self._graph: torch.cuda.CUDAGraph | None = None  # kept also if refused: the pool is freed with its last graph
        self._steps = 0
        self.captured = False

    def capture_is_next(self) -> bool:
        """Whether `capture` is to be called before the next step."""
        return self._graph is None and self._steps >= WARM_UP_STEPS

    def capture(self) -> None:
        """Capture the step. Raises RuntimeError if it is refused: it does what a graph cannot, or memory is missing."""
        self._graph = torch.cuda.CUDAGraph()
        # Threads that load data may allocate meanwhile. Some versions of torch leave a refused capture's stream current.
        current = torch.cuda.stream(torch.cuda.current_stream(self._stream.device))
        with current, torch.cuda.graph(self._graph, self._pool, self._stream, capture_error_mode="thread_local"):
            self._step(self._inputs)
        self.captured = True

    def __call__(self, inputs: Inputs) -> None:
        """Train one step."""
        self._inputs = place(inputs, self._inputs)
        self._steps += 1
        if self.captured:
            self._graph.replay()
            return
        main = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(main)
        with torch.cuda.stream(self._stream):
            self._step(self._inputs)
        main.wait_stream(self._stream)


def place(inputs: Inputs, places: Inputs | None) -> Inputs:
    """Inputs with the values of `inputs` in the memory of `places`; in new memory without them. Nothing waits."""
    if places is None:
        return tree_map_only(Tensor, lambda tensor: tensor.clone(memory_format=torch.contiguous_format), inputs)
    (values, shape), (targets, expected) = tree_flatten(inputs), tree_flatten(places)
    assert shape == expected
    for value, target in zip(values, targets, strict=True):
        if value is not None:
            target.copy_(value)
    return places


def on_stream(work: Callable[[], T], stream: torch.cuda.Stream) -> Callable[[], T]:
    """Start work on another stream. Returns a function that lets the current stream wait for it, and returns its result.

    Only this function may start work on that stream. Then memory of a result is reused only after all work that reads it.
    """
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with torch.cuda.stream(stream):
        result = work()

    def finished() -> T:
        torch.cuda.current_stream(stream.device).wait_stream(stream)
        return result

    return finished


def read_rate_from_memory(optimizer: torch.optim.Optimizer, device: torch.device) -> None:
    """Let an optimiser read its learning rate from one tensor on the device, so that a graph follows a schedule.

    Its state dict has numbers as before, and it loads those of other optimisers.
    """
    rate = torch.zeros((), device=device)

    def use_tensor(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            rate.fill_(group["lr"])
            group["lr"] = rate
            if "capturable" in group:
                group["capturable"] = True

    def as_numbers(optimizer: torch.optim.Optimizer, state: dict) -> None:
        for group in state["param_groups"]:
            group["lr"] = group["lr"].item()
            if "capturable" in group:
                group["capturable"] = False

    use_tensor(optimizer)
    optimizer.register_load_state_dict_post_hook(use_tensor)
    optimizer.register_state_dict_post_hook(as_numbers)
