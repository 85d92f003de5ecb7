"""The metrics by hand, and what the real TensorBoard and Weights & Biases writers were given."""

import importlib
import math
import struct
from dataclasses import replace

import pytest

from gradclip.telemetry import Event, Metrics, mlflow, tensorboard, wandb

EVENT = Event(7, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True, time=12.0)
QUIET = replace(EVENT, step=8, norm_before=0.5, norm_after=0.5, coefficient=1.0, clipped=False, nonfinite=3)
METRICS = {
    "grad_norm": 5.0,
    "grad_norm_clipped": 1.0,
    "clip/threshold": 1.0,
    "clip/scale": 0.2,
    "clip/rate": 1.0,
    "clip/nonfinite": 0.0,
    "clip/skipped": 0.0,
}


def test_the_metrics_have_the_customary_names():
    assert Metrics()(EVENT) == METRICS
    assert Metrics("train/")(EVENT) == {f"train/{name}": number for name, number in METRICS.items()}


def test_the_rate_is_over_the_last_hundred_steps():
    metrics = Metrics()
    rates = [metrics(EVENT if step < 50 else QUIET)["clip/rate"] for step in range(150)]
    assert (rates[49], rates[99], rates[124], rates[149]) == (1.0, 0.5, 0.25, 0.0)


def test_what_something_else_logs_is_left_out():
    found = Metrics("train/", without=["grad_norm", "clip/rate"])(replace(EVENT, tensors={"w": 3.0}))
    assert {"train/" + name for name in METRICS} - found.keys() == {"train/grad_norm", "train/clip/rate"}
    assert found["train/grad_norm/w"] == 3.0
    with pytest.raises(TypeError, match=r"write \['grad_norm'\]"):
        Metrics(without="grad_norm")


def test_the_norm_of_each_tensor_is_a_metric_of_its_own():
    assert Metrics()(replace(EVENT, tensors={"w": 3.0}))["grad_norm/w"] == 3.0


def test_the_largest_tensors_alone_and_one_that_is_no_number_among_them():
    event = replace(EVENT, tensors={"a": 1.0, "b": 3.0, "c": 2.0, "d": math.nan})
    numbers = Metrics(layers=2)(event)
    assert [name for name in numbers if name.startswith("grad_norm/")] == ["grad_norm/d", "grad_norm/b"]
    assert Metrics(layers=0)(event) == METRICS
    with pytest.raises(ValueError, match="layers is how many"):
        Metrics(layers=-1)


def scalars_in(folder):
    """(step, time, name, number) of all that an event file of TensorBoard has; its records carry their length."""
    event_pb2 = importlib.import_module("tensorboardX.proto.event_pb2")
    (file,) = folder.glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack_from("<Q", data)
        event = event_pb2.Event.FromString(data[12 : 12 + length])
        found += [(event.step, event.wall_time, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + length :]
    return found


def test_tensorboard_has_the_metrics_of_each_step(tmp_path):
    pytest.importorskip("tensorboardX")
    sink = tensorboard(tmp_path)
    sink(EVENT)
    sink.close()
    found = scalars_in(tmp_path)
    assert {name: number for _, _, name, number in found} == pytest.approx(METRICS, rel=1e-6)  # float32 there
    assert {(step, when) for step, when, _, _ in found} == {(7, 12.0)}


def test_a_writer_of_the_user_is_not_closed(tmp_path):
    package = pytest.importorskip("tensorboardX")
    with package.SummaryWriter(str(tmp_path)) as writer:
        sink = tensorboard(writer, prefix="train/")
        sink(EVENT)
        sink.close()
        writer.add_scalar("loss", 2.0, 7)
    assert {"train/grad_norm", "loss"} <= {name for _, _, name, _ in scalars_in(tmp_path)}


def test_wandb_has_the_metrics_of_the_last_step(tmp_path, monkeypatch):
    package = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    quiet = package.Settings(console="off", x_disable_stats=True, x_disable_meta=True)  # the machine is not asked about
    with package.init(mode="offline", dir=tmp_path, project="gradclip", settings=quiet) as run:
        sink = wandb(run)
        sink(EVENT)
        sink(QUIET)
        sink.close()
        seen = {name: run.summary[name] for name in (*METRICS, "clip/step")}
    assert seen["grad_norm"] == 0.5
    assert (seen["clip/rate"], seen["clip/nonfinite"], seen["clip/step"]) == (0.5, 3.0, 8)
    assert list(tmp_path.rglob("*.wandb"))


@pytest.mark.parametrize(
    ("sink", "module"), [(lambda: tensorboard("folder"), "tensorboardX"), (wandb, "wandb"), (mlflow, "mlflow")]
)
def test_a_package_that_is_missing_is_named_with_the_cure(sink, module, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=f"pip install {module}"):
        sink()
