"""The two ways from tensors to a table must see the same memory."""

import gc
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("numba")

from collecting import of_new_objects  # noqa: E402
from gradclip.engines import cpu_layout as layout  # noqa: E402
from gradclip.engines import torch_layout  # noqa: E402
from gradclip.engines.base import UnsupportedGradient  # noqa: E402
from gradclip.engines.cpu_gather import Gatherer, exchange_function  # noqa: E402

PYTHON = Gatherer(torch_layout, "python")
DLPACK = pytest.param("dlpack", marks=pytest.mark.skipif(not exchange_function(torch.Tensor), reason="no DLPack 1.3"))
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def table_of(batch):
    return batch.table.spans[: len(batch) + 1, : layout.STEP + 1].copy()


def assert_same(one, two):
    count = len(one)
    columns = [layout.ELEMENTS, layout.CODE, layout.ROWS, layout.CHUNK, layout.SLOT, layout.SEGMENT, layout.STEP]
    np.testing.assert_array_equal(one.table.spans[:count, columns], two.table.spans[:count, columns])
    own = [i for i in range(count) if one.table.spans[i, layout.ELEMENTS] and i not in copied(one)]
    np.testing.assert_array_equal(one.table.spans[own, layout.ADDRESS], two.table.spans[own, layout.ADDRESS])
    assert one.table.spans[count, layout.CHUNK] == two.table.spans[count, layout.CHUNK]
    for word in (layout.SPANS, layout.CHUNKS, layout.CODES, layout.BYTES, layout.SEGMENTS):
        assert one.table.words[word] == two.table.words[word]
    assert one.shapes() == two.shapes()


def copied(batch):
    return {index for index, payload in batch.payloads.items() if payload.writeback is not None}


def zoo():
    base = torch.arange(240, dtype=torch.float32)
    return {
        "plain": base.view(12, 20),
        "vector": base,
        "slice": base[1:8],
        "rows": base.view(12, 20)[3:5],
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "one element": base[:1],
        "0-d": base[0],
        "empty": base[:0],
        "no rows": torch.zeros(0, 5),
        "empty rows": torch.zeros(5, 0),
        "axes of one": base.view(1, 240, 1)[:, :7],
        "odd strides of one": torch.as_strided(base, (1, 7, 1), (99, 1, 3)),
        "requires grad": base.clone().requires_grad_(),
        "parameter": torch.nn.Parameter(base.clone()),
    }


def strange():
    base = torch.arange(240, dtype=torch.float32)
    return {
        "transposed": base.view(12, 20).t(),
        "strided": base[::2],
        "expanded": base[:1].expand(4),
        "channels last": base.view(2, 3, 4, 10).to(memory_format=torch.channels_last),
        "complex": torch.complex(base, base),
        "conjugate": torch.complex(base, base).conj(),
        "negated": torch.complex(base[:1], base[:1]).conj().imag,
        "sparse": base.view(12, 20).to_sparse(1),
    }


@pytest.mark.parametrize("via", [DLPACK, "python"])
def test_plain_tensors_lie_where_torch_says(via):
    tensors = list(zoo().values())
    batch = Gatherer(torch_layout, via)(tensors)
    assert batch.via == via
    for tensor, span in zip(tensors, table_of(batch), strict=False):
        assert tensor.numel() == span[layout.ELEMENTS]
        assert tensor.data_ptr() == span[layout.ADDRESS] or tensor.numel() == 0
        assert span[layout.ROWS] == (tensor.shape[0] if tensor.dim() >= 2 else 1)
    assert batch.bytes == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("via", [DLPACK])
def test_plain_tensors_are_not_asked_in_python(via):
    names = zoo()
    batch = Gatherer(torch_layout, via)(list(names.values()))
    # A tensor of one element may carry a lazy sign, so Python is asked.
    assert [list(names)[index] for index in batch.payloads] == ["one element", "0-d"]


@pytest.mark.parametrize("via", [DLPACK])
@pytest.mark.parametrize("name", [*zoo(), *strange()])
def test_both_ways_agree(name, via):
    tensor = {**zoo(), **strange()}[name]
    neighbours = [torch.ones(3), tensor, torch.ones(70000, 2)]
    fast, slow = Gatherer(torch_layout, via)(neighbours), PYTHON(neighbours)
    assert_same(fast, slow)
    assert (name in strange()) <= (1 in fast.payloads)


@pytest.mark.parametrize("via", [DLPACK])
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_both_ways_agree_on_any_view(via, data):
    shape = data.draw(st.lists(st.integers(0, 5), max_size=4))
    tensor = torch.zeros(shape, dtype=data.draw(st.sampled_from(DTYPES)))
    if shape:
        tensor = tensor.permute(data.draw(st.permutations(range(len(shape)))))
        axis = data.draw(st.integers(0, len(shape) - 1))
        start = data.draw(st.integers(0, tensor.shape[axis]))
        tensor = tensor.narrow(axis, start, data.draw(st.integers(0, tensor.shape[axis] - start)))
    fast, slow = Gatherer(torch_layout, via)([tensor]), PYTHON([tensor])
    assert_same(fast, slow)
    assert tensor.is_contiguous() or 0 in fast.payloads


@pytest.mark.parametrize("via", [DLPACK, "python"])
@pytest.mark.parametrize(
    "tensor",
    [torch.ones(3, dtype=torch.int64), torch.ones(3, device="meta"), torch.ones(3).to(torch.float8_e4m3fn), 3.0, None],
    ids=["int", "meta", "float8", "float", "None"],
)
def test_what_cannot_be_clipped_is_named_by_its_place(tensor, via):
    with pytest.raises(UnsupportedGradient) as error:
        Gatherer(torch_layout, via)([torch.ones(2), tensor])
    assert error.value.index == 1


@pytest.mark.parametrize("via", [DLPACK, "python"])
def test_a_table_grows_and_is_used_again(via):
    gather = Gatherer(torch_layout, via)
    tensors = [torch.ones(3) for _ in range(500)]
    with of_new_objects():
        first = gather(tensors)
        assert first.table.words[layout.SPANS] == 500
        assert len(first.table.parts) >= 500
        table, other = first.table, gather(tensors).table
        assert other is not table
        del first
        gc.collect()
    assert gather(tensors[:1]).table in (table, other)


@pytest.mark.parametrize("via", [DLPACK, "python"])
def test_tensors_that_share_their_memory_are_found(via):
    base = torch.ones(6, 4)
    gather = Gatherer(torch_layout, via)
    assert gather([base, base.clone(), torch.ones(0), base[1:0], torch.ones(0)]).repeated() == set()
    assert gather([base, torch.ones(3), base.view(24), base.t(), base.t()]).repeated() == {2, 3, 4}
    assert gather([base]).repeated() == set()


def test_an_empty_list_is_an_empty_table():
    batch = Gatherer(torch_layout)([])
    assert (len(batch), batch.bytes, batch.table.words[layout.CHUNKS]) == (0, 0, 0)


def test_a_foreign_version_of_the_table_of_functions_is_not_called():
    class Foreign:
        pass

    assert exchange_function(Foreign) == 0
    assert Gatherer(SimpleNamespace(**{**vars(torch_layout), "TENSOR": Foreign})).via == "python"
    with pytest.raises(RuntimeError, match="DLPack"):
        Gatherer(SimpleNamespace(**{**vars(torch_layout), "TENSOR": Foreign}), "dlpack")


@pytest.mark.parametrize("via", [DLPACK])
def test_chunks_are_counted_alike_for_every_size(via):
    for dtype in DTYPES:
        most = layout.CHUNK_BYTES // torch.zeros((), dtype=dtype).element_size()
        sizes = [most - 1, most, most + 1, 3 * most + 7]
        batch = Gatherer(torch_layout, via)([torch.zeros(size, dtype=dtype) for size in sizes])
        chunks = np.diff(batch.table.spans[: len(sizes) + 1, layout.CHUNK])
        assert chunks.tolist() == [math.ceil(size / most) for size in sizes]
