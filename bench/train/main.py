"""From the command line of bench/run.py to an exit code: stop signals, and how each error is said."""

from __future__ import annotations

import argparse
import logging
import signal
import sys
import traceback

from bench.cli import BAD_INPUT, DONE, FAILED, STOPPED, input_error, say_error, set_up_logging
from bench.locks import RunLocked
from bench.storage import unwritable
from bench.train.request import Diverged, RunRequest, finished_record, read_request
from bench.train.signals import StopSignals

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
        return _exit_code(arguments, stop)
    except KeyboardInterrupt:  # also one that arrives while another error is handled
        print("stopped; the same command starts it again", file=sys.stderr)
        return STOPPED


def _exit_code(arguments: argparse.Namespace, stop: StopSignals) -> int:
    try:
        request = read_request(arguments)
        if (record := finished_record(request)) is None:
            return _train(request, stop)
        recipe = request.recipe
        LOG.info(f"{recipe.id} seed {recipe.seed} is finished: {record.last_accuracy:.2f} % (--force runs it again)")
        return DONE
    except RunLocked as error:
        say_error(error)
        return STOPPED
    except Diverged as error:
        say_error(error)
        return FAILED
    except Exception as error:
        if (sentence := unwritable(error)) is not None:
            say_error(f"{sentence}: the same command continues once it can")
            return FAILED
        if (sentence := input_error(error)) is not None:
            say_error(sentence)
            return BAD_INPUT
        traceback.print_exc()
        say_error(f"{type(error).__name__}: {error}")
        return FAILED


def _train(request: RunRequest, stop: StopSignals) -> int:
    # Here, since importing torch takes seconds, in which a stop signal must already be handled.
    from bench.train.launch import out_of_memory
    from bench.train.loop import Stopped
    from bench.train.runner import run

    try:
        run(request, stop)
        return DONE
    except Stopped as error:
        print(f"stopped {error}; the same command resumes from there", file=sys.stderr)
        return STOPPED
    except RuntimeError as error:
        if out_of_memory(error):
            say_error(OUT_OF_MEMORY)
            return FAILED
        if "DataLoader worker" in str(error):  # torch has no class of its own for a worker that was killed
            say_error(f"{error}: the same command resumes from the last checkpoint; data.workers=0 uses no workers")
            return FAILED
        raise
    except MemoryError:
        say_error(OUT_OF_MEMORY)
        return FAILED
