"""What two processes of fleet's hybrid parallelism do with a clip: run as a script, it prints how each case ended.

So it does for those of four, of which `paddle_hybrid_of_four.py` knows.
"""

from __future__ import annotations

import json
import multiprocessing
import warnings

import paddle
import paddle.distributed as dist
from paddle.distributed import fleet
from paddle.distributed.fleet.base import topology

import gradclip
from gradclip.paddle import Clip, ClipGradByGlobalNorm, ClipGradByNorm, ClipGradByValue
from paddle_eager import numbers, parameter


def started(**degrees):
    """This process's number, after fleet made the groups."""
    strategy = fleet.DistributedStrategy()
    topology._HYBRID_PARALLEL_GROUP = None  # so that one process can be in one grid after another
    strategy.hybrid_configs = {"dp_degree": 1, "mp_degree": 1, "pp_degree": 1, "sharding_degree": 1, **degrees}
    fleet.init(is_collective=True, strategy=strategy)
    return dist.get_rank()


def stepped(clip, *parameters):
    optimizer = paddle.optimizer.SGD(1.0, parameters=list(parameters), grad_clip=clip)
    optimizer.step()
    return {"values": [numbers(p).tolist() for p in parameters], "norm": clip.last.norm_before}


def part_of_a_matrix(*values):
    p = parameter(*values)
    p.is_distributed = True
    return p


def model_parallel(kind):
    """A matrix [3, 4] in two parts, and a bias of which both have a copy: norms 5 and 12, together 13."""
    rank = started(mp_degree=2)
    return stepped(kind(1.0), part_of_a_matrix([3.0, 4.0][rank]), parameter(12.0))


def by_name():
    """As `model_parallel`, with rules of their own for the bias and for the rest."""
    rank = started(mp_degree=2)
    weight, bias = part_of_a_matrix([3.0, 4.0][rank]), parameter(12.0)
    rule = gradclip.Rules({bias.name: gradclip.ClipGradByNorm(6.0), "*": gradclip.ClipGradByGlobalNorm(1.0)})
    return stepped(Clip(rule, on_nonfinite="skip"), weight, bias)


def through_the_optimizer_of_fleet():
    rank = started(mp_degree=2)
    clip = ClipGradByGlobalNorm(1.0)
    weight, bias = part_of_a_matrix([3.0, 4.0][rank]), parameter(12.0)
    inner = paddle.optimizer.SGD(1.0, parameters=[weight, bias], grad_clip=clip)
    optimizer = fleet.distributed_optimizer(inner)
    optimizer.step()
    return {"values": [numbers(p).tolist() for p in (weight, bias)], "norm": clip.last.norm_before}


def pipeline_parallel():
    """Two stages; both have a copy of an embedding, which only one of them counts: 3, 4 and 12."""
    rank = started(pp_degree=2)
    own, shared = parameter([3.0, 4.0][rank]), parameter(12.0)
    shared.is_firstly_shared = rank == 0
    return stepped(ClipGradByGlobalNorm(1.0), own, shared)


def pipeline_of_two_norms():
    """As `pipeline_parallel`, and before it each tensor to 5 at most: norms 3, 4 and 5."""
    rank = started(pp_degree=2)
    own, shared = parameter([3.0, 4.0][rank]), parameter(12.0)
    shared.is_firstly_shared = rank == 0
    return stepped(Clip(gradclip.ClipGradByNorm(5.0) >> gradclip.ClipGradByGlobalNorm(1.0)), own, shared)


def a_stage_without_gradients():
    rank = started(pp_degree=2)
    own = [parameter(5.0)] if rank == 0 else []
    return stepped(ClipGradByGlobalNorm(1.0), *own, parameter(7.0, need_clip=False))


def groups_of_which_a_stage_has_none():
    """Each stage makes one sum over both, whichever of its groups have gradients."""
    rank = started(pp_degree=2)
    own = [parameter(3.0), parameter(4.0)] if rank == 0 else [paddle.create_parameter([1], "float32") for _ in "ab"]
    clip = ClipGradByGlobalNorm(1.0)
    paddle.optimizer.SGD(1.0, parameters=[{"params": [p]} for p in own], grad_clip=clip).step()
    return {"values": [numbers(p).tolist() for p in own][: 2 - 2 * rank], "norm": clip.last.norm_before}


def sharded():
    """Each process updates one of the two parameters, and sends it to the other."""
    started(sharding_degree=2)
    a, b = parameter(3.0, 0.0), parameter(4.0, 0.0)
    clip = ClipGradByGlobalNorm(1.0)
    inner = paddle.optimizer.SGD(1.0, parameters=[a, b], grad_clip=clip)
    optimizer = fleet.distributed_optimizer(inner)
    optimizer.step()
    return {"values": [numbers(p).tolist() for p in (a, b)], "norm": clip.last.norm_before}


def a_nan_of_one():
    rank = started(pp_degree=2)
    return stepped(ClipGradByGlobalNorm(1.0, on_nonfinite="skip"), parameter([3.0, float("nan")][rank]))


def data_parallel():
    started(dp_degree=2)
    return stepped(ClipGradByGlobalNorm(1.0), parameter(3.0), parameter(4.0))


def on_an_accelerator():
    """The engine of accelerators, here on the CPU."""
    rank = started(mp_degree=2)
    return stepped(ClipGradByGlobalNorm(1.0, engine="paddle"), part_of_a_matrix([3.0, 4.0][rank]), parameter(12.0))


CASES = {
    "global norm": lambda: model_parallel(ClipGradByGlobalNorm),
    "norm": lambda: model_parallel(ClipGradByNorm),
    "value": lambda: model_parallel(ClipGradByValue),
    "by name": by_name,
    "fleet": through_the_optimizer_of_fleet,
    "pipeline": pipeline_parallel,
    "pipeline of two norms": pipeline_of_two_norms,
    "a stage without gradients": a_stage_without_gradients,
    "groups of which a stage has none": groups_of_which_a_stage_has_none,
    "sharded": sharded,
    "a nan of one": a_nan_of_one,
    "data": data_parallel,
    "on an accelerator": on_an_accelerator,
}


def work(results):
    warnings.simplefilter("ignore")
    found = {name: case() for name, case in CASES.items()}
    results.put((dist.get_rank(), found))


if __name__ == "__main__":
    import paddle_hybrid_of_four

    results = multiprocessing.get_context("fork").SimpleQueue()
    dist.spawn(work, args=(results,), nprocs=2, backend="gloo", start_method="fork")
    two = dict([results.get(), results.get()])
    print(json.dumps({"two": two, "four": paddle_hybrid_of_four.ended()}))
