"""`gradclip methods`: the catalogue, and what the command says of it."""

import inspect
import json
import re

import pytest

from gradclip import from_dict
from gradclip.cli import main
from gradclip.cli.methods_command import as_data, explanation, overview
from gradclip.rules import recipes
from gradclip.rules.catalogue import Method, method_called, methods, numbers_of, parts_of
from gradclip.rules.rule import rules_in

EVERY = methods()


@pytest.fixture(params=EVERY.values(), ids=EVERY)
def method(request):
    return request.param


def test_every_method_has_its_sentence_formula_and_source(method):
    assert re.fullmatch(r"[A-Z][^.]*\.", method.law)
    assert "`" in method.formula
    assert re.search(r"\d{4}", method.source), f"{method.name} names no year"


def test_every_method_but_plain_clipping_says_how_it_differs_from_the_original(method):
    assert bool(method.differences) != method.name.startswith("ClipGradBy")


def test_the_numbers_of_the_differences_count_from_one(method):
    text = parts_of(inspect.getdoc(method.function)).get("Differs from the original", "")
    found = [int(number) for number in re.findall(r"\((\d)\) ", text)]
    assert found == list(range(1, len(method.differences) + 1))


def test_every_method_is_named_by_the_package(method):
    import gradclip

    assert getattr(gradclip, method.name) is method.function is getattr(recipes, method.name)


def test_the_explanation_has_everything(method):
    text = " ".join(explanation(method).split())
    for part in (method.signature, method.law, method.formula, method.source, *method.differences):
        assert " ".join(part.split()) in re.sub(r" differs \(\d\)| mind", "", text)


def test_the_data_hold_the_rule(method):
    data = json.loads(json.dumps(as_data(method), allow_nan=False))
    assert from_dict(data["rule"]) == method.rule
    assert len(data["stages"]) == len(rules_in(method.rule))


def test_the_overview_names_every_method():
    assert all(re.search(rf"^{name} ", overview(), re.MULTILINE) for name in EVERY)


@pytest.mark.parametrize(
    ("name", "numbers"), [("ClipGradByNorm", 0), ("AGC", 0), ("ZClip", 4), ("AdaGC", 2), ("PercentileClip", 102)]
)
def test_what_a_method_remembers_is_counted(name, numbers):
    """ZClip: count, mean, spread and how long above; a window of 100: its norms, count and place."""
    assert sum(numbers_of(one.threshold) for one in rules_in(EVERY[name].rule)) == numbers
    assert EVERY[name].state.startswith(f"{numbers} numbers for" if numbers else "nothing")


@pytest.mark.parametrize("name", ["ZClip", "zclip", "Z-Clip", "z_clip"])
def test_capitals_and_hyphens_do_not_count(name):
    assert method_called(name).name == "ZClip"


def test_a_name_that_does_not_exist_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"no method is called .zclib.: did you mean ZClip"):
        method_called("zclib")
    assert method_called("global") == method_called("ClipGradByGlobalNorm")
    with pytest.raises(
        ValueError, match=r"'none' is no method of the literature, but a rule of its own: the rule that"
    ):
        method_called("None")
    with pytest.raises(ValueError, match="`gradclip methods` lists"):
        method_called("something else")


def test_the_command_lists_and_explains(capsys):
    assert main(["methods"]) == 0
    assert capsys.readouterr().out.startswith("BlockRMS")
    assert main(["methods", "agc"]) == 0
    assert "arXiv:2102.06171" in capsys.readouterr().out
    assert main(["methods", "agc", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "AGC"
    assert main(["methods", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == len(EVERY)


def test_a_wrong_name_is_one_line_and_exit_code_2(capsys):
    assert main(["methods", "zlip"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err) == ("", "gradclip methods: no method is called 'zlip': did you mean ZClip?\n")


def test_a_method_without_the_parts_has_none_to_show():
    def plain():
        """One sentence."""

    assert (Method("plain", plain).law, Method("plain", plain).source) == ("One sentence.", "")
