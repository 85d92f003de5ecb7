"""What is timed on a device: the candidates of each case, the limits of the memory, and the goals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch

import gradclip
from benchmarks import peers
from benchmarks.goals import Case, Goal, Row
from benchmarks.names import FOREACH, READ, READ_BOTH, READ_BOTH_WRITE, READ_WRITE, STEP, TORCH, TORCH_STEP, WRITE
from benchmarks.sampling import FEW, Candidate, Timing, Timings
from benchmarks.workloads import ALWAYS, HEAVY, INSIDE, LIGHT, NEVER, OUTSIDE, SETTLED, Workload, holders
from gradclip.rules.rule import AnyRule
from gradclip.torch import Clipper, attach

COPY = "copy of one buffer"
GLOBAL, EACH, AGC, ZCLIP = "global norm", "each tensor", "AGC", "ZClip"
FIXED_STEP, ADAPTIVE_STEP = "attach, and step, fixed", "attach, and step, ZClip"
NEMO, NEMO_SECONDS = "NeMo Automodel, published", 7.32e-3
"""Norm and in-place clip of a bf16 tensor of 1.54G elements on an H100: github.com/NVIDIA-NeMo/Automodel, pull 3685."""

COPIED = 1 << 30
"""Bytes of the largest buffer that is copied to find the speed of the memory."""


class Aim(NamedTuple):
    """A workload that is clipped by global norm, and the ratios to reach there."""

    workload: str
    dtype: str
    measure: float | None = None
    """At most, nothing to clip, over one read."""
    unclipped: float | None = None
    clipped: float | None = None
    """At least, PyTorch's time over gradclip's."""


AIMS = [
    Aim("GPT-2", "fp32", unclipped=4.0, clipped=2.2),
    Aim("GPT-2", "bf16"),
    Aim("ResNet-50", "fp32", unclipped=15.0),
    Aim("1B", "fp32", measure=1.05),
    Aim("1B", "bf16", measure=1.05, unclipped=4.0, clipped=1.35),
    Aim("2000 x 16", "fp32", unclipped=30.0),
    Aim("2000 x 4096", "fp32"),
    Aim("1.54G", "bf16"),
]
NOTHING, CLIPPED = "nothing to clip", "clipped"


def cases(engines: list[str]) -> list[Case]:
    """All cases; those of one workload stand together."""
    first, *rest = [list(cases_of(one, engines)) for one in AIMS]
    return [*first, *cases_of_rules(engines[0]), *(case for group in rest for case in group)]


def cases_of(one: Aim, engines: list[str]) -> Iterator[Case]:
    """Clipping by global norm, with nothing to clip and with everything clipped."""
    for title, limit, memory, least in (
        (NOTHING, NEVER, Goal(READ, one.measure), one.unclipped),
        (CLIPPED, ALWAYS, Goal(READ_WRITE), one.clipped),
    ):
        best, *others = map(ours, engines)
        rows = [Row(queued(name), memory if name == best else Goal(memory.candidate), None) for name in (best, *others)]
        rows += against(best, TORCH, least)
        rows += [row for name in others for row in against(name, TORCH)]
        rows += [row for name in (peers.MEGATRON, peers.APEX) for row in against(best, name)]
        rows += [Row(best, None, Goal(NEMO, 2.0))] if title == CLIPPED else []
        yield Case(one.workload, one.dtype, title, partial(whole, engines, limit), rows)


def cases_of_rules(engine: str) -> list[Case]:
    """GPT-2 under other rules, by value, and in the steps of optimizers."""
    name = ours(engine)
    rules = [row for other in (EACH, AGC, ZCLIP) for row in within(other, GLOBAL, 1.1)]
    value = [*within(name, GLOBAL), *against(name, FOREACH)]
    adaptive = [*within(ADAPTIVE_STEP, FIXED_STEP, 1.05), *within(FIXED_STEP, STEP), *within(ADAPTIVE_STEP, STEP)]
    adaptive += [*within(TORCH_STEP, STEP)]
    reads = [Row(queued(other), Goal(READ), None) for other in (GLOBAL, EACH, ZCLIP)]
    reads += [Row(queued(AGC), Goal(READ_BOTH), None)]
    writes = [Row(queued(other), Goal(READ_WRITE), None) for other in (GLOBAL, EACH, ZCLIP)]
    writes += [Row(queued(AGC), Goal(READ_BOTH_WRITE), None)]
    inside, outside = Row(queued(name), Goal(READ), None), Row(queued(name), Goal(WRITE, 1.05), None)
    return [
        Case("GPT-2", "fp32", "by rule, nothing to clip", partial(by_rule, engine, NEVER), [*reads, *rules]),
        Case("GPT-2", "fp32", "by rule, clipped", partial(by_rule, engine, ALWAYS), [*writes, *rules]),
        Case("GPT-2", "fp32", "by value, nothing outside", partial(by_value, engine, INSIDE), [inside, *value]),
        Case("GPT-2", "fp32", "by value, a third outside", partial(by_value, engine, OUTSIDE), [outside, *value]),
        Case("GPT-2", "fp32", "SGD(foreach)", partial(steps, engine, sgd), adaptive),
        Case("GPT-2", "fp32", "AdamW(fused)", partial(steps, engine, peers.fused_adamw), adaptive),
    ]


def against(name: str, peer: str, least: float | None = None) -> list[Row]:
    """The time of a peer over ours; the goal is for calls from idle."""
    return [Row(name, None, Goal(peer, least)), Row(queued(name), None, Goal(queued(peer)))]


def within(name: str, other: str, most: float | None = None) -> list[Row]:
    """Ours over another of ours, from idle and queued."""
    return [Row(one(name), Goal(one(other), most), None) for one in (str, queued)]


# -- Candidates


def limits(workload: Workload, copy: Timing) -> Timings:
    """How long the memory takes, at the speed at which it copies: a copy reads and writes each byte once."""
    once = workload.bytes / copied(workload)
    passes = {READ: 0.5, WRITE: 1.0, READ_WRITE: 1.5, READ_BOTH: 1.0, READ_BOTH_WRITE: 2.0}
    return {
        name: copy._replace(samples=[many * once * seconds for seconds in copy.samples])
        for name, many in passes.items()
    }


def published(case: Case, device: torch.device) -> Timings:
    """A time that others have published of this case, on the devices that it can be compared on."""
    alike = device.type == "cuda" and any(name in torch.cuda.get_device_name(device) for name in ("H100", "H200"))
    return {NEMO: Timing([NEMO_SECONDS], FEW, FEW)} if alike and case.workload == "1.54G" else {}


def queued(name: str) -> str:
    """What a candidate is called whose calls were queued behind other work."""
    return f"{name} (queued)"


def named(row: Row) -> set[str]:
    """The candidates of a row."""
    return {row.ours, *(goal.candidate for goal in (row.limit, row.peer) if goal is not None)}


def copied(workload: Workload) -> int:
    """The bytes of the buffer that is copied to find the speed of the memory for a workload."""
    return min(workload.bytes, COPIED)


def copy_of(workload: Workload) -> Callable[[], object]:
    """A copy of one buffer to another."""
    source, target = (
        torch.zeros(copied(workload), dtype=torch.uint8, device=workload.originals[0].device) for _ in range(2)
    )
    return partial(target.copy_, source)


def candidates(workload: Workload, clips: bool, calls: dict[str, Callable[[], object]]) -> list[Candidate]:
    """A copy and these calls, which find the first gradients each time if they change them."""
    before = workload.restore if clips else None
    return [Candidate(name, call, before) for name, call in ({COPY: copy_of(workload)} | calls).items()]


def clip(engine: str, rule: AnyRule, parameters: list[torch.nn.Parameter]) -> Callable[[], object]:
    """gradclip's explicit form."""
    return partial(Clipper(rule, engine=engine).clip_, parameters)


def settled(call: Callable[[], object], workload: Workload) -> Callable[[], object]:
    """A call of which the method has left its warm-up."""
    for _ in range(SETTLED):
        workload.restore()
        call()
    return call


def ours(engine: str) -> str:
    """What gradclip with this engine is called."""
    return f"gradclip, {engine}"


def whole(engines: list[str], limit: float, workload: Workload) -> list[Candidate]:
    """One norm over all tensors."""
    rule, parameters = gradclip.ClipGradByGlobalNorm(limit), workload.parameters
    calls = {ours(engine): clip(engine, rule, parameters) for engine in engines}
    calls |= {TORCH: peers.norm(parameters, limit), **peers.on_a_device(parameters, limit)}
    return candidates(workload, limit == ALWAYS, calls)


def by_rule(engine: str, limit: float, workload: Workload) -> list[Candidate]:
    """The global norm, and rules that decide otherwise on as many bytes; AGC reads the weights as well."""
    clips, parameters = limit == ALWAYS, workload.parameters
    weighted = holders(workload.gradients, LIGHT if clips else HEAVY)
    calls = {
        GLOBAL: clip(engine, gradclip.ClipGradByGlobalNorm(limit), parameters),
        EACH: clip(engine, gradclip.ClipGradByNorm(limit), parameters),
        AGC: clip(engine, gradclip.AGC(), weighted),
        ZCLIP: settled(clip(engine, gradclip.ZClip(max_norm=limit), parameters), workload),
    }
    return candidates(workload, clips, calls)


def by_value(engine: str, bound: float, workload: Workload) -> list[Candidate]:
    """Each element by itself; and the global norm, clipped where elements are."""
    clips, parameters = bound == OUTSIDE, workload.parameters
    calls = {
        ours(engine): clip(engine, gradclip.ClipGradByValue(bound), parameters),
        GLOBAL: clip(engine, gradclip.ClipGradByGlobalNorm(ALWAYS if clips else NEVER), parameters),
        FOREACH: peers.value(parameters, bound, foreach=True),
    }
    return candidates(workload, clips, calls)


def sgd(parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    """An optimizer of few operations; its rate is too small to move anything from sample to sample."""
    return torch.optim.SGD(parameters, lr=1e-12, foreach=True)


def with_rule(optimizer: torch.optim.Optimizer, rule: AnyRule, engine: Any) -> torch.optim.Optimizer:
    """An optimizer that clips in its step."""
    attach(optimizer, rule, engine=engine)
    return optimizer


def steps(
    engine: str, optimizer: Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer], workload: Workload
) -> list[Candidate]:
    """A step alone, behind PyTorch's clip, and with a rule attached, of optimizers of the same parameters."""
    alone = optimizer(workload.parameters)
    fixed = with_rule(optimizer(workload.parameters), gradclip.ClipGradByGlobalNorm(NEVER), engine)
    adaptive = with_rule(optimizer(workload.parameters), gradclip.ZClip(max_norm=NEVER), engine)
    calls: dict[str, Callable[[], object]] = {
        STEP: alone.step,
        TORCH_STEP: peers.norm_then_step(workload.parameters, NEVER, alone),
        FIXED_STEP: fixed.step,
        ADAPTIVE_STEP: settled(adaptive.step, workload),
    }
    return candidates(workload, False, calls)
