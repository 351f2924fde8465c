"""Checkpoints: which are used and kept, damaged and foreign ones, and whole runs that are killed at random moments."""

from __future__ import annotations

import hashlib
import io

import torch

from bench.train.checkpoint import Checkpoints
from tests.helpers.process import command


def save(folder, *places, identity="a run"):
    """Checkpoints after (epoch, step) places."""
    checkpoints = Checkpoints(folder, identity, interval=0)
    for epoch, step in places:
        checkpoints.save({"epoch": epoch, "step": step, "losses": torch.tensor([float(epoch), float(step)])})
    return checkpoints


def newest_epoch(folder, identity="a run"):
    state = Checkpoints(folder, identity, interval=0).newest()
    return None if state is None else state["epoch"]


def test_the_newest_two_are_kept_and_the_newest_is_used(tmp_path):
    checkpoints = save(tmp_path, (0, 9), (1, 0), (1, 10))
    assert len(list(tmp_path.iterdir())) == 2
    state = checkpoints.newest()
    assert (state["epoch"], state["step"]) == (1, 10) and state["losses"].tolist() == [1, 10]
    checkpoints.clear()
    assert checkpoints.newest() is None and not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, caplog):
    checkpoints = save(tmp_path, (1, 0), (2, 0))
    newest = max(tmp_path.iterdir())
    whole = newest.read_bytes()
    damages = [b"", whole[:20], whole[:-1], whole[: len(whole) // 2], bytes(len(whole)), whole + b"x"]
    damages += [whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :] for place in range(0, len(whole), 97)]
    for damaged in damages:
        newest.write_bytes(damaged)
        caplog.clear()
        assert checkpoints.newest()["epoch"] == 1
        assert f"{newest.name} is damaged" in caplog.text
    newest.unlink()
    min(tmp_path.iterdir()).write_bytes(b"x")
    assert checkpoints.newest() is None


def test_a_checkpoint_of_another_run_is_not_used(tmp_path, caplog):
    save(tmp_path, (1, 0))
    assert newest_epoch(tmp_path, "another run") is None
    assert "with other images, precision, teacher or code: not used" in caplog.text


def test_foreign_and_damaged_checkpoints_do_not_replace_those_of_this_run(tmp_path):
    save(tmp_path, (98, 0), (99, 0), identity="other images")
    (tmp_path / "checkpoint-000100-00000000.pt").write_bytes(b"damaged")
    own = Checkpoints(tmp_path, "a run", 0)
    assert own.newest() is None
    for epoch in (1, 2, 3):
        own.save({"epoch": epoch, "step": 0})
    assert newest_epoch(tmp_path) == 3 and newest_epoch(tmp_path, "other images") == 99
    assert not (tmp_path / "checkpoint-000001-00000000.pt").exists()


def test_a_checkpoint_cannot_run_code(tmp_path, caplog):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    content = io.BytesIO()
    torch.save({"identity": "a run", "epoch": 0, "step": 0, "losses": Evil()}, content)
    path = tmp_path / "checkpoint-000000-00000000.pt"
    path.write_bytes(hashlib.sha256(content.getvalue()).digest() + content.getvalue())
    assert newest_epoch(tmp_path) is None
    assert not (tmp_path / "ran").exists() and "is damaged" in caplog.text


def test_files_with_odd_names_are_neither_read_nor_removed(tmp_path, caplog):
    checkpoints = save(tmp_path, (1, 0))
    odd = ("checkpoint-.pt", "checkpoint-x-y.pt", "checkpoint-999999-99999999.pt.tmp", "checkpoint-..pt", "checkpoint-é.pt")
    for name in (*odd, "checkpoint-999997-00000000.pt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "checkpoint-999999-99999999.pt").mkdir()
    (tmp_path / "checkpoint-999998-00000000.pt").symlink_to(tmp_path / "nowhere")
    assert checkpoints.newest()["epoch"] == 1
    assert [record.message.split(" (")[0] for record in caplog.records] == ["checkpoint-999997-00000000.pt is damaged"]
    checkpoints.save({"epoch": 2, "step": 0})
    assert checkpoints.newest()["epoch"] == 2
    checkpoints.clear()
    assert all((tmp_path / name).exists() for name in odd)


def test_runs_killed_at_random_moments_end_like_uninterrupted_ones():
    done = command("-m", "tests.trials.kills", "--kills", "25")
    expected = ": 0 differences, 0 failures, 0 wrong exit codes"
    assert done.returncode == 0 and expected in done.stdout, done.stdout + done.stderr
