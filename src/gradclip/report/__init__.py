"""Reports: what the clipping of a run did, as one page for a browser, in a notebook and in a terminal.

`summary.py` and `loss_ranking.py` find out what there is to say, from the events alone and with the standard library;
`html.py` with its charts and `terminal_report.py` show it. The page needs `pip install "gradclip[report]"`, the rest
needs nothing.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence

from gradclip.report.loss_ranking import compare_losses
from gradclip.report.notebook import show
from gradclip.report.summary import Summary, summarise
from gradclip.telemetry.folder import checked_path, write_whole
from gradclip.telemetry.runs import Run

__all__ = ["Summary", "compare_losses", "page", "show", "summarise", "write_report"]


def page(runs: Sequence[Run]) -> str:
    """One HTML document about `runs`, which needs no network; several runs stand side by side on the same axes.

    Raises `ValueError` for no run, and `ModuleNotFoundError` without jinja2 and plotly.

    >>> from gradclip.telemetry import Event, Run
    >>> run = Run([Event(0, "all tensors together", "cpu", 5.0, 1.0, 1.0, 0.2, True)])
    >>> page([run]).startswith("<!doctype html>")
    True
    """
    from gradclip.report.html import document

    return document(summarise(runs))


def write_report(runs: Sequence[Run], path: str | os.PathLike[str], accept: Collection[str] = ()) -> list[Summary]:
    """Write the page about `runs` to the file `path`, and give what it says of each; `accept` as in `summarise`.

    >>> import tempfile
    >>> from gradclip.telemetry import Event, Run
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     summaries = write_report([Run([Event(0, "", "cpu", 5.0, 1.0, 1.0, 0.2, True)])], f"{folder}/page.html")
    ...     os.listdir(folder), summaries[0].verdict.kind
    (['page.html'], 'few')
    """
    from gradclip.report.html import document

    summaries, file = summarise(runs, accept), checked_path(path, "a page is written to a file")
    write_whole(file, document(summaries).encode("utf-8", "backslashreplace"))
    return summaries
