"""The named methods, each as one expression of scope, norm, threshold and response.

Published, or used in a public training run that can be named. A method is a function with a docstring of fixed parts:
a sentence of law, "Formula:", "Source:", "Differs from the original:" and an example. Everything else that tells of
methods (`gradclip methods`, the page in the docs, rules by text) is made from these functions.
"""

from typing import TYPE_CHECKING

from gradclip.rules.recipes import adaptive, elements, fixed, weights
from gradclip.rules.recipes.adaptive import *  # noqa: F403
from gradclip.rules.recipes.elements import *  # noqa: F403
from gradclip.rules.recipes.fixed import *  # noqa: F403
from gradclip.rules.recipes.weights import *  # noqa: F403

NAMES = [*fixed.__all__, *weights.__all__, *adaptive.__all__, *elements.__all__]
"""Those of all methods."""

if not TYPE_CHECKING:  # checkers know the names from the stars, and would take a list that is not written out for none
    __all__ = NAMES  # noqa: PLE0605
