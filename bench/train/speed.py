"""`python -m bench speed`: images per second of a recipe on this machine, and where the time of a step goes.

The teacher has its initial weights, which take as long as trained ones. Every arm is a process of its own (speed_arm.py),
since precision and memory are a process's; they are measured in turns, so that whatever else the machine does falls on all
alike, and whoever has no turn is stopped, with the workers that would fill its queues. This side needs no torch.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from statistics import median
from typing import Any

from bench.config.schema import Recipe, RecipeError
from bench.locks import cache_folder

ROUNDS = 10  # turns in which the arms are measured
WARM_UP = 3  # steps before the first turn
CLOSING = 20  # seconds that an arm has to leave by itself, which clears what its workers keep in /tmp

# The libraries first, so that the time of their imports is known.
START = (
    "import time; t = time.perf_counter(); import accelerate, timm, torch; t = time.perf_counter() - t;"
    " from bench.train.speed_worker import serve; serve(t)"
)


class ArmProcess:
    """An arm in its own process and session. Leaving the context ends the whole session, whatever it does.

    Args:
        name: of the arm, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        paths = [str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        self._connection, its_end = Pipe()
        with its_end:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", START, str(its_end.fileno())],  # -P: this package, not one that lies here
                stdin=subprocess.DEVNULL,
                stdout=2,  # what it prints is no result
                env=environment,
                pass_fds=[its_end.fileno()],
                start_new_session=True,
            )

    def __enter__(self) -> ArmProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGKILL)  # ends stopped processes, too
        self._process.wait()
        self._connection.close()

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # nobody left; zombies only, on macOS
            os.killpg(self._process.pid, number)

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """The session runs inside; it is stopped afterwards."""
        self._signal(signal.SIGCONT)
        try:
            yield
        finally:
            self._signal(signal.SIGSTOP)

    def ask(self, command: str, *arguments: object) -> Any:
        """What a method of `speed_arm.Service` answers.

        Raises:
            RecipeError: it raised one.
            RuntimeError: it raised something else, or the process has ended.
        """
        with contextlib.suppress(BrokenPipeError):  # the answer's absence says it
            self._connection.send((command, arguments))
        outcome, answer = self._answer()
        if outcome == "refused":
            raise RecipeError(answer)
        if outcome == "failed":
            raise RuntimeError(f"the arm {self._name!r} failed:\n{answer}")
        return answer

    def _answer(self) -> tuple[str, Any]:
        try:
            # Its workers hold the pipe open, so the end of the process alone does not end the waiting.
            while not self._connection.poll(1):
                if self._process.poll() is not None and not self._connection.poll():
                    raise EOFError
            return self._connection.recv()
        except (EOFError, ConnectionResetError):
            self._signal(signal.SIGKILL)
            code = self._process.wait()
            why = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            raise RuntimeError(f"the process of the arm {self._name!r} ended without an answer ({why})") from None

    def close(self) -> None:
        """Let it leave by itself, for `wait`."""
        self._signal(signal.SIGCONT)
        with contextlib.suppress(OSError):
            self._connection.send(None)

    def wait(self) -> None:
        """Return once it has left, or its time to do so is over."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSING)


def arms_of(recipe: Recipe, plain: bool) -> dict[str, Recipe]:
    """{name: recipe} of what is timed: the recipe, what it costs over its baseline, and, if asked, the plain way: as one
    would train it without this suite, with timm's transform in worker processes, eager, in fp32."""
    guided = recipe.teacher is not None
    arms = {recipe.id.rpartition("/")[2] if guided else "baseline": recipe}
    if guided:
        arms["baseline"] = replace(recipe, guidance=None, teacher=None)
    if plain:
        train = replace(recipe.train, precision="fp32", compile="off")
        arms["plain"] = replace(recipe, data=replace(recipe.data, pipeline="pil"), train=train)
    return arms


def measure(
    recipes: dict[str, Recipe],
    data_dir: str,
    synthetic: int | None,
    steps: int,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Time the arms in turns, and take the first one apart.

    Args:
        recipes: from `arms_of`.
        data_dir: local datasets.
        synthetic: px, the side of the images of noise that take the dataset's place, or None.
        steps: of each arm.
        say: told what goes on.

    Returns:
        `arms`: images/s and ms a step of each (the median turn, and the fastest and slowest), images/s of its input alone,
        its peak memory and precision; `ratios`: of the first arm's step to each other arm's, the median over turns;
        `parts_ms` of a step, FLOPs an image, FLOP/s of a matrix product, the share of it that is used, images/s of the
        evaluation, peak memory, seconds from the start of the first arm's process to its first step and of its imports,
        and what it ran on.

    Raises:
        RecipeError: an arm cannot be run, or a launcher has started several processes.
        RuntimeError: an arm failed.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(f"WORLD_SIZE={os.environ['WORLD_SIZE']}: bench speed measures one process: use no launcher")
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(_scratch(recipes))
        arms: dict[str, ArmProcess] = {}
        facts: dict[str, dict[str, Any]] = {}
        for name, recipe in recipes.items():
            arms[name] = arm = stack.enter_context(ArmProcess(name))
            with arm.turn():
                facts[name] = arm.ask("prepare", recipe, data_dir, synthetic, scratch)
                say(f"{name}: warming up")
                arm.ask("steps", WARM_UP)
        each = max(1, steps // ROUNDS)
        turns, inputs = _take_turns(arms, each, say)
        for name, arm in arms.items():
            facts[name] |= _ask(arm, "so_far")  # before taking one apart needs more memory
        name, first = next(iter(arms.items()))
        say(f"{name}: its parts")
        details = _ask(first, "details", max(3, each))
        for arm in arms.values():
            arm.close()
        for arm in arms.values():
            arm.wait()
    return _summary(recipes, facts, each * ROUNDS, turns, inputs, details)


@contextlib.contextmanager
def _scratch(recipes: dict[str, Recipe]) -> Iterator[str | None]:
    """A temporary folder on the cache's disk for the features of offline guidance, or None where nobody keeps any: an
    untrained teacher's are of no use to anyone later."""
    if not any(recipe.guidance is not None and recipe.guidance.offline for recipe in recipes.values()):
        yield None
        return
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="speed-", dir=cache_folder()) as folder:
        yield folder


def _ask(arm: ArmProcess, command: str, *arguments: object) -> Any:
    with arm.turn():
        return arm.ask(command, *arguments)


def _take_turns(
    arms: dict[str, ArmProcess], each: int, say: Callable[[str], None]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds a step, and seconds a batch of input, of each arm and turn of `each` steps."""
    turns: dict[str, list[float]] = {name: [] for name in arms}
    inputs: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(ROUNDS):
        say(f"turn {turn + 1} of {ROUNDS}, {each} steps an arm")
        for name, arm in arms.items():
            with arm.turn():
                arm.ask("steps", 1)  # what stood still has lost the caches to the others
                turns[name].append(arm.ask("steps", each) / each)
                inputs[name].append(arm.ask("input", each) / each)
    return turns, inputs


def _summary(
    recipes: dict[str, Recipe],
    facts: dict[str, dict[str, Any]],
    steps: int,
    turns: dict[str, list[float]],
    inputs: dict[str, list[float]],
    details: dict[str, Any],
) -> dict[str, Any]:
    """What `measure` returns, of what the arms answered."""
    name, recipe = next(iter(recipes.items()))
    batch, first = recipe.train.batch_size, facts[name]
    seconds = {name: median(own) for name, own in turns.items()}
    flops, rate = details["flops"], details["matrix_flops"]
    return {
        "recipe": recipe.id,
        "protocol": recipe.protocol,
        "hash": recipe.hash,
        "batch": batch,
        "image_size": recipe.model.image_size,
        "precision": first["precision"],
        "compile": first["compile"],
        "steps": steps,
        "arms": {
            name: {
                "images_per_second": batch / seconds[name],
                "ms": 1e3 * seconds[name],
                "range_ms": [1e3 * min(own), 1e3 * max(own)],
                "input_images_per_second": batch / median(inputs[name]),
                "peak_memory_mib": facts[name]["peak_memory_mib"],
                "precision": facts[name]["precision"],
                "compile": facts[name]["compile"],
            }
            for name, own in turns.items()
        },
        # turn by turn, since a machine's speed drifts from one to the next by more than what guidance costs
        "ratios": {
            other: median(one / another for one, another in zip(turns[name], turns[other], strict=True))
            for other in list(recipes)[1:]
        },
        "parts_ms": {part: 1e3 * value for part, value in details["parts"].items()},
        "evaluation_images_per_second": details["evaluation"],
        "flops_per_image": flops,
        "matrix_flops": rate,
        "utilisation": (flops["forward and backward"] + flops.get("teacher", 0)) * batch / seconds[name] / rate,
        "first_step": {"seconds": first["seconds"], "imports": first["imports"]},
        "peak_memory_mib": first["peak_memory_mib"],
        "dataset": first["dataset"],
        "hardware": details["hardware"],
        "libraries": details["libraries"],
        "code": details["code"],
    }


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What `measure` found, for people."""
    hardware = found["hardware"]
    where = f"{hardware['processor']}, {hardware['threads']} thread{'s' if hardware['threads'] > 1 else ''}"
    if hardware["device"] != "cpu":
        where = hardware["device"]
    yield (
        f"{found['recipe']}  batch {found['batch']}  {found['image_size']} px  {found['precision']}  compile"
        f" {found['compile']}  on {where}, {found['steps']} steps"
    )
    for name, arm in found["arms"].items():
        low, high = arm["range_ms"]
        rate = f"{arm['images_per_second']:>10,.1f} images/s"
        alone = f"input alone {arm['input_images_per_second']:,.1f} images/s"
        yield f"  {name:<10} {rate}  {arm['ms']:,.1f} ms a step ({low:,.1f} to {high:,.1f})  {alone}"
    first = next(iter(found["arms"]))
    for other, ratio in found["ratios"].items():
        yield f"  a step of {first} takes {ratio:.3f} of one of {other}"
    step = found["arms"][first]["ms"]
    yield f"  parts of {first}, each by itself:"
    for part, value in found["parts_ms"].items():
        yield f"    {part:<10} {value:>9,.1f} ms  {value / step:>6.1%}"
    yield f"    together   {sum(found['parts_ms'].values()):>9,.1f} ms of {step:,.1f}"
    yield f"  evaluation {found['evaluation_images_per_second']:>10,.1f} images/s"
    flops = ", ".join(f"{name} {value / 1e9:.3f}" for name, value in found["flops_per_image"].items())
    yield f"  GFLOPs an image: {flops}"
    yield (
        f"  {found['utilisation']:.1%} of the {found['matrix_flops'] / 1e12:,.2f} TFLOP/s that a matrix product reaches"
        f" here in {found['precision']}; peak memory {found['peak_memory_mib']:,.0f} MiB"
    )
    start = found["first_step"]
    yield f"  the first step began {start['seconds']:.1f} s after the process, {start['imports']:.1f} s of it were imports"
