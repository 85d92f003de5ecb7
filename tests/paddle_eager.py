"""Eager parameters of Paddle with gradients, as the tests of its door hand them to optimizers and clips."""

from __future__ import annotations

from unittest import mock

import numpy as np
import paddle

from gradclip.paddle.clipper import cpu_engine

ENGINES = ["paddle"] + (["cpu"] if cpu_engine() is not None else [])


def parameter(*values, dtype="float32", grad=None, need_clip=True, name=None):
    """A parameter of zeros whose gradient holds `values`, or is `grad`."""
    gradient = paddle.to_tensor(list(values), dtype="float64").astype(dtype) if grad is None else grad
    attr = paddle.ParamAttr(name=name, need_clip=need_clip, initializer=paddle.nn.initializer.Constant(0.0))
    made = paddle.create_parameter(list(gradient.shape), str(gradient.dtype).rpartition(".")[2], attr=attr)
    made.grad = gradient
    return made


def without_gradient(size=1):
    return paddle.create_parameter([size], "float32")


def embedding(*rows, scale=1.0):
    """The weight [5, 2] of a sparse embedding whose gradient has `scale` in each of `rows`."""
    layer = paddle.nn.Embedding(5, 2, sparse=True)
    (layer(paddle.to_tensor(list(rows))) * scale).sum().backward()
    assert layer.weight.grad.is_selected_rows()
    return layer.weight


def numbers(tensor):
    """The numbers of a dense or row-sparse tensor as float64."""
    if tensor.is_selected_rows():
        rows = tensor.get_selected_rows()
        dense = np.zeros((rows.height(), *rows.get_tensor().shape()[1:]))
        np.add.at(dense, rows.rows(), np.array(rows.get_tensor(), dtype=np.float64))
        return dense
    return tensor.astype("complex128" if tensor.is_complex() else "float64").numpy()


def pairs_of(*parameters):
    return [(p, p.grad) for p in parameters]


def gradients(pairs):
    return [numbers(g).tolist() for _, g in pairs]


def stepped(optimizer, *parameters):
    """The values of the parameters after a step."""
    optimizer.step()
    return [numbers(p).tolist() for p in parameters]


def scaler_on_cpu():
    """Paddle switches its scaler off on a CPU when it makes it; everything after that question runs here too."""
    with mock.patch("paddle.amp.grad_scaler.in_dynamic_mode", return_value=False):
        return paddle.amp.GradScaler(init_loss_scaling=1024.0, use_dynamic_loss_scaling=False)
