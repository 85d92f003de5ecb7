"""How Paddle's tensors reach the CPU engine: through its C functions, in Python, or not at all."""

from __future__ import annotations

import subprocess
import sys

import paddle
import pytest

from paddle_eager import embedding

cpu_gather = pytest.importorskip("gradclip.engines.cpu_gather")
from gradclip.engines import paddle_layout  # noqa: E402
from gradclip.engines.base import UnsupportedGradient  # noqa: E402


def plain_tensors():
    return [paddle.ones([3, 4], dtype=dtype) for dtype in ("float16", "bfloat16", "float32", "float64")] + [
        paddle.ones([2, 3, 5]),
        paddle.zeros([0, 3]),
        paddle.create_parameter([2, 3], "float32"),
    ]


def others():
    """What the C function is not asked about, or does not say enough of."""
    return {
        "transposed": paddle.ones([3, 4]).t(),
        "sliced": paddle.ones([4, 6])[:, 1:3],
        "without axes": paddle.to_tensor(5.0),
        "complex": paddle.ones([3], dtype="complex64"),
    }


def described(batch):
    """Address, elements, type and rows of each tensor."""
    return batch.table.spans[: len(batch), :4].tolist()


def test_paddle_offers_the_table_of_c_functions():
    assert cpu_gather.exchange_function(paddle.Tensor)
    assert cpu_gather.Gatherer(paddle_layout)(plain_tensors()).via == "dlpack"


def test_both_ways_describe_a_plain_tensor_alike():
    tensors = plain_tensors()
    fast, slow = cpu_gather.Gatherer(paddle_layout)(tensors), cpu_gather.Gatherer(paddle_layout, "python")(tensors)
    assert not fast.payloads
    assert len(slow.payloads) == len(tensors)
    assert described(fast) == described(slow)


@pytest.mark.parametrize("name", others())
def test_what_is_not_plain_is_asked_in_python(name):
    batch = cpu_gather.Gatherer(paddle_layout)([paddle.ones([2]), others()[name]])
    assert list(batch.payloads) == [1]


def test_sparse_rows_never_reach_the_c_function_which_takes_them_for_dense():
    weight = embedding(1, 1, 3)
    batch = cpu_gather.Gatherer(paddle_layout)([paddle.ones([2]), weight.grad])
    assert batch.via == "python"
    assert described(batch)[1][1:3] == [4, cpu_gather.CODE_OF_NAME["float32"]]


def test_rows_are_merged_in_their_own_gradient_and_read_in_its_memory():
    weight = embedding(1, 1, 3)
    values = paddle_layout.merged_rows(weight.grad)
    rows = weight.grad.get_selected_rows()
    assert rows.rows() == [1, 3]
    assert values.numpy().tolist() == [[2.0, 2.0], [1.0, 1.0]]
    assert values.data_ptr() == rows.get_tensor()._ptr()


def test_a_transposed_tensor_stays_where_it_is():
    whole = paddle.to_tensor([[1.0, 2.0], [3.0, 4.0]])
    tensor = whole.t()
    payload = paddle_layout.payload(tensor, 0)
    paddle.assign(payload.tensor * 2, output=payload.tensor)
    payload.writeback()
    assert whole.numpy().tolist() == [[2.0, 4.0], [6.0, 8.0]]
    assert (tensor.data_ptr(), tensor.strides) == (whole.data_ptr(), [1, 2])


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        (lambda: [1.0], "it is a list"),
        (lambda: paddle.ones([2], dtype="int64"), r"dtype is paddle\.int64"),
        (lambda: paddle.sparse.sparse_coo_tensor([[0, 1]], [1.0, 2.0], [3]), "sparse tensor"),
        (lambda: paddle.as_strided(paddle.ones([3]), [3, 2], [1, 0]), "overlap in memory"),
    ],
)
def test_what_cannot_be_clipped_is_refused_with_its_reason(tensor, reason):
    with pytest.raises(UnsupportedGradient, match=reason):
        cpu_gather.Gatherer(paddle_layout)([paddle.ones([2]), tensor()])


def test_a_write_counts_for_autograd():
    x = paddle.to_tensor([2.0], stop_gradient=False)
    middle = x * 1.0
    result = middle * middle
    before = middle.inplace_version
    paddle_layout.written([middle])
    assert middle.inplace_version == before + 1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        result.backward()


def alone(code, **environment):
    """What Python prints for `code` in a process without any other framework."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {sys.path!r}\n{code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={"PATH": "/usr/bin:/bin", **environment},
    )
    return done.stdout.split()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere Paddle brings no libgomp")
@pytest.mark.parametrize(
    ("imported", "asked"), [("paddle", "1"), ("paddle", "3"), ("paddle, torch", "2"), ("torch, paddle", "2")]
)
def test_clipping_works_on_the_threads_that_the_user_asked_for_with_one_framework_or_two(imported, asked):
    code = f"""import {imported}
import gradclip.paddle as it
p = paddle.create_parameter([3000, 1000], "float32")
p.grad = paddle.ones([3000, 1000])
result = it.Clipper(__import__("gradclip").ClipGradByGlobalNorm(1.0), engine="cpu").clip_([p])
print(result.norm_before ** 2, it.clipper.paddle_layout.threads())"""
    norm, threads = alone(code, OMP_NUM_THREADS=asked)[-2:]
    assert (round(float(norm)), threads) == (3_000_000, asked)
