"""The weights that methods-small compares beside the published ones are those that its recorded trials choose."""

from __future__ import annotations

import math

import bench
from bench.config.registry import Registry

registry = Registry()


def test_the_second_row_of_a_method_has_the_weight_of_its_best_trial():
    trials, shown = registry.suite("methods-small-weights"), registry.suite("methods-small")
    accuracy = bench.results(trials.name, origin="published").set_index("hash")["last_accuracy"]
    best = {}
    for entry, recipe in registry.suite_recipes(trials):
        if not entry.overrides:
            continue  # the baseline
        ((path, given),) = entry.overrides
        published = getattr(registry.compose(entry.id, "quick").guidance.params[0], path.rpartition(".")[2])
        # of equal accuracies, the one nearest to the published weight
        rank = accuracy[recipe.hash], -abs(math.log(given.value / published))
        best[entry.id] = max(best.get(entry.id, (rank, "")), (rank, entry.method))
    rows = {entry.id: entry.method for entry in shown.entries if entry.overrides}
    assert rows == {recipe_id: method for recipe_id, (_, method) in best.items()}
    published = {entry.id for entry in shown.entries if not entry.overrides}
    assert published == {*rows, "deit_micro/digits/baseline"}  # each method also at its published weight


def test_trials_and_comparison_differ_in_the_images_alone():
    trials, shown = (registry.suite(name) for name in ("methods-small-weights", "methods-small"))
    of_trials, of_shown = ({path: given.value for path, given in suite.overrides} for suite in (trials, shown))
    assert of_trials.pop("data.holdout") > 0 and of_trials == of_shown and trials.protocol == shown.protocol
