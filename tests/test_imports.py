"""Which module may import which, and that the verbs which should answer at once import nothing large."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.process import ROOT

BENCH = ROOT / "bench"
MODULES = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in BENCH.rglob("*.py")}
GROUND = ("config", "storage", "locks", "rng", "cores", "packages")
# {package or module of bench: what it may import of bench, beside itself and the ground}
ALLOWED = {
    **dict.fromkeys(GROUND, ()),
    **dict.fromkeys(("models", "guidance", "runs", "cli"), ()),
    "data": ("cli",),  # of its verb
    "train": ("cli", "data", "models", "guidance", "runs"),
    "share": ("cli", "data", "models", "guidance", "runs", "train"),
    "sweep": ("cli", "data", "runs", "train", "report"),
    "report": ("cli", "runs"),
}
LARGE = ("torch", "pandas", "matplotlib", "jinja2", "datasets")
MAX_LINES, MAX_INNER_IMPORTS = 350, 10


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether the import is inside a function) of all imports of a file."""
    out = []
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            out += [(alias.name, id(node) in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            # `from bench import models` imports a module, `from bench.rng import Stream` a name
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            out += [(name if name in MODULES else node.module, id(node) in inner) for name in names]
    return out


def part(module: str) -> str:
    """The package or module directly in bench."""
    return module.split(".")[1] if "." in module else ""


@pytest.mark.parametrize("name", ALLOWED)
def test_imports_run_one_way(name):
    allowed = {name, *ALLOWED[name], *GROUND, ""}
    for module, path in MODULES.items():
        if part(module) == name:
            wrong = {other for other, _ in imports(path) if other.startswith("bench") and part(other) not in allowed}
            assert not wrong, f"{module} imports {wrong}"


def test_there_is_no_import_circle():
    graph = {m: {o for o, _ in imports(p) if o in MODULES and o != m} for m, p in MODULES.items()}
    while leaves := [module for module, others in graph.items() if not others & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"a circle among {sorted(graph)}"


def test_modules_are_short_and_import_at_the_top():
    inner = [f"{module}: {name}" for module, path in MODULES.items() for name, inside in imports(path) if inside]
    assert len(inner) <= MAX_INNER_IMPORTS, inner
    lengths = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert not {module: lines for module, lines in lengths.items() if lines > MAX_LINES}


def loaded(code: str, *names: str) -> set[str]:
    """Which of these modules a fresh interpreter has loaded after some code."""
    check = f"\nimport sys; print('\\nloaded', *(name for name in {names!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code + check], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "words", [["list"], ["list", "--suite", "paper"], ["show", "deit_tiny/cifar100/guided"], ["schema"]]
)
def test_a_verb_that_answers_at_once_imports_nothing_large(words):
    assert not loaded(f"from bench.__main__ import main; main({words!r})", *LARGE)


def test_planning_a_finished_run_and_the_package_itself_need_no_torch():
    assert not loaded("import bench, bench.run, bench.train.request, bench.train.main", *LARGE)
    assert not loaded("from bench.__main__ import main; main(['sweep', 'quick', '--dry-run'])", *LARGE)


def test_config_runs_sweep_and_report_never_import_torch():
    light = [module for module in MODULES if part(module) in ("config", "runs", "sweep")]
    assert not loaded(f"import {', '.join(light)}", *LARGE)
    report = [module for module in MODULES if part(module) == "report"]
    assert not loaded(f"import {', '.join(report)}", "torch", "datasets")
