"""gradclip: gradient clipping that is right, fast, and tells you what it did.

A clipping rule measures gradients over a scope, compares the measure with a threshold, and responds.

>>> import gradclip
>>> rule = gradclip.ClipGradByGlobalNorm(1.0)
>>> rule
all tensors together: an L2 norm above 1 is rescaled to it

Rules know no framework; `gradclip.torch` puts one into an optimizer: `gradclip.torch.attach(optimizer, rule)`.
"""

from typing import TYPE_CHECKING

from gradclip import errors, rules
from gradclip.errors import *  # noqa: F403
from gradclip.rules import *  # noqa: F403
from gradclip.rules import recipes
from gradclip.rules.recipes import *  # noqa: F403

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gradclip.torch import attach as attach
    from gradclip.torch import verify_norm as verify_norm
    from gradclip.watch.told import metric as metric
else:  # checkers know the names from the stars, and would take a list that is not written out for none
    __all__ = [*rules.__all__, *recipes.NAMES, *errors.__all__, "attach", "metric", "verify_norm"]  # noqa: PLE0604

    def attach(*optimizers, **options):
        """Clip the gradients of a PyTorch optimizer in each of its steps: see `gradclip.torch.attach`.

        >>> optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)
        >>> clipper = gradclip.attach(optimizer, gradclip.ClipGradByGlobalNorm(1.0))
        """
        from gradclip.torch import attach as torch_attach

        return torch_attach(*optimizers, **options)

    def verify_norm(source, **options):
        """Compare the global norm with that of everything gathered: see `gradclip.torch.verify_norm`.

        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> gradclip.verify_norm([weight])
        <norm 5, of everything gathered 5: right>
        """
        from gradclip.torch import verify_norm as torch_verify_norm

        return torch_verify_norm(source, **options)

    def metric(value, name="metric"):
        """Tell the run how good the model is now, for `gradclip suggest --metric`; without a run nothing happens.

        `value` is a number, or an array or tensor of one. Raises `TypeError` for what is no number.

        >>> gradclip.metric(0.93, "accuracy")
        """
        from gradclip.watch.told import metric as tell_metric

        return tell_metric(value, name)
