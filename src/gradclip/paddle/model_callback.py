"""The callback for `paddle.Model.fit`: the memory of the clip in checkpoints, and what the clip does in the logs."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

import paddle

from gradclip.errors import shown
from gradclip.paddle.clip import Clip
from gradclip.paddle.optimizer_state import keep_in_state
from gradclip.telemetry import Metrics
from gradclip.telemetry.loggers import EACH
from gradclip.telemetry.observed import event_of

NO_CLIP = (
    "the optimizer of this model has no clip of gradclip, got {}: paddle.optimizer.Adam(..., "
    "grad_clip=gradclip.paddle.Clip(rule))"
)


class ModelCallback(paddle.callbacks.Callback):
    """Lets `paddle.Model` save and load what the clip of its optimizer remembers, and logs what the clip does.

    Goes into `callbacks=` of `Model.fit`. From then on `Model.save`, and so each checkpoint of `save_dir`, has the
    memory of the clip in its `.pdopt` (under "gradclip"), also for an optimizer that has no state of its own, as SGD;
    after `Model.load` the clip takes it up, so that a resumed training is the uninterrupted one. Without this callback
    a rule that adapts begins anew there, and warns. In a static graph the memory is in variables of the program, which
    `Model.save` has anyway.

    After each update the logs have `grad_norm`, `grad_norm_clipped`, `clip/threshold`, `clip/scale`, `clip/rate`,
    `clip/nonfinite` and `clip/skipped`: see `gradclip.telemetry.Metrics`, which takes `prefix` and `without`. A
    callback that stands after this one sees those of its own step; the progress bar, which Paddle puts first, those of
    the step before, unless you put `paddle.callbacks.ProgBarLogger()` after it yourself.

    `layers=5` adds the five largest `grad_norm/NAME` of parameters (dynamic mode); a loop of your own has them by
    `gradclip.paddle.Clip(rule, telemetry=Telemetry(..., tensors=True))`.

    Raises `ValueError` when training begins and the optimizer has no clip of gradclip, or several, and for `layers` in
    a static graph.

    >>> net = paddle.nn.Linear(2, 1)
    >>> clip = Clip(gradclip.AutoClip(50))
    >>> model = paddle.Model(net)
    >>> model.prepare(paddle.optimizer.SGD(0.1, parameters=net.parameters(), grad_clip=clip), paddle.nn.MSELoss())
    >>> batches = [(paddle.ones([4, 2]), paddle.ones([4, 1]))] * 3
    >>> model.fit(batches, epochs=1, verbose=0, callbacks=[ModelCallback()])
    >>> model._optimizer.state_dict()["gradclip"]["step"]
    3
    """

    def __init__(self, prefix: str = "", without: Collection[str] = (), layers: int = 0) -> None:
        super().__init__()
        self._metrics = Metrics(prefix, without, layers=layers)
        self._clip: Clip | None = None
        self._seen = -1

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the clip, and let the optimizer's state have its memory; what was loaded the clip takes up by itself."""
        optimizer = self.model._optimizer
        self._clip, self._seen = clip_of(optimizer), -1
        if paddle.in_dynamic_mode():
            keep_in_state(optimizer, self._clip)
            self._clip.clipper.tensors = bool(self._metrics.layers)
        elif self._metrics.layers:
            raise ValueError("layers need dynamic mode: in a static graph leave them out")

    def on_train_batch_end(self, step: int, logs: dict[str, Any] | None = None) -> None:
        """Write to the logs what the last update did, where this batch made one."""
        if self._clip is None or logs is None or not hasattr(self._clip, "last"):
            return
        result = self._clip.last
        if result.step == self._seen:  # the gradients were added up, or left out by a loss scaler
            return
        self._seen = result.step
        event = event_of(result, repr(self._clip.rule), time.time(), self._clip.clipper.tensors)
        numbers = self._metrics(event)
        for name in [name for name in logs if name.startswith(self._metrics.prefix + EACH)]:
            del logs[name]  # of an earlier step: Paddle has one dict for all batches, and for all calls of fit
        logs.update(numbers)
        shown_names = self.params["metrics"]  # the list by which the progress bar and VisualDL choose
        shown_names += [name for name in numbers if name not in shown_names]


def clip_of(optimizer: Any) -> Clip:
    """The one clip of gradclip that `optimizer` has, by itself or in its parameter groups."""
    groups = [group for group in getattr(optimizer, "_param_groups", None) or [] if isinstance(group, dict)]
    given = [getattr(optimizer, "_grad_clip", None), *(group.get("grad_clip") for group in groups)]
    clips = list({id(clip): clip for clip in given if isinstance(clip, Clip)}.values())
    if not clips:
        raise ValueError(NO_CLIP.format(shown(optimizer)))
    if len(clips) > 1:
        raise ValueError(
            f"the optimizer of this model has {len(clips)} clips, and the logs have one norm: give all parameter "
            f"groups one clip, which may be of Rules(...), got {shown(clips)}"
        )
    return clips[0]
