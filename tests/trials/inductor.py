"""Every guidance method, compiled by Inductor, computes what it computes eagerly. A minute or two for each.

    python -m tests.trials.inductor [METHOD …]

It needs a C++ compiler. Three steps of deit_micro on digits, without and with `train.compile=default`; prints the losses
that differ by more than 1e-4 of their size, and ends with 1 if there are any.
"""

from __future__ import annotations

import sys

import torch
from accelerate import Accelerator

from bench.config.methods import method_names
from tests.guidance.global_gradients import measured

TOLERANCE = 1e-4


def main() -> int:
    torch.set_num_threads(1)
    accelerator, wrong = Accelerator(cpu=True), 0
    for method in sys.argv[1:] or method_names():
        torch._dynamo.reset()
        eager, compiled = (measured(f"{method},train.compile={mode}", accelerator) for mode in ("off", "default"))
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        for kind in ("losses", "gradients"):
            for one, other in zip(eager[kind], compiled[kind], strict=True):
                if abs(one - other) > TOLERANCE * max(abs(one), 1e-3):
                    print(f"{method}: {kind}: {one} eager, {other} compiled")
                    wrong += 1
        print(f"{method}: {graphs} graphs, losses {eager['losses'][::2]}", flush=True)
        wrong += not graphs
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
