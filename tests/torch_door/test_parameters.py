"""Whatever a user hands over as parameters is understood, or refused by a sentence."""

import warnings

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import gradclip
from gradclip.torch import Clipper, clip_grad_norm_

RULE = gradclip.ClipGradByGlobalNorm(1.0)


def model_with_gradients():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 2.0)
    return model


SOURCES = {
    "module": lambda m: m,
    "generator": lambda m: m.parameters(),
    "list": lambda m: list(m.parameters()),
    "tuple": lambda m: tuple(m.parameters()),
    "map": lambda m: map(nn.Parameter.requires_grad_, m.parameters()),
    "named parameters": lambda m: m.named_parameters(),
    "list of pairs": lambda m: list(m.named_parameters()),
    "dict": lambda m: dict(m.named_parameters()),
    "optimizer": lambda m: torch.optim.SGD(m.parameters()),
    "parameter list": lambda m: nn.ParameterList(m.parameters()),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_any_source_of_parameters_clips_them_all(source):
    model = model_with_gradients()
    result = Clipper(RULE).clip_(source(model))
    elements = sum(p.numel() for p in model.parameters())
    assert result.norm_before == pytest.approx(2.0 * elements**0.5, rel=1e-12)
    norm = torch.cat([p.grad.flatten().double() for p in model.parameters()]).norm().item()
    assert norm == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_drop_in_takes_the_same_sources(source):
    model = model_with_gradients()
    elements = sum(p.numel() for p in model.parameters())
    assert clip_grad_norm_(source(model), 1.0).item() == pytest.approx(2.0 * elements**0.5, rel=1e-6)


def test_a_single_tensor_is_a_parameter():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert Clipper(RULE).clip_(weight).norm_before == 5.0


@pytest.mark.parametrize(
    ("source", "names"),
    [
        (lambda m: m, ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (lambda m: m.named_parameters(), ["0.weight", "0.bias", "1.weight", "1.bias"]),
        (lambda m: list(m.parameters()), [f"parameters[{i}]" for i in range(4)]),
        (
            lambda m: torch.optim.SGD([{"params": m[0].parameters()}, {"params": m[1].parameters()}]),
            [f"group {group}, parameter {i}" for group in (0, 1) for i in (0, 1)],
        ),
    ],
)
def test_parameters_have_the_best_names_that_the_source_knows(source, names):
    result = Clipper(gradclip.ClipGradByNorm(1.0)).clip_(source(model_with_gradients()))
    assert [segment.name for segment in result.segments] == names


def test_names_stay_with_their_parameters_when_some_have_no_gradient():
    model = model_with_gradients()
    model[0].weight.grad = None
    model[1].weight.need_clip = False
    result = Clipper(gradclip.ClipGradByNorm(1.0)).clip_(model)
    assert [segment.name for segment in result.segments] == ["0.bias", "1.bias"]


def test_an_exhausted_iterator_is_reported_and_says_what_to_do():
    parameters = model_with_gradients().parameters()
    Clipper(RULE).clip_(parameters)
    with pytest.warns(gradclip.GradclipWarning, match=r"model\.parameters\(\) can be read once"):
        result = Clipper(RULE).clip_(parameters)
    assert result.norm_before == 0.0
    assert not result.clipped


@pytest.mark.parametrize("empty", [[], (), {}, nn.Module()])
def test_no_parameters_at_all_are_reported(empty):
    with pytest.warns(gradclip.GradclipWarning, match="nothing is clipped"):
        Clipper(RULE).clip_(empty)


@pytest.mark.parametrize("clip", [lambda ps: Clipper(RULE).clip_(ps), lambda ps: clip_grad_norm_(ps, 1.0)])
def test_gradients_in_the_place_of_parameters_are_known_for_what_they_are(clip):
    gradients = [p.grad for p in model_with_gradients().parameters()]
    with pytest.warns(gradclip.GradclipWarning, match="hand over the parameters, not their gradients"):
        clip(gradients)


def test_pairs_and_parameters_do_not_mix():
    (name, first), *others = model_with_gradients().named_parameters()
    with pytest.raises(TypeError, match=r"the first of the parameters is a pair .* and that at 1 is none"):
        Clipper(RULE).clip_([(name, first), others[0][1]])
    with pytest.raises(TypeError, match=r"parameters\[1\] is a tuple, not a torch.Tensor"):
        Clipper(RULE).clip_([first, others[0]])


def test_parameters_without_gradients_are_reported():
    with pytest.warns(gradclip.GradclipWarning, match=r"between backward\(\) and step\(\)"):
        Clipper(RULE).clip_(nn.Linear(2, 1))


@pytest.mark.parametrize("wrong", [3, None, "weights", object()])
def test_what_holds_no_parameters_is_refused(wrong):
    with pytest.raises(TypeError, match="expected parameters"):
        Clipper(RULE).clip_(wrong)


def test_a_stranger_among_the_parameters_is_named_by_its_place():
    with pytest.raises(TypeError, match=r"parameters\[1\] is a str"):
        Clipper(RULE).clip_([nn.Parameter(torch.zeros(1)), "bias"])


def test_a_warning_points_at_the_line_of_the_user():
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1.0, float("nan")])
    with pytest.warns(gradclip.GradclipWarning, match="'w' is non-finite at step 0") as caught:
        Clipper(RULE).clip_({"w": weight})
    assert caught[0].filename == __file__


def test_a_skipped_step_in_the_explicit_form_leaves_the_optimizer_nothing_to_step_on():
    model = model_with_gradients()
    model[1].bias.grad[0] = float("inf")
    model[0].bias.need_clip = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = Clipper(RULE, on_nonfinite="skip").clip_(model)
    assert result.skipped
    assert all(p.grad is None for p in model.parameters())


def test_names_are_those_of_the_model_without_what_is_put_around_its_modules():
    """`torch.compile` of a layer, and activation checkpointing, put a word into the names of its parameters."""
    model = nn.Sequential(torch.compile(nn.Linear(2, 1)), checkpoint_wrapper(nn.Linear(1, 1)))
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    names = [row.name for row in Clipper(gradclip.ClipGradByNorm(1.0)).clip_(model).segments]
    assert names == ["0.weight", "0.bias", "1.weight", "1.bias"]
