"""What can be wrong with the clipping of a training script, each with its cure in one sentence."""

from __future__ import annotations

from typing import NamedTuple

import gradclip.watch.journal as journal

NEVER = "never-clipped"
OTHER_OPTIMIZER = "one-optimizer-of-several"
NONFINITE = "non-finite"


DIVERGED = "diverged"
"""What the verdict calls a training that broke. A loss that is meant to rise looks like it, and can be accepted."""


class Problem(NamedTuple):
    """What is wrong, as the end of a sentence, and what to do."""

    wrong: str
    cure: str


PROBLEMS = {
    journal.AFTER_STEP: Problem(
        "clips after the optimizer has stepped, so the gradients that it cuts have been used already",
        "move the call between backward() and optimizer.step()",
    ),
    journal.BEFORE_BACKWARD: Problem(
        "clips before backward(), when there are no gradients of this step yet",
        "move the call between backward() and optimizer.step()",
    ),
    journal.BEFORE_CLOSURE: Problem(
        "clips before step(closure), whose closure makes the gradients anew, so the new ones are not clipped",
        "move the call into the closure, after backward()",
    ),
    journal.BEFORE_UNSCALE: Problem(
        "clips gradients that still carry the loss scale, so the threshold means another norm whenever the scale moves",
        "call scaler.unscale_(optimizer) before it",
    ),
    journal.DISCARDED: Problem(
        "clips gradients that are zeroed and made anew before the step, so the ones that the optimizer gets are not "
        "clipped",
        "move the call to just before optimizer.step()",
    ),
    journal.MICRO_STEP: Problem(
        "clips on each micro-step of an accumulation, so what was clipped is added to and clipped again",
        "clip once, after the last backward() before optimizer.step()",
    ),
    journal.TWICE: Problem(
        "clips gradients that were clipped already in the same step",
        "keep one of the two calls",
    ),
    journal.TWO_KNOBS: Problem(
        "clips by hand what {by} clips as well, so the smaller threshold rules and the other is dead",
        "take the call away, or switch off the clipping of {by} (max_grad_norm=0 in transformers, "
        "gradient_clip_val=None in Lightning)",
    ),
    journal.NOT_ZEROED: Problem(
        "steps on gradients to which those of the steps before were added: nothing zeroed them",
        "call optimizer.zero_grad() once in each step, before backward()",
    ),
    journal.OTHER_MODEL: Problem(
        "clips the parameters of {this} where the gradients of {other} were made: nothing clips those",
        "give it the parameters that the next optimizer.step() updates",
    ),
    journal.UNTRAINED: Problem(
        "clips parameters that have no gradients, such as those of a copy, and nothing clips those of {this}",
        "give it the parameters of the model that is trained: clip_grad_norm_(model.parameters(), ...)",
    ),
    journal.EMPTY: Problem(
        "clips nothing: what it is given is empty, such as an iterator that was used up before",
        "call model.parameters() anew each time, or make it a list once",
    ),
    journal.NO_PARAMETERS: Problem(
        "is given gradients (or other tensors without a .grad) instead of parameters, so it clips nothing",
        "give it the parameters: clip_grad_norm_(model.parameters(), ...)",
    ),
    journal.OVERFLOW: Problem(
        "computes an infinite norm of finite gradients and multiplies them by zero",
        "clip with gradclip.torch.clip_grad_norm_, whose norm does not overflow",
    ),
    journal.NO_LIMIT: Problem(
        "has no limit above 0: 0 makes every gradient 0, a negative limit turns it round, and NaN makes it NaN",
        "give a limit above 0; where 0 is to mean off, call it only where the limit is above 0",
    ),
    journal.GROUP_EXCLUDED: Problem(
        "leaves a whole parameter group of the optimizer unclipped: {missing}",
        "give it the parameters of all groups, or say on purpose which are left out: "
        "gradclip.attach(optimizer, rule, need_clip=...)",
    ),
    journal.SOME_ONLY: Problem(
        "leaves some parameters of the optimizer unclipped: {missing}",
        "give it all parameters that the optimizer steps: clip_grad_norm_(model.parameters(), ...)",
    ),
    journal.PER_RANK: Problem(
        "clips on each rank by the norm of what that rank has, which is not the norm of the model, so the ranks "
        "multiply by different factors and what they share drifts apart",
        "clip by the norm over all ranks: gradclip.torch.attach(optimizer, rule), to which DTensors are enough; "
        "experts that each rank has of its own need groups={{'*experts*': group}}",
    ),
    journal.STAGE: Problem(
        "clips each stage of the pipeline by the norm of its own parameters, which is not the norm of the model, so "
        "the stages multiply by different factors",
        "clip by the norm over all stages: gradclip.torch.attach(optimizer, rule, pipeline=group)",
    ),
    journal.BEFORE_REDUCTION: Problem(
        "clips gradients before they are reduced over the ranks, so each rank cuts its own part by another factor, and "
        "the mean that the optimizer gets has no limit of its own",
        "move the call behind the all-reduce: after the last backward(), outside no_sync(), or after the all_reduce of "
        "the gradients by hand, right before optimizer.step()",
    ),
    OTHER_OPTIMIZER: Problem(
        "does not cover {optimizer}, one of {optimizers} optimizers: nothing clips its gradients, of norms up to "
        "{largest:.3g}",
        "clip the parameters of all optimizers in one call, or gradclip.attach(first, second, rule)",
    ),
    NEVER: Problem(
        "nothing clips the gradients, although {option} is {value:g}: larger ones went through",
        "call clip_grad_norm_(model.parameters(), {option}) between backward() and optimizer.step()",
    ),
    NONFINITE: Problem(
        "lets the optimizer step on gradients that are not finite ({offenders})",
        'leave such steps out, gradclip.attach(optimizer, rule, on_nonfinite="skip"), and look where they come from',
    ),
}
