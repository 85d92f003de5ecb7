"""What a type checker tells a user: `gradclip.attach` has its real signature, though `import gradclip` is light."""

import re

import pytest
from mypy import api

from structure import ROOT, SOURCE

SNIPPET = """
import gradclip
import torch

optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
rule = gradclip.ClipGradByGlobalNorm(1.0)
reveal_type(gradclip.attach(optimizer, rule))
reveal_type(gradclip.attach(optimizer, optimizer, rule=rule, place="update").last.norm_before)
gradclip.attach(optimizer, rule >> rule, on_nonfinite="skip", engine="cpu")
"""

WRONG = {
    'gradclip.attach(optimizer, "global:1")': "call-overload",
    'gradclip.attach("sgd", rule)': "call-overload",
    "gradclip.attach(optimizer)": "call-overload",
    'gradclip.attach(optimizer, rule, on_nonfinite="skpi")': "call-overload",
    'gradclip.attach(optimizer, rule, place="gradients")': "call-overload",
    "gradclip.attach(optimizer, rule, modle=None)": "call-overload",
    "gradclip.attach(optimizer, rule).lats": "attr-defined",
}


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What mypy says of each line of the snippet and of the wrong calls behind it."""
    path = tmp_path_factory.mktemp("typed") / "snippet.py"
    path.write_text(SNIPPET + "\n".join(WRONG))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPYPATH", str(SOURCE))
        config = ["--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache")]
        told, errors, _ = api.run([*config, str(path)])
    assert not errors
    said = re.findall(r"^.*snippet\.py:(\d+): (.*)$", told, re.MULTILINE)
    every = path.read_text().splitlines()
    return [(every[int(number) - 1], message) for number, message in said]


def test_attach_gives_the_clipper_of_pytorch(lines):
    revealed = [message for _, message in lines if "Revealed type" in message]
    assert 'gradclip.torch.hook.AttachedClipper"' in revealed[0]
    assert 'float"' in revealed[1]


@pytest.mark.parametrize(("call", "code"), WRONG.items())
def test_a_wrong_call_is_an_error_for_the_checker(lines, call, code):
    errors = [message for line, message in lines if line == call and "error:" in message]
    assert errors
    assert all(message.endswith(f"[{code}]") for message in errors)


def test_right_calls_are_no_errors(lines):
    assert {line for line, message in lines if "error:" in message} == set(WRONG)
