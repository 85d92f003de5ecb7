"""Gradients read in compiled code: those that a loop in Python would find, or Python is asked."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from gradclip.engines import cpu_collect  # noqa: E402
from gradclip.rules.recipes.fixed import ClipGradByGlobalNorm  # noqa: E402
from gradclip.torch import parameters as door  # noqa: E402
from gradclip.torch.clipper import Clipper  # noqa: E402

KINDS = (torch.Tensor, torch.nn.Parameter)


def many(number=door.MANY + 8):
    found = [torch.nn.Parameter(torch.full((3,), float(i))) for i in range(number)]
    for parameter in found:
        parameter.grad = torch.ones(3)
    return found


def read(parameters):
    return cpu_collect.reader(KINDS, "grad", "need_clip")(parameters)


def same(found, expected):
    return len(found) == len(expected) and all(a is b for a, b in zip(found, expected, strict=True))


def test_it_finds_the_gradients_themselves():
    parameters = many()
    assert same(read(parameters), [p.grad for p in parameters])
    assert same(door.found_in(parameters), [p.grad for p in parameters])


def test_those_without_a_gradient_are_left_out():
    parameters = many()
    parameters[3].grad = parameters[-1].grad = None
    expected = [p.grad for p in parameters if p.grad is not None]
    assert same(read(parameters), expected)
    assert Clipper(ClipGradByGlobalNorm(1.0)).clip_(parameters).norm_before == pytest.approx((3 * len(expected)) ** 0.5)


@pytest.mark.parametrize("flag", [True, False])
def test_python_is_asked_where_one_says_whether_it_needs_clipping(flag):
    parameters = many()
    parameters[5].need_clip = flag
    assert read(parameters) is None
    assert len(door.found_in(parameters)) == len(parameters) - (not flag)
    del parameters[5].need_clip
    assert len(read(parameters)) == len(parameters)


def test_python_is_asked_where_a_class_says_so(monkeypatch):
    parameters = many()
    monkeypatch.setattr(torch.nn.Parameter, "need_clip", False, raising=False)
    assert read(parameters) is None
    assert door.found_in(parameters) == []


def test_another_class_is_left_to_python():
    class Own(torch.nn.Parameter):
        pass

    parameters = many()
    parameters[7] = Own(torch.zeros(3))
    parameters[7].grad = torch.ones(3)
    assert read(parameters) is None
    assert same(door.found_in(parameters), [p.grad for p in parameters])


def test_what_is_no_parameter_is_named():
    parameters = many()
    parameters[9] = "weight"
    with pytest.raises(TypeError, match=r"parameters\[9\] is a str"):
        door.found_in(parameters)


def test_a_mode_that_hears_of_each_attribute_does_so():
    heard = []

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, kinds, args=(), kwargs=None):
            heard.append(function)
            return function(*args, **(kwargs or {}))

    parameters = many()
    with Mode():
        found = read(parameters)
    assert len(heard) >= len(parameters)
    assert same(found, [p.grad for p in parameters])


def test_an_error_of_the_attribute_is_raised():
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, kinds, args=(), kwargs=None):
            raise OSError("no")

    with Mode(), pytest.raises(OSError, match="no"):
        read(many())


def test_nothing_is_held_or_lost():
    import sys

    parameters, gradients = many(), []
    gradients += [p.grad for p in parameters]
    before = [sys.getrefcount(g) for g in gradients]
    for _ in range(100):
        read(parameters)
    parameters[-1].need_clip = True
    for _ in range(100):
        assert read(parameters) is None
    assert [sys.getrefcount(g) for g in gradients] == before


@pytest.mark.parametrize("attribute", ["nowhere", "__dict__x", "backward"])
def test_what_is_no_attribute_in_c_has_no_reader(attribute):
    assert cpu_collect.reader(KINDS, attribute, "need_clip") is None
