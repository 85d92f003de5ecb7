"""The character RNN of the demo, at a rate that it does not survive without clipping."""

from __future__ import annotations

from gradclip.experiments.outcome import Metric, TrainingOutcome
from gradclip.experiments.tasks.descent import thinned
from gradclip.experiments.tasks.task import Claim, Task
from gradclip.experiments.training import in_torch
from gradclip.experiments.training.char_rnn import BATCH, LEARNING_RATE, STEPS, UNITS, WINDOW, Setup, run_char_rnn
from gradclip.rules.rule import AnyRule


def train(rule: AnyRule, seed: int, steps: int = STEPS) -> TrainingOutcome:
    """Trains on random windows; the metric is the cross entropy on the validation text, in bits per character."""
    run = run_char_rnn(in_torch, seed, Setup("", rule), steps=steps)
    losses = [step.loss for step in run.steps]
    diverged = None if run.broke_at is None else f"step {run.broke_at}"
    return TrainingOutcome(run.end, curve=thinned(losses, of=steps), clipped=run.share_clipped, diverged=diverged)


TASK = Task(
    name="char-lm",
    about=(
        f"A tanh RNN of {UNITS} units predicts the next character of English text (`pydoc_data.topics`, which comes "
        f"with Python). SGD {LEARNING_RATE:g}, {STEPS} steps on {BATCH} windows of {WINDOW} characters. The metric is "
        "the cross entropy on the last tenth of the text."
    ),
    claims=(
        Claim(
            "Clipping the norm of the gradient lets an RNN learn a language at rates where it explodes without.",
            "R. Pascanu, T. Mikolov, Y. Bengio 2013, arXiv:1211.5063, section 4.2",
            better="global:0.25",
            than="none",
        ),
        Claim(
            "A threshold at a percentile of the norms so far trains better than none.",
            "P. Seetharaman, G. Wichern, B. Pardo, J. Le Roux 2020, arXiv:2007.14469 (AutoClip)",
            better="autoclip",
            than="none",
        ),
    ),
    metric=Metric("validation bits per character", y="bits per character of the batch", log="y"),
    rules=(
        "none",
        "global:0.25",
        "global:1",
        "norm:0.1",
        "value:0.01",
        "agc",
        "autoclip",
        "adagc",
        "zclip",
        "zclip:max_norm=None",
    ),
    train=train,
)
