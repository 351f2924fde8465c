"""A null GPU: the CUDA build of torch runs on it without a GPU, and its operations are counted (tests/gpu/null_gpu.c).

    python -m tests.gpu.null_gpu bench/run.py --recipe …                    any command of Python on it, or a .sh
    NULL_GPUS=8 python -m tests.gpu.null_gpu -m bench sweep quick            on eight of them, which nvidia-smi lists

It shows that the code for GPUs runs, what the host asks for, and whether it waits. It shows no result and no time of a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = [Path(__file__).with_name(name) for name in ("null_gpu.c", "null_nccl.c")]
FUNCTION = r"\b(?:__cuda|cuda|cublas|cudnn|cu|nccl)[A-Z]\w*"
# The libraries answer these themselves.
NOT_REPLACED = r"(cudnn|cublas|cublasLt|nccl)Get(\w*Version|\w*Error\w*|Property)|__cuda(R|Unr)egister.*"
# A header that the wheels leave out.
HOST_DEFINES = """
#define __device_builtin__
#define __device_builtin_texture_type__
#define __device_builtin_surface_type__
#define __cudart_builtin__
#define __builtin_align__(n) __attribute__((aligned(n)))
#define __align__(n) __attribute__((aligned(n)))
#define CUDARTAPI
#define CUDARTAPI_CDECL
#define __host__
#define __device__
#define __forceinline__ inline
#define __inline__ inline
"""

NVIDIA_SMI = """#!/bin/sh
for i in $(seq 0 $((${NULL_GPUS:-1} - 1))); do echo "GPU $i: null GPU"; done
"""


def missing() -> str | None:
    """What this machine lacks to build a null GPU, as a sentence; or None."""
    if not (shutil.which("gcc") and shutil.which("nm")):
        return "no gcc and nm, which build the null GPU"
    return None if _torch_library("libtorch_cuda").exists() else "no CUDA build of torch, which the null GPU is for"


def build(folder: Path) -> Path:
    """Build the library that is preloaded, in a folder. It has what torch's libraries want of CUDA and NCCL."""
    (folder / "crt").mkdir(parents=True, exist_ok=True)
    (folder / "crt" / "host_defines.h").write_text(HOST_DEFINES)
    libraries = [_torch_library(name) for name in ("libtorch_cuda", "libc10_cuda", "libtorch_python")]
    listing = subprocess.run(["nm", "-D", "--undefined-only", *libraries], capture_output=True, text=True, check=True)
    wanted = {name for name in re.findall(FUNCTION, listing.stdout) if not re.fullmatch(NOT_REPLACED, name)}
    rest = wanted.difference(*(re.findall(FUNCTION, source.read_text()) for source in SOURCES))
    (folder / "rest.c").write_text("".join(f"int {name}() {{ return 0; }}\n" for name in sorted(rest)))
    headers = next((_torch_library("").parents[2] / "nvidia").rglob("driver_types.h")).parent
    out = folder / "libcuda.so.1"
    options = ["-O1", "-w", "-shared", "-fPIC", f"-I{folder}", f"-I{headers}", "-o", out]
    subprocess.run(["gcc", *options, *SOURCES, folder / "rest.c", "-ldl", "-lpthread"], check=True)
    (folder / "nvidia-smi").write_text(NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    return out


def environment(library: Path, gpus: int | None = None) -> dict[str, str]:
    """The variables under which Python finds the null GPU. gpus: how many (NULL_GPUS, else 1)."""
    folder = str(library.parent)
    return {
        **os.environ,
        **({} if gpus is None else {"NULL_GPUS": str(gpus)}),
        "PATH": os.pathsep.join([folder, *filter(None, [os.environ.get("PATH")])]),
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": folder,
        "TRITON_LIBCUDA_PATH": folder,
        "CUDA_MODULE_LOADING": "LAZY",
        "PYTORCH_NVML_BASED_CUDA_CHECK": "0",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }


def run(library: Path, *words: object, gpus: int = 1, timeout: float = 900) -> subprocess.CompletedProcess[str]:
    """Run a command of Python (a file, `-c` or `-m`, and its arguments) on null GPUs, from the repository's root."""
    words = [sys.executable, *map(str, words)]
    return subprocess.run(
        words, cwd=ROOT, env=environment(library, gpus), capture_output=True, text=True, timeout=timeout, check=False
    )


def measure(library: Path, script: str, *arguments: object, gpus: int = 1) -> dict[str, dict[str, int]]:
    """The counts that a script has printed with `report`, by label."""
    # Not by the interpreter's own end, in which a finished script has aborted once: "terminate called without an active
    # exception" is what C++ says when Python ends a thread of a library that waits for the GIL.
    end = "\nimport os, sys\nsys.stdout.flush()\nos._exit(0)\n"
    done = run(library, "-c", script + end, *arguments, gpus=gpus)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(line.removeprefix("counts ")) for line in done.stdout.splitlines() if line.startswith("counts "))


# For scripts on the null GPU


def reset() -> None:
    """Count from zero."""
    ctypes.CDLL(None).null_reset()


def counts() -> dict[str, int]:
    """What was asked for since `reset`, without zeros.

    launches of kernels, products of cuBLAS, convolutions (and batch norms) of cuDNN, uploads (pageable_uploads among them),
    downloads, copies on the device, memsets, captures, graph_launches, collectives of NCCL, waits of the host; during
    captures all of these are captured, or refused.
    """
    library = ctypes.CDLL(None)
    library.null_name.restype, library.null_count.restype = ctypes.c_char_p, ctypes.c_uint64
    out, index = {}, 0
    while (name := library.null_name(index)) is not None:
        out[name.decode()] = library.null_count(index)
        index += 1
    return {name: number for name, number in out.items() if number}


def report(label: str) -> None:
    """Print the counts for `measure`, and count from zero."""
    print("counts", json.dumps([label, counts()]), flush=True)
    reset()


def _torch_library(name: str) -> Path:
    return Path(importlib.util.find_spec("torch").origin).parent / "lib" / f"{name}.so"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        command = [*([] if sys.argv[1].endswith(".sh") else [sys.executable]), *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=environment(build(Path(folder))), check=False).returncode)
