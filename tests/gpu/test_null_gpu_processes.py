"""Several processes on null GPUs, started as users start them."""

from __future__ import annotations

from bench.runs.finished import NULL_GPU, run_from_folder
from tests.gpu.null_gpu import measure, run
from tests.helpers.process import TINY

DEVICES = """
from types import SimpleNamespace
import torch
from tests.gpu import null_gpu

null_gpu.reset()
assert torch.cuda.device_count() == 8
last = torch.zeros(8, device="cuda:7")
assert (last + 1).device == last.clone().device == torch.device("cuda:7")
foreign = SimpleNamespace(__cuda_array_interface__=last.__cuda_array_interface__)
assert torch.as_tensor(foreign).device.index == 7  # torch asks whose memory it is
assert torch.zeros(1, device="cuda").device.index == 0
null_gpu.report("done")
"""


def test_a_tensor_is_on_the_null_gpu_that_it_was_made_on(null_gpu):
    assert measure(null_gpu, DEVICES, gpus=8)["done"]["memsets"] == 2


def test_two_processes_train_one_run_on_two_null_gpus(null_gpu, tmp_path):
    launch = ["--multi_gpu", "--num_machines", 1, "--num_processes", 2, "--main_process_port", 0]
    words = ["--recipe", "deit_micro/digits/guided", "--protocol", "quick", "--results-dir", tmp_path, "--num-processes", 2]
    settings = [*TINY, "--set", "train.compile=off"]
    done = run(null_gpu, "-m", "accelerate.commands.launch", *launch, "bench/run.py", *words, *settings, gpus=2)
    assert done.returncode == 0, done.stdout + done.stderr
    (student,) = tmp_path.rglob("guided/*/record.json")
    record = run_from_folder(student.parent).record
    assert (record.world_size, record.hardware.device) == (2, NULL_GPU)
    assert "2 processes on cuda:0 (null GPU" in done.stdout
