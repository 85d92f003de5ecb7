"""Whether the engines are right on a device: the laws of `gradclip.testing`, and what only a device can show.

The product of engine, law, rule and dtype is tried in an order drawn once, in four rounds of which each has every rule
under every law, so that what is not reached in time is a fair sample, and is counted.
"""

from __future__ import annotations

import gc
import importlib.util
import itertools
import math
import random
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.workloads import holders
from gradclip import ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue, Constant, Element, Global, Raise, Rule
from gradclip.clipper import Clipper as AnyClipper
from gradclip.engines import torch as torch_engine
from gradclip.engines.base import Engine
from gradclip.rules.rule import AnyRule, rules_in
from gradclip.testing import Bench, adversarial_gradients, laws, laws_of, ordinary_gradients, standard_rules
from gradclip.testing.bench import NORM_TOLERANCE, same_bits
from gradclip.testing.check import NORMS, SCOPES
from gradclip.torch import Clipper
from gradclip.torch.clipper import INTERPRETED, TRITON, triton_engine

DTYPES = ("float32", "bfloat16", "float16", "float64")
SIZES = {"float32": (1.0, 1e25, 1e-25), "float16": (1.0, 1e4, 1e-6), "float64": (1.0, 1e200, 1e-200)}
"""What normal numbers are multiplied by, so that squares leave the range of the dtype on both sides."""
SIZES["bfloat16"] = SIZES["float32"]
LONG, SHORT = 20_000_000, 70_001
"""Elements of the longest tensor whose norm is compared; one float32 number cannot add up so many squares to 1e-6."""
FAR = 2**31 + 70_001
"""Elements of a tensor whose last ones a number of 32 bits does not reach."""
ROOM = 6 * FAR
RUNS = 50
INTERPRETER_DENORMALS = ("denormals", "largest and smallest", "largest numbers")
"""Of bfloat16 Triton's interpreter (3.6) makes other numbers of them; compiled kernels do not."""
GRAPH, STREAM = "a CUDA graph gives the same numbers", "a side stream gives the same numbers"
BEYOND = "elements beyond 2^31 are read and written"


class Check(NamedTuple):
    """A thing to try: the kind that it is counted under, on what it is tried, and what raises if it does not hold."""

    what: str
    on: str
    call: Callable[[], object]


class Tried(NamedTuple):
    """What came of the checks of one kind on one engine; `left` were not reached in time."""

    engine: str
    what: str
    held: int
    failures: list[str]
    left: int


def engines_here(device: torch.device) -> dict[str, Engine]:
    """The engines for gradients on a device, by name, the one to be preferred first."""
    found: dict[str, Engine] = {torch_engine.DEVICE.name: torch_engine.DEVICE}
    kernels = triton_engine() if device.type == "cuda" or INTERPRETED else None
    return found if kernels is None else {TRITON: kernels, **found}


def try_all(engine: str, checks: Iterable[Check], end: float) -> list[Tried]:
    """Run checks until the clock says `end`; those that are not reached are counted."""
    held, left, failures = Counter[str](), Counter[str](), defaultdict[str, list[str]](list)
    wrong = what_a_wrong_engine_raises()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of calculating with infinities
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        for check in checks:
            if time.perf_counter() > end:
                left[check.what] += 1
                continue
            try:
                check.call()
            except wrong as error:
                failures[check.what].append(f"{check.on}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            else:
                held[check.what] += 1
    kinds = sorted({*held, *failures, *left})
    return [Tried(engine, what, held[what], failures[what], left[what]) for what in kinds]


def what_a_wrong_engine_raises() -> tuple[type[Exception], ...]:
    """A law says `AssertionError`; a kernel that is not compiled or ends badly raises one of the others."""
    found: tuple[type[Exception], ...] = (AssertionError, ArithmeticError, RuntimeError, ValueError, TypeError)
    if importlib.util.find_spec("triton") is not None:
        from triton.errors import TritonError

        found += (TritonError,)
    return found


def checks_of(name: str, engine: Engine, device: torch.device, quick: bool) -> Iterator[Check]:
    """All checks of an engine; in a trial run one of each kind."""
    bench = bench_of(engine, device)
    every = itertools.chain(
        truth_checks(bench, SHORT if quick or device.type == "cpu" else LONG),
        repeat_checks(bench, 2_001 if quick else 1_000_001),
        device_checks(name, device) if device.type == "cuda" else (),
        read_checks(bench) if device.type == "cuda" else (),
        law_checks(bench, left_out=INTERPRETER_DENORMALS if name == TRITON and INTERPRETED else ()),
    )
    if not quick:
        yield from every
        return
    seen = set[str]()
    for check in every:
        if check.what not in seen:
            seen.add(check.what)
            yield check


def skipped(device: torch.device) -> dict[str, str]:
    """The kinds of checks that are not tried on a device, and why."""
    if device.type != "cuda":
        return dict.fromkeys((GRAPH, STREAM, BEYOND, words(laws.no_number_is_read_on_the_host)), "needs a CUDA device")
    return {} if has_room(device) else {BEYOND: f"needs {ROOM / 1e9:.0f} GB of free memory"}


def has_room(device: torch.device) -> bool:
    """Whether there is memory for a tensor of `FAR` elements, and for what else is made of it."""
    return free_bytes(device) > ROOM


def free_bytes(device: torch.device) -> float:
    """The memory that tensors on a device may take."""
    if device.type != "cuda":
        return math.inf
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.mem_get_info(device)[0]


def bench_of(engine: Engine, device: torch.device) -> Bench:
    """The bench of an engine with tensors on a device."""

    def make(values: np.ndarray, dtype: str) -> torch.Tensor:
        tensor = torch.tensor(values, dtype=getattr(torch, dtype))
        pinned = device.type == "cuda" and tensor.numel() > 0  # so that the copy does not wait
        return (tensor.pin_memory() if pinned else tensor).to(device, non_blocking=pinned)

    def read(tensor: torch.Tensor) -> np.ndarray:
        wide = torch.complex128 if tensor.is_complex() else torch.float64
        return tensor.detach().cpu().to(wide, copy=True).numpy()

    return Bench(engine, make, read, unread=unread)


@contextmanager
def unread() -> Iterator[None]:
    """A context in which an operation of PyTorch that waits for a CUDA device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


# -- The laws


def law_checks(bench: Bench, left_out: tuple[str, ...] = ()) -> Iterator[Check]:
    """Each rule under each of its laws and on each list of adversarial gradients; then each norm, in each dtype.

    From round to round dtypes take turns. `left_out` are lists of gradients that are not for bfloat16.
    """
    ordinary, adversarial = ordinary_gradients(), {dtype: adversarial_gradients(dtype) for dtype in DTYPES}
    for name in left_out:
        del adversarial["bfloat16"][name]
    benches = [replace(bench, dtype=dtype) for dtype in DTYPES]
    for turn in range(len(DTYPES)):
        found = []
        for place, rule in enumerate(standard_rules()):
            for number, law in enumerate(laws_of(rule)):
                typed = benches[(place + number + turn) % len(DTYPES)]
                found.append(Check(words(law), f"{rule!r}, {typed.dtype}", partial(law, typed, rule, ordinary)))
            for number, name in enumerate(adversarial["float32"]):
                typed = benches[(place + number + turn) % len(DTYPES)]
                if name in adversarial[typed.dtype]:
                    agrees = partial(laws.it_agrees_with_the_reference, typed, rule, adversarial[typed.dtype][name])
                    found.append(Check(f"adversarial: {name}", f"{rule!r}, {typed.dtype}", agrees))
        found += measure_checks(benches[turn], [ordinary, *adversarial[DTYPES[turn]].values()])
        random.Random(turn).shuffle(found)
        yield from found


def measure_checks(bench: Bench, lists: list[list[np.ndarray]]) -> Iterator[Check]:
    """What an engine measures, and the ways of its own to write."""
    for norm in NORMS:
        whole = partial(laws.parts_combine_to_the_whole, bench, Rule(norm=norm), lists[0])
        yield Check(words(laws.parts_combine_to_the_whole), f"{norm}, {bench.dtype}", whole)
        for scope, arrays in itertools.product((*SCOPES, Element()), lists):
            right = partial(laws.every_norm_is_right, bench, Rule(scope, norm), arrays)
            yield Check(f"every norm is right: {norm}", f"{scope}, {bench.dtype}", right)
    if bench.engine.clamps:
        for arrays in lists:
            fused = partial(laws.a_fused_path_equals_the_plain_one, bench, ClipGradByValue(0.5), arrays)
            yield Check(words(laws.a_fused_path_equals_the_plain_one), bench.dtype, fused)


def read_checks(bench: Bench) -> Iterator[Check]:
    """Rules that do not raise clip without waiting for the device, once their clipper has clipped such gradients."""
    law: laws.Law = laws.no_number_is_read_on_the_host
    for rule in standard_rules():
        if not any(isinstance(one.response, Raise) for one in rules_in(rule)):
            yield Check(words(law), repr(rule), partial(law, bench, AnyClipper(rule), ordinary_gradients()))


def words(law: laws.Law) -> str:
    """The name of a law, as a sentence."""
    return law.__name__.replace("_", " ")


# -- Beside the laws


def truth_checks(bench: Bench, longest: int) -> Iterator[Check]:
    """Long tensors, one of which begins at an odd place, with elements of every size."""
    for dtype in DTYPES:
        for size in SIZES[dtype]:
            length = longest if size == 1.0 else min(longest, 1_000_001)
            right = partial(norm_is_the_truth, replace(bench, dtype=dtype), size, length)
            yield Check(f"the norm is that of float64, of elements of {size:g}", dtype, right)


def norm_is_the_truth(bench: Bench, size: float, length: int) -> None:
    """The norm against that of the same numbers in float64 on the host, in units of the largest."""
    random_numbers = np.random.default_rng(length)
    tensors = bench.tensors([size * random_numbers.standard_normal(shape) for shape in ((length,), (64, 33), (1001,))])
    outcome = bench.clip_tensors(Rule(threshold=Constant(None)), [*tensors[:2], tensors[2][1:]])
    assert outcome.result is not None
    numbers = np.concatenate([values.reshape(-1) for values in outcome.before])
    peak = np.abs(numbers).max()
    truth = float(peak * np.linalg.norm(numbers / peak))
    off = abs(outcome.result.norm_before / truth - 1)
    assert off <= NORM_TOLERANCE, f"the norm is {outcome.result.norm_before!r} instead of {truth!r}, {off:.1e} off"
    assert outcome.wrote == [False] * 3, "measuring wrote"


def repeat_checks(bench: Bench, longest: int) -> Iterator[Check]:
    """Norms over all scopes and a clamp, over and over again."""
    rules = [ClipGradByGlobalNorm(1.0), *(Rule(scope) for scope in SCOPES if scope != Global()), ClipGradByValue(0.5)]
    for rule, dtype in itertools.product(rules, ("float32", "bfloat16")):
        again = partial(bits_stay, replace(bench, dtype=dtype), rule, longest)
        yield Check(f"the same bits in {RUNS} runs", f"{rule!r}, {dtype}", again)


def bits_stay(bench: Bench, rule: AnyRule, longest: int) -> None:
    """The same gradients, clipped by the same clipper, have the same norm and the same bits each time."""
    random_numbers, clipper = np.random.default_rng(0), AnyClipper(rule)
    arrays = [random_numbers.standard_normal(shape) for shape in ((longest,), (200, 70), (5,))]
    first = bench.clip(clipper, arrays)
    assert first.result is not None
    for run in range(1, RUNS):
        other = bench.clip(clipper, arrays)
        assert other.result is not None
        assert other.result.norm_before == first.result.norm_before, f"run {run} has another norm"
        assert all(map(same_bits, other.after, first.after)), f"run {run} has other gradients"


def device_checks(engine: str, device: torch.device) -> Iterator[Check]:
    """What a CUDA device alone can show, by the door that users take."""
    for rule in (ClipGradByGlobalNorm(1.0), ClipGradByNorm(1.0), ClipGradByValue(0.5)):
        graph = partial(replays_are_clips, engine, rule, device)
        yield Check(GRAPH, repr(rule), graph)
        stream = partial(a_side_stream_is_in_order, engine, rule, device)
        yield Check(STREAM, repr(rule), stream)
    if has_room(device):
        yield Check(BEYOND, "bfloat16", partial(far_elements, engine, device))


STEPS = (1e-6, 3.0, 1e-4, 1.0)
"""By what gradients are multiplied from step to step: below the limit and above it by turns."""


def replays_are_clips(engine: str, rule: AnyRule, device: torch.device) -> None:
    """A clip that was captured once does to other gradients at the same addresses what a clip does."""
    gradients = drawn(device, 0.0)
    parameters, clipper = holders(gradients), Clipper(rule, engine=engine)
    with torch.cuda.stream(side_stream()):  # PyTorch asks for a side stream to warm up on
        for _ in range(3):
            clipper.clip_(parameters)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        clipper.clip_(parameters)
    for step in STEPS:
        torch._foreach_copy_(gradients, drawn(device, step))
        graph.replay()
        require_clipped(gradients, engine, rule, drawn(device, step))


def a_side_stream_is_in_order(engine: str, rule: AnyRule, device: torch.device) -> None:
    """A clip on a stream that has other work to do first comes after that work, and no other stream sees it."""
    gradients = drawn(device, 0.0)
    parameters, clipper = holders(gradients), Clipper(rule, engine=engine)
    clipper.clip_(parameters)
    for step in STEPS:
        given = drawn(device, step)
        stream = side_stream()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(10_000_000)  # some milliseconds
            torch._foreach_copy_(gradients, given)
            clipper.clip_(parameters)
        torch.cuda.current_stream().wait_stream(stream)
        require_clipped(gradients, engine, rule, given)


def side_stream() -> torch.cuda.Stream:
    """A new stream, which goes on from here."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    return stream


def drawn(device: torch.device, size: float) -> list[torch.Tensor]:
    """Gradients of this size, the same ones each time."""
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((300_001,), (64, 33), (5,))
    return [size * torch.randn(shape, generator=generator, device=device) for shape in shapes]


def require_clipped(found: list[torch.Tensor], engine: str, rule: AnyRule, given: list[torch.Tensor]) -> None:
    """What was found is what a clipper makes of what was given."""
    expected = [tensor.clone() for tensor in given]
    Clipper(rule, engine=engine).clip_(holders(expected))
    for place, (one, other) in enumerate(zip(found, expected, strict=True)):
        apart = (one - other).abs().max().item()
        assert torch.equal(one, other), f"tensor {place} is up to {apart:g} off what a plain clip makes of it"


def far_elements(engine: str, device: torch.device) -> None:
    """3 at the beginning and 4 at the end of zeros have a norm of 5, and are halved where the limit is half of it."""
    parameter = torch.nn.Parameter(torch.zeros(1, dtype=torch.bfloat16, device=device).expand(FAR))
    parameter.grad = gradient = torch.zeros(FAR, dtype=torch.bfloat16, device=device)
    gradient[0], gradient[-1] = 3.0, 4.0
    result = Clipper(ClipGradByGlobalNorm(2.5), engine=engine).clip_([parameter])
    assert abs(result.norm_before / 5.0 - 1) <= NORM_TOLERANCE, f"the norm is {result.norm_before!r} instead of 5"
    ends = torch.stack([gradient[0], gradient[-1]]).tolist()
    assert ends == [1.5, 2.0], f"the ends are {ends} instead of halves of 3 and 4"
