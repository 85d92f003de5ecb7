"""What gradclip runs on: Python, the processor, the packages, and which engine clips here or what it needs."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from gradclip import __version__

ENGINES = {"torch": ("cpu", "torch", "triton"), "paddle": ("cpu", "paddle"), "jax": ("jax",)}
"""The engines of each framework, by the name of its module and of the extra."""
NEEDS = {"cpu": ("numba", "cpu"), "triton": ("triton", "cuda"), "jax": ("optax", "jax")}
"""The module that an engine needs besides its framework, and the extra that brings it."""
PACKAGES = (
    "numpy", "numba", "llvmlite", "torch", "triton", "paddlepaddle", "paddlepaddle-gpu", "jax", "jaxlib", "optax",
    "keras", "lightning", "transformers", "accelerate", "stable-baselines3", "skorch", "pytorch-ignite", "fastai",
    "timm", "matplotlib", "rich", "scikit-learn", "jinja2", "plotly", "pyarrow", "shtab",
)  # fmt: skip
"""What gradclip works with, as package registries call it."""
VECTORS = re.compile(r"^(sse4_2|avx|avx2|fma|f16c|avx512\w*|avx_vnni|amx_\w+|asimd\w*|neon|sve\w*|bf16|i8mm)$")
"""The flags of a processor that are about vectors."""
WIDTH = 100
LONGEST = 120.0
"""Seconds that the engines of a framework have to clip: the first time they are compiled."""
SETTINGS = ("NUMBA_DISABLE_JIT", "NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES",
            "JAX_PLATFORMS", "TRITON_INTERPRET")  # fmt: skip
"""Variables of the environment that change which engine serves, or how fast."""


@dataclass(frozen=True)
class FoundEngine:
    """An engine of a framework: whether it clips here, and what is to be said of it, such as what it needs."""

    framework: str
    engine: str
    works: bool
    said: str


@dataclass(frozen=True)
class Installation:
    """What gradclip runs on. `packages` has the version of each, None where it is not installed; `cores` are those of
    the machine, `usable` those that this process may use."""

    gradclip: str
    python: str
    platform: str
    cpu: str
    vectors: list[str]
    cores: int
    usable: int
    settings: dict[str, str]
    packages: dict[str, str | None]


def installation() -> Installation:
    """What is here, so far as it is written down: nothing of it is imported."""
    cpu, vectors = processor()
    cores = os.cpu_count() or 1
    return Installation(
        gradclip=__version__,
        python=f"{platform.python_version()} ({platform.python_implementation()})",
        platform=platform.platform(),
        cpu=cpu,
        vectors=vectors,
        cores=cores,
        usable=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores,
        settings={name: os.environ[name] for name in SETTINGS if name in os.environ},
        packages={name: version_of(name) for name in PACKAGES},
    )


def engines() -> Iterator[FoundEngine]:
    """The engines of each framework. Those of the frameworks that are installed clip a gradient, at the same time."""
    with ThreadPoolExecutor() as pool:
        for found in pool.map(engines_of, ENGINES):
            yield from found


def version_of(package: str) -> str | None:
    """The version of a package as its metadata has it, without importing it; None where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, list[str]]:
    """The name of the processor, and its flags about vectors where the system says them."""
    if not cpuinfo.is_file():
        return platform.processor() or platform.machine(), []
    facts: dict[str, str] = {}
    for line in cpuinfo.read_text("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        facts.setdefault(name.strip(), value.strip())
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return facts.get("model name") or platform.machine(), sorted(filter(VECTORS.match, flags))


def engines_of(framework: str) -> list[FoundEngine]:
    """The engines of a framework, tried where it is installed."""
    if util.find_spec(framework) is None:
        why = f'{framework} is not installed: pip install "gradclip[{framework}]"'
        return [FoundEngine(framework, engine, False, why) for engine in ENGINES[framework]]
    tried, failed = outcome_of(framework)
    return [FoundEngine(framework, engine, *answer_of(engine, tried, failed)) for engine in ENGINES[framework]]


def answer_of(engine: str, tried: Mapping[str, tuple[bool, str]], failed: str) -> tuple[bool, str]:
    """Whether an engine works and what is said of it: what it lacks, what came of trying it, or why nothing did."""
    lacks = lacking(engine)
    return (False, lacks) if lacks else tried.get(engine, (False, failed))


def lacking(engine: str) -> str:
    """What an engine needs that is not installed, with what installs it; nothing where all is there."""
    module, extra = NEEDS.get(engine, ("", ""))
    if not module or util.find_spec(module) is not None:
        return ""
    return f'it needs {module}: pip install "gradclip[{extra}]"'


def outcome_of(framework: str) -> tuple[dict[str, tuple[bool, str]], str]:
    """For each engine that could be tried whether it works and what is said of it; and why the others could not be."""
    command = [sys.executable, "-m", "gradclip.doctor.engine_trial", framework]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired:
        return {}, f"{framework} did not answer within {LONGEST:g} seconds"
    outcomes = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"engine"')]
    tried = {found["engine"]: (found["works"], found["said"]) for found in outcomes}
    return tried, why_not(framework, done)


def why_not(framework: str, done: subprocess.CompletedProcess[str]) -> str:
    """Why a framework did not come to the end: the last line of its error, or the signal that ended it."""
    if done.returncode < 0:
        return f"{framework} was ended by signal {-done.returncode}"
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return f"{framework} cannot be imported: {lines[-1].strip()}"


def installation_as_text(found: Installation) -> str:
    """What is here, to be pasted into a report of an error."""
    vectors = f"; {' '.join(found.vectors)}" if found.vectors else ""
    absent = ", ".join(name for name, version in found.packages.items() if version is None)
    lines = [
        *labelled("gradclip", found.gradclip),
        *labelled("Python", found.python),
        *labelled("platform", found.platform),
        *labelled("CPU", f"{found.cpu}, {found.usable} of {found.cores} cores{vectors}"),
        *(line for name, value in found.settings.items() for line in labelled("setting", f"{name}={value}")),
        *labelled("packages", ", ".join(f"{name} {version}" for name, version in found.packages.items() if version)),
        *labelled("not there", absent),
    ]
    return "\n".join(lines)


def labelled(label: str, text: str) -> list[str]:
    """A line with a label in front, and as many more as the text needs."""
    indent = " " * 11
    return textwrap.wrap(text, WIDTH, initial_indent=label.ljust(11), subsequent_indent=indent, break_on_hyphens=False)


def engine_as_text(found: FoundEngine) -> str:
    """A line about an engine; what is wrong stands in one as long as it is."""
    name = f"{found.framework}: {found.engine}"
    return f"engine     {name:16}{'works' if found.works else 'no':7}{found.said}".rstrip()
