"""Tried in a fresh environment of `gradclip[torch]`: `python try_torch.py VERSION`, in an empty folder.

The README's blocks on PyTorch, as the wheel brings the README, clip; so does a script that is watched.
"""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

NEEDS_MORE = ("paddle", "optax", "jax", "keras", "lightning", "transformers")
NAMES = "import torch\nimport gradclip, gradclip.torch\n"
"""What the first block of the README imports, beside the other frameworks."""
SCRIPT = """
import torch
model = torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
for step in range(40):
    optimizer.zero_grad()
    model(torch.randn(8, 4)).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
"""


def main() -> None:
    version = sys.argv[1]
    assert metadata.version("gradclip") == version
    blocks = re.findall(r"^```python\n(.*?)^```", metadata.metadata("gradclip").get_payload(), flags=re.M | re.S)
    tried = [block for block in blocks if "attach" in block or "gradclip.torch" in block]
    tried = [block for block in tried if not any(re.search(rf"\b{name}\b", block) for name in NEEDS_MORE)]
    assert tried, "the README has no block that clips in PyTorch alone"
    python(NAMES + "\n".join(tried), "readme.py")
    said = python(NAMES + tried[0] + "\nassert clipper.last.clipped\nprint(clipper.last)\n", "first.py")
    assert "clipped, norm" in said, said
    Path("train.py").write_text(SCRIPT)
    program = str(Path(sys.executable).with_name("gradclip"))
    for line in ("watch --out run train.py", "report --text run", "doctor run"):
        done = subprocess.run([program, *line.split()], capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, f"gradclip {line} ended with {done.returncode}: {done.stdout} {done.stderr}"
    print(f"{len(tried)} blocks of the README, a watched script")


def python(code: str, name: str) -> str:
    """What a script prints."""
    Path(name).write_text(code)
    done = subprocess.run([sys.executable, name], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{name} ended with {done.returncode}: {done.stderr}\n{code}"
    return done.stdout


if __name__ == "__main__":
    main()
