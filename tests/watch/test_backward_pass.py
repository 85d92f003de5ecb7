"""Whether the gradients that a step used are there still, when the next backward pass begins."""

import pytest
import torch

from gradclip.watch.backward_pass import UsedGradient


def parameter() -> torch.nn.Parameter:
    made = torch.nn.Parameter(torch.ones(3))
    made.grad = torch.tensor([0.0, 2.0, -1.0])
    return made


def take_away(one):
    one.grad = None


def replace(one):
    one.grad = torch.ones(3)


ZEROED = {
    "taken away": take_away,
    "another one": replace,
    "zeroed in place": lambda one: one.grad.zero_(),
    "zeroed unseen": lambda one: one.grad.data.zero_(),
    "written anew": lambda one: one.grad.copy_(torch.ones(3)),
}


def is_there_after(change) -> bool:
    one = parameter()
    used = UsedGradient([one])
    change(one)
    return used.is_there([one])


def test_gradients_that_nobody_touched_are_there_still():
    assert is_there_after(lambda one: None)
    assert not UsedGradient([torch.nn.Parameter(torch.ones(3))]).is_there([parameter()])


@pytest.mark.parametrize("how", ZEROED)
def test_gradients_that_were_zeroed_or_replaced_are_not(how):
    assert not is_there_after(ZEROED[how])


def test_gradients_to_which_were_added_are_those_that_were_used():
    one = parameter()
    used = UsedGradient([one])
    one.grad += 1.0
    assert not used.is_there([one])
    used.added_to()
    assert used.is_there([one])


def test_of_sparse_and_of_inference_gradients_nothing_is_said_that_is_not_known():
    one = torch.nn.Parameter(torch.ones(3))
    one.grad = torch.sparse_coo_tensor([[1]], [2.0], (3,))
    assert not UsedGradient([one]).is_there([one])
    with torch.inference_mode():
        one.grad = torch.ones(3)
    assert UsedGradient([one]).is_there([one])
