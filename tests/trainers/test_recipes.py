"""The pages about trainers: what they say can be typed as it stands, page by page, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from trainers.small import ROOT

PAGES = sorted((ROOT / "docs" / "trainers").glob("*.md"))
TABLE = ROOT / "docs" / "trainers.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_can_be_typed_as_it_stands(page, tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    script = tmp_path / "typed.py"
    script.write_text("\n".join(blocks))
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-W", "error::gradclip.errors.GradclipWarning", str(script)],
        capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_each_page_is_in_the_table_and_each_version_is_the_one_that_was_tested():
    text, pins = TABLE.read_text(), (ROOT / "constraints.txt").read_text()
    for page in PAGES:
        assert f"trainers/{page.name}" in text, page.name
    tested = re.findall(r"\| \[[^]]+\]\(trainers/[^)]+\) \| `([\w-]+)` ([\d.]+) \|", text)
    assert len(tested) >= len(PAGES)
    for package, version in tested:
        assert re.search(rf"^{re.escape(package)}=={re.escape(version)}$", pins, re.MULTILINE), (package, version)
