"""The command line: `python -m bench list | show | data | doctor | speed | verify | export | plan | sweep | report`.

None of them imports torch (but `doctor`, `verify`, `export`, the processes that `speed` starts, and a `show` that
builds the network), so they answer at once.
Exit codes: 0 done, 1 a check failed, 2 the input, 3 some cells failed, 75 stopped.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from functools import partial

import yaml

from bench.recipes import Registry
from bench.records import unwritable
from bench.run import BAD_INPUT, FAILED, STOPPED, add_recipe_options, compose
from bench.schema import RecipeError


def parser() -> argparse.ArgumentParser:
    """The command line of all verbs."""
    out = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    verbs = out.add_subparsers(dest="verb", required=True)

    verb = verbs.add_parser("list", help="the recipe ids, one a line")
    verb.add_argument("--suite", metavar="NAME", help="those of one suite")
    verb.add_argument("--guides", action="store_true", help="the guides that they need instead")
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--recipes-dir", action="append", default=[], metavar="DIR")
    verb.set_defaults(call=list_ids)

    verb = verbs.add_parser("show", help="a composed recipe with its hash")
    verb.add_argument("recipe", metavar="ID")
    add_recipe_options(verb)
    verb.add_argument("--json", action="store_true")
    verb.add_argument("--parameters", action="store_true", help="build the network: its trainable parameters and its maps")
    verb.set_defaults(call=show, seed=0)

    verb = verbs.add_parser("data", help="datasets: what there is, fetch and decode one, check one")
    actions = verb.add_subparsers(dest="action", required=True)
    for action, help_text in (
        ("list", "every dataset: size, licence, where it comes from, whether it is here"),
        ("prepare", "fetch a dataset if need be, and decode it"),
        ("check", "read every image of a dataset that is here, count them, name what cannot be read"),
    ):
        sub = actions.add_parser(action, help=help_text)
        if action != "list":
            sub.add_argument("dataset", metavar="ID", help="as cifar100, folder:photos, hub:owner/name")
            sub.add_argument(
                "--set", action="append", default=[], metavar="KEY=VALUE", help="as data.subset=20; may repeat"
            )
        sub.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
        sub.add_argument(
            "--recipes-dir", action="append", default=[], metavar="DIR", help="recipes of your own; may repeat"
        )
        sub.set_defaults(call=data)

    verb = verbs.add_parser(
        "doctor", help="what there is to run with, what is wrong, whether a recipe or suite can run here"
    )
    verb.add_argument("what", nargs="?", metavar="RECIPE or SUITE", help="exit code 1 if it cannot run here")
    verb.add_argument("--protocol", default="paper", metavar="NAME", help="of a recipe (paper)")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of a recipe; may repeat")
    _add_folders(verb, data=True)
    verb.set_defaults(call=doctor)

    verb = verbs.add_parser("verify", help="evaluate the kept weights of a run anew and compare with its record")
    verb.add_argument("run", metavar="RUN", help="its folder, as results/runs/deit_micro/digits/guided/…")
    verb.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
    verb.set_defaults(call=verify)

    verb = verbs.add_parser("export", help="write a run's network into a folder to pass on, with a model card")
    verb.add_argument("run", metavar="RUN", help="its folder, as results/runs/deit_micro/digits/guided/…")
    verb.add_argument("--to", required=True, metavar="DIR", help="a new folder, or an earlier export of the same run")
    verb.set_defaults(call=export)

    verb = verbs.add_parser("speed", help="images/s of a recipe here, and where the time of a step goes")
    verb.add_argument("--recipe", required=True, metavar="ID")
    add_recipe_options(verb)
    verb.add_argument("--steps", type=int, default=20, metavar="N", help="an arm (20)")
    verb.add_argument("--compare", choices=["plain"], help="measure the plain way beside it: PIL workers, eager, fp32")
    verb.add_argument("--synthetic", type=int, metavar="PX", help="images of noise of this side instead of the dataset")
    verb.add_argument("--data-dir", default="data", metavar="DIR", help="local datasets (data)")
    verb.add_argument("--json", metavar="FILE", help="write what was measured there, too")
    verb.set_defaults(call=speed, seed=0)

    verb = verbs.add_parser("plan", help="every cell with its state, the guides, and the time that is left")
    verb.add_argument("ids", nargs="*", metavar="ID", help="recipes, instead of a suite")
    verb.add_argument("--suite", metavar="NAME")
    verb.add_argument("--protocol", default="paper", metavar="NAME", help="of recipes (paper)")
    verb.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of recipes; may repeat")
    verb.add_argument("--json", action="store_true")
    _add_cells(verb)
    _add_folders(verb, data=True)
    verb.set_defaults(call=plan)

    verb = verbs.add_parser("sweep", help="run every cell of a suite that is not recorded yet")
    verb.add_argument("suite", metavar="SUITE")
    verb.add_argument("--dry-run", action="store_true", help="print the plan and the commands")
    verb.add_argument("--retries", type=int, default=1, metavar="N", help="of a run that died, from its checkpoint (1)")
    verb.add_argument("--tracker", action="append", default=[], metavar="NAME", help="passed on to the runs; may repeat")
    _add_cells(verb)
    _add_cluster(verb)
    _add_folders(verb, data=True)
    verb.set_defaults(call=sweep)

    verb = verbs.add_parser("report", help="gather records and draw tables, pictures and the page from them")
    verb.add_argument("--suite", metavar="NAME", help="one suite instead of all that have records")
    verb.add_argument("--check", action="store_true", help="write nothing; fail where a file is not what the records give")
    _add_folders(verb)
    verb.set_defaults(call=report)
    return out


def _add_cells(to: argparse.ArgumentParser) -> None:
    """Which cells, and how they share the machine."""
    to.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 instead of the suite's own")
    to.add_argument("--filter", action="append", default=[], metavar="TEXT", help="only ids that hold this text or glob")
    to.add_argument("--gpus-per-run", type=int, default=1, metavar="N", help="a process on each (1; a cluster: 0 for none)")
    to.add_argument(
        "--runs-per-gpu", type=int, metavar="K", help="runs that share a GPU (1); without a GPU, runs at once (one a core)"
    )


def _add_cluster(to: argparse.ArgumentParser) -> None:
    """What --executor slurm asks for, for each run."""
    to.add_argument("--executor", choices=["local", "slurm"], default="local", help="this machine, or a cluster (local)")
    of = to.add_argument_group("--executor slurm", "docs/cluster.md")
    of.add_argument("--detach", action="store_true", help="submit and leave; the same command without it follows")
    of.add_argument("--time", metavar="T", help="limit, after which a run is requeued: minutes, H:MM, D-HH:MM (4:00)")
    of.add_argument("--lead-time", type=int, metavar="S", help="seconds before it that a run saves its state (120)")
    of.add_argument("--cpus-per-run", type=int, metavar="N", help="(the cluster's default)")
    of.add_argument("--memory", type=float, metavar="GB", help="(the cluster's default)")
    of.add_argument("--array-parallelism", type=int, metavar="N", help="runs of an array at a time (as the cluster likes)")
    for option in ("--partition", "--account", "--qos"):
        of.add_argument(option, metavar="NAME")
    of.add_argument(
        "--slurm", action="append", default=[], metavar="KEY[=VALUE]", help="any option of sbatch, as constraint=a100"
    )
    of.add_argument(
        "--slurm-setup", action="append", default=[], metavar="LINE", help="of shell, before a run, as 'module load cuda'"
    )


def _add_folders(to: argparse.ArgumentParser, *, data: bool = False) -> None:
    to.add_argument("--results-dir", "--results", default="results", metavar="DIR", help="(results)")
    to.add_argument("--recipes-dir", action="append", default=[], metavar="DIR", help="recipes of your own; may repeat")
    if data:
        to.add_argument("--data-dir", metavar="DIR", help="local datasets, a folder each (data)")


def list_ids(arguments: argparse.Namespace) -> int:
    """`list`: every id, or a suite's."""
    registry = Registry(*arguments.recipes_dir)
    if arguments.guides:
        suites = [arguments.suite] if arguments.suite is not None else registry.names("suites")
        ids = list(dict.fromkeys(guide for name in suites for guide in registry.guides(registry.suite(name))))
    else:
        ids = registry.suite(arguments.suite).ids if arguments.suite is not None else registry.ids()
    print(json.dumps(ids, indent=2) if arguments.json else "\n".join(ids))
    return 0


def show(arguments: argparse.Namespace) -> int:
    """`show`: the composed recipe as YAML or JSON."""
    recipe = compose(arguments)
    content = recipe.to_dict()
    if arguments.parameters or recipe.model.builder == "any_timm":  # whose taps nobody but the network itself knows
        from bench import models

        built = models.create(recipe.model, recipe.data.classes or 2, recipe.seed, taps=recipe.imitates_maps)
        if recipe.data.classes is not None:
            content["parameters"] = sum(p.numel() for p in built.network.parameters() if p.requires_grad)
        content["maps"] = {tap: list(shape) for tap, shape in zip(built.taps, built.shapes, strict=True)}
    text = json.dumps(content, indent=2) if arguments.json else yaml.safe_dump(content, sort_keys=False).rstrip()
    print(text)
    return 0


def data(arguments: argparse.Namespace) -> int:
    """`data`: list, prepare or check datasets."""
    from bench.data import inventory

    registry = Registry(*arguments.recipes_dir)
    if arguments.action == "list":
        print(inventory.table([registry.dataset(name) for name in registry.names("datasets")], arguments.data_dir))
        return 0
    chosen = registry.dataset(arguments.dataset, arguments.set)
    call = inventory.prepare if arguments.action == "prepare" else inventory.check
    return _say(*call(chosen, arguments.data_dir))


def doctor(arguments: argparse.Namespace) -> int:
    """`doctor`: the machine, and what a recipe or suite needs of it."""
    from bench.doctor import examine

    registry = Registry(*arguments.recipes_dir)
    what, recipes = arguments.what, []
    if what is not None and "/" in what:
        recipes = [registry.compose(what, arguments.protocol, arguments.set)]
    elif what is not None:
        suite = registry.suite(what)
        recipes = [registry.compose(recipe_id, suite=suite) for recipe_id in suite.ids]
    return _say(*examine(registry, recipes, arguments.data_dir or "data", arguments.results_dir))


def verify(arguments: argparse.Namespace) -> int:
    """`verify`: the kept weights against the record."""
    from pathlib import Path

    from bench.verify import verify as verify_run

    return _say(*verify_run(Path(arguments.run), arguments.data_dir))


def export(arguments: argparse.Namespace) -> int:
    """`export`: weights, record and model card in one folder."""
    from pathlib import Path

    from bench.export import export as export_run

    print("\n".join(export_run(Path(arguments.run), Path(arguments.to))))
    return 0


def speed(arguments: argparse.Namespace) -> int:
    """`speed`: time a recipe, beside its baseline and, where asked, the plain way."""
    if arguments.steps < 1:
        raise RecipeError(f"--steps: got {arguments.steps}, allowed from 1")
    if arguments.synthetic is not None and not 1 <= arguments.synthetic <= 4096:
        raise RecipeError(f"--synthetic: got {arguments.synthetic}, allowed from 1 to 4096")
    from pathlib import Path

    from bench.records import write_json
    from bench.speed import arms_of, lines, measure

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # an end without Ctrl-C's tidying would leave stopped arms behind
    arms = arms_of(compose(arguments), plain=arguments.compare == "plain")
    say = partial(print, file=sys.stderr, flush=True)
    try:
        found = measure(arms, arguments.data_dir, arguments.synthetic, arguments.steps, say)
    except RuntimeError as error:  # it holds the arm's own traceback
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    print("\n".join(lines(found)))
    if arguments.json:
        write_json(Path(arguments.json), found)
    return 0


def _say(lines: list[str], problems: list[str]) -> int:
    print("\n".join(lines))
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def plan(arguments: argparse.Namespace) -> int:
    """`plan`: what there is to do."""
    from bench.sweep.sweep import show_plan

    return show_plan(arguments)


def sweep(arguments: argparse.Namespace) -> int:
    """`sweep`: train what is missing, then draw the report."""
    from bench.sweep.sweep import sweep as run_suite

    return run_suite(arguments)


def report(arguments: argparse.Namespace) -> int:
    """`report`: write, or check, what the records give."""
    from bench.report import check, suites_with_records, write

    registry = Registry(*arguments.recipes_dir)
    names = [arguments.suite] if arguments.suite is not None else suites_with_records(registry, arguments.results_dir)
    if not names:
        raise RecipeError(f"--results-dir {arguments.results_dir}: no suite has records here")
    suites = [registry.suite(name) for name in names]
    problems = check(registry, suites, arguments.results_dir) if arguments.check else []
    if not arguments.check:
        for name, table in zip(names, write(registry, suites, arguments.results_dir), strict=True):
            print(f"suite {name}\n\n{table}\n")
        print(f"tables, pictures and page: {arguments.results_dir}/index.html")
    for problem in problems:
        print(problem, file=sys.stderr)
    if arguments.check and not problems:
        print(f"{', '.join(names)}: every file is what the records give")
    return 1 if problems else 0


def main() -> int:
    """Parse, call, and turn bad input into one sentence and exit code 2."""
    arguments = parser().parse_args()
    try:
        return arguments.call(arguments)
    except RecipeError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:
        sys.stderr.close()  # the reader, `head` say, has gone
        return 0
    except OSError as error:
        if not (told := unwritable(error)):
            raise
        print(f"error: {told}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return STOPPED


if __name__ == "__main__":
    sys.exit(main())
