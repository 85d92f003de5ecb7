"""What processes do that have tensors of their own: run as a script by `test_spread.py`, in so many processes."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import Shard, distribute_tensor

import group
from gradclip import AutoClip, ClipGradByGlobalNorm, ClipGradByNorm, Global, Linf, Rule, Rules
from gradclip.torch import Clipper, attach, verify_norm
from gradclip.torch.parameters import here_of

RANK, WORLD = dist.get_rank, dist.get_world_size
ALL = ClipGradByGlobalNorm(0.5)


def of(*values, mesh=None, dtype=torch.float32):
    """A parameter with this gradient, in pieces over a mesh if there is one."""
    gradient = torch.tensor(values, dtype=dtype)
    if mesh is not None:
        gradient = distribute_tensor(gradient, mesh, [Shard(0)])
    parameter = nn.Parameter(torch.zeros_like(gradient))
    parameter.grad = gradient
    return parameter


def gathered(value):
    """What every process has."""
    found = [None] * WORLD()
    dist.all_gather_object(found, value)
    return found


def norm_of(parameter):
    gradient = parameter.grad
    return (gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient).norm().item()


# -- Rules by name


def rules_by_name_sum_up_what_each_is_for():
    """Process r has an expert of norm r + 1, and all have a matrix of norm 5 and a bias of norm 12."""
    parts = {"experts.0": of(1.0 + RANK()), "matrix": of(3.0, 4.0), "bias": of(12.0)}
    rule = Rules({"bias": ClipGradByNorm(6.0), "*": ALL})
    result = Clipper(rule, groups={"experts.*": dist.group.WORLD}).clip_(parts)
    norm = math.sqrt(25.0 + sum((1.0 + rank) ** 2 for rank in range(WORLD())))
    found = {segment.name: segment.norm_before for segment in result.segments}
    assert found["all"] == pytest.approx(norm, rel=1e-6)
    expected = {"experts.0": (1.0 + RANK()) * 0.5 / norm, "matrix": 5.0 * 0.5 / norm, "bias": 6.0}
    assert {name: norm_of(part) for name, part in parts.items()} == pytest.approx(expected, rel=1e-6)


def a_rule_for_what_one_stage_has_is_decided_on_by_all():
    """Only the first stage has a name that the first pattern matches; all hear of its norm, and of its NaN."""
    for value, policy in ((3.0, "keep"), (math.nan, "skip")):
        parts = {"rest": of(1.0 + RANK())} | ({"embedding": of(value, 4.0)} if RANK() == 0 else {})
        rule = Rules({"embedding": ALL, "*": ClipGradByGlobalNorm(2.0) >> ClipGradByNorm(1.5)})
        clipper = Clipper(rule, pipeline=dist.group.WORLD, on_nonfinite=policy)
        result = clipper.clip_(parts)
        rest = math.sqrt(sum((1.0 + rank) ** 2 for rank in range(WORLD())))
        norms = [segment.norm_before for segment in result.segments if segment.name == "all"]
        assert norms == pytest.approx([math.hypot(value, 4.0), rest], rel=1e-6, nan_ok=True)
        assert result.skipped == (policy == "skip")
        if policy == "keep":
            assert norm_of(parts["rest"]) == pytest.approx(min(1.5, (1.0 + RANK()) * 2.0 / rest), rel=1e-6)
            assert RANK() or norm_of(parts["embedding"]) == pytest.approx(0.5, rel=1e-6)


# -- Processes that have less than others


def a_process_with_nothing_to_train_takes_part():
    """All of one stage is frozen, or it hands over nothing: the others do not wait for it in vain."""
    for rule in (ALL, AutoClip(), Rule(Global(), Linf()), Rules({"weight": ALL})):
        model = nn.Linear(4, 1, bias=False)
        model.requires_grad_(RANK() != 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        clipper = attach(optimizer, rule, model=model, pipeline=dist.group.WORLD)
        for _ in range(2):
            model.weight.grad = None if RANK() == 1 else torch.ones(1, 4)
            optimizer.step()
        expected = 1.0 if rule == Rule(Global(), Linf()) else 2.0 * math.sqrt(WORLD() - 1)
        assert clipper.last.norm_before == pytest.approx(expected, rel=1e-6)
    clipper = Clipper(ALL, pipeline=dist.group.WORLD)
    assert clipper.clip_({} if RANK() == 1 else {"w": of(1.0)}).norm_before == pytest.approx(math.sqrt(WORLD() - 1))


def a_pattern_that_one_process_has_nothing_for_is_refused_by_all():
    parts = {"other" if RANK() == 1 else "experts.0": of(1.0)}
    words = "no parameter has a name like 'experts" if RANK() == 1 else "another process has no parameter"
    with pytest.raises(ValueError, match=words):
        Clipper(ALL, groups={"experts.*": dist.group.WORLD}).clip_(parts)
    assert norm_of(*parts.values()) == 1.0


def a_stage_in_float64_beside_others_is_summed_up():
    """Numbers whose squares leave float32, and float64, in one stage; the others tell in which units they count."""
    for value in (1.0, 1e200):
        own = of(value, dtype=torch.float64) if RANK() == 1 else of(1.0)
        others = sum(1.0 for rank in range(WORLD()) if rank != 1)
        for _ in range(2):
            found = Clipper(ClipGradByGlobalNorm(None), pipeline=dist.group.WORLD).clip_({"w": own})
        assert found.norm_before == pytest.approx(math.hypot(value, math.sqrt(others)), rel=1e-6)


# -- Experts beside DTensors


def experts_beside_dtensors_count_each():
    """The dense layers lie over all processes. Process r has r + 1 experts of its own, or shares them with a row."""
    line, world = init_device_mesh("cpu", (WORLD(),)), WORLD()
    grid = init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("shards", "experts"))
    place = grid.get_local_rank("experts")
    dense = [1.0, 2.0, 3.0, 4.0, 5.0]
    squares = sum(value**2 for value in dense)
    for many, value, mesh, ranks, every in [
        (RANK() + 1, 1.0 + RANK(), None, dist.group.WORLD, [(r + 1, 1.0 + r) for r in range(world)]),
        (2, 1.0 + place, grid["shards"], grid.get_group("experts"), [(2, 1.0 + r) for r in range(world // 2)]),
        (2, 1.0 + place, None, grid.get_group("experts"), [(2, 1.0 + r) for r in range(world // 2)]),
    ]:
        for dense_mesh in (line, None):
            parts = {f"experts.{i}": of(value, value, mesh=mesh) for i in range(many)}
            parts["dense"] = of(*dense, mesh=dense_mesh)
            clipper = Clipper(ALL, groups={"experts.*": ranks})
            norm = math.sqrt(squares + sum(2 * number * other**2 for number, other in every))
            for p in parts.values():
                p.grad.mul_(2.0)
            result = clipper.clip_(parts)
            assert result.norm_before == pytest.approx(2.0 * norm, rel=1e-6)
            assert norm_of(parts["dense"]) == pytest.approx(0.5 / norm * math.sqrt(squares), rel=1e-6)
            assert norm_of(parts["experts.0"]) == pytest.approx(0.5 / norm * math.sqrt(2) * value, rel=1e-6)
            assert len(set(gathered(result.norm_before))) == 1


# -- Stages in DTensors


def a_pipeline_of_sharded_stages_trains_as_one():
    """Two stages, each of which FSDP2 has cut over half of the processes; every process has a part of the batch."""
    mesh = init_device_mesh("cpu", (2, WORLD() // 2), mesh_dim_names=("stages", "shards"))
    last, part = mesh.get_local_rank("stages"), mesh.get_local_rank("shards")
    whole, alone = layers(), layers()
    stage = whole[2:] if last else whole[:2]
    for layer in stage:
        fully_shard(layer, mesh=mesh["shards"])
    fully_shard(stage, mesh=mesh["shards"])
    group_ = mesh.get_group("stages")
    schedule = ScheduleGPipe(
        PipelineStage(stage, last, 2, torch.device("cpu"), group=group_), 2, loss_fn=nn.functional.mse_loss
    )
    optimizer, other = (torch.optim.SGD(model.parameters(), lr=0.5) for model in (stage, alone))
    clippers = [attach(optimizer, ALL, model=stage, pipeline=group_), attach(other, ALL)]
    for step in range(3):
        x, y = numbers(step)
        optimizer.zero_grad()
        other.zero_grad()
        nn.functional.mse_loss(alone(x), y).backward()
        x, y = (tensor.chunk(WORLD() // 2)[part] for tensor in (x, y))
        schedule.step(target=y) if last else schedule.step(x)
        optimizer.step()
        other.step()
        assert clippers[0].last.norm_before == pytest.approx(clippers[1].last.norm_before, rel=1e-5)
    assert clippers[0].last.clipped
    for p, expected in zip(stage.parameters(), (alone[2:] if last else alone[:2]).parameters(), strict=True):
        torch.testing.assert_close(p.full_tensor(), expected, rtol=1e-5, atol=1e-6)


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 2))


# -- What is not said


def a_stage_that_nobody_spoke_of_is_named():
    """Without pipeline= each stage counts what it has; verify_norm names the first tensor that another one lacks."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))[RANK() % 2 :][:1]
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    found = verify_norm(model)
    assert not found.right
    assert found.parameter == "0.weight"
    assert "rank 0 has '0.weight' and rank 1 has not" in found.words
    pairs = init_device_mesh("cpu", (WORLD() // 2, 2), mesh_dim_names=("copies", "stages"))
    found = verify_norm(model, pipeline=pairs.get_group("stages"))
    assert found.right, found
    assert found.norm == pytest.approx(math.sqrt(12.0))


# -- What else a clipper does


def a_copy_of_a_clipper_and_of_its_result_knows_no_processes():
    line = init_device_mesh("cpu", (WORLD(),))
    for options in ({}, {"groups": {"a": dist.group.WORLD}}):
        parts = {"a": of(3.0, 4.0), "b": of(*range(9), mesh=line), "left out": of(1.0)}
        clipper = Clipper(ALL, need_clip=lambda p, out=parts["left out"]: p is not out, **options)
        clipper.clip_(parts)
        other, last = copy.deepcopy(clipper), pickle.loads(pickle.dumps(clipper.last))
        assert other.last.segments == last.segments == clipper.last.segments
        assert other.clip_(parts).norm_before == pytest.approx(0.5, rel=1e-6)
    model = nn.Linear(2, 1)
    attached = attach(torch.optim.SGD(model.parameters()), ALL, model=model, pipeline=dist.group.WORLD)
    assert copy.deepcopy(attached).rule == ALL


def a_grad_scaler_and_two_optimizers_step_as_in_one_process():
    """In the second of three steps an element that only one process has is infinite: all leave the step out."""
    for fused in (False, True):
        found = []
        for spread in (False, True):
            model = layers()
            for layer in (model[0], model[2], model[3]) if spread else ():
                fully_shard(layer)
            optimizers = [torch.optim.AdamW(part.parameters(), lr=0.1, fused=fused) for part in (model[:3], model[3])]
            scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
            clipper, norms = attach(*optimizers, rule=ALL, model=model, on_nonfinite="skip"), []
            for step in range(3):
                for optimizer in optimizers:
                    optimizer.zero_grad()
                x, y = numbers(step)
                scaler.scale(nn.functional.mse_loss(model(x), y)).backward()
                if step == 1:
                    broken = model[0].weight.grad
                    here_of(broken)[:1, :1] = math.inf if not spread or RANK() == 0 else here_of(broken)[:1, :1]
                for optimizer in optimizers:
                    scaler.unscale_(optimizer)
                for optimizer in optimizers:
                    scaler.step(optimizer)
                scaler.update()
                norms.append(clipper.last.norm_before)
            weights = [getattr(p, "full_tensor", lambda p=p: p)().detach().flatten() for p in model.parameters()]
            found.append((torch.cat(weights), norms, scaler.get_scale()))
        torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-5)
        assert found[0][1:] == (pytest.approx(found[1][1], rel=1e-5, nan_ok=True), found[1][2])


def numbers(step):
    random = torch.Generator().manual_seed(step)
    return torch.randn(8, 4, generator=random), 10.0 * torch.randn(8, 2, generator=random)


def a_fused_step_takes_the_coefficient_where_a_parameter_was_not_used():
    weights = []
    for spread in (False, True):
        torch.manual_seed(0)
        model = nn.ModuleDict({"used": nn.Linear(4, 3), "unused": nn.Linear(2, 2)})
        if spread:
            for layer in model.values():
                fully_shard(layer)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
        clipper = attach(optimizer, ALL, model=model, through_grad_scale=True)
        for _ in range(2):
            optimizer.zero_grad()
            model["used"](torch.full((2, 4), 3.0)).square().sum().backward()
            optimizer.step()
        assert clipper.last.clipped
        found = [getattr(p, "full_tensor", lambda p=p: p)() for p in model.parameters()]
        weights.append(torch.cat([p.detach().flatten() for p in found]))
    torch.testing.assert_close(*weights, rtol=1e-5, atol=1e-6)


def what_one_process_cannot_clip_holds_nobody_up():
    """The others hear of a norm that is no number and write nothing; the one that cannot clip raises."""
    for options in ({"pipeline": dist.group.WORLD}, {"groups": {"w": dist.group.WORLD}}):
        weight = nn.Parameter(torch.ones(2, 2))
        weight.grad = torch.full((2, 2), 3.0)
        clipper = Clipper(ClipGradByGlobalNorm(1.0), **options)
        if dist.get_rank() == 0:
            weight.grad = torch.ones(3).as_strided((2, 2), (1, 1))  # whose elements overlap in memory
            with pytest.raises(TypeError, match="'w' cannot be clipped"):
                clipper.clip_({"w": weight})
            continue
        assert math.isnan(clipper.clip_({"w": weight}).norm_before)
        assert weight.grad.tolist() == [[3.0, 3.0], [3.0, 3.0]]


CASES = {
    case.__name__: case
    for case in (
        rules_by_name_sum_up_what_each_is_for,
        a_rule_for_what_one_stage_has_is_decided_on_by_all,
        a_process_with_nothing_to_train_takes_part,
        a_pattern_that_one_process_has_nothing_for_is_refused_by_all,
        a_stage_in_float64_beside_others_is_summed_up,
        experts_beside_dtensors_count_each,
        a_stage_that_nobody_spoke_of_is_named,
        a_pipeline_of_sharded_stages_trains_as_one,
        a_copy_of_a_clipper_and_of_its_result_knows_no_processes,
        a_grad_scaler_and_two_optimizers_step_as_in_one_process,
        a_fused_step_takes_the_coefficient_where_a_parameter_was_not_used,
        what_one_process_cannot_clip_holds_nobody_up,
    )
}

if __name__ == "__main__":
    group.main(CASES)
