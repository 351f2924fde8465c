"""What a record on a GPU says of compilation, on a null GPU: that all is compiled, or what fell back."""

from __future__ import annotations

from bench.runs.finished import run_from_folder
from tests.gpu.null_gpu import run

SMALL = ["train.epochs=1", "data.train_limit=128", "augment.rand_augment=null", "model.depth=1"]


def record_of(null_gpu, folder, method, *settings):
    """The record of a run of deit_micro on digits, and what it has printed."""
    words = ["--recipe", f"deit_micro/digits/{method}", "--protocol", "quick", "--results-dir", folder]
    words += [word for setting in (*SMALL, *settings) for word in ("--set", setting)]
    done = run(null_gpu, "bench/run.py", *words, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.glob(f"local/runs/deit_micro/digits/{method}/*/record.json")
    return run_from_folder(path.parent).record, done.stdout + done.stderr


def test_a_compiled_run_has_all_its_graphs(null_gpu, tmp_path):
    teacher = ["teacher.train.epochs=1", "teacher.data.train_limit=128", "teacher.train.compile=off"]
    layers = ["model.feature_layers=[blocks.0]", "teacher.model.feature_layers=[stages.0]"]
    record, printed = record_of(null_gpu, tmp_path, "guided", "train.compile=default", *teacher, *layers)
    found = record.compilation
    assert found.found == found.expected == 2 and found.breaks == 0 and not found.fell_back and found.seconds > 0
    assert found.attention in ("cudnn", "flash", "efficient") and not record.fell_back
    assert record.compile == "default" and "slower" not in printed


def test_a_run_whose_compiler_fails_says_so_once(null_gpu, tmp_path, monkeypatch):
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, "/bin/false")
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))  # else what was compiled before would be used
    record, printed = record_of(null_gpu, tmp_path / "results", "baseline", "train.epochs=2")
    assert record.fell_back and record.compile == "fell back"
    assert record.compilation.found == 0 < record.compilation.expected
    (reason,) = record.compilation.fell_back
    assert "student not compiled (" in reason and "false" in reason and "/" not in reason
    assert printed.count("steps are slower") == 1 and printed.count(reason) == 1 and printed.count("\n") < 20
