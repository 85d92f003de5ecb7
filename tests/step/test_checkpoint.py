"""A state is compared by what the rule is; those that version 1 wrote, with the words of the rule, still load."""

import json
from pathlib import Path

import pytest
import torch

import gradclip
from gradclip.torch import Clipper

WRITTEN = json.loads((Path(__file__).parent / "states_of_version_1.json").read_text())


def stepped(name, steps, state=None):
    """A clipper after these steps, from the beginning or from a state."""
    clipper = Clipper(getattr(gradclip, name)(), engine="torch")
    weights = {"a": torch.nn.Parameter(torch.zeros(2, 3)), "b": torch.nn.Parameter(torch.zeros(3))}
    if state is not None:
        clipper.load_state_dict(state)
    for step in steps:
        for weight in weights.values():
            weight.grad = torch.full_like(weight, 0.5 + step)
        clipper.clip_(weights)
    return clipper


@pytest.mark.parametrize("name", WRITTEN)
def test_a_state_of_version_1_goes_on(name):
    assert WRITTEN[name]["version"] == 1
    resumed, whole = stepped(name, [3, 4], WRITTEN[name]), stepped(name, range(5))
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.last.norm_after == whole.last.norm_after


@pytest.mark.parametrize("name", WRITTEN)
def test_a_state_of_version_1_of_another_rule_is_refused(name):
    state = WRITTEN[name] | {"rule": WRITTEN[name]["rule"] + " "}
    with pytest.raises(ValueError, match="this state belongs to the rule"):
        stepped(name, [], state)


@pytest.mark.parametrize("version", [0, 3, "2", None])
def test_a_state_of_another_version_is_refused(version):
    with pytest.raises(ValueError, match="expected a clipper state of version 2, found"):
        stepped("ZClip", [], stepped("ZClip", range(2)).state_dict() | {"version": version})
