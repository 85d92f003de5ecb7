"""What is compared, and what is to be reached: candidates that take turns, and a table of cases with their goals."""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Callable
from functools import partial

import gradclip
from benchmarks import adaptive, peers
from benchmarks.frameworks import (
    OPTAX,
    OUR_CLIP,
    OUR_FUNCTION,
    OUR_TRANSFORMATION,
    PADDLE_CLIP,
    PADDLE_FUNCTION,
    functions_of_paddle,
    in_jax,
    in_paddle,
)
from benchmarks.goals import Case, Goal, Row
from benchmarks.limits import Limit, other_ways
from benchmarks.names import FOREACH, READ, READ_BOTH, READ_BOTH_WRITE, READ_WRITE, STEP, TORCH, TORCH_STEP, WRITE
from benchmarks.sampling import Candidate
from benchmarks.workloads import ALWAYS, HEAVY, INSIDE, LIGHT, NEVER, OUTSIDE, Workload, after_backward
from gradclip.telemetry import Telemetry, jsonl
from gradclip.torch import AttachedClipper, Clipper, attach, clip_grad_norm_

OURS, OURS_DROP_IN = "Clipper.clip_", "gradclip's clip_grad_norm_"
RECORDED, RECORDED_TENSORS = "Clipper.clip_, recorded", "Clipper.clip_, recorded with each tensor"
LOOP, VALUE_LOOP = "torch's clip_grad_norm_, a loop over the tensors", "torch's clip_grad_value_, loop"
OUR_STEP = "attach, and step"


def clip(workload: Workload, rule: gradclip.Rule) -> Callable[[], object]:
    """gradclip's explicit form."""
    return partial(Clipper(rule).clip_, workload.parameters)


def restored(workload: Workload, calls: dict[str, Callable[[], object]]) -> list[Candidate]:
    """Candidates that find the first gradients each time, so that what is to be clipped is clipped every time."""
    return [Candidate(name, call, before=workload.restore) for name, call in calls.items()]


def unclipped(workload: Workload) -> list[Candidate]:
    """One norm over all tensors, and it is below the limit."""
    return [
        Candidate(READ, Limit(workload.gradients).read),
        Candidate(OURS, clip(workload, gradclip.ClipGradByGlobalNorm(NEVER))),
        Candidate(TORCH, peers.norm(workload.parameters, NEVER)),
    ]


def clipped(workload: Workload) -> list[Candidate]:
    """One norm over all tensors, and everything is scaled."""
    calls = {
        READ_WRITE: Limit(workload.gradients).read_then_write,
        OURS: clip(workload, gradclip.ClipGradByGlobalNorm(ALWAYS)),
        TORCH: peers.norm(workload.parameters, ALWAYS),
    }
    return restored(workload, calls)


def recorded(workload: Workload) -> list[Candidate]:
    """The same with nothing to clip, and with an event of every step in a run on disk."""
    rule = gradclip.ClipGradByGlobalNorm(NEVER)
    return [
        Candidate(OURS, clip(workload, rule)),
        Candidate(RECORDED, partial(Clipper(rule, telemetry=recorder(False)).clip_, workload.parameters)),
        Candidate(RECORDED_TENSORS, partial(Clipper(rule, telemetry=recorder(True)).clip_, workload.parameters)),
    ]


def recorder(tensors: bool) -> Telemetry:
    """Telemetry to a folder that goes when it goes."""
    folder = tempfile.TemporaryDirectory()
    telemetry = Telemetry(jsonl(folder.name), tensors=tensors)
    weakref.finalize(telemetry, folder.cleanup)
    return telemetry


def each_clipped(workload: Workload) -> list[Candidate]:
    """A norm for each tensor. What is scaled while it lies in cache is read once, so here the limit can be beaten."""
    calls = {
        READ_WRITE: Limit(workload.gradients).read_then_write,
        OURS: clip(workload, gradclip.ClipGradByNorm(ALWAYS)),
        LOOP: peers.norm_of_each(workload.parameters, ALWAYS),
    }
    return restored(workload, calls)


def inside(workload: Workload) -> list[Candidate]:
    """Each element by itself, and none is outside: nothing need be written."""
    return [Candidate(READ, Limit(workload.gradients).read), *_by_value(workload, INSIDE)]


def outside(workload: Workload) -> list[Candidate]:
    """Each element by itself, and a third of them are outside: one pass does it."""
    calls = {one.name: one.call for one in _by_value(workload, OUTSIDE)}
    return restored(workload, {WRITE: Limit(workload.gradients).write, **calls})


def _by_value(workload: Workload, bound: float) -> list[Candidate]:
    return [
        Candidate(OURS, clip(workload, gradclip.ClipGradByValue(bound))),
        Candidate(FOREACH, peers.value(workload.parameters, bound, foreach=True)),
        Candidate(VALUE_LOOP, peers.value(workload.parameters, bound, foreach=False)),
    ]


def small(workload: Workload) -> list[Candidate]:
    """Tensors so small that the memory does not matter; by both doors."""
    return [
        Candidate(OURS, clip(workload, gradclip.ClipGradByGlobalNorm(NEVER))),
        Candidate(OURS_DROP_IN, partial(clip_grad_norm_, workload.parameters, NEVER)),
        Candidate(TORCH, peers.norm(workload.parameters, NEVER)),
    ]


def small_clipped(workload: Workload) -> list[Candidate]:
    """The same, and everything is scaled."""
    calls: dict[str, Callable[[], object]] = {
        OURS: clip(workload, gradclip.ClipGradByGlobalNorm(ALWAYS)),
        OURS_DROP_IN: partial(clip_grad_norm_, workload.parameters, ALWAYS),
        TORCH: peers.norm(workload.parameters, ALWAYS),
    }
    return restored(workload, calls)


def small_after_backward(workload: Workload) -> list[Candidate]:
    """The same, on gradients that a backward pass made just now, each a new tensor that Python has not seen."""
    backward = after_backward(workload)
    return [one._replace(before=backward) for one in small(workload)]


def steps(limit: float, workload: Workload) -> list[Candidate]:
    """Clipping in the step of a fused optimizer, the step without it, and PyTorch's clip before it."""
    optimizer = peers.fused_adamw(workload.parameters)
    optimizer.step()
    attached: list[AttachedClipper] = []

    def begin() -> None:
        workload.restore()
        attached.append(attach(optimizer, gradclip.ClipGradByGlobalNorm(limit), through_grad_scale=True))

    calls: dict[str, Callable[[], object]] = {
        STEP: optimizer.step,
        TORCH_STEP: peers.norm_then_step(workload.parameters, limit, optimizer),
    }
    ours = Candidate(OUR_STEP, optimizer.step, begin, lambda: attached.pop().detach())
    return [*restored(workload, calls), ours]


def memory(workload: Workload) -> list[Candidate]:
    """The limit, and other ways of moving the same bytes."""
    limit = Limit(workload.gradients)
    ways = {READ: limit.read, WRITE: limit.write, **other_ways(workload.gradients)}
    return [Candidate(name, call) for name, call in ways.items()]


def paddle_cases(workload: str, goals: dict[str, float]) -> list[Case]:
    """Paddle's three clips with nothing to clip and with everything clipped; `goals` by title."""
    cases = []
    for words, name, limits in (
        ("global norm", "ClipGradByGlobalNorm", (NEVER, ALWAYS)),
        ("each tensor", "ClipGradByNorm", (NEVER, ALWAYS)),
        ("by value", "ClipGradByValue", (INSIDE, OUTSIDE)),
    ):
        for ending, limit, clips in zip(("nothing to clip", "clipped"), limits, (False, True), strict=True):
            title = f"{words}, {ending}"
            rows = [Row(OUR_CLIP, Goal(READ_WRITE if clips else READ), Goal(PADDLE_CLIP, goals.get(title, 1.0)))]
            candidates = partial(in_paddle, name, limit, clips)
            cases.append(Case(workload, "fp32", f"Paddle, {title}", candidates, rows))
    return cases


def jax_cases(workload: str, dtype: str, ratio: float) -> list[Case]:
    """optax's global norm with nothing to clip and with everything clipped."""
    return [
        Case(
            workload,
            dtype,
            f"JAX, {title}",
            partial(in_jax, limit, clips),
            [Row(OUR_TRANSFORMATION, goal, peer)],
        )
        for title, limit, clips, goal, peer in (
            ("nothing to clip", NEVER, False, Goal(READ), Goal(OPTAX, ratio)),
            ("clipped", ALWAYS, True, Goal(READ_WRITE), Goal(OPTAX, ratio)),
        )
    ]


def adaptive_cases(workload: str) -> list[Case]:
    """AGC beside timm's, and the rules that follow a history beside straightforward ones and a fixed limit."""
    timm = Goal(adaptive.TIMM, 5.0) if peers.agc_of_timm() else None
    never, always = (partial(adaptive.unit_wise, weight) for weight in (HEAVY, LIGHT))
    histories = [
        Row(ours, Goal(adaptive.FIXED, 1.1), Goal(plain, 1.0))
        for ours, plain in ((adaptive.AUTOCLIP, adaptive.PLAIN_AUTOCLIP), (adaptive.ZCLIP, adaptive.PLAIN_ZCLIP))
    ]
    return [
        Case(workload, "fp32", "AGC, nothing to clip", never, [Row(adaptive.AGC, Goal(READ_BOTH, 1.5), timm)]),
        Case(workload, "fp32", "AGC, clipped", always, [Row(adaptive.AGC, Goal(READ_BOTH_WRITE), timm)]),
        Case(workload, "fp32", "thresholds that follow the norm", adaptive.over_time, histories),
    ]


def _by_both_doors(ratio: float) -> list[Row]:
    return [Row(door, None, Goal(TORCH, ratio)) for door in (OURS, OURS_DROP_IN)]


def _whole(limit: Goal | None, peer: float | None) -> list[Row]:
    return [Row(OURS, limit, Goal(TORCH, peer))]


def _recorded(ours: str) -> Row:
    return Row(ours, Goal(OURS, 1.03), None)


def _values(limit: Goal, foreach: float | None, loop: float | None) -> list[Row]:
    return [Row(OURS, limit, Goal(FOREACH, foreach)), Row(OURS, None, Goal(VALUE_LOOP, loop))]


def _steps(most: float, least: float | None) -> list[Row]:
    return [Row(OUR_STEP, Goal(STEP, most), Goal(TORCH_STEP, least)), Row(TORCH_STEP, Goal(STEP), None)]


CASES = [
    Case("GPT-2", "fp32", "memory", memory, []),
    Case("GPT-2", "fp32", "nothing to clip", unclipped, _whole(Goal(READ, 1.15), 3.5)),
    Case("GPT-2", "fp32", "clipped", clipped, _whole(Goal(READ_WRITE, 1.15), 1.6)),
    Case("GPT-2", "fp32", "recorded", recorded, [_recorded(RECORDED), _recorded(RECORDED_TENSORS)]),
    Case("GPT-2", "fp32", "each tensor clipped", each_clipped, [Row(OURS, Goal(READ_WRITE, 1.25), Goal(LOOP, 2.5))]),
    Case("GPT-2", "fp32", "by value, nothing outside", inside, _values(Goal(READ, 1.15), 2.5, 1.4)),
    Case("GPT-2", "fp32", "by value, a third outside", outside, _values(Goal(WRITE), None, None)),
    Case("GPT-2", "fp32", "AdamW(fused), nothing to clip", partial(steps, NEVER), _steps(1.2, None)),
    Case("GPT-2", "fp32", "AdamW(fused), clipped", partial(steps, ALWAYS), _steps(1.3, 1.33)),
    Case("GPT-2", "bf16", "nothing to clip", unclipped, _whole(Goal(READ, 1.3), 4.0)),
    Case("GPT-2", "bf16", "clipped", clipped, _whole(Goal(READ_WRITE, 1.35), 1.8)),
    Case("ResNet-50", "fp32", "memory", memory, []),
    Case("ResNet-50", "fp32", "nothing to clip", unclipped, _whole(Goal(READ, 1.3), 4.5)),
    Case("ResNet-50", "fp32", "clipped", clipped, _whole(Goal(READ_WRITE, 1.6), 1.3)),
    Case("ResNet-50", "bf16", "nothing to clip", unclipped, _whole(Goal(READ), None)),
    Case("ResNet-50", "bf16", "clipped", clipped, _whole(Goal(READ_WRITE), None)),
    Case("2000 x 16", "fp32", "in cache", small, _by_both_doors(20.0), in_cache=True),
    Case("2000 x 16", "fp32", "out of cache", small, _by_both_doors(10.0)),
    Case("2000 x 16", "fp32", "after a backward", small_after_backward, _by_both_doors(5.0)),
    Case("2000 x 16", "fp32", "out of cache, clipped", small_clipped, _whole(None, None)),
    Case("1 x 16", "fp32", "in cache", small, _by_both_doors(5.0), in_cache=True),
    Case("4 x 4096²", "fp32", "nothing to clip", unclipped, _whole(Goal(READ), None)),
    Case("4 x 4096²", "fp32", "clipped", clipped, _whole(Goal(READ_WRITE), None)),
    Case("4 x 4096²", "bf16", "nothing to clip", unclipped, _whole(Goal(READ), None)),
    Case("4 x 4096²", "bf16", "clipped", clipped, _whole(Goal(READ_WRITE), None)),
    *adaptive_cases("GPT-2"),
    *adaptive_cases("ResNet-50"),
    *adaptive_cases("4 x 4096²"),
    *paddle_cases("GPT-2", {"global norm, nothing to clip": 7.0, "each tensor, nothing to clip": 20.0}),
    Case(
        "GPT-2",
        "fp32",
        "Paddle, clip_grad_norm_, nothing to clip",
        partial(functions_of_paddle, NEVER),
        [Row(OUR_FUNCTION, Goal(READ), Goal(PADDLE_FUNCTION, 7.0))],
    ),
    *jax_cases("GPT-2", "fp32", 1.0),
    *jax_cases("GPT-2", "bf16", 5.0),
    *paddle_cases("ResNet-50", {}),
    *jax_cases("ResNet-50", "fp32", 1.0),
    *paddle_cases("2000 x 16", {}),
    *jax_cases("2000 x 16", "fp32", 1.0),
    *paddle_cases("4 x 4096²", {}),
    *jax_cases("4 x 4096²", "fp32", 1.0),
]
