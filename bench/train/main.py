"""From the command line of bench/run.py to an exit code: stop signals, and how each error is said."""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
import traceback

from bench.cli import BAD_INPUT, DONE, FAILED, STOPPED, input_error, say_error, set_up_logging
from bench.config.plugins import place
from bench.data.preflight import Preflight
from bench.locks import RunLocked
from bench.packages import required_packages
from bench.runs.record import accuracy_text, stale_parts
from bench.storage import first_line, unwritable
from bench.train.request import Diverged, Stopped, StopSignals, finished_record, read_request

LOG = logging.getLogger(__name__)
OUT_OF_MEMORY = (
    "out of memory: train.micro_batch computes a batch in parts, with the same result (--set train.micro_batch=N, a divisor"
    " of the batch); train.test_batch_size is the batch size of the evaluation"
)


def main(arguments: argparse.Namespace) -> int:
    """Run, and turn whatever happens into an exit code."""
    stop = StopSignals()
    for number in (signal.SIGTERM, signal.SIGINT):  # schedulers send the first, Ctrl-C the second
        signal.signal(number, stop)
    set_up_logging()
    try:
        try:
            _run(arguments, stop)
            return DONE
        except Exception as error:
            if stop.ended:
                raise KeyboardInterrupt from error
            return _exit_code(error)
    except KeyboardInterrupt:  # also one that arrives while another error is handled
        print("stopped; the same command starts it again", file=sys.stderr)
        return STOPPED


def _run(arguments: argparse.Namespace, stop: StopSignals) -> None:
    request = read_request(arguments)
    if (record := finished_record(request)) is None:
        Preflight(request.data_dir).check(request.recipe, int(os.environ.get("WORLD_SIZE", "1")))
        # Here, since importing torch takes seconds, in which a stop signal must already be handled.
        with required_packages():
            runner = importlib.import_module("bench.train.runner")
        runner.run(request, stop)
    else:
        recipe = request.recipe
        said = f"is finished: {accuracy_text(record)} (--force runs it again)"
        if parts := stale_parts(record, recipe):
            said = f"is recorded with other code ({'; '.join(parts)}): --stale runs it again"
        LOG.info(f"{recipe.id} seed {recipe.seed} {said}")


def _exit_code(error: Exception) -> int:
    """Print a sentence for an error. Returns the exit code."""
    sentence, code = str(error), FAILED
    if isinstance(error, Stopped):
        print(f"stopped {error}; the same command resumes from there", file=sys.stderr)
        return STOPPED
    if isinstance(error, RunLocked):
        code = STOPPED
    elif (problem := unwritable(error)) is not None:
        sentence = f"{problem}: once this is fixed, the same command continues"
    elif (problem := input_error(error)) is not None:
        sentence, code = problem, BAD_INPUT
    elif out_of_memory(error):
        sentence = OUT_OF_MEMORY
    elif isinstance(error, RuntimeError) and "DataLoader worker" in str(error):  # killed; torch has no class for it
        sentence = f"{error}: the same command resumes from the last checkpoint; data.workers=0 uses no workers"
    elif (where := place(error)) is not None:  # a user's own method or network
        sentence = f"{where}: {type(error).__name__}: {first_line(error)}"
    elif not isinstance(error, Diverged):
        traceback.print_exception(error)
        sentence = f"{type(error).__name__}: {error}"
    say_error(sentence)
    return code


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out, on any device. Torch's own class is known by its name, since torch is not imported here."""
    kinds = {cls.__name__ for cls in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or "DefaultCPUAllocator" in str(error)
