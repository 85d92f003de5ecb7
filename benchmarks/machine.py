"""What the figures depend on: the machine, and the versions of what runs there."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import torch

import gradclip
from gradclip.torch import Clipper

VERSIONS = ("gradclip", "torch", "paddlepaddle", "jax", "jaxlib", "optax", "timm", "numpy", "numba")
ON_A_DEVICE = ("gradclip", "torch", "triton", "numpy", "numba", "transformer_engine", "apex")


def machine() -> dict[str, str]:
    """What the figures depend on."""
    return host() | {name: version(name) for name in VERSIONS} | {"engine of gradclip": _engine()}


def with_device(device: torch.device) -> dict[str, str]:
    """What the figures depend on."""
    found = {"device": "the CPU, where kernels run in Triton's interpreter"}
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(device)
        found = {
            "device": f"{about.name}, {about.total_memory / 2**30:.0f} GiB, {about.multi_processor_count} processors",
            "driver": _driver(),
            "CUDA": str(torch.version.cuda or torch.version.hip),
        }
    return found | {name: version(name) for name in ON_A_DEVICE} | host()


def _driver() -> str:
    """The version of NVIDIA's driver, as its own tool says it."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "not known: there is no nvidia-smi"
    query = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout.partition("\n")[0].strip()


def host() -> dict[str, str]:
    """The day, the processor and the system."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": f"{os.cpu_count()}, PyTorch uses {torch.get_num_threads()}",
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _engine() -> str:
    weight = torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.ones(1)
    return Clipper(gradclip.ClipGradByGlobalNorm(1.0)).clip_([weight]).engine


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name", platform.machine())
    return f"{name} (family {facts['cpu family']}, model {facts['model']})" if "cpu family" in facts else name


def version(name: str) -> str:
    """The version of a package, imported or installed."""
    if name in sys.modules:
        return str(sys.modules[name].__version__)
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
