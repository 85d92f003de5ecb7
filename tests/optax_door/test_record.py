"""`record`: from the state of a training in JAX to a run that `gradclip report` reads."""

import json
import math
from functools import partial
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gradclip import AutoClip, ClipGradByGlobalNorm, NothingClipped, ZClip
from gradclip.cli import main
from gradclip.optax import clip, record
from gradclip.telemetry import Telemetry, jsonl, memory, read_run

RULE = ClipGradByGlobalNorm(1.0)
TWO = optax.chain(clip(RULE), optax.adam(0.1))
PARAMS = {"w": jnp.zeros(2)}
GRADIENTS = {"w": jnp.array([3.0, 4.0])}


def stepped(tx, steps=1, state=None, gradients=GRADIENTS):
    """The state after so many steps of a compiled training, which gives its memory away at each."""
    params = jax.tree.map(jnp.zeros_like, gradients)
    update = jax.jit(lambda state: tx.update(gradients, state, params)[1], donate_argnums=0)
    state = tx.init(params) if state is None else state
    for _ in range(steps):
        state = update(state)
    return state


def recorded(state, rule=RULE, **options):
    """The event that `record` gives, which is the one that a sink is given."""
    seen = memory()
    event = record(state, Telemetry(seen), rule=rule, **options)
    assert seen == [event]
    return event


def test_a_training_that_records_every_third_step_is_a_run_that_the_report_reads(tmp_path, capsys):
    rule, state = AutoClip(50), None
    tx = optax.chain(clip(rule), optax.adam(0.1))
    for step in range(3, 121, 3):
        state = stepped(tx, 3, state)
        record(state, tmp_path / "run", rule=rule, loss=1.0 / step)
    run = read_run(tmp_path / "run")
    assert [event.step for event in run] == list(range(2, 120, 3))
    assert [event.norm_before for event in run] == [5.0] * 40
    assert run[0].loss == pytest.approx(1 / 3)
    assert run.about["framework"] == "jax"
    assert run.about["rule"] == rule.to_dict()
    assert len(run.about["starts"]) == 1
    assert main(["report", str(tmp_path / "run"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert found["steps"] == 40


def test_an_event_has_the_numbers_and_the_step_of_the_state():
    event = recorded(stepped(TWO, 7), loss=jnp.float32(0.5))
    assert (event.step, event.norm_before, event.norm_after, event.threshold) == (6, 5.0, 1.0, 1.0)
    assert (event.clipped, event.loss, event.engine, event.rule) == (True, 0.5, "jax", repr(RULE))
    assert recorded(stepped(clip(ClipGradByGlobalNorm(None))), loss=0.1).threshold == math.inf


@pytest.mark.parametrize("loss", [0.1, 3, np.float64(0.1), np.array([0.1]), jnp.array([0.1]), 10**30])
def test_a_loss_is_told_as_it_was_given(loss):
    assert recorded(stepped(TWO), loss=loss).loss == float(np.asarray(loss, np.float64).reshape(()))


def test_the_device_is_read_once():
    state, loss = stepped(TWO), jnp.float32(1.0)
    with mock.patch.object(jax, "device_get", wraps=jax.device_get) as read:
        recorded(state, loss=loss)
    assert read.call_count == 1


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.masked(tx, {"w": True}),
        lambda tx: optax.multi_transform({"a": tx, "b": optax.sgd(0.1)}, {"w": "a"}),
        lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.chain(optax.identity(), tx, optax.scale(-1.0)),
    ],
)
def test_the_clip_is_found_wherever_it_stands(wrap):
    assert recorded(stepped(wrap(TWO), 2)).step == 1


def test_an_optimizer_of_flax_is_given_as_it_is():
    model = nnx.Linear(2, 1, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.chain(clip(RULE), optax.sgd(0.1)), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        loss, gradients = nnx.value_and_grad(lambda model: (model(jnp.ones((4, 2)) * 9) ** 2).mean())(model)
        optimizer.update(model, gradients)
        return loss

    for number in range(3):
        loss = step(model, optimizer)
        event = recorded(optimizer, loss=loss)
        assert (event.step, event.loss) == (number, float(loss))
    assert recorded(optimizer.opt_state).norm_before == event.norm_before > 0


def test_a_training_that_goes_on_counts_on_in_the_same_folder(tmp_path):
    state = stepped(TWO, 2)
    record(state, str(tmp_path / "run"), rule=RULE)
    loaded = jax.tree.map(np.asarray, state)  # as a checkpoint gives it
    record(stepped(TWO, 1, jax.tree.map(jnp.asarray, loaded)), tmp_path / "run", rule=RULE)
    assert [event.step for event in read_run(tmp_path / "run")] == [1, 2]


def test_of_several_processes_the_first_writes():
    seen = memory()
    with mock.patch.object(jax, "process_index", return_value=1):
        assert record(stepped(TWO), Telemetry(seen), rule=RULE).clipped
    assert seen == []


NESTED = clip(RULE, inner=optax.chain(clip(ZClip()), optax.sgd(0.1)))
REFUSED = {
    r"2 clips in it, at opt_state\[0\], opt_state\[1\]:": lambda: stepped(optax.chain(clip(RULE), clip(ZClip()))),
    r"2 clips in it, at opt_state, opt_state\.inner\[0\]:": lambda: stepped(NESTED),
    r"at opt_state\.inner_states\['a'\]\.inner_state, opt_state\.inner_states\['b'\]\.inner_state:": lambda: stepped(
        optax.multi_transform({"a": clip(RULE), "b": clip(RULE)}, {"w": "a", "v": "b"}),
        gradients={"w": jnp.ones(2), "v": jnp.ones(2)},
    ),
    "there is no state of gradclip.optax.clip in it": lambda: stepped(optax.adam(0.1)),
    "an axis of 3 trainings": lambda: jax.vmap(lambda g: TWO.update({"w": g}, TWO.init(PARAMS))[1])(jnp.ones((3, 2))),
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_is_not_the_state_of_one_clip_is_refused(sentence):
    with pytest.raises(ValueError, match=sentence):
        recorded(REFUSED[sentence]())


def test_each_of_several_clips_is_recorded_by_itself():
    state = stepped(optax.chain(clip(RULE), clip(ClipGradByGlobalNorm(0.5))))
    assert (recorded(state[0]).norm_after, recorded(state[1]).norm_after) == (1.0, 0.5)


def test_before_the_first_step_there_is_nothing():
    with pytest.raises(NothingClipped, match=r"nothing was clipped yet: call record with the state that tx.update"):
        recorded(TWO.init(PARAMS))


def test_inside_a_compiled_step_nothing_is_read():
    with pytest.raises(TypeError, match="after the compiled step, outside jit"):
        jax.jit(partial(record, run=Telemetry(print), rule=RULE))(stepped(TWO))


def test_a_telemetry_that_asks_for_more_is_refused():
    with pytest.raises(ValueError, match="record reads a state at once"):
        record(stepped(TWO), Telemetry(print, every=10), rule=RULE)


def test_a_folder_that_cannot_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="a run is a folder"):
        record(stepped(TWO), tmp_path / "file", rule=RULE)
    with pytest.raises(TypeError, match="a run is the name of a folder, got 3"):
        record(stepped(TWO), 3, rule=RULE)


def test_a_sink_is_closed_with_its_telemetry(tmp_path):
    with Telemetry(jsonl(tmp_path / "run")) as run:
        record(stepped(TWO), run, rule=RULE)
    assert len(read_run(tmp_path / "run")) == 1
