from __future__ import annotations

import torch

from bench.train.checkpoint import Checkpoints
from tests.helpers.process import command


def save(folder, *places, identity="a run"):
    checkpoints = Checkpoints(folder, identity, every=0)
    for epoch, step in places:
        checkpoints.save(epoch, step, {"value": torch.tensor([float(epoch), float(step)])})
    return checkpoints


def test_the_newest_two_are_kept_and_the_newest_is_taken(tmp_path):
    checkpoints = save(tmp_path, (0, 9), (1, 0), (1, 10))
    assert len(list(tmp_path.iterdir())) == 2
    state = checkpoints.newest()
    assert (state["epoch"], state["step"]) == (1, 10) and state["value"].tolist() == [1, 10]
    checkpoints.clear()
    assert checkpoints.newest() is None and not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_named_and_the_one_before_taken(tmp_path, capsys):
    checkpoints = save(tmp_path, (1, 0), (2, 0))
    newest = max(tmp_path.iterdir())
    whole = newest.read_bytes()
    damages = [b"", whole[:20], whole[:-1], whole[: len(whole) // 2], bytes(len(whole)), whole + b"x"]
    damages += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 97)]
    for damaged in damages:
        newest.write_bytes(damaged)
        assert checkpoints.newest()["epoch"] == 1
        assert f"warning: {newest.name} is damaged" in capsys.readouterr().err
    max(tmp_path.iterdir()).unlink()
    min(tmp_path.iterdir()).write_bytes(b"x")
    assert checkpoints.newest() is None


def test_a_checkpoint_of_another_run_is_never_taken_up(tmp_path, capsys):
    save(tmp_path, (1, 0))
    assert Checkpoints(tmp_path, "another run", every=0).newest() is None
    assert "of another run" in capsys.readouterr().err


def test_checkpoints_of_another_run_and_damaged_ones_never_push_out_those_of_this_one(tmp_path):
    other = Checkpoints(tmp_path, "other images", 0)
    for epoch in (98, 99):
        other.save(epoch, 0, {})
    (tmp_path / "checkpoint-000100-00000000.pt").write_bytes(b"damaged")
    own = Checkpoints(tmp_path, "this run", 0)
    assert own.newest() is None
    for epoch in (1, 2, 3):
        own.save(epoch, 0, {})
    assert Checkpoints(tmp_path, "this run", 0).newest()["epoch"] == 3
    assert Checkpoints(tmp_path, "other images", 0).newest()["epoch"] == 99
    assert not (tmp_path / "checkpoint-000001-00000000.pt").exists()


def test_a_checkpoint_cannot_run_code(tmp_path, capsys):
    import hashlib
    import io

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    content = io.BytesIO()
    torch.save({"identity": "a run", "epoch": 0, "step": 0, "value": Evil()}, content)
    path = tmp_path / "checkpoint-000000-00000000.pt"
    path.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())
    assert Checkpoints(tmp_path, "a run", every=0).newest() is None
    assert not (tmp_path / "ran").exists() and "is damaged" in capsys.readouterr().err


def test_runs_killed_at_random_moments_end_as_if_they_had_not_been():
    done = command("-m", "tests.kill_trials", "--kills", "25")
    assert done.returncode == 0 and ": 0 differences, 0 failures, 0 wrong exit codes" in done.stdout, (
        done.stdout + done.stderr
    )
