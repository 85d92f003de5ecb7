"""The checks and the benchmark for a GPU, run in Triton's interpreter; what they time there means nothing."""

from __future__ import annotations

import json
import math
import time
from contextlib import contextmanager, nullcontext

import pytest
import torch

from benches import INTERPRETED
from benchmarks import device, device_cases, device_checks, peers, sampling
from gradclip import ClipGradByGlobalNorm
from gradclip.testing import adversarial_gradients, laws_of, standard_rules
from gradclip.testing.check import NORMS
from gradclip.torch import Clipper

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="kernels run in Python in an environment of their own")

if INTERPRETED:
    from gradclip.engines import triton, triton_table

TRIAL = ["--device", "cpu", "--quick"]
ENGINES = ["triton", "torch"]
CPU = torch.device("cpu")


def kinds(engine: str) -> set[str]:
    """All that is tried on an engine without CUDA."""
    found = {device_checks.words(law) for rule in standard_rules() for law in laws_of(rule)}
    found |= {f"adversarial: {name}" for name in adversarial_gradients("float32")}
    found |= {f"every norm is right: {norm}" for norm in NORMS}
    found |= {"parts combine to the whole", f"the same bits in {device_checks.RUNS} runs"}
    sizes = {size for each in device_checks.SIZES.values() for size in each}
    found |= {f"the norm is that of float64, of elements of {size:g}" for size in sizes}
    return found | ({"a fused path equals the plain one"} if engine == "triton" else set())


def test_a_trial_run_tries_every_check_and_times_every_case(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(device_cases, "SETTLED", 2)  # a warm-up of 30 steps takes the interpreter seconds
    assert device.main([*TRIAL, "--out", str(tmp_path)]) == 0
    printed, page = capsys.readouterr().out, (tmp_path / "gpu.md").read_text()
    data = json.loads((tmp_path / "gpu.json").read_text())
    assert device.TRIAL in printed
    assert device.TRIAL in page
    assert data["trial"]
    everything_was_checked(data)
    everything_was_timed(data)
    assert [(one["tensors"], one["rule"]) for one in data["host"]] == [
        (tensors, rule) for tensors in device.HOST_TENSORS for rule in device.HOST_RULES
    ]
    assert all(one["by_hand"] > 0 and one["torch"] > 0 and 1 <= one["launches"] <= 3 for one in data["host"])
    for title in ("Checks", "Ratios and goals", "Times", "Time of the host", "Left out"):
        assert f"## {title}\n" in page


def everything_was_checked(data) -> None:
    """One check of each kind, and those that need CUDA are named."""
    for engine in ENGINES:
        tried = [one for one in data["checks"] if one["engine"] == engine]
        assert {one["what"] for one in tried} == kinds(engine)
        assert all((one["held"], one["failures"], one["left"]) == (1, [], 0) for one in tried)
    for what in (device_checks.GRAPH, device_checks.STREAM, device_checks.BEYOND, "no number is read on the host"):
        assert f"{what}: needs a CUDA device" in data["left_out"]


def everything_was_timed(data) -> None:
    """Each case from idle and queued, and each row whose candidates are there."""
    absent = {peers.MEGATRON, peers.APEX, device_cases.NEMO}
    absent |= {device_cases.queued(name) for name in absent}
    for case in device_cases.cases(ENGINES):
        timings = data["seconds"][case.name]
        assert all(timing["samples"] and timing["median"] > 0 for timing in timings.values())
        rows = [row for row in case.rows if not device_cases.named(row) & absent]
        assert len([row for row in data["rows"] if row["case"] == case.name]) == len(rows) > 0
        for row in rows:
            assert device_cases.named(row) <= timings.keys(), case.name
    ratios = [row["over_limit"] or row["peer_over_ours"] for row in data["rows"]]
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios)


PLANTS = {
    "squares that overflow are kept": lambda patch: patch.setitem(
        triton.RANGES, (triton.tl.float32, 2.0), (0.0, math.inf)
    ),
    "of long tensors the last chunk is left out": lambda patch: patch.setattr(
        triton_table, "chunks_of", without_the_last(triton_table.chunks_of)
    ),
}


def without_the_last(chunks_of):
    def planted(*given):
        chunks, rows = chunks_of(*given)
        return (chunks[:-1] if len(chunks) > 1 else chunks), rows

    return planted


@pytest.mark.parametrize("bug", PLANTS)
def test_a_planted_bug_is_reported_and_the_exit_status_is_1(bug, monkeypatch, capsys):
    PLANTS[bug](monkeypatch)
    assert device.main([*TRIAL, "--only", "check, triton: the norm is that of float64"]) == 1
    failed = capsys.readouterr().out.partition("\nFailed\n")[2]
    assert "AssertionError: the norm is" in failed


def test_checks_that_are_not_reached_in_time_are_counted():
    checks = [device_checks.Check("a law", "", lambda: None)] * 3
    assert device_checks.try_all("torch", checks, 0.0) == [device_checks.Tried("torch", "a law", 0, [], 3)]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "there is no CUDA device"),
        (["--device", "cpu"], "add --quick"),
        ([*TRIAL, "--only", "no such thing"], "nothing was asked for"),
    ],
)
def test_what_cannot_be_done_is_refused(arguments, words, capsys):
    with pytest.raises(SystemExit):
        device.main(arguments)
    assert words in capsys.readouterr().err


class AtOnce:
    """Stands for streams, events and graphs of CUDA: what they are given is done at once."""

    def __init__(self, **options):
        self.seconds, self.clips = 0.0, []

    def wait_stream(self, other):
        """Nothing is running."""

    def record(self):
        self.seconds = time.perf_counter()

    def synchronize(self):
        """Nothing is running."""

    def elapsed_time(self, other):
        return 1e3 * (other.seconds - self.seconds)

    def replay(self):
        for clipper, parameters in self.clips:
            clipper.clip_(parameters)


@contextmanager
def captured(graph):
    """A graph that replays the clips that are made in here."""
    clip_ = Clipper.clip_

    def noted(clipper, parameters):
        graph.clips.append((clipper, parameters))
        return clip_(clipper, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Clipper, "clip_", noted)
        yield


@pytest.fixture
def stand_ins(monkeypatch):
    """The names of CUDA that checks and the clock use, on the CPU."""
    names = {
        "Stream": AtOnce,
        "Event": AtOnce,
        "CUDAGraph": AtOnce,
        "current_stream": AtOnce,
        "graph": captured,
        "stream": lambda stream: nullcontext(),
        "synchronize": lambda: None,
        "mem_get_info": lambda device: (1 << 40, 1 << 40),
        "get_device_properties": lambda device: type("Properties", (), {"L2_cache_size": 1 << 16}),
        "set_sync_debug_mode": lambda mode: None,
    }
    for name, value in names.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(device_checks, "FAR", device_checks.SHORT)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_cuda_alone_has_is_tried(engine, stand_ins, monkeypatch):
    """That these hold says nothing of CUDA; that they fail where nothing is clipped says that they look."""
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: None)
    checks = list(device_checks.device_checks(engine, CPU))
    assert {check.what for check in checks} == {device_checks.GRAPH, device_checks.STREAM, device_checks.BEYOND}
    chosen = [*checks[:2], checks[-1]]
    assert [one.held for one in device_checks.try_all(engine, chosen, math.inf)] == [1, 1, 1]
    monkeypatch.setattr(AtOnce, "replay", lambda graph: None)
    with pytest.raises(AssertionError, match="tensor 0 is up to"):
        device_checks.replays_are_clips(engine, ClipGradByGlobalNorm(1.0), CPU)
    bench = device_checks.bench_of(device_checks.engines_here(CPU)[engine], CPU)
    next(device_checks.read_checks(bench)).call()


def test_a_queued_call_begins_when_the_host_has_said_everything(stand_ins, monkeypatch):
    """The device is kept busy for longer than the host took for the call before, here for 20 ms."""
    slept = []
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    clock = sampling.CudaClock(CPU)
    one = sampling.Candidate("a call", lambda: time.sleep(0.02))
    assert clock.from_idle(one)[0] >= 0.02
    assert not slept
    assert clock.queued(one)[0] >= 0.02
    assert slept[0] >= 0.02 * sampling.CLOCK_RATE
