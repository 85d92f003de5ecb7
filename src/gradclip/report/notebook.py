"""A run in a notebook, which needs `pip install "gradclip[report]"` to be shown."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradclip.errors import shown
from gradclip.telemetry.runs import Run

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


class ShownRun(Run):
    """A run that a notebook shows as verdict, tiles and chart."""

    def plot(self) -> Figure:
        """The norms over the steps with the threshold, as a Plotly figure.

        >>> from gradclip.telemetry import Event
        >>> run = show(Run([Event(0, "all tensors together", "cpu", 5.0, 1.0, 1.0, 0.2, True)]))
        >>> [trace.name for trace in run.plot().data]
        ['norm', 'threshold', 'clipped']
        """
        from gradclip.report.html import plot

        return plot(self)

    def _repr_html_(self) -> str:
        """What a notebook shows: some 5 MB, for it needs no network."""
        from gradclip.report.html import fragment

        return fragment(self)


def show(run: Run) -> ShownRun:
    """The run, shown by a notebook where it stands at the end of a cell; `show(run).plot()` is its chart alone.

    >>> run = show(Run())
    >>> isinstance(run, Run)
    True
    """
    if not isinstance(run, Run):
        raise TypeError(f"what is shown is a run, got {shown(run)}: write show(read_run(path))")
    return ShownRun(run, run.about, run.path)
