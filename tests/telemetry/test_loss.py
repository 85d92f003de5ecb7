"""The loss of a step is in its event, if somebody tells it: `give(loss=...)`, or a closure that returns it."""

import math

import paddle
import pytest
import torch

from gradclip import ClipGradByGlobalNorm
from gradclip.paddle import Clipper as PaddleClipper
from gradclip.telemetry import Event, Telemetry, memory
from gradclip.torch import Clipper, attach
from training import make_model

RULE = ClipGradByGlobalNorm(1.0)


def attached(**options):
    """A model, the optimizer of it, its clipper, and the events of its steps."""
    seen, model = memory(), make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return model, optimizer, attach(optimizer, RULE, telemetry=Telemetry(seen, **options)), seen


def ones(model):
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)


@pytest.mark.parametrize("kind", [float, torch.tensor, lambda loss: torch.tensor([loss], requires_grad=True)])
@pytest.mark.parametrize("every", [1, 3])
def test_the_loss_that_was_given_is_in_the_event_of_its_step(kind, every):
    model, optimizer, clipper, seen = attached(every=every)
    for loss in (2.5, 0.5, math.nan):
        ones(model)
        clipper.give(loss=kind(loss))
        optimizer.step()
    assert [event.loss for event in seen] == pytest.approx([2.5, 0.5, math.nan], nan_ok=True)


def test_a_step_that_nobody_tells_the_loss_of_has_none():
    model, optimizer, clipper, seen = attached()
    for given in (True, False):
        ones(model)
        if given:
            clipper.give(loss=1.0)
        optimizer.step()
    assert [event.loss for event in seen] == [1.0, None]


def test_what_a_closure_returns_is_the_loss():
    model, optimizer, _, seen = attached()

    def closure():
        ones(model)
        return torch.tensor(4.0)

    optimizer.step(closure)
    assert seen[0].loss == 4.0


def test_a_closure_that_returns_no_number_tells_no_loss():
    model, optimizer, _, seen = attached()

    def closure():
        ones(model)
        return {"loss": 4.0}

    assert optimizer.step(closure) == {"loss": 4.0}
    assert seen[0].loss is None


def test_other_doors_tell_the_loss_as_well():
    seen, weight = memory(), torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.ones(2)
    clipper = Clipper(RULE, telemetry=Telemetry(seen), engine="torch")
    clipper.give(loss=torch.tensor(3.0))
    clipper.clip_([weight])
    for engine in ("paddle", None):
        other = PaddleClipper(RULE, telemetry=Telemetry(seen), engine=engine)
        value = paddle.create_parameter([2], "float32")
        other.give(loss=paddle.to_tensor(3.0))
        other.clip_pairs([(value, paddle.ones([2]))])
    assert [event.loss for event in seen] == [3.0, 3.0, 3.0]


def test_an_event_of_before_losses_were_recorded_is_read_as_one_without():
    event = Event(3, "all", "cpu", 5.0, 1.0, 1.0, 0.2, True)
    data = event.to_dict()
    assert data.pop("loss") is None
    assert Event.from_dict(data) == event
