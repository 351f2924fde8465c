"""The process of one variant of `python -m bench speed`: it answers the requests of bench/train/speed_process.py."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
import traceback
from multiprocessing.connection import Connection

import psutil

from bench.config.schema import Recipe, RecipeError
from bench.data.store import open_dataset
from bench.runs import environment
from bench.storage import unwritable
from bench.train.launch import hardware, out_of_memory, peak_memory_mib
from bench.train.main import OUT_OF_MEMORY
from bench.train.preflight import check_dataset, check_recipe
from bench.train.speed_process import Details, Prepared, Usage
from bench.train.speed_variant import Variant, matrix_flops, random_dataset

PR_SET_PDEATHSIG = 1  # of prctl, from linux/prctl.h


class Service:
    """The requests that this process answers, `prepare` first.

    Args:
        import_seconds: the time that the imports of the libraries took.
    """

    def __init__(self, import_seconds: float) -> None:
        self._import_seconds = import_seconds

    def prepare(self, recipe: Recipe, data_dir: str, synthetic: int | None, scratch: str | None) -> Prepared:
        """Build the variant and make its first batch.

        Args:
            data_dir: local datasets.
            synthetic: side of noise images in px, which replace the dataset; or None.
            scratch: the cache folder for the features of an untrained teacher; None: the user's.

        Raises:
            RecipeError: the recipe cannot run here.
        """
        check_recipe(recipe, None)
        dataset = open_dataset(recipe.data, data_dir) if synthetic is None else random_dataset(recipe, synthetic)
        check_dataset(recipe, dataset)
        if scratch is not None:
            os.environ["LOCALITY_BENCH_CACHE"] = scratch
        self._variant = Variant(recipe, dataset)
        self._variant.load(1)
        seconds = time.time() - psutil.Process().create_time()
        return Prepared(seconds, self._import_seconds, self._variant.precision.used, dataset.fingerprint)

    def train(self, count: int) -> float:
        """Seconds of that many steps."""
        return self._variant.seconds(lambda: self._variant.train(count))

    def load(self, count: int) -> float:
        """Seconds of making that many batches."""
        return self._variant.seconds(lambda: self._variant.load(count))

    def usage(self) -> Usage:
        """Peak memory so far, and the result of compilation."""
        return Usage(peak_memory_mib(self._variant.device), self._variant.step.compiled)

    def details(self, count: int) -> Details:
        """The parts of a step, each the median of `count` repeats, and everything else that is measured once."""
        variant = self._variant
        parts = variant.parts(count)
        images = variant.evaluate()  # warms up
        return Details(
            parts=parts,
            evaluation=images / variant.seconds(variant.evaluate),
            flops=variant.flops(),
            matrix_flops=matrix_flops(variant.device, variant.precision.used),
            hardware=hardware(variant.device),
            libraries=environment.libraries(),
            code=environment.code(),
        )


def serve(import_seconds: float) -> None:
    """Answer requests until None arrives, on the connection whose file descriptor is the first argument.

    An answer is a pair: "done" with the result, "refused" with the sentence of a RecipeError, or "failed" with a traceback.
    """
    end_with_parent()
    os.register_at_fork(after_in_child=end_with_parent)  # for data workers, too
    service = Service(import_seconds)
    with Connection(int(sys.argv[1])) as connection:
        while (request := connection.recv()) is not None:
            name, arguments = request
            try:
                answer = "done", getattr(service, name)(*arguments)
            except RecipeError as error:
                answer = "refused", str(error)
            except Exception as error:  # any kind: it is reported to the other process, and this one continues
                sentence = OUT_OF_MEMORY if out_of_memory(error) else unwritable(error)
                answer = ("refused", sentence) if sentence else ("failed", traceback.format_exc())
            connection.send(answer)


def end_with_parent() -> None:
    """Have the Linux kernel kill this process when its parent ends. A stopped process would not notice."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
