"""What a type checker says of `gradclip.telemetry`, `report` and `testing`: every public name, as a user writes it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type

import numpy as np

import gradclip
import gradclip.report
import gradclip.telemetry
import gradclip.testing
from gradclip.engines.reference import ReferenceEngine

events = gradclip.telemetry.memory()
event = gradclip.telemetry.Event(0, "all tensors together", "cpu", 5.0, 1.0, 1.0, 0.2, True, loss=1.5)


def own_sink(event: gradclip.telemetry.Event) -> None:
    """Any function of an event."""


def recorded(folder: Path) -> gradclip.telemetry.Run:
    """A run, written and read again."""
    writer: gradclip.telemetry.Sink = gradclip.telemetry.jsonl(folder)
    heard = gradclip.telemetry.spikes(print)
    telemetry = gradclip.telemetry.Telemetry(events, writer, heard, own_sink, print, every=10, tensors=True)
    telemetry.drain()
    telemetry.close()
    writer(event)
    run = gradclip.telemetry.read_run(folder)
    assert_type([one.norm_before for one in run], list[float])
    return run


def loggers(module: Any) -> list[gradclip.telemetry.Sink]:
    """The sinks for what people look at; each needs its package, or a module of Lightning, when it is made."""
    return [
        gradclip.telemetry.tensorboard("runs/tensorboard", prefix="train/"),
        gradclip.telemetry.wandb(project="mine"),
        gradclip.telemetry.mlflow(without=["grad_norm"]),
        gradclip.telemetry.lightning(module),
    ]


metrics = assert_type(gradclip.telemetry.Metrics(prefix="train/")(event), dict[str, float])
assert_type(event.to_dict(), dict[str, Any])
assert_type(gradclip.telemetry.Event.from_dict(event.to_dict()), gradclip.telemetry.Event)

run = gradclip.telemetry.Run([event] * 40)
(summary,) = gradclip.report.summarise([run], accept=["twice"])
assert_type(summary, gradclip.report.Summary)
document: Callable[[], str] = lambda: gradclip.report.page([run])  # noqa: E731
shown = gradclip.report.show(run)
gradclip.report.compare_losses([summary, summary])


def written(folder: Path) -> list[gradclip.report.Summary]:
    """A page on disk."""
    return gradclip.report.write_report([run], folder / "report.html")


# The laws, for a rule and an engine of one's own.
def scaled(values: gradclip.testing.Outcome) -> float:
    """A part of a law of one's own: what came out."""
    return float(np.abs(values.after[0]).sum())


bench = gradclip.testing.Bench(ReferenceEngine(), make=lambda values, dtype: values.astype(dtype), read=np.asarray)
gradclip.testing.check_rule(gradclip.ClipGradByGlobalNorm(1.0), gradclip.testing.REFERENCE)
check: Callable[[], None] = lambda: gradclip.testing.check_engine(bench, dtypes=["float32"])  # noqa: E731
laws = assert_type(gradclip.testing.laws_of(gradclip.AutoClip()), list[gradclip.testing.Law])
assert_type(gradclip.testing.standard_rules(), list[gradclip.AnyRule])
gradients = [*gradclip.testing.ordinary_gradients(seed=1), *gradclip.testing.adversarial_gradients()["zeros"]]
first_law = gradclip.testing.laws
