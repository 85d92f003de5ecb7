"""The door of Hugging Face's Trainer: `Trainer(callbacks=[gradclip.transformers.Clip(rule)], args=...)`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from gradclip.errors import needing, shown
from gradclip.rules.rule import AnyRule, Carry, checked_rule
from gradclip.telemetry import Telemetry

with needing("gradclip.transformers", "transformers", "torch", "transformers"):
    import torch
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import ExportableState

    from gradclip.torch.attached import OfTheClip
    from gradclip.torch.late import LateClippers, checked_options

__all__ = ["Clip"]

MADE_ANEW = (
    "restore_callback_states_from_checkpoint=True makes callbacks anew from what JSON can hold, which is not a rule: "
    "leave it out, Clip takes its memory from the checkpoint by itself"
)


class Clip(LateClippers, TrainerCallback, ExportableState):
    """Clip the gradients by `rule` before each step of the optimizer; write `max_grad_norm=0` in `TrainingArguments`.

    The memory is in `trainer_state.json` of each checkpoint, and `train(resume_from_checkpoint=...)` takes it up. What
    the Trainer logs has beside its own `grad_norm`, which is the norm before clipping, `grad_norm_clipped`,
    `clip/threshold`, `clip/scale`, `clip/rate`, `clip/nonfinite` and `clip/skipped`, and with `layers=5` the five
    largest `grad_norm/NAME`: in `log_history`, the progress bar, and what callbacks behind this one log. The callbacks
    of `report_to` come before it: `Clip(rule).add_to(trainer)` puts it in front of them. Works with TRL's trainers,
    AMP, accumulation, DDP and FSDP2. `telemetry` and the other options: `gradclip.attach`.

    Raises `ValueError` at the beginning of a training beside another `max_grad_norm`, which would clip first, and for a
    rule that carries over (`UClip`), whose tensors JSON cannot hold; `TypeError` under DeepSpeed, with its own setting.

    >>> from transformers import TrainingArguments
    >>> callbacks, args = [Clip(ClipGradByGlobalNorm(1.0))], TrainingArguments("out", max_grad_norm=0)
    """

    def __init__(
        self,
        rule: AnyRule | None = None,
        *,
        layers: int = 0,
        telemetry: Telemetry | None = None,
        **options: Unpack[OfTheClip],
    ) -> None:
        if rule is None:
            raise TypeError(f"Clip needs a rule: Clip(ClipGradByGlobalNorm(1.0)). ({MADE_ANEW})")
        checked_options(checked_rule(rule), options)
        super().__init__(rule, together=True, layers=layers, telemetry=telemetry, **options)
        self._losses = Losses()

    def _refuse_rule(self, rule: AnyRule) -> None:
        if isinstance(rule, Carry):
            raise ValueError(
                f"{rule!r}: that is a tensor for each parameter, which the JSON of a Trainer's checkpoint cannot hold; "
                "attach it in a loop of your own, gradclip.attach(optimizer, rule)"
            )

    def add_to(self, trainer: Trainer) -> None:
        """Become the first callback of `trainer`, so that the others, such as that of W&B, log the numbers too."""
        if not isinstance(trainer, Trainer):
            raise TypeError(f"add_to takes the Trainer, got {shown(trainer)}")
        callbacks = trainer.callback_handler.callbacks
        if any(isinstance(callback, Clip) for callback in callbacks):
            raise ValueError("this Trainer has a Clip already: one clips, and knows the norm before")
        callbacks.insert(0, self)

    def on_train_begin(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Attach to the optimizer with the memory of the checkpoint, or that of the last training."""
        refuse_two(args.max_grad_norm)
        name = type(self).__name__
        resumed, known = state.global_step > 0, state.stateful_callbacks
        if not isinstance(known.setdefault(name, self.state()), Mapping):  # the Trainer looks it up when it saves
            raise ValueError(f"there are several callbacks {name}: one clips, and knows the norm before; leave one")
        model, optimizer = of_trainer["model"], of_trainer["optimizer"]
        if resumed:
            self.load_state_dict(memory_in(known[name]))
        self.attach_to({"0": optimizer}, model, every=max(1, int(state.logging_steps)))
        if resumed and not memory_in(known[name]):
            self.begins_anew()
        self._losses.listen_to(model)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Hand over the loss that the model returned, of all batches of the step."""
        loss = self._losses.taken()
        if loss is not None:
            self.give(loss=loss)

    def on_log(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Add the numbers of the last step to what the Trainer logs of a training step."""
        logs: dict[str, Any] = of_trainer["logs"]
        if "loss" not in logs:
            return
        numbers = {name: number for name, number in self.numbers().items() if name not in logs}
        logs |= numbers
        if state.log_history:
            state.log_history[-1] |= numbers

    def on_train_end(self, args: Any, state: Any, control: Any, **of_trainer: Any) -> None:
        """Take the hooks away, with the memory kept for the next training."""
        self._losses.stop()
        self.detach()

    def state(self) -> dict[str, Any]:
        """What the Trainer writes into `trainer_state.json`."""
        return {"args": {}, "attributes": {"memory": self.state_dict()}}


class Losses:
    """The loss that a model returns in training, of all batches of one step; nothing of it is read."""

    def __init__(self) -> None:
        self._parts: list[torch.Tensor] = []
        self._summed = False
        self._handle: Any = None

    def listen_to(self, model: torch.nn.Module) -> None:
        """Note the loss of each forward pass of `model` from now on."""
        self.stop()
        self._handle = model.register_forward_hook(self._note, with_kwargs=True)

    def stop(self) -> None:
        """Note nothing more."""
        if self._handle is not None:
            self._handle.remove()
        self._parts, self._handle = [], None

    def taken(self) -> torch.Tensor | None:
        """The loss since it was taken last: the mean over batches, or their sum where each is divided by all items."""
        parts, self._parts = self._parts, []
        if not parts:
            return None
        loss = torch.stack(parts).sum()
        return loss if self._summed else loss / len(parts)

    def _note(self, model: torch.nn.Module, inputs: Any, given: Mapping[str, Any], outputs: Any) -> None:
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else None
        if model.training and isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._parts.append(loss.detach().reshape(()))
            self._summed = given.get("num_items_in_batch") is not None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_parts": [], "_handle": None}


def memory_in(saved: Mapping[str, Any]) -> Mapping[str, Any]:
    """The memory in what `Clip.state` gave, as it stands in `trainer_state.json`."""
    attributes = saved.get("attributes")
    if not isinstance(attributes, Mapping) or not isinstance(attributes.get("memory"), Mapping):
        raise ValueError(f"what trainer_state.json has of Clip is damaged: expected its memory, found {shown(saved)}")
    memory: Mapping[str, Any] = attributes["memory"]
    return memory


def refuse_two(max_grad_norm: float | None) -> None:
    """Raise where the Trainer would clip as well."""
    if max_grad_norm is not None and max_grad_norm > 0:
        raise ValueError(
            f"TrainingArguments has max_grad_norm={max_grad_norm} (1.0 if nothing is said), by which the Trainer would "
            "clip first: write max_grad_norm=0, and gradclip.transformers.Clip alone clips"
        )
