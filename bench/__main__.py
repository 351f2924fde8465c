"""The command line, `python -m bench VERB`.

The module of a verb has `add_VERB_options(parser)` and `run_VERB(arguments)`, which returns an exit code: 0 done, 1 a check
found problems, 2 invalid input, 3 failed, 75 stopped. Only the module of the given verb is imported, so verbs that need no
torch answer at once.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from types import ModuleType

from bench.packages import required_packages

with required_packages():
    from bench.cli import BAD_INPUT, DONE, STOPPED, input_error, say_error, set_up_logging
    from bench.config.parse import nearest

VERBS = {  # verb: (its module, help)
    "list": ("bench.commands", "the recipe ids, one per line"),
    "show": ("bench.commands", "a composed recipe with its hash"),
    "schema": ("bench.commands", "a JSON Schema of recipe files, for editors"),
    "data": ("bench.data.commands", "datasets: list, prepare (fetch and decode), check"),
    "doctor": ("bench.train.doctor", "what this machine has, and whether a recipe or suite can run on it"),
    "speed": ("bench.train.speed", "images/s of a recipe on this machine, and the time per part of a step"),
    "verify": ("bench.share.verify", "evaluate the weights of a run again and compare with its record"),
    "analyze": ("bench.analysis", "what guidance changes inside: attention distance and CKA, as tables and a figure"),
    "export": ("bench.share.export", "write the network of a run into a folder to share, with a model card"),
    "plan": ("bench.sweep.commands", "the runs of suites or recipes with their states, and the time that is left"),
    "sweep": ("bench.sweep.commands", "train the runs of suites or recipes that are not finished, then draw their report"),
    "compare": ("bench.sweep.commands", "train the missing runs of recipes, and compare the recipes"),
    "report": (
        "bench.report.commands",
        "draw tables, figures and the page of this machine's runs, or check the published results",
    ),
    "publish": ("bench.report.publish", "add this machine's runs of suites to the published results"),
    "merge": ("bench.report.publish", "add other people's records to the published results"),
}


@required_packages()
def main(words: list[str] | None = None) -> int:
    """Run a verb and turn errors into a sentence and an exit code."""
    words = sys.argv[1:] if words is None else words
    # a verb comes first, so that its module can add its options
    verb = words[0] if words and words[0] in VERBS else None
    try:
        module = importlib.import_module(VERBS[verb][0]) if verb else None
        arguments = _parse(verb, module, words)
        set_up_logging()
        return getattr(module, f"run_{verb}")(arguments)
    except BrokenPipeError:
        sys.stderr.close()  # the reader, `head` for example, has ended
        return DONE
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED
    except Exception as error:
        if (sentence := input_error(error)) is None:
            raise
        say_error(sentence)
        return BAD_INPUT


def _parse(verb: str | None, module: ModuleType | None, words: list[str]) -> argparse.Namespace:
    """The options of a verb. Wrong ones end the program with the usage of that verb."""
    if verb is None:
        out = argparse.ArgumentParser(
            prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        verbs = out.add_subparsers(dest="verb", required=True, metavar="VERB")
        for name, (_, text) in VERBS.items():
            verbs.add_parser(name, help=text)
        if words and not words[0].startswith("-"):
            out.error(f"unknown verb {words[0]!r}; known: {', '.join(VERBS)}{nearest(words[0], VERBS)}")
        return out.parse_args(words)
    out = argparse.ArgumentParser(prog=f"python -m bench {verb}", description=VERBS[verb][1])
    out.set_defaults(verb=verb)
    getattr(module, f"add_{verb}_options")(out)
    arguments, others = out.parse_known_args(words[1:])
    # argparse takes the words before the first option only
    if others and (any(word.startswith("-") for word in others) or not hasattr(arguments, "what")):
        wrong = next((word.partition("=")[0] for word in others if word.startswith("-")), others[0])
        out.error(f"unrecognized arguments: {' '.join(others)}{nearest(wrong, list(out._option_string_actions))}")
    if others:
        arguments.what += others
    return arguments


if __name__ == "__main__":
    sys.exit(main())
