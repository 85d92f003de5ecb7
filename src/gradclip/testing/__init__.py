"""The laws of clipping, to check an engine or a rule of your own.

A law is a function that raises `AssertionError` and says what was broken. `check_rule` tries all laws that hold for a
rule on the reference engine; `check_engine` tries an engine on many rules, against the reference engine.

>>> import numpy as np
>>> from gradclip import ClipGradByGlobalNorm
>>> from gradclip.engines.reference import ReferenceEngine
>>> from gradclip.testing import Bench, check_engine, check_rule
>>> check_rule(ClipGradByGlobalNorm(1.0))
>>> check_engine(Bench(ReferenceEngine(), make=lambda values, dtype: values.astype(dtype), read=np.asarray))
"""

from gradclip.errors import needing

with needing("gradclip.testing", "cpu", "numpy"):
    from gradclip.testing import laws
    from gradclip.testing.bench import REFERENCE, Bench, Outcome
    from gradclip.testing.check import check_engine, check_rule, laws_of, standard_rules
    from gradclip.testing.drawn_gradients import adversarial_gradients, ordinary_gradients
    from gradclip.testing.laws import Law

__all__ = [
    "REFERENCE",
    "Bench",
    "Law",
    "Outcome",
    "adversarial_gradients",
    "check_engine",
    "check_rule",
    "laws",
    "laws_of",
    "ordinary_gradients",
    "standard_rules",
]
