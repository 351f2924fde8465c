"""Train one recipe on the processes that were launched.

    accelerate launch bench/run.py --recipe deit_tiny/cifar100/guided
    python bench/run.py --recipe deit_micro/digits/guided --protocol quick --seed 1
    torchrun --nproc_per_node 2 bench/run.py --recipe …      (several processes without a GPU)

A guided recipe trains its teacher first, once; later runs find it in the cache. The results of a run are in
<results-dir>/local/runs/<recipe id>/<hash>-seed<k>/. Exit codes: 0 done, 2 invalid input, 3 failed, 75 stopped, or another
process is running the same.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

if not __package__:
    # Started as a file, so Python put bench/ on the path, where `data` or `models` would be top-level modules.
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from bench.packages import required_packages

with required_packages():
    from bench.cli import add_folders, add_settings
    from bench.train.main import main


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(prog="bench/run.py", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    out.add_argument("--recipe", required=True, metavar="ID", help="as `python -m bench list` prints it")
    add_settings(out)
    out.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (0)")
    add_folders(out)
    out.add_argument("--force", action="store_true", help="run again if finished; the old run is renamed")
    out.add_argument("--stale", action="store_true", help="run again if recorded with other code; the old run is renamed")
    out.add_argument("--teacher-only", action="store_true", help="train only the teacher that the recipe needs")
    out.add_argument(
        "--tracker",
        action="append",
        default=[],
        metavar="NAME",
        help="tensorboard, for example; can be given several times",
    )
    out.add_argument("--num-processes", type=int, metavar="N", help="refuse to run on any other number of processes")
    return out


if __name__ == "__main__":
    sys.exit(main(parser().parse_args()))
