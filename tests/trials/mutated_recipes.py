"""Damages copies of the shipped recipe files in every way it knows, and looks at what the suite makes of them.

    python -m tests.trials.mutated_recipes --cases 2000 --seed 0

A file is either refused, in one sentence that names the file or a key, or it is a recipe like any other: it keeps its hash
when it is read back, `check_feasible` passes or refuses it in one sentence, and it runs from start to end (exit code 0), or
is refused in one sentence (2), or fails honestly (3: the loss diverged, memory ran out). Whatever else happens is printed
with the file, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import functools
import json
import os
import random
import re
import signal
import sys
import tempfile
import traceback
import typing
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import accelerate
import timm
import torch
import yaml

from bench.config.compose import recipe_from_dict
from bench.config.registry import Registry, shipped_recipes
from bench.config.schema import SECTIONS, Recipe, RecipeError
from bench.run import check_feasible, main
from bench.runs import environment
from bench.train.loop import checkpoint
from bench.train.loop import feature_cache as feature_cache
from bench.train.loop import loop as train
from bench.train.loop import teacher as teacher

assert all((accelerate, timm, torch, checkpoint, environment, teacher, feature_cache, train))  # imported for the children
# Files that compose to something small are damaged more often: what is accepted of them can be run.
SMALL = ["models/deit_micro", "models/resnet8", "datasets/digits", "guidance/guided", "protocols/quick", "suites/quick"]
LAUGHS = (
    "{a: &a [x, x, x, x, x, x, x, x, x], b: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a], c: &c [*b, *b, *b, *b, *b, *b, *b],"
)
LAUGHS += (
    " d: &d [*c, *c, *c, *c, *c, *c, *c], e: &e [*d, *d, *d, *d, *d, *d, *d], f: [*e, *e, *e, *e, *e, *e, *e, *e, *e]}"
)
# What a value is replaced by, as YAML.
RAW = [
    *(
        "null",
        "~",
        "",
        "true",
        "no",
        "0",
        "1",
        "2",
        "3",
        "7",
        "16",
        "64",
        "-1",
        "-0",
        "0.5",
        "1.0",
        "-0.0",
        "1e-3",
        "1.0e-3",
    ),
    *("5e-4", "1e400", "1.0e+300", "1.0e-300", ".nan", ".inf", "-.inf", "0x10", "0o17", "017", "1_000", "12:30:45", "0b1"),
    *("1000000000", "1000000000000000000000", "9" * 400, "9" * 5000, "-" + "9" * 30, "2147483648", "9223372036854775808"),
    *(
        "[]",
        "{}",
        "[[]]",
        "[1]",
        "[1, 2]",
        "[0.5, 0.5, 0.5]",
        "[null]",
        "[a, b, c]",
        "[0, 1]",
        "[2, 0]",
        "{a: 1}",
        "{a: {b: 1}}",
    ),
    *(
        "2020-01-01",
        "2020-13-45",
        "2020-01-01 10:00:00",
        "{? [a] : b}",
        "{[a]: 1}",
        "{2020-01-01: 1}",
        "{null: 1}",
        "{1: 2}",
    ),
    *(
        "!!python/object:os.system {}",
        "!!python/object/apply:os.system [echo ran > ran]",
        "!!python/name:os.system",
        "!x 1",
    ),
    *(
        "!!binary aGk=",
        "!!binary x",
        "!!set {a, b}",
        "!!omap [a: 1]",
        "!!pairs [a: 1]",
        "!!timestamp x",
        "!!bool x",
        '!!int ""',
    ),
    *(
        '!!float ""',
        "!!int x",
        "!!null x",
        "!!str 1",
        "!!seq x",
        "!!map x",
        "&x [*x]",
        "&x {a: *x}",
        "*nowhere",
        "&a 1",
        "=",
        "<<",
    ),
    *(
        "{<<: {a: 1}}",
        "{<<: 1}",
        "{<<: &m {weight: 1.0}}",
        LAUGHS,
        "{a: 1, a: 2}",
        "[" * 50 + "]" * 50,
        "[" * 3000,
        "{a: " * 400,
    ),
    *(
        "../../x",
        "/etc/passwd",
        '"C:\\\\x"',
        '"a\\0b"',
        '"a\\nb"',
        '"\\ud800"',
        '"\\u2028"',
        "été",
        "模型",
        "x" * 300,
        "x" * 100_000,
    ),
    *(
        "~/x",
        "**",
        "a/**b",
        '"*"',
        "./",
        "a//b",
        "a/../b",
        "hub:a/b",
        "timm:resnet18",
        "folder:../x",
        "[../x]",
        '["a\\0b"]',
        '["**/x"]',
    ),
    *(
        '[""]',
        '["/"]',
        '["."]',
        "http://localhost:1/x",
        "CIFAR10",
        "FakeData",
        "utils",
        "__name__",
        "%s%n",
        "{x}",
        "a b",
        "'",
        '"',
        ": ",
    ),
    *(
        "rand-m9-mstd0.5-inc1",
        "rand-m99",
        "rand-mx",
        "rand-",
        "augmix-m3",
        "original",
        "v0",
        "rand-m9-n99-w0",
        "rand-n-1",
        "autoaug",
    ),
]
TYPOS = ["", "x", "_", " ", ".", "s", "é", "\\0", "\\n"]


@dataclass
class Mutant:
    """A damaged file in a recipes folder of its own."""

    kind: str
    name: str  # of the file
    path: Path
    whole: bytes  # its content; empty where it is no plain file
    recipe_id: str
    protocol: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.name}.yaml\n{self.whole[:3000].decode('utf-8', 'replace')}"


def plausible(section: str, name: str, draw: random.Random) -> str:
    """A value of a key's type, often at the end of its range, as YAML."""
    spec = next(f for f in dataclasses.fields(SECTIONS[section]) if f.name == name)
    hint = typing.get_type_hints(SECTIONS[section])[name]
    hint = (
        next((h for h in typing.get_args(hint) if h is not type(None)), hint)
        if type(None) in typing.get_args(hint)
        else hint
    )
    low, high = spec.metadata.get("low"), spec.metadata.get("high")
    numbers = [n for n in (low, high, 0, 1, 2, 3, 4, 8, 16, 32) if n is not None]
    if typing.get_origin(hint) is typing.Literal:
        return draw.choice(typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        texts = ["blocks.0", "blocks.5", "norm", "head", "stages.0", "stages.2", "conv", "patch_embed", ""]
        words = texts if str in typing.get_args(hint) else [str(n) for n in numbers]
        return json.dumps([draw.choice(words) for _ in range(draw.choice([2, 3, 3]))]).replace(
            '"', "" if words != texts else '"'
        )
    if hint is bool:
        return draw.choice(["true", "false"])
    if hint is str:
        return draw.choice(["vit", "deit_tiny_patch16_224", "resnet18", "digits", "label", "train", "locality", "a+b", "x"])
    return str(draw.choice(numbers) + (draw.choice([0, 0, 0, -1, 1]) if hint is int else draw.choice([0.0, 0.0, 0.25])))


_shipped = Registry()
SHIPPED = sorted(
    path.relative_to(shipped_recipes()).with_suffix("").as_posix() for path in shipped_recipes().glob("*/*.yaml")
)
for _name in SHIPPED:
    if not _name.startswith("suites/"):
        _shipped._layer(*_name.split("/"))


@functools.cache
def _plain(path: Path) -> dict:
    return yaml.safe_load((shipped_recipes() / path).read_bytes())


def leaves(content: object, path: tuple = ()) -> Iterator[tuple]:
    """The path of every value in nested mappings."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield (*path, name)
            yield from leaves(value, (*path, name))


def _inside(content: dict, path: tuple) -> dict:
    for name in path:
        content = content[name]
    return content


def replace_value(content: dict, draw: random.Random) -> tuple[dict, str]:
    """Another value in the place of one that is there."""
    path = draw.choice(list(leaves(content)))
    _inside(content, path[:-1])[path[-1]] = "@@"
    section, name = ("", *path)[-2:]
    known = section in SECTIONS and name in [f.name for f in dataclasses.fields(SECTIONS[section])]
    return content, plausible(section, name, draw) if known and draw.random() < 0.5 else draw.choice(RAW)


def add_key(content: dict, draw: random.Random) -> tuple[dict, str]:
    """A key that recipes have and this file may not."""
    target = content
    if isinstance(content.get("set" if "seeds" in content else "teacher"), dict) and draw.random() < 0.4:
        target = content["set" if "seeds" in content else "teacher"]
    likely = [name for name in target if name in SECTIONS] + (["train", "model"] if target is not content else [])
    section = draw.choice(likely if likely and draw.random() < 0.85 else list(SECTIONS))
    if not isinstance(target.setdefault(section, {}), dict):
        target[section] = {}
    name = draw.choice([f.name for f in dataclasses.fields(SECTIONS[section])])
    target[section][name] = "@@"
    return content, plausible(section, name, draw) if draw.random() < 0.8 else draw.choice(RAW)


def rename_key(content: dict, draw: random.Random) -> tuple[dict, str]:
    """A key misspelt, moved elsewhere, or no text."""
    path = draw.choice(list(leaves(content)))
    value = _inside(content, path[:-1]).pop(path[-1])
    how, text = draw.randrange(3), str(path[-1])
    if how == 0:
        place = draw.randrange(len(text) + 1)
        _inside(content, path[:-1])[text[:place] + draw.choice(TYPOS) + text[place + 1 :]] = value
    elif how == 1:
        groups = [p for p in [(), *leaves(content)] if isinstance(_inside(content, p), dict)]
        _inside(content, draw.choice(groups))[path[-1]] = value
    else:
        _inside(content, path[:-1])["@@"] = value
    return content, draw.choice(RAW)


def damage_bytes(whole: bytes, draw: random.Random) -> bytes:
    """A file that was cut short, has bytes too many or too few, or is written in another way."""
    place, other = (draw.randrange(len(whole) + 1) for _ in range(2))
    lines = whole.splitlines(keepends=True)
    line = draw.randrange(len(lines)) if lines else 0
    odd = [
        b"\0",
        b"\xff",
        b"\t",
        b"\r",
        b"\x85",
        b"\xe2\x80\xa8",
        b"\xed\xa0\x80",
        b"\x1b[31m",
        b"%",
        b"@",
        b"`",
        b"&a ",
        b"*a ",
    ]
    return draw.choice(
        [
            lambda: whole[:place],
            lambda: whole[:place] + draw.randbytes(draw.randrange(1, 5)) + whole[place:],
            lambda: whole[:place] + draw.choice(odd) + whole[place:],
            lambda: whole[: min(place, other)] + whole[max(place, other) :],
            lambda: b"".join(lines[:line] + lines[line + 1 :]),
            lambda: b"".join([*lines[: line + 1], *lines[line:]]),
            lambda: b"".join([*lines[:line], b"\t", *lines[line:]]),
            lambda: b"".join([*lines[:line], b"  ", *lines[line:]]),
            lambda: b"\xef\xbb\xbf" + whole,
            lambda: whole.decode("utf-8", "replace").encode("utf-16"),
            lambda: whole.decode("utf-8", "replace").encode("utf-32"),
            lambda: whole.replace(b"\n", b"\r\n"),
            lambda: whole.replace(b"  ", b"\t"),
            lambda: whole + b"\n---\n" + whole,
            lambda: b"%YAML 9.9\n---\n" + whole,
            lambda: b"- " * draw.randrange(1, 2000) + whole,
            lambda: b"# " + b"x" * 200_000 + b"\n" + whole,
            lambda: whole + whole,
            lambda: draw.randbytes(200),
            lambda: b"",
            lambda: b"\n\n# nothing\n",
            lambda: b"---\n...\n",
            lambda: b"just a text",
            lambda: b"[1, 2]",
        ]
    )()


def no_file(path: Path, draw: random.Random) -> None:
    """Something under a recipe file's name that is none."""
    how = draw.randrange(5)
    if how == 0:
        path.mkdir()
    elif how == 1:
        path.symlink_to(path.with_name("nowhere.yaml"))
    elif how == 2:
        path.symlink_to(path.name)
    elif how == 3:
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


def mutant(folder: Path, draw: random.Random) -> Mutant:
    """A recipes folder with one damaged copy of a shipped file, under its own name or another."""
    kind, stem = draw.choice(SMALL if draw.random() < 0.8 else SHIPPED).split("/")
    name = stem if draw.random() < 0.3 else "mutant"
    path = folder / kind / f"{name}.yaml"
    path.parent.mkdir(parents=True)
    whole = (shipped_recipes() / kind / f"{stem}.yaml").read_bytes()
    how = draw.random()
    if how < 0.02:
        no_file(path, draw)
        whole = b""
    else:
        if how < 0.8:
            content = copy.deepcopy(_plain(path.with_name(f"{stem}.yaml").relative_to(folder)))
            if kind == "suites" and draw.random() < 0.5:
                content["set"] = {
                    "train": {"epochs": 3, "lr": 0.1},
                    "model": {"depth": 2},
                    "teacher": {"train": {"epochs": 2}},
                }
            for _ in range(draw.choice([1, 1, 1, 2, 3])):
                if any(True for _ in leaves(content)):
                    change = draw.choice([replace_value, replace_value, add_key, add_key, rename_key])
                    content, raw = change(copy.deepcopy(content), draw)
                    # JSON is YAML, in which a value can be replaced without minding its indentation
                    text = json.dumps(content).replace('"@@"', raw)
                    whole = text.encode("utf-8", "surrogatepass")
                    content = json.loads(json.dumps(content).replace('"@@":', '"3":').replace('"@@"', "3"))
        if how >= 0.77:
            for _ in range(draw.choice([1, 1, 2])):
                whole = damage_bytes(whole, draw)
        path.write_bytes(whole)
    ids = {
        "models": f"{name}/digits" + ("" if stem.startswith("resnet") else draw.choice(["/guided", "/baseline"])),
        "datasets": f"deit_micro/{name}/guided",
        "guidance": f"deit_micro/digits/{name}",
        "protocols": "deit_micro/digits/guided",
        "suites": "",
    }
    return Mutant(kind, name, path, whole, ids[kind], name if kind == "protocols" else "quick")


def composed(case: Mutant) -> list[tuple[Recipe, list[str]]]:
    """The recipes that a damaged file leads to, each with the command-line words that ask for it.

    Raises:
        RecipeError: it is refused.
    """
    folder = str(case.path.parents[1])
    registry, own = Registry(folder), ["--recipes-dir", folder]
    registry._cache |= {key: flat for key, flat in _shipped._cache.items() if key != (case.kind, case.name)}  # parsed once
    if case.kind != "suites":
        recipe = registry.compose(case.recipe_id, case.protocol)
        return [(recipe, ["--recipe", recipe.id, "--protocol", case.protocol, *own])]
    suite = registry.suite(case.name)
    ids = suite.ids
    out = []
    for recipe_id in ids if len(ids) < 20 else [*ids[:3], *ids[-3:]]:
        words = ["--recipe", recipe_id, "--suite", suite.name, "--seed", str(suite.seeds[0]), *own]
        out.append((registry.compose(recipe_id, suite=suite, seed=suite.seeds[0]), words))
    return out


def one_sentence(text: str, *names: str) -> str | None:
    """What is wrong with a message that should be one sentence which names a file, a recipe or a key; None: nothing."""
    if len(text.splitlines()) != 1:
        return "not one line"
    if len(text) > 1500:
        return "too long"
    if not text.isprintable():
        return "not printable"
    keys = [f"{section}.{f.name}" for section, cls in SECTIONS.items() for f in dataclasses.fields(cls)]
    if not any(name in text for name in (*names, *keys)):
        return "names neither file nor key"
    return None


def small(recipe: Recipe) -> bool:
    """Whether a run of it takes a second or two: its own digits, or files that are not there."""
    if recipe.data.source not in ("packaged", "files"):
        return False
    for part in filter(None, (recipe, recipe.teacher)):
        model = part.model
        tokens = (model.image_size / (model.patch_size or 16)) ** 2 if model.builder == "vit" else 1
        if model.builder not in ("vit", "resnet_cifar") or tokens > 100:
            return False
        if model.image_size > 40 or (model.width or 192) > 128 or (model.depth or 12) > 14:
            return False
    return True


class TooSlow(Exception):
    """A case took longer than anybody would wait for a sentence."""


def within(seconds: float, call: Callable[[], object]) -> object:
    """What `call` returns; raises TooSlow after so many seconds."""

    def late(*_: object) -> None:
        raise TooSlow(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return call()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def forked(words: list[str], log: Path) -> tuple[int, str]:
    """`bench/run.py` with these words in a child of this process: its exit code and what it wrote to stderr."""
    pid = os.fork()
    if not pid:
        for number, path in ((1, os.devnull), (2, log)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        # pytest has put files of its own in their place
        sys.stdout, sys.stderr = (os.fdopen(number, "w", errors="backslashreplace") for number in (1, 2))
        sys.argv = ["run.py", *words]
        signal.alarm(60)
        code = 70
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 70
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), log.read_text(errors="replace")


def really_run(recipe: Recipe, words: list[str], folder: Path) -> tuple[int, str]:
    """A short run of an accepted recipe, its teacher first: exit code and stderr."""
    settings = ["train.epochs=1", "train.checkpoint_seconds=9999", "train.compile=off"]
    if (recipe.data.train_limit or 1000) > 96:
        settings.append("data.train_limit=96")
    if recipe.train.batch_size > 96:
        settings.append("train.batch_size=32")
    if recipe.teacher is not None:
        settings += ["teacher.train.epochs=1", "teacher.train.compile=off"]
        settings += ["teacher.train.batch_size=32"] if recipe.teacher.train.batch_size > 96 else []
        settings += ["teacher.data.train_limit=96"] if (recipe.teacher.data.train_limit or 0) > 96 else []
        settings += ["guidance.from_epoch=0"] if recipe.guidance.from_epoch else []
    options = [word for setting in settings for word in ("--set", setting)]
    words = [*words, *options, "--results-dir", str(folder / "results"), "--data-dir", str(folder)]
    if recipe.teacher is not None:  # otherwise it would be trained by a process that has to import everything
        code, said = forked([*words, "--teacher-only"], folder / "stderr")
        if code:
            return code, said
    return forked(words, folder / "stderr")


@dataclass
class Outcomes:
    """counts: of what became of the cases; failures: what should not have been, with the file."""

    counts: Counter[str]
    failures: list[str]

    def fail(self, what: str, case: Mutant) -> None:
        self.counts["failures"] += 1
        self.failures.append(f"{what}\n--- {case}")


def trials(
    cases: int, seed: int, runs: int, folder: Path, show: Callable[[str], None] = lambda text: None, builds: int = 10**9
) -> Outcomes:
    """Damage files and look at what becomes of them; of the accepted ones at most `builds` are built, and `runs` run."""
    out = Outcomes(Counter(), [])
    known: set[str] = set()  # what differs in nothing that could matter need not be built, or run, again
    for number in range(cases):
        draw = random.Random(f"{seed} {number}")
        own = folder / f"{number}"
        case = mutant(own / "recipes", draw)
        names = (case.path.name, case.recipe_id or case.name)
        out.counts["cases"] += 1
        failures = len(out.failures)
        try:
            recipes = within(10, lambda case=case: composed(case))
        except RecipeError as error:
            out.counts["refused"] += 1
            if problem := one_sentence(str(error), *names):
                out.fail(f"{problem}: {str(error)[:2000]}", case)
        except Exception:  # any kind but RecipeError is what is looked for
            out.fail(traceback.format_exc(), case)
        else:
            out.counts["accepted"] += 1
            for recipe, words in recipes:
                _look_at(recipe, words, case, own, names, known, runs, builds, out)
        for text in out.failures[failures:]:
            show(f"case {number} of seed {seed}: {text}\n")
        if (own / "ran").exists() or Path("ran").exists():
            out.fail("a file made code run", case)
    return out


def _look_at(
    recipe: Recipe,
    words: list[str],
    case: Mutant,
    own: Path,
    names: tuple[str, ...],
    known: set[str],
    runs: int,
    builds: int,
    out: Outcomes,
) -> None:
    plain = recipe.to_dict()
    again = recipe_from_dict(json.loads(json.dumps(plain)), "a record")
    if again.hash != recipe.hash or again != recipe:
        out.fail("it is another recipe when it is read back", case)
    key = json.dumps({k: {n: v for n, v in d.items() if n != "name"} for k, d in plain.items() if isinstance(d, dict)})
    key = re.sub(r'"(id|hash|licence|ask)": "[^"]*"', "", key)
    if key in known:
        return
    known.add(key)
    if len(known) > builds:
        return
    try:
        within(60, lambda: check_feasible(recipe, None))
        out.counts["feasible"] += 1
    except RecipeError as error:
        out.counts["infeasible"] += 1
        if problem := one_sentence(str(error), *names, "model "):
            out.fail(f"check_feasible: {problem}: {error}", case)
        return
    except Exception:  # as above
        out.fail(traceback.format_exc(), case)
        return
    if out.counts["run"] >= runs or not small(recipe):
        return
    out.counts["run"] += 1
    code, said = really_run(recipe, words, own)
    out.counts[f"exit code {code}"] += 1
    lines = [line for line in said.splitlines() if not line.startswith(("warning: ", "note: "))]
    honest = code == 3 and len(lines) == 1 and ("Diverged" in said or "out of memory" in said)
    refused = code == 2 and len(lines) == 1 and lines[0].startswith("error: ")
    if code and not honest and not (refused and not one_sentence(lines[0], *names, "data")):
        out.fail(f"the run {' '.join(words)} ended with {code}: {said[-3000:]}", case)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=2000)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument(
        "--runs", type=int, default=10**9, help="of the accepted recipes, at the most (all that are small)"
    )
    arguments = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["LOCALITY_BENCH_CACHE"] = str(Path(temporary, "cache"))
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        found = trials(arguments.cases, arguments.seed, arguments.runs, Path(temporary), lambda t: print(t, flush=True))
    print(
        ", ".join(
            f"{found.counts[name]} {name}" for name in ("cases", "refused", "accepted", "feasible", "infeasible", "run")
        )
    )
    print(", ".join(f"{count} with {name}" for name, count in sorted(found.counts.items()) if name.startswith("exit")))
    print(f"{len(found.failures)} failures")
    sys.exit(bool(found.failures))
