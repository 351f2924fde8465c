"""`python -m bench verify`: weights and predictions against the record."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import bench
from bench.__main__ import main
from bench.config.schema import RecipeError
from bench.data.store import open_dataset
from bench.share.verify import verify
from bench.storage import read_json, write_json
from bench.train.evaluate import predict


def change_weights(folder, largest):
    weights = load_file(folder / "model.safetensors")
    weights["head.bias"] += torch.linspace(0, largest, 10)
    save_file(weights, folder / "model.safetensors")


def test_an_unchanged_run_gives_its_predictions(finished, capsys):
    assert main(["verify", str(finished[0])]) == 0
    out = capsys.readouterr().out
    assert "same hardware and libraries" in out and "predictions differ" not in out


def test_other_weights_are_found_and_the_images_named(copy, capsys):
    change_weights(copy, 5)
    assert main(["verify", str(copy)]) == 1
    done = capsys.readouterr()
    assert "predictions differ: image " in done.out and "do not give what is recorded" in done.err


def test_predictions_stand_beside_the_labels_of_their_images(finished):
    folder, recipe = finished
    found = bench.predictions(folder)
    accuracy = 100 * (found["label"] == found["predicted"]).mean()
    assert accuracy == pytest.approx(bench.load(folder).record.last_accuracy, abs=1e-4)
    subset = open_dataset(recipe.data, "data").evaluation(recipe.data)
    assert found["image"].tolist() == [subset.images.names[index] for index in subset.indices]


def test_one_other_prediction_counts_only_on_the_same_machine(copy):
    predictions = np.load(copy / "predictions.npy")
    predictions[7] = (predictions[7] + 1) % 10
    np.save(copy / "predictions.npy", predictions)
    lines, is_same = verify(copy, "data")
    assert "1 predictions differ" in lines[-1] and not is_same
    record = read_json(copy / "record.json")
    elsewhere = {**record, "libraries": {**record["libraries"], "torch": "2.0"}}
    write_json(copy / "record.json", elsewhere)
    lines, is_same = verify(copy, "data")
    assert "0.1 points are allowed" in lines[1] and "1 predictions differ" in lines[-1] and is_same
    (copy / "history.csv").unlink()  # beside it, a changed accuracy would be noticed at once
    write_json(copy / "record.json", {**elsewhere, "last_accuracy": record["last_accuracy"] + 0.11})
    assert not verify(copy, "data")[1]


def test_it_computes_with_the_threads_of_the_run(copy, monkeypatch):
    record = read_json(copy / "record.json")
    write_json(copy / "record.json", {**record, "hardware": {**record["hardware"], "threads": 3}})
    seen = []

    def noting(*words):
        seen.append(torch.get_num_threads())
        return predict(*words)

    monkeypatch.setattr("bench.share.verify.predict", noting)
    before = torch.get_num_threads()
    try:
        assert verify(copy, "data")[1]
    finally:
        torch.set_num_threads(before)
    assert seen == [3] and before != 3


def test_what_cannot_be_compared_is_refused(copy):
    def refused(match):
        with pytest.raises(RecipeError, match=match):
            verify(copy, "data")

    record = read_json(copy / "record.json")
    write_json(copy / "record.json", {**record, "dataset": {**record["dataset"], "fingerprint": "0" * 64}})
    refused("recorded for other images")
    write_json(copy / "record.json", record)
    np.save(copy / "predictions.npy", np.zeros(3, np.int64))
    refused(r"int64 \[3\], allowed are whole numbers \[360\]")
    with pytest.raises(RecipeError, match=r"allowed are whole numbers \[360\]"):
        bench.predictions(copy)
    (copy / "predictions.npy").write_bytes(b"x")
    refused(r"predictions\.npy: cannot be read")
