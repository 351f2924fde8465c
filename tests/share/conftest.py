"""A finished run, and folders of runs made from it."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file

from bench import models
from bench.config.registry import Registry
from bench.run import parser
from bench.storage import read_json, sha256, write_json
from bench.train.request import StopSignals, read_request
from bench.train.runner import run
from tests.helpers.process import TINY

SETTINGS = [*TINY[:4], "--set", "train.warmup_epochs=2", "--set", "train.betas=[0.9,0.95]"]


def train(recipe_id, results, settings):
    """(folder, recipe) of a real run."""
    words = ["--recipe", recipe_id, "--protocol", "quick", *settings, "--results-dir", str(results)]
    request = read_request(parser().parse_args(words))
    run(request, StopSignals())
    return request.folder.path, request.recipe


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """(folder, recipe) of a real run of one epoch."""
    return train("deit_micro/digits/baseline", tmp_path_factory.mktemp("results"), SETTINGS)


@pytest.fixture(scope="session")
def guided(tmp_path_factory):
    """The folder of a real guided run of one epoch."""
    return train("deit_micro/digits/guided", tmp_path_factory.mktemp("results"), [*SETTINGS, *TINY[4:]])[0]


@pytest.fixture
def copy(finished, tmp_path):
    """A copy of its folder, to change."""
    return shutil.copytree(finished[0], tmp_path / "copy")


@pytest.fixture
def untrained(finished, tmp_path):
    """Makes the folder of a run of another recipe with random weights and statistics; returns it with its network.

    Every weight counts: a head of zeros would hide differences.
    """

    def make(recipe_id, *assignments):
        recipe = Registry().compose(recipe_id, "quick", assignments)
        network = models.create_network(recipe.model, 10, 0)
        random = torch.Generator().manual_seed(1)
        for value in network.state_dict().values():
            if value.is_floating_point():
                value += 0.05 * torch.rand(value.shape, generator=random)
        folder = tmp_path / "untrained"
        folder.mkdir()
        save_file(network.state_dict(), folder / "model.safetensors")
        own = {"id": recipe.id, "hash": recipe.hash, "seed": 0, "recipe": recipe.to_dict()}
        record = read_json(finished[0] / "record.json")
        write_json(folder / "record.json", {**record, **own, "weights": sha256(folder / "model.safetensors")})
        return folder, network.eval()

    return make
