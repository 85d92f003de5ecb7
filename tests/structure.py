"""What the tree promises about itself, as functions of a root: the tests call them, and so do their meta-tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src"
FRAMEWORK = re.compile(r"\b(torch|pytorch|paddle\w*|jax|optax|tensorflow|keras|mlx)\b", re.IGNORECASE)

INNER = ("gradclip.rules",)
DECIDING = (*INNER, "gradclip.engines.base")
CORE = (*DECIDING, "gradclip.step", "gradclip.telemetry", "gradclip.clipper")


def after(*stages: str) -> tuple[str, ...]:
    """What a file of the step may import that comes after these."""
    return (*DECIDING, *(f"gradclip.step.{stage}" for stage in stages))


OF_ALL = "gradclip.errors"
"""What imports nothing of the package, and may be imported by every part of it."""

MAY_IMPORT = {
    "rules": INNER,
    "errors.py": (),
    "engines/base.py": INNER,
    "step/policy.py": INNER,
    "step/gradients.py": DECIDING,
    "step/decide.py": (*DECIDING, "gradclip.step.policy"),
    "step/memory.py": DECIDING,
    "step/part.py": after("decide", "memory"),
    "step/result.py": after("nonfinite", "part"),
    "step/processes.py": after("decide", "gradients", "part"),
    "step/nonfinite.py": after("processes", "gradients", "part"),
    "step/layout.py": after("gradients", "memory", "nonfinite", "part", "policy"),
    "step/measure.py": after("decide", "gradients", "layout", "moments", "part"),
    "step/respond.py": after("gradients", "layout", "measure", "nonfinite", "part", "policy", "processes", "result"),
    "step/write.py": after("decide", "part", "layout"),
    "step/carry.py": after("gradients", "nonfinite", "result"),
    "step/moments.py": after("gradients"),
    "step": (*DECIDING, "gradclip.step"),
    "engines": (*INNER, "gradclip.engines"),
    "telemetry/lines.py": (),
    "telemetry/event.py": ("gradclip.telemetry.lines",),
    "telemetry": (*CORE[:-1], "gradclip.__version__"),
    "clipper.py": CORE[:-1],
    "advice": (*CORE, "gradclip.engines.reference", "gradclip.verdict", "gradclip.advice"),
    "advice/metric.py": ("gradclip.rules.arguments", "gradclip.telemetry.lines", "gradclip.watch.told"),
    "advice/trainings.py": (
        "gradclip.advice",
        "gradclip.verdict.losses",
        "gradclip.verdict.quantiles",
        "gradclip.telemetry.runs",
        "gradclip.watch.journal",
        "gradclip.watch.launch",
    ),
    "report": (
        "gradclip.rules",
        "gradclip.telemetry",
        "gradclip.advice",
        "gradclip.verdict",
        "gradclip.doctor.diagnosis",
        "gradclip.watch.journal",
        "gradclip.report",
    ),
    "testing": (*CORE, "gradclip.engines.reference", "gradclip.testing"),
    "watch": (*CORE, "gradclip.engines", "gradclip.torch", "gradclip.watch"),
    "verdict": ("gradclip.telemetry", "gradclip.watch.journal", "gradclip.verdict"),
    "doctor": (
        "gradclip.rules.arguments",
        "gradclip.telemetry",
        "gradclip.watch.journal",
        "gradclip.verdict",
        "gradclip.doctor",
    ),
    "doctor/installation.py": ("gradclip.__version__",),
    "doctor/engine_trial.py": (*INNER, "gradclip.torch", "gradclip.paddle", "gradclip.optax"),
    "torch": (*CORE, "gradclip.engines", "gradclip.torch"),
    "lightning.py": (*INNER, "gradclip.telemetry", "gradclip.torch"),
    "transformers.py": (*INNER, "gradclip.telemetry", "gradclip.torch"),
    "stable_baselines3.py": (*INNER, "gradclip.step.respond", "gradclip.telemetry", "gradclip.torch"),
    "skorch.py": (*INNER, "gradclip.telemetry", "gradclip.torch"),
    "ignite.py": (*INNER, "gradclip.telemetry", "gradclip.torch"),
    "fastai.py": (*INNER, "gradclip.step.result", "gradclip.telemetry", "gradclip.torch"),
    "timm.py": (*INNER, "gradclip.torch"),
    "paddle": (*CORE, "gradclip.engines", "gradclip.paddle"),
    "optax": (*CORE, "gradclip.engines", "gradclip.optax"),
    "keras": (*CORE, "gradclip.torch", "gradclip.optax", "gradclip.keras"),  # its backends are these frameworks
    "experiments": ("gradclip",),
    "cli": ("gradclip",),
}
"""For each file or folder, first match of the longest, what of gradclip it may import: rules <- decide <- engines <-
clipper <- doors. The engines do not decide."""
OF_EACH_DOOR = ("clipper.py", "functional.py", "parameters.py", "Clip", "Clipper")
"""The names of files and classes that each door may have, as its framework's users expect them."""
PURE = ("rules", "step/decide.py", "step/policy.py", "errors.py", "telemetry/event.py", "telemetry/lines.py")
"""These import the standard library alone and name no framework."""


@cache
def nodes_in(text: str) -> tuple[ast.Import | ast.ImportFrom | ast.ClassDef, ...]:
    """What Python source imports and which classes it has; parsed once for all copies of a file."""
    return tuple(
        node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Import | ast.ImportFrom | ast.ClassDef)
    )


def modules_in(text: str) -> list[str]:
    """The modules that Python source imports, wherever it does so."""
    found = []
    for node in nodes_in(text):
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import: {ast.unparse(node)}"
            whole = node.module == "gradclip"  # then the names are its modules
            modules = [f"gradclip.{name.name}" for name in node.names] if whole else [node.module]
            found += modules
    return found


def files_of(source: Path, part: str) -> list[Path]:
    path = source / "gradclip" / part
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]


def impure_imports(source: Path) -> list[str]:
    """Imports of the pure part that are neither of the standard library nor of gradclip."""
    allowed = {*sys.stdlib_module_names, "gradclip"}
    return [
        f"{path.name} imports {module}"
        for part in PURE
        for path in files_of(source, part)
        for module in modules_in(path.read_text())
        if module.partition(".")[0] not in allowed
    ]


def frameworks_named(source: Path) -> list[str]:
    """Lines of the pure part that name a framework."""
    return [
        f"{path.name}:{number}: {line.strip()}"
        for part in PURE
        for path in files_of(source, part)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FRAMEWORK.search(line)
    ]


def unplaced_folders(source: Path) -> list[str]:
    """The folders of the package of which `MAY_IMPORT` says nothing, so that nobody would look into them."""
    places = {part.partition("/")[0] for part in MAY_IMPORT}
    return sorted(path.parent.name for path in source.glob("gradclip/*/__init__.py") if path.parent.name not in places)


def backward_imports(source: Path) -> list[str]:
    """Imports against the direction rules <- decide <- engines <- clipper <- doors."""
    wrong, seen = [], set()
    for part in sorted(MAY_IMPORT, key=len, reverse=True):
        for path in files_of(source, part):
            if path in seen:
                continue
            seen.add(path)
            own = [module for module in modules_in(path.read_text()) if module.startswith("gradclip")]
            wrong += [
                f"{path.relative_to(source)} imports {module}"
                for module in own
                if not any(
                    module == allowed or module.startswith(allowed + ".") for allowed in (OF_ALL, *MAY_IMPORT[part])
                )
            ]
    return wrong


def heavy_modules(source: Path) -> list[str]:
    """The modules outside the standard library that `import gradclip` imports, in a new process."""
    code = (
        "import sys; before = set(sys.modules); import gradclip; "
        "print(*sorted({m.partition('.')[0] for m in set(sys.modules) - before} - {*sys.stdlib_module_names}))"
    )
    return [name for name in run(code, source).split() if name != "gradclip"]


def import_cost(source: Path, attempts: int = 8) -> float:
    """How often as long as `import dataclasses` the rest of `import gradclip` takes, at best in several new processes.

    Both are processor time of one process: what else the machine does slows both. Dataclasses take about 20 ms.
    """
    code = (
        "import time; a = time.process_time(); import dataclasses; b = time.process_time(); import gradclip; "
        "print((time.process_time() - b) / (b - a))"
    )
    return min(float(run(code, source)) for _ in range(attempts))


def run(code: str, source: Path) -> str:
    """What Python prints for `code` with `source` first on its path and no other way to gradclip."""
    environment = {"PYTHONPATH": str(source), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True, timeout=60
    )
    return done.stdout


def missing_paths(text: str, root: Path) -> list[str]:
    """The paths and file names that a page names in backticks and that do not exist."""
    paths = set(re.findall(r"`((?:[\w.-]+/)+[\w.*-]*)`", text))
    places = (root, root / "src", root / "src" / "gradclip", root / "docs")
    missing = {name for name in paths if not any(any(place.glob(name)) for place in places)}
    files = set(re.findall(r"`([\w-]+\.(?:py|md|toml|txt))`", text))
    tree = {path.name for folder in ("src", "tests", "docs", "benchmarks", ".") for path in _files_in(root, folder)}
    return sorted(missing | (files - tree))


def _files_in(root: Path, folder: str) -> list[Path]:
    return list((root / folder).glob("*") if folder == "." else (root / folder).rglob("*"))


def circles(source: Path) -> list[str]:
    """The modules that import themselves by way of others, also inside functions and for checkers alone."""
    files = {
        ".".join(path.relative_to(source).with_suffix("").parts): path for path in (source / "gradclip").rglob("*.py")
    }
    files = {name: path for name, path in files.items() if not name.endswith("__init__")}
    graph = {name: _imported(path.read_text(), set(files)) - {name} for name, path in files.items()}
    return sorted(name for name in graph if name in _reached(name, graph))


def repeated_file_names(source: Path) -> list[str]:
    """The names that several modules of the package have, but for those of the packages themselves."""
    return _repeated(path.name for path in (source / "gradclip").rglob("*.py") if path.name != "__init__.py")


def repeated_class_names(source: Path) -> list[str]:
    """The names that several classes of the package have."""
    nodes = [node for path in (source / "gradclip").rglob("*.py") for node in nodes_in(path.read_text())]
    return _repeated(node.name for node in nodes if isinstance(node, ast.ClassDef))


def _repeated(names: Iterable[str]) -> list[str]:
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _imported(text: str, known: set[str]) -> set[str]:
    """The modules of `known` that Python source imports, wherever it does so."""
    found: set[str] = set()
    for node in nodes_in(text):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found & known


def _reached(name: str, graph: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        for found in graph[waiting.pop()] - seen:
            seen.add(found)
            waiting.append(found)
    return seen
