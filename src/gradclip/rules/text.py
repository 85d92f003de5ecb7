"""Rules by short text: what a command line, a configuration or a table holds instead of an expression.

A text is the name of a recipe, and after a colon its arguments: `"zclip:z=2.5"`, `"agc:0.02,exclude=head*"`. Capitals,
hyphens and underscores in a name do not count. `none`, `value`, `norm` and `global` are short for measuring alone and
for the three `ClipGradBy...`, and `steplength:1` is the global norm up to that of a step of length 1. `>>` chains.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from functools import reduce
from typing import Any

from gradclip.rules import recipes
from gradclip.rules.combine import StepLength
from gradclip.rules.rule import AnyRule, Rule

Recipe = Callable[..., AnyRule]
SHORT = {
    "value": recipes.ClipGradByValue,
    "norm": recipes.ClipGradByNorm,
    "global": recipes.ClipGradByGlobalNorm,
}
KINDS_OF_RULE = {"Rule", "Chain", "Rules", "Carry", "AnyRule"}
OPENING, CLOSING = "([{", ")]}"


def rule_from_text(text: str) -> AnyRule:
    """The rule that `text` describes: `NAME`, `NAME:ARGUMENT,NAME=ARGUMENT`, or several of them joined by `>>`.

    An argument is a Python literal, `inf`, a rule in this notation where the recipe takes a rule, or else a word.
    Brackets keep commas and `>>` together. Raises `ValueError` for a name that does not exist and for arguments that
    the recipe refuses.

    >>> rule_from_text("global:0.25")
    all tensors together: an L2 norm above 0.25 is rescaled to it
    >>> rule_from_text("value:1 >> global:1") == ClipGradByValue(1.0) >> ClipGradByGlobalNorm(1.0)
    True
    >>> rule_from_text("global")
    Traceback (most recent call last):
    ValueError: global: missing a required argument: 'clip_norm'; it is written global:clip_norm,norm_type=2.0
    """
    stages = [_stage(stage) for stage in _split(text, ">>")]
    try:
        return reduce(operator.rshift, stages)
    except TypeError as error:
        raise ValueError(f"{text}: {error}") from None


def recipes_by_name() -> dict[str, Recipe]:
    """Every recipe by the name that a text calls it: its own, and the short ones."""
    named = {name: getattr(recipes, name) for name in recipes.NAMES}
    return {**named, "none": measure_only, "steplength": step_length, **SHORT}


def measure_only() -> Rule:
    """The rule that clips nothing: the norm of the whole gradient is measured."""
    return recipes.ClipGradByGlobalNorm(None)


def step_length(length: float) -> Rule:
    """The rule that lets no gradient move the parameters by more than `length`, under SGD."""
    return Rule(threshold=StepLength(length))


def _stage(text: str) -> AnyRule:
    if text.startswith("(") and text.endswith(")"):
        return rule_from_text(text[1:-1])
    name, _, rest = text.partition(":")
    recipe = _recipe(name.strip(), text)
    positional, named = [], {}
    for argument in _split(rest, ",") if rest.strip() else ():
        key, equals, value = argument.partition("=")
        if equals and key.strip().isidentifier():
            named[key.strip()] = value.strip()
        else:
            positional.append(argument.strip())
    return _called(recipe, name.strip(), positional, named)


def _called(recipe: Recipe, name: str, positional: list[str], named: dict[str, str]) -> AnyRule:
    """The recipe with its arguments read, or the error that shows its signature."""
    signature = inspect.signature(recipe)
    try:
        bound = signature.bind(*positional, **named)
        arguments = {key: _value(text, signature.parameters[key]) for key, text in bound.arguments.items()}
        return recipe(**arguments)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}; it is written {_usage(name, signature)}") from None


def _value(text: str, parameter: inspect.Parameter) -> Any:
    """One argument, read as what its parameter takes."""
    if _names_in(parameter.annotation) & KINDS_OF_RULE:
        return rule_from_text(text)
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return float(text) if text.lower().lstrip("+-") in ("inf", "infinity", "nan") else text


def _recipe(name: str, text: str) -> Recipe:
    if not name:
        raise ValueError(f"a rule is missing in {text!r}: write for example 'global:1' or 'value:1 >> global:1'")
    known = recipes_by_name()
    found, near = looked_up(name, known)
    if found is not None:
        return known[found]
    meant = f"did you mean {near!r}? " if near else ""
    raise ValueError(f"no rule is called {name!r}: {meant}There are {', '.join(known)}")


def looked_up(name: str, known: Iterable[str]) -> tuple[str | None, str | None]:
    """Which of the names `known` is meant by `name`, None if none is, and which is nearest to it."""
    plain = {_plain(each): each for each in known}
    near = difflib.get_close_matches(_plain(name), plain, n=1)
    return plain.get(_plain(name)), plain[near[0]] if near else None


def _usage(recipe: str, signature: inspect.Signature) -> str:
    """The text of a rule with its parameters in their places and their defaults."""
    shown = [
        name if parameter.default is parameter.empty else f"{name}={parameter.default}"
        for name, parameter in signature.parameters.items()
    ]
    return f"{recipe}:{','.join(shown)}" if shown else recipe


def _split(text: str, separator: str) -> Iterator[str]:
    """The parts of `text` between separators that stand outside brackets and quotes."""
    depth, quote, begin = 0, "", 0
    for place, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif depth == 0 and text.startswith(separator, place):
            yield text[begin:place].strip()
            begin = place + len(separator)
        else:
            depth += (character in OPENING) - (character in CLOSING)
    yield text[begin:].strip()


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name).lower()


def _names_in(annotation: object) -> set[str]:
    """The names in an annotation, which is text under `from __future__ import annotations`."""
    return set(re.findall(r"\w+", annotation if isinstance(annotation, str) else repr(annotation)))
