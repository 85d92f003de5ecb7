"""The door of skorch: `NeuralNet(module, callbacks=[gradclip.skorch.Clip(rule)])`."""

from __future__ import annotations

import math
from typing import Any, Self

from gradclip.errors import NothingClipped, needing

with needing("gradclip.skorch", "skorch", "torch", "skorch"):
    import torch
    from skorch import NeuralNet
    from skorch.callbacks import Callback, GradientNormClipping

    from gradclip.torch.attached import OfTheClip
    from gradclip.torch.hook import Options
    from gradclip.torch.late import LateClippers

__all__ = ["Clip"]

PLACE = "clip_"
"""The attribute of a net by which skorch finds what `f_clip` saves and loads."""

OWN = ("rule", "together", "layers")
"""What is set beside the options of `gradclip.attach`."""

NORM, RATE = "grad_norm", "clip/rate"
"""What an epoch has of its steps, and the table that skorch prints: the mean, and the last."""


class Clip(LateClippers, Callback):
    """Clip the gradients of the net's optimizer by `rule` before each of its steps.

    A net with several optimizers has a norm and a memory for each, `together=True` takes one norm over all. The memory
    is in a pickle and in a copy of the net, and goes on in `partial_fit` and with `warm_start`; what `initialize()`
    begins anew, as each other `fit`, begins without. It is saved as skorch saves everything:
    `Checkpoint(f_clip="clip.pt")`, `net.save_params(f_clip="clip.pt")`, `LoadInitState` behind this callback, and
    `net.load_params(f_clip="clip.pt")` after `add_to(net)`. The history has for each batch `grad_norm` (before
    clipping), `grad_norm_clipped`, `clip/threshold`, `clip/scale`, `clip/rate`, `clip/nonfinite` and `clip/skipped`,
    with `layers=5` the five largest `grad_norm/NAME`, of several optimizers with their names in front; for each epoch
    the mean `grad_norm` and `clip/rate`. `telemetry`, of which a clone has none, and the other options:
    `gradclip.attach`.

    Raises `ValueError` at the beginning of a fit beside skorch's `GradientNormClipping`, which would clip first.

    >>> from skorch import NeuralNetRegressor
    >>> net = NeuralNetRegressor(torch.nn.Linear, callbacks=[Clip(ClipGradByGlobalNorm(1.0))])
    >>> search = {"callbacks__Clip__rule": [ClipGradByGlobalNorm(0.1), ClipGradByGlobalNorm(1.0)]}
    """

    def initialize(self) -> Self:
        """Begin anew, as skorch begins a net anew: with nothing remembered."""
        self.detach()
        self._clippers, self._latest, self._known, self._state = {}, {}, {}, None
        self._norms: dict[str, list[float]] = {}
        return self

    def add_to(self, net: NeuralNet) -> None:
        """Be where `net.save_params(f_clip=...)` and `net.load_params(f_clip=...)` look, before the first fit too."""
        setattr(net, PLACE, self)

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **of_fit: Any) -> None:  # noqa: N803
        """Attach to the optimizers, which exist now."""
        for name, callback in net.callbacks_:
            if isinstance(callback, GradientNormClipping) and callback.gradient_clip_value is not None:
                raise ValueError(
                    f"the callback {name!r} (gradient_clip_value={callback.gradient_clip_value}) would clip before "
                    f"{self.rule!r} does: leave it out, or write net.set_params(callbacks__{name}=None)"
                )
        self.add_to(net)
        self.begin_for(net)
        self.attach_to(optimizers_of(net), getattr(net, "module_", None))

    def on_epoch_begin(self, net: NeuralNet, *data: Any, **of_fit: Any) -> None:
        """Forget the norms of the last epoch."""
        self._norms = {}

    def on_batch_begin(self, net: NeuralNet, *of_batch: Any, **of_fit: Any) -> None:
        """Attach to other optimizers where somebody has changed them in the middle of the fit."""
        if of_fit.get("training"):
            self.refuse_other(net)
            self.attach_to(optimizers_of(net), getattr(net, "module_", None))

    def on_batch_end(self, net: NeuralNet, batch: Any = None, training: bool | None = None, **of_fit: Any) -> None:
        """Record what the step did."""
        if training:
            for name, number in self.numbers().items():
                net.history.record_batch(name, number)
                if name.endswith((NORM, RATE)):
                    self._norms.setdefault(name, []).append(number)

    def on_epoch_end(self, net: NeuralNet, *data: Any, **of_fit: Any) -> None:
        """Record what the epoch did."""
        for name, numbers in self._norms.items():
            net.history.record(name, numbers[-1] if name.endswith(RATE) else math.fsum(numbers) / len(numbers))

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **of_fit: Any) -> None:  # noqa: N803
        """Take the hooks away, with the memory kept for `partial_fit`."""
        self.detach()

    def set_params(self, **params: Any) -> None:
        """Change what `get_params` names; a wrong one is refused before anything is changed."""
        now = self.get_params(deep=False)
        if unknown := params.keys() - now.keys():
            raise ValueError(f"{type(self).__name__} has no parameter {min(unknown)!r}: it has {', '.join(now)}")
        if not params:
            return
        wanted = type(self)(**{**now, **params})
        if "rule" in params:
            self.rule = wanted.rule
        self._together, self._layers, self._options = wanted._together, wanted._layers, wanted._options

    def _get_param_names(self) -> list[str]:
        """What scikit-learn clones, and a search may set."""
        return [*OWN, *OfTheClip.__annotations__]

    def __getattr__(self, name: str) -> Any:
        """The parameters, which scikit-learn reads as attributes."""
        if name == "last":  # a property that has nothing yet comes here
            raise NothingClipped("nothing was clipped yet: `last` exists after the first step of a training")
        if name in OWN:
            return self.__dict__[f"_{name}"]
        if name in OfTheClip.__annotations__:
            return self.__dict__["_options"].get(name, Options._field_defaults[name])
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")


def optimizers_of(net: NeuralNet) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of a net by the names that they have in its parameters: `net.optimizer_` is "optimizer"."""
    attributes = vars(net).items()
    return {name.removesuffix("_"): value for name, value in attributes if isinstance(value, torch.optim.Optimizer)}
