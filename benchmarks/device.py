"""`python -m benchmarks.device`: is gradclip right on the GPU of this machine, and how fast is it there?

Checks first (`device_checks`), then times: candidates take turns, in one process, and each is timed twice. *From idle*
the device has nothing to do when a call begins, so the host's time counts where the device would be done sooner: what a
caller waits for. *Queued* the device is kept busy until the host has said everything: what the call costs the device.
Ratios to the speed of the memory are of queued calls, ratios to other clips of calls from idle; both are shown. Last,
the host's time alone, of calls whose kernels are not launched; `--host` measures that on a machine without a GPU, too.

Without a GPU, `TRITON_INTERPRET=1 python -m benchmarks.device --device cpu --quick` runs everything but what CUDA alone
has; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch

import gradclip
from benchmarks import device_checks, peers
from benchmarks.device_cases import (
    AGC,
    CLIPPED,
    COPIED,
    COPY,
    EACH,
    GLOBAL,
    NEMO,
    NOTHING,
    ZCLIP,
    cases,
    clip,
    limits,
    named,
    ours,
    published,
    queued,
    sgd,
    with_rule,
)
from benchmarks.device_checks import Tried, engines_here, free_bytes
from benchmarks.goals import Case, Found, as_data, run
from benchmarks.machine import with_device
from benchmarks.names import READ, READ_WRITE, STEP, TORCH
from benchmarks.sampling import Candidate, Clock, CudaClock, HostClock, Plan, Timings, Unwatched, sample, take_turns
from benchmarks.tables import RATIO_HEAD, TIME_HEAD, Table, goal_line, markdown, show, time_line
from benchmarks.workloads import DTYPES, NEVER, SHAPES, Workload, make, with_gradients
from gradclip.rules.rule import AnyRule
from gradclip.torch.clipper import TRITON

CHECK_SECONDS, SPEED_SECONDS = 230.0, 150.0
HOST_TIME = "host time"
TRIAL = "A trial run with small gradients: the figures mean nothing."


def main(arguments: list[str] | None = None) -> int:
    """Check, measure, print and save what was asked for; 1 if a check failed."""
    parser = _parser()
    options = parser.parse_args(arguments)
    device = torch.device("cpu" if options.host and not torch.cuda.is_available() else options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device: TRITON_INTERPRET=1 python -m benchmarks.device --device cpu --quick")
    if device.type == "cpu" and not (options.quick or options.host):
        parser.error("on the CPU kernels run in Python, for a trial alone: add --quick, or --host")
    if device.index is not None:
        torch.cuda.set_device(device)
    about = with_device(device)
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    if options.quick:
        print(TRIAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of what Triton's interpreter calculates
        results = measure(device, HOST_TIME if options.host else options.only, options.quick)
    if results.empty:
        parser.error("nothing was asked for that can be done here: " + "; ".join(results.left_out))
    show(tables(results._replace(checks=[])))
    for path in save(results, about, options.out, options.quick) if options.out else []:
        print(f"wrote {path}")
    return int(any(one.failures for one in results.checks))


class Results(NamedTuple):
    """All that a run found; `left_out` says what was not tried, and why."""

    checks: list[Tried]
    cases: list[Found]
    host: list[HostTime]
    left_out: list[str]

    @property
    def empty(self) -> bool:
        return not (self.checks or self.cases or self.host)


def measure(device: torch.device, only: str, quick: bool) -> Results:
    """Everything that has `only` in its name."""
    engines, left_out = list(engines_here(device)), []
    if TRITON not in engines:
        left_out.append('the engine "triton": it needs the package triton, and a CUDA device or TRITON_INTERPRET=1')
    checks = check(device, only, quick)
    if checks:
        show(tables(Results(checks, [], [], [])))  # before anything can go wrong with the rest
        left_out += [f"{what}: {why}" for what, why in device_checks.skipped(device).items()]
    chosen = [case for case in cases(engines) if only.lower() in case.name.lower()]
    fitting = [case for case in chosen if quick or needs(case) <= free_bytes(device)]
    left_out += [f"{case.name}: needs {needs(case) / 1e9:.0f} GB of memory" for case in chosen if case not in fitting]
    found = list(speed(fitting, device, quick))
    hosts = host_times(device, quick) if only.lower() in HOST_TIME and TRITON in engines else []
    return Results(checks, found, hosts, left_out)


def check(device: torch.device, only: str, quick: bool) -> list[Tried]:
    """What came of the checks; the engines share the time, and what one leaves goes to the next."""
    found, engines = [], list(engines_here(device).items())
    end = time.perf_counter() + CHECK_SECONDS
    for place, (name, engine) in enumerate(reversed(engines)):  # the one that compiles comes last
        every = device_checks.checks_of(name, engine, device, quick)
        chosen = [one for one in every if only.lower() in f"check, {name}: {one.what}".lower()]
        if chosen:
            print(f"checking {name}: {len(chosen)} checks", file=sys.stderr)
        share = (end - time.perf_counter()) / (len(engines) - place)
        found += device_checks.try_all(name, chosen, math.inf if quick else time.perf_counter() + share)
    return found


# -- Speed


def needs(case: Case) -> int:
    """The bytes of gradients, their first values, parameters and weights, of float32 numbers drawn, and of a copy."""
    elements = sum(math.prod(shape) for shape in SHAPES[case.workload]())
    return elements * (4 * DTYPES[case.dtype].itemsize + 4) + 2 * COPIED


def speed(chosen: list[Case], device: torch.device, quick: bool) -> Iterator[Found]:
    """The timings of cases, each with the rows of which all candidates are there."""
    clock: Clock = CudaClock(device) if device.type == "cuda" else HostClock()
    plan = Plan(Unwatched(), enough=1, least=1) if quick else Plan(Unwatched())

    def workload_of(name: str, dtype: str) -> Workload:
        free_bytes(device)  # what the workload before has left is given back
        cut, most = (1 << 20, 3) if quick else (1, None)
        return make(name, DTYPES[dtype], cut, most, device)

    def timings(case: Case, workload: Workload, share: float) -> Timings:
        candidates = case.candidates(workload)
        idle = take_turns(candidates, clock.from_idle, plan, share / 2)
        behind = take_turns(candidates, clock.queued, plan, share / 2)
        found = idle | {queued(name): timing for name, timing in behind.items()}
        wanted = set[str]().union(*map(named, case.rows))
        more = limits(workload, found[queued(COPY)]) | published(case, device)
        return found | {name: timing for name, timing in more.items() if name in wanted}

    for found in run(chosen, workload_of, timings, 0.0 if quick else SPEED_SECONDS):
        rows = [row for row in found.case.rows if named(row) <= found.timings.keys()]
        for row in rows:
            print("  ", ", ".join(filter(None, goal_line(found, row)[1:])), file=sys.stderr)
        yield found._replace(case=found.case._replace(rows=rows))


# -- The host's time


class HostTime(NamedTuple):
    """Median seconds of the host for one rule on so many tensors, beside those that PyTorch needs on the CPU."""

    tensors: int
    rule: str
    by_hand: float
    attached: float
    launches: int
    torch: float


HOST_RULES: dict[str, AnyRule] = {
    GLOBAL: gradclip.ClipGradByGlobalNorm(1.0),
    EACH: gradclip.ClipGradByNorm(1.0),
    AGC: gradclip.AGC(),
    ZCLIP: gradclip.ZClip(),
}
HOST_TENSORS = (148, 2000)


def host_times(device: torch.device, quick: bool) -> list[HostTime]:
    """The host's time by hand and attached, of which the step alone is taken off, with launches that are counted."""
    plan = Plan(Unwatched(), enough=1, least=1) if quick else Plan(Unwatched(), enough=100)
    return [one for tensors in HOST_TENSORS for one in host_times_of(tensors, device, plan)]


def host_times_of(tensors: int, device: torch.device, plan: Plan) -> Iterator[HostTime]:
    """Those of so many tensors of 4 x 4, from the same rounds."""
    print(f"measuring host time, {tensors} tensors", file=sys.stderr)
    parameters = with_gradients("", [(4, 4)] * tensors, device=device).parameters
    plain = with_gradients("", [(4, 4)] * tensors).parameters
    calls: dict[str, Callable[[], object]] = {TORCH: peers.norm(plain, NEVER), STEP: sgd(parameters).step}
    for name, rule in HOST_RULES.items():
        calls |= {name: clip(TRITON, rule, parameters), attached(name): with_rule(sgd(parameters), rule, TRITON).step}
    ready = torch.cuda.synchronize if device.type == "cuda" else None
    with unlaunched() as launched:
        counts = {}
        for name in HOST_RULES:
            calls[name]()
            launched.clear()
            calls[name]()
            counts[name] = len(launched)
        every = [Candidate(name, call, before=ready) for name, call in calls.items()]
        timings = take_turns(every, lambda one: sample(one, Unwatched()), plan, 10.0)
    for name in HOST_RULES:
        extra = timings[attached(name)].median - timings[STEP].median
        yield HostTime(tensors, name, timings[name].median, extra, counts[name], timings[TORCH].median)


def attached(name: str) -> str:
    """What a rule in the step of an optimizer is called."""
    return f"{name}, attached"


@contextmanager
def unlaunched() -> Iterator[list[object]]:
    """Kernels are put on a list instead of launched."""
    from gradclip.engines import triton

    launched: list[object] = []
    with mock.patch.object(triton, "launch", lambda kernel, *given, **options: launched.append(kernel)):
        yield launched


# -- What is printed and saved

SAMPLES = (
    "Milliseconds between two events of the device, medians; the limits are worked out from the queued copy. From idle "
    "the host's time counts, of queued calls that of the device alone. ~ marks medians of few samples."
)
RATIOS = (
    "The time of gradclip over a limit of the memory, or over that of another call of gradclip, and the time of a peer "
    "over that of gradclip, with the goals. A copy both reads and writes, so a mere read may be faster than its limit."
)
CHECKS = "How many held, how many failed, and how many were not reached in time."
HOST = (
    "Microseconds of the host with launches left out, which are counted; attached is what the rule adds to the step of "
    "SGD. PyTorch's are those of clip_grad_norm_ on as many tensors of the CPU, as a yardstick of the machine."
)
SHOWN = 3
"""Failures of a kind that are printed; all of them are saved."""


def tables(results: Results) -> list[Table]:
    """All tables of a run; those without a line are left out."""
    tried = [[one.engine, one.what, str(one.held), str(len(one.failures)), str(one.left)] for one in results.checks]
    failed = [[one.engine, one.what, failure] for one in results.checks for failure in one.failures[:SHOWN]]
    ratios = [goal_line(found, row) for found in results.cases for row in found.case.rows]
    times = [time_line(found, name) for found in results.cases for name in found.timings]
    every = [
        Table("Checks", CHECKS, ["engine", "what", "held", "failed", "not reached"], tried),
        Table("Failed", f"The first {SHOWN} of each kind.", ["engine", "what", "on what, and what was found"], failed),
        Table("Ratios and goals", RATIOS, RATIO_HEAD, ratios),
        Table("Times", SAMPLES, TIME_HEAD, times),
        Table("Time of the host", HOST, HOST_HEAD, [host_line(one) for one in results.host]),
        Table("Left out", "What was not tried here.", ["what, and why"], [[one] for one in results.left_out]),
    ]
    return [table for table in every if table.lines]


HOST_HEAD = ["tensors", "rule", "by hand", "attached", "launches", "PyTorch", "PyTorch over by hand"]


def host_line(one: HostTime) -> list[str]:
    """A line below `HOST_HEAD`."""
    seconds = [f"{1e6 * number:.1f}" for number in (one.by_hand, one.attached, one.torch)]
    ratio = f"{one.torch / one.by_hand:.2f}"
    return [str(one.tensors), one.rule, *seconds[:2], str(one.launches), seconds[2], ratio]


def save(results: Results, about: dict[str, str], folder: Path, quick: bool) -> list[Path]:
    """Write gpu.md, gpu.json and, where matplotlib is installed and speed was measured, gpu.png."""
    folder.mkdir(parents=True, exist_ok=True)
    page, data, picture = folder / "gpu.md", folder / "gpu.json", folder / "gpu.png"
    drawn = [found for found in results.cases if found.case.title in (NOTHING, CLIPPED)]
    draws = bool(drawn) and importlib.util.find_spec("matplotlib") is not None
    page.write_text("\n".join(page_of(results, about, quick, draws)) + "\n", encoding="utf-8")
    data.write_text(json.dumps(as_json(results, about, quick), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    if not draws:
        print("no picture: it needs matplotlib, and cases of clipping by global norm", file=sys.stderr)
        return [page, data]
    draw(drawn, picture)
    return [page, data, picture]


def page_of(results: Results, about: dict[str, str], quick: bool, draws: bool) -> list[str]:
    """The lines of the page."""
    lines = [
        "# Clipping on a GPU: checks and speed",
        "",
        "Made by `python -m benchmarks.device --out docs/benchmarks`.",
        "",
    ]
    if quick:
        lines += [f"**{TRIAL}**", ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "![Time of each clip over the limit of the memory](gpu.png)"] if draws else []
    return [*lines, *(line for table in tables(results) for line in markdown(table))]


def as_json(results: Results, about: dict[str, str], quick: bool) -> dict[str, Any]:
    """Everything that was found, with every sample."""
    return {
        "version": 1,
        "trial": quick,
        "about": about,
        "left_out": results.left_out,
        "checks": [one._asdict() for one in results.checks],
        **as_data(results.cases),
        "host": [one._asdict() for one in results.host],
    }


STYLES = {
    ours(TRITON): ("#1b7837", "o"),
    ours("torch"): ("#7fbf7b", "^"),
    TORCH: ("#b2182b", "s"),
    peers.MEGATRON: ("#2166ac", "D"),
    peers.APEX: ("#67a9cf", "v"),
    NEMO: ("#762a83", "*"),
}


def draw(cases: list[Found], path: Path) -> None:
    """Each candidate over the limit of each case: a marker from idle, and a line to where the device alone would be."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 1.6 + 0.4 * len(cases)), layout="constrained")
    axes = figure.subplots()
    for name, (color, marker) in STYLES.items():
        here = [height for height, found in enumerate(cases) if name in found.timings]
        spans = [over_limit(cases[height], name) for height in here]
        for height, span in zip(here, spans, strict=True):
            axes.plot(span, [height] * 2, color=color)
        if here:
            axes.plot([idle for _, idle in spans], here, marker, color=color, label=name)
    axes.axvline(1.0, color="#4d4d4d", linestyle="--", label="limit of the memory, from a copy")
    axes.set(xscale="log", yticks=range(len(cases)), yticklabels=[found.case.name for found in cases])
    axes.set(xlabel="time over the limit: a marker from idle, its line to the time of the device alone")
    axes.invert_yaxis()
    axes.legend(frameon=False, fontsize="small")
    figure.savefig(path, dpi=120)


def over_limit(found: Found, name: str) -> tuple[float, float]:
    """The median of a candidate queued and from idle, over the limit of its case."""
    limit = found.timings[READ if found.case.title == NOTHING else READ_WRITE].median
    idle = found.timings[name]
    return found.timings.get(queued(name), idle).median / limit, idle.median / limit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.device", description=__doc__)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="save gpu.md, gpu.json and gpu.png there")
    parser.add_argument("--quick", action="store_true", help="a trial run: small gradients, one sample, a check a kind")
    parser.add_argument("--only", metavar="TEXT", default="", help="what has TEXT in its name; also: check, host time")
    parser.add_argument("--device", default="cuda", metavar="NAME", help="cuda, cuda:1 or cpu (default: cuda)")
    parser.add_argument("--host", action="store_true", help="the host's time alone; without a GPU: --device cpu")
    return parser


if __name__ == "__main__":
    sys.exit(main())
