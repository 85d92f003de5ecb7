"""Tried in a fresh environment of all extras: `python try_all.py VERSION`, in an empty folder.

Every module can be imported, the README's blocks run, every public name can be used as the
files of tests/typed do, and the commands that need extras work.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import walk_packages

RUN = "runs/first"
TRAINING = Path(__file__).with_name("train.py")
TYPED = Path(__file__).parent.parent / "tests" / "typed"
"""Files that use every public name as users do."""
COMMANDS = (
    f"watch --out {RUN} {TRAINING}",
    f"report {RUN}",
    f"export {RUN} --parquet run.parquet",
    "completion bash",
    "methods zclip",
)


def main() -> None:
    assert metadata.version("gradclip") == sys.argv[1]
    os.environ["KERAS_BACKEND"] = "torch"
    import gradclip

    modules = [module.name for module in walk_packages(gradclip.__path__, "gradclip.")]
    for name in modules:
        if not name.endswith("__main__"):
            import_module(name)
    blocks = re.findall(r"^```python\n(.*?)^```", metadata.metadata("gradclip").get_payload(), flags=re.M | re.S)
    Path("readme.py").write_text("\n".join(blocks))
    done = run(sys.executable, "readme.py")
    assert "clipped, norm" in done, done
    for path in sorted(TYPED.glob("*.py")):
        run(sys.executable, str(path))
    for line in COMMANDS:
        run(str(Path(sys.executable).with_name("gradclip")), *line.split())
    print(f"{len(modules)} modules, {len(blocks)} blocks of the README, {len(COMMANDS)} commands")


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}: {done.stdout} {done.stderr}"
    return done.stdout


if __name__ == "__main__":
    main()
