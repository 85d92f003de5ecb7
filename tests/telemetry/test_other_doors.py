"""Events from Paddle's clips and from the state of a step in JAX."""

import copy
import math
import pickle

import jax.numpy as jnp
import paddle
import pytest
from paddle.distributed import parallel

import gradclip
import gradclip.optax
import gradclip.paddle
from gradclip.paddle import Clip, Clipper
from gradclip.telemetry import Telemetry, jsonl, memory, read_run
from paddle_bench import unread
from paddle_eager import ENGINES, parameter

RULE = gradclip.ClipGradByGlobalNorm(2.5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_step_of_an_optimizer_of_paddle_is_an_event(engine):
    seen = memory()
    weight, bias = parameter(3.0, name=f"of_{engine}"), parameter(4.0)
    clip = Clip(RULE, engine=engine, telemetry=Telemetry(seen, tensors=True))
    paddle.optimizer.SGD(0.1, parameters=[weight, bias], grad_clip=clip).step()
    (event,) = seen
    assert (event.norm_before, event.norm_after, event.coefficient, event.clipped) == (5.0, 2.5, 0.5, True)
    assert event.tensors == {f"of_{engine}": 3.0, bias.name: 4.0}
    assert event.engine == engine


def test_paddle_is_not_read_before_the_drain():
    seen = memory()
    clipper = Clipper(RULE, engine="paddle", telemetry=Telemetry(seen, every=3, tensors=True))
    weight = parameter(3.0, 4.0)
    clipper.clip_([weight])
    with unread():
        clipper.clip_([weight])
    clipper.clip_([weight])
    assert [event.norm_before for event in seen] == [5.0, 2.5, 2.5]


def events_of_rank(rank, monkeypatch):
    monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
    monkeypatch.setattr(parallel, "_global_parallel_env", None)
    seen = memory()
    Clipper(RULE, telemetry=Telemetry(seen)).clip_([parameter(3.0)])
    return seen


def test_only_rank_0_of_paddle_tells(monkeypatch):
    assert len(events_of_rank(0, monkeypatch)) == 1
    assert events_of_rank(1, monkeypatch) == []


def test_a_copy_of_a_clip_has_no_telemetry():
    clip = Clip(RULE, telemetry=Telemetry(print))
    assert clip.clipper.telemetry is not None
    assert pickle.loads(pickle.dumps(clip)).clipper.telemetry is None


def test_the_state_of_a_step_in_jax_becomes_an_event(tmp_path):
    tx = gradclip.optax.clip(RULE)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    _, state = tx.update({"a": jnp.array([3.0]), "b": jnp.array([4.0])}, tx.init(params), params)
    event = gradclip.optax.event_of(state.last, step=7, rule=RULE)
    assert (event.step, event.norm_before, event.norm_after, event.threshold) == (7, 5.0, 2.5, 2.5)
    assert (event.coefficient, event.clipped, event.skipped, event.engine) == (0.5, True, False, "jax")
    assert event.rule == repr(RULE)
    sink = jsonl(tmp_path)
    sink(event)
    sink.close()
    assert read_run(tmp_path) == [event]


def test_a_nan_in_jax_is_counted_in_the_event():
    tx = gradclip.optax.clip(RULE)
    params = {"a": jnp.zeros(1)}
    _, state = tx.update({"a": jnp.array([jnp.nan])}, tx.init(params), params)
    event = gradclip.optax.event_of(state.last, step=0, rule=RULE)
    assert math.isnan(event.norm_before)
    assert event.nonfinite == 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda clipper: pickle.loads(pickle.dumps(clipper))])
def test_a_copy_that_tells_nobody_measures_for_nobody(copied):
    clipper = Clipper(RULE, telemetry=Telemetry(memory(), tensors=True))
    clipper.clip_([parameter(3.0), parameter(4.0)])
    assert len(clipper.last.tensors) == 2
    other = copied(clipper)
    other.clip_([parameter(3.0), parameter(4.0)])
    assert other.last.tensors == {}
