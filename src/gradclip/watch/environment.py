"""The environment of a watched run, by which its processes know that they are."""

from pathlib import Path

FOLDER = "GRADCLIP_WATCH"
STEPS = "GRADCLIP_WATCH_STEPS"
RULE = "GRADCLIP_WATCH_RULE"
"""Where it is recorded, after how many steps it ends (0: it is not ended), and the text of the rule that takes the
place of the script's own clipping (empty: none does)."""


def folder_of_shares(run: Path) -> Path:
    """The folder beside that of a run, in which the processes that train together tell what they measured."""
    return run.with_name(f"{run.name}.ranks")
