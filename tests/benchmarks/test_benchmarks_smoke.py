"""The benchmark runs, and its arithmetic is right; what it finds on this machine is not tested."""

from __future__ import annotations

import json
import math
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from benchmarks.__main__ import main
from benchmarks.cases import CASES, adaptive_cases
from benchmarks.goals import Case, Found, Goal, Row, as_data, verdict
from benchmarks.output import fill
from benchmarks.report import Results
from benchmarks.sampling import Timing

import gradclip
from benchmarks import (
    adaptive,
    device,
    device_cases,
    growth,
    limits,
    names,
    overview,
    peers,
    regression,
    workloads,
)
from gradclip.torch import Clipper


def found(seconds: dict[str, float], rows: list[Row]) -> Found:
    timings = {name: Timing([value], 9, 9) for name, value in seconds.items()}
    return Found(Case("", "", "", lambda workload: [], rows), 8, timings)


@pytest.mark.parametrize(
    ("name", "tensors", "elements"),
    [
        ("GPT-2", 148, 124_439_808),
        ("ResNet-50", 161, 25_557_032),
        ("2000 x 16", 2000, 32_000),
        ("4 x 4096²", 4, 1 << 26),
        ("1B", 146, 1_235_814_400),
        ("2000 x 4096", 2000, 8_192_000),
        ("1.54G", 1, 1_539_999_744),
    ],
)
def test_workloads_have_the_shapes_of_the_models(name: str, tensors: int, elements: int) -> None:
    shapes = list(workloads.SHAPES[name]())
    assert (len(shapes), sum(math.prod(shape) for shape in shapes)) == (tensors, elements)


def test_restore_undoes_a_clip() -> None:
    workload = workloads.make("1 x 16")
    torch.nn.utils.clip_grad_norm_(workload.parameters, 0.1)
    assert not torch.equal(workload.gradients[0], workload.originals[0])
    workload.restore()
    assert torch.equal(workload.gradients[0], workload.originals[0])


def test_the_limit_reads_every_word_and_leaves_it() -> None:
    tensors = [torch.arange(n, dtype=torch.int64) for n in (1, 1000, 300_000)]
    limit = limits.Limit(tensors)
    limit.read_then_write()
    expected = 0
    for tensor in tensors:
        expected ^= int(limits.np.bitwise_xor.reduce(tensor.numpy()))
        assert torch.equal(tensor, torch.arange(len(tensor)))
    assert limit._table[limits.RESULT] == expected


@pytest.mark.parametrize(
    ("limit", "torch_", "expected"),
    [
        (1.0, 3.0, "reached"),
        (0.8, 3.0, "missed by 25.0 %"),
        (0.6, 1.5, "missed by 66.7 %"),
        (1.0, 1.5, "missed by 25.0 %: at the limit itself it would be 1.50"),
    ],
)
def test_the_verdict_names_the_worse_miss(limit: float, torch_: float, expected: str) -> None:
    row = Row("ours", Goal("limit", 1.0), Goal("torch", 2.0))
    assert verdict(found({"ours": 1.0, "limit": limit, "torch": torch_}, [row]), row) == expected


def timed(name: str, ours: list[float], limit: list[float], peer: list[float]) -> Found:
    """A case of this name with these samples."""
    kind, _, title = name.partition(", ")
    workload, _, dtype = kind.rpartition(" ")
    row = Row("ours", Goal("limit"), Goal("torch"))
    timings = {one: Timing(samples, 9, 9) for one, samples in (("ours", ours), ("limit", limit), ("torch", peer))}
    return Found(Case(workload, dtype, title, lambda workload: [], [row]), 8, timings)


def test_the_table_of_the_readme_is_made_between_its_marks() -> None:
    results = Results(
        [timed(overview.TELLING[1], [0.001], [0.0005], [0.003]), timed("A b, c", [1.0], [1.0], [1.0])], [], []
    )
    filled = fill("before\n<!-- speed-table -->\nold\n<!-- /speed-table -->\nafter\n", results)
    assert filled.startswith("before\n<!-- speed-table -->\n| work |")
    assert filled.endswith("| GPT-2 fp32, clipped | 0.5 | 1 | 3 | 2.00 | 3.0 x |\n<!-- /speed-table -->\nafter\n")
    assert "old" not in filled


def test_what_the_readme_and_the_picture_show_is_measured() -> None:
    measured = {case.name for case in CASES if case.rows}
    assert {*overview.TELLING, *overview.DRAWN} <= measured
    assert len(overview.TELLING) == 6


STEADY, NOISY = [0.98, 1.0, 1.0, 1.0, 1.02], [0.5, 0.8, 1.0, 1.2, 1.5]


@pytest.mark.parametrize(
    ("before", "factor", "verdict"),
    [
        (STEADY, 1.2, "slower"),
        (STEADY, 0.8, "faster"),
        (STEADY, 1.03, "same"),
        (NOISY, 1.2, "same"),
        (NOISY, 1.5, "slower"),
    ],
)
def test_a_figure_is_compared_with_the_last_one_and_its_noise(tmp_path, before, factor, verdict) -> None:
    """The spread of `NOISY` is 20 % of its median, and that of `STEADY` nothing: three of five samples are equal."""
    name = "GPT-2 fp32, clipped"
    saved = tmp_path / "cpu.json"
    data = {"machine": {"processor": "one"}, **as_data([timed(name, before, STEADY, STEADY)])}
    saved.write_text(json.dumps(data))
    assert regression.last_run("another", saved) == {}
    now = timed(name, [factor * sample for sample in before], STEADY, STEADY)
    changes = regression.changes_of(now, regression.last_run("one", saved))
    assert [(change.over, change.verdict) for change in changes] == [("limit", verdict), ("torch", verdict)]
    assert changes[0].by == pytest.approx(factor - 1.0)
    assert changes[0].noise == pytest.approx(0.2 * math.sqrt(2.0) if before is NOISY else 0.0)
    assert [line[-1] for line in regression.table([now], regression.last_run("one", saved)).lines] == [verdict] * 2


def test_without_a_last_run_nothing_is_compared(tmp_path) -> None:
    assert regression.last_run("one", tmp_path / "none.json") == {}
    assert regression.changes_of(timed("GPT-2 fp32, clipped", STEADY, STEADY, STEADY), {}) == []


def test_the_picture_shows_each_case_over_its_limit(tmp_path) -> None:
    found = [timed(name, [0.001], [0.001], [0.01]) for name in overview.DRAWN]
    assert len(overview.drawable(found)) == len(found)
    assert overview.over_the_limit(found[0]) == (1.0, pytest.approx(10.0))
    overview.draw(found, tmp_path / "speed.png")
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")


def test_every_row_names_candidates_of_its_case() -> None:
    for case in CASES:
        workload = workloads.with_gradients(case.workload, [(16,)] * 3)
        names = {candidate.name for candidate in case.candidates(workload)}
        for row in case.rows:
            assert {row.ours} | {goal.candidate for goal in (row.limit, row.peer) if goal} <= names, case.name


def test_without_timm_its_line_has_no_peer_and_the_run_says_why(monkeypatch, capsys) -> None:
    workload = workloads.with_gradients("GPT-2", [(3, 4), (3,)])
    monkeypatch.setattr(peers, "agc_of_timm", lambda: None)
    monkeypatch.setattr(adaptive, "agc_of_timm", lambda: None)
    assert adaptive_cases("GPT-2")[0].rows == [Row(adaptive.AGC, Goal(names.READ_BOTH, 1.5), None)]
    called = [candidate.name for candidate in adaptive.unit_wise(workloads.HEAVY, workload)]
    assert called == [adaptive.AGC, names.READ_BOTH]
    assert "pip install --no-deps timm" in capsys.readouterr().err


@pytest.mark.parametrize("weight", [workloads.HEAVY, workloads.LIGHT])
def test_agc_and_its_peer_do_the_same_to_the_gradients(weight) -> None:
    """All of them exceed light weights and none heavy ones; the peer adds no epsilon to norms above 1e-6."""
    if peers.agc_of_timm() is None:
        pytest.skip("timm is not installed")
    found = {}
    for name in (adaptive.AGC, adaptive.TIMM):
        workload = workloads.with_gradients("two layers", [(40, 30), (20, 3, 2, 2), (50,)])
        (call,) = [one.call for one in adaptive.unit_wise(weight, workload) if one.name == name]
        call()
        found[name] = workload.gradients
    changed = [not torch.equal(new, old) for new, old in zip(found[adaptive.AGC], workload.originals, strict=True)]
    assert changed == [weight == workloads.LIGHT] * 3
    torch.testing.assert_close(found[adaptive.AGC], found[adaptive.TIMM])


@pytest.mark.parametrize(
    ("plain", "rule"),
    [
        (adaptive.autoclip, gradclip.AutoClip(window=5000)),
        (adaptive.zclip, gradclip.ZClip(max_norm=None, readmit=None)),
    ],
)
def test_straightforward_methods_clip_as_the_rules_do(plain, rule) -> None:
    """A stream with a spike after the warm-up: the peers' own 1e-6 and fp32 sums are within 1e-4 of it."""
    ours, theirs = (workloads.with_gradients("one layer", [(40, 30), (7,)]) for _ in range(2))
    clippers = [partial(Clipper(rule).clip_, ours.parameters), plain(theirs.parameters)]
    for step in range(40):
        factor = 20.0 if step == 33 else 1.0 + 0.1 * (step * 7 % 5)
        for workload, clip in zip((ours, theirs), clippers, strict=True):
            workload.restore()
            torch._foreach_mul_(workload.gradients, factor)
            clip()
    torch.testing.assert_close(ours.gradients, theirs.gradients, rtol=1e-3, atol=1e-6)


def test_a_trial_run_saves_its_tables(tmp_path, capsys) -> None:
    assert main(["--quick", "--only", "ResNet-50 bf16", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "ResNet-50 bf16, clipped" in printed
    page = (tmp_path / "cpu.md").read_text()
    assert "A trial run" in page
    assert "- processor: " in page
    data = json.loads((tmp_path / "cpu.json").read_text())
    assert {row["case"] for row in data["rows"]} == {"ResNet-50 bf16, nothing to clip", "ResNet-50 bf16, clipped"}
    assert all(row["over_limit"] > 0 and row["peer_over_ours"] > 0 for row in data["rows"])


@pytest.mark.parametrize("limit", [0.1, 1e9])
@pytest.mark.parametrize("on_tensor", [True, False])
def test_kernels_for_many_tensors_are_put_together_to_the_clip_of_torch(limit, on_tensor) -> None:
    """Of Transformer Engine, whose kernels are stood for by operations of PyTorch."""

    def scale(chunk, flag, lists, factor) -> None:
        torch._foreach_copy_(lists[1], torch._foreach_mul(lists[0], factor))

    kernels = SimpleNamespace(
        multi_tensor_applier=lambda kernel, flag, lists, *given: kernel(65536, flag, lists, *given),
        multi_tensor_l2norm=lambda chunk, flag, lists, each: (torch.nn.utils.get_total_norm(lists[0])[None], None),
        multi_tensor_scale=scale,
    )
    if on_tensor:
        kernels.multi_tensor_scale_tensor = lambda chunk, flag, lists, factor: scale(chunk, flag, lists, factor[0])
    ours, theirs = (workloads.with_gradients("two layers", [(40, 30), (50,)]) for _ in range(2))
    peers.norm_by_kernels(kernels, ours.parameters, limit)()
    torch.nn.utils.clip_grad_norm_(theirs.parameters, limit)
    torch.testing.assert_close(ours.gradients, theirs.gradients)


def test_the_limits_of_a_device_follow_from_a_copy_which_reads_and_writes_each_byte() -> None:
    workload = workloads.with_gradients("one layer", [(1000,)])
    found = device_cases.limits(workload, Timing([2.0, 4.0], 9, 9))
    assert {name: timing.samples for name, timing in found.items()} == {
        names.READ: [1.0, 2.0],
        names.WRITE: [2.0, 4.0],
        names.READ_WRITE: [3.0, 6.0],
        names.READ_BOTH: [2.0, 4.0],
        names.READ_BOTH_WRITE: [4.0, 8.0],
    }


def test_the_clips_on_a_device_are_drawn(tmp_path) -> None:
    seconds = {names.READ: 1.0, names.TORCH: 3.0, device_cases.ours("torch"): 1.2, device_cases.NEMO: 2.0}
    case = found({**seconds, device_cases.queued(names.TORCH): 2.5}, [])
    device.draw([case._replace(case=case.case._replace(title=device_cases.NOTHING))], tmp_path / "gpu.png")
    assert (tmp_path / "gpu.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("framework", ["Paddle", "JAX"])
def test_other_frameworks_are_timed_on_the_same_gradients(tmp_path, monkeypatch, framework) -> None:
    """Of smaller ones: how long it takes is not asked."""
    monkeypatch.setitem(workloads.SHAPES, "4 x 4096²", lambda: iter([(256, 4096)] * 4))
    assert main(["--quick", "--only", f"4 x 4096² fp32, {framework}", "--out", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "cpu.json").read_text())["rows"]
    assert len(rows) >= 2
    assert all(row["over_limit"] > 0 and row["peer_over_ours"] > 0 for row in rows)


def test_the_growth_of_time_is_drawn(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(growth, "COUNTS", growth.COUNTS[::5])
    monkeypatch.setattr(growth, "SIZES", growth.SIZES[::7])
    assert main(["--quick", "--only", "growth", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    assert "Tensors of 16 elements, in cache" in (tmp_path / "cpu.md").read_text()
