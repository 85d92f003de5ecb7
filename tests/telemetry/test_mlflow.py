"""Events in MLflow, in a real store of files, read back by its own client."""

import math
from dataclasses import replace

import pytest

from gradclip.telemetry import Event, loggers
from later import Later, only_with

package, pytestmark = Later("mlflow"), only_with("mlflow")
EVENT = Event(7, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True, time=12.5)
EVENTS = [replace(EVENT, step=step, norm_before=float(step)) for step in range(500)]


@pytest.fixture
def client(tmp_path, monkeypatch):
    """A client of a store of its own, which is the one that MLflow uses meanwhile."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    before = package.get_tracking_uri()
    package.set_tracking_uri((tmp_path / "runs").as_uri())
    yield package.MlflowClient()
    while package.active_run() is not None:
        package.end_run()
    package.set_tracking_uri(before)


def only_run(client):
    (run,) = client.search_runs(["0"])
    return run


def history(client, run_id, name):
    """(step, milliseconds, number) of each number of a metric."""
    return [(one.step, one.timestamp, one.value) for one in client.get_metric_history(run_id, name)]


def counted(sink, monkeypatch):
    """How many metrics each call of MLflow has been given since, while it is made."""
    sizes, log = [], sink._client.log_batch

    def counting(run_id, metrics):
        sizes.append(len(metrics))
        return log(run_id, metrics=metrics)

    monkeypatch.setattr(sink._client, "log_batch", counting)
    return sizes


def test_a_run_of_its_own_has_each_event_and_is_finished(client):
    sink = loggers.mlflow(run_name="mine")
    for event in EVENTS:
        sink(event)
    sink.close()
    run = only_run(client)
    assert history(client, run.info.run_id, "grad_norm") == [(step, 12500, float(step)) for step in range(500)]
    assert history(client, run.info.run_id, "clip/scale") == [(step, 12500, 0.2) for step in range(500)]
    assert (run.info.run_name, run.info.status) == ("mine", "FINISHED")
    assert package.active_run() is None


def test_the_active_run_is_used_and_left_alone(client):
    with package.start_run() as run:
        sink = loggers.mlflow(prefix="train/", without=["grad_norm"])
        sink(EVENT)
        sink.close()
        assert client.get_run(run.info.run_id).info.status == "RUNNING"
    metrics = only_run(client).data.metrics
    assert metrics["train/grad_norm_clipped"] == 1.0
    assert "train/grad_norm" not in metrics


@pytest.mark.parametrize("as_id", [False, True])
def test_a_run_that_is_given_is_used(client, as_id):
    run = client.create_run("0")
    sink = loggers.mlflow(run.info.run_id if as_id else run)
    sink(EVENT)
    sink.close()
    assert history(client, run.info.run_id, "grad_norm") == [(7, 12500, 5.0)]
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_what_is_not_finite_arrives(client):
    sink = loggers.mlflow()
    sink(replace(EVENT, norm_before=math.nan, threshold=math.inf))
    sink.close()
    metrics = only_run(client).data.metrics
    assert math.isnan(metrics["grad_norm"])
    assert metrics["clip/threshold"] == math.inf


def test_norms_of_tensors_arrive_under_names_that_mlflow_takes(client):
    sink = loggers.mlflow()
    sink(replace(EVENT, tensors={"h.0.weight": 3.0, "['a']": 4.0, "w" * 300: 5.0}))
    sink.close()
    metrics = only_run(client).data.metrics
    assert (metrics["grad_norm"], metrics["grad_norms/h.0.weight"], metrics["grad_norms/__a__"]) == (5.0, 3.0, 4.0)
    assert metrics["grad_norms/" + "w" * 239] == 5.0


def test_a_call_has_the_numbers_of_many_events_and_at_most_1000(client, monkeypatch):
    sink = loggers.mlflow()
    sizes = counted(sink, monkeypatch)
    for event in EVENTS[:200]:
        sink(event)
    assert sizes == [1000, 1]  # seven numbers an event: the 143rd makes 1001
    sink.close()
    assert sizes == [1000, 1, 57 * 7]
    sink(replace(EVENT, tensors=dict.fromkeys(map(str, range(2500)), 1.0)))
    assert sizes[3:] == [1000, 1000, 507]


def test_numbers_wait_ten_seconds_at_most_while_events_come(client, monkeypatch):
    sink = loggers.mlflow()
    sizes, now = counted(sink, monkeypatch), [100.0]
    monkeypatch.setattr(loggers.time, "monotonic", lambda: now[0])
    for later in (0.0, 9.0, 1.0, 9.0):
        now[0] += later
        sink(EVENT)
    assert sizes == [21]
