"""Paddle's functions in every mode: its own, and in legacy static mode those that its own no longer make there.

Since Paddle 3 functions such as `paddle.sqrt` take no variable of a legacy program (`paddle.pir_utils.OldIrGuard`). The
operators themselves still run; here they are appended to the program by name.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import paddle
from paddle.base.framework import in_dynamic_or_pir_mode
from paddle.base.layer_helper import LayerHelper

PaddleTensor: TypeAlias = Any
"""A tensor, or a value of a graph; Paddle's own types do not hold together, so checkers are told nothing."""


class Operations:
    """The functions of `paddle` by name; in legacy static mode, those of `Legacy` where it has them."""

    def __getattr__(self, name: str) -> Any:
        if in_dynamic_or_pir_mode():
            return getattr(paddle, name)
        return getattr(Legacy, name, None) or getattr(paddle, name)


class Legacy:
    """The functions that take a legacy variable no more, under the names and arguments they have in `paddle`."""

    @staticmethod
    def abs(x: PaddleTensor) -> PaddleTensor:
        return op("abs", {"X": x})

    @staticmethod
    def sqrt(x: PaddleTensor) -> PaddleTensor:
        return op("sqrt", {"X": x})

    @staticmethod
    def tanh(x: PaddleTensor) -> PaddleTensor:
        return op("tanh", {"X": x})

    @staticmethod
    def maximum(x: PaddleTensor, y: PaddleTensor) -> PaddleTensor:
        return op("elementwise_max", {"X": x, "Y": y}, {"axis": -1})

    @staticmethod
    def minimum(x: PaddleTensor, y: PaddleTensor) -> PaddleTensor:
        return op("elementwise_min", {"X": x, "Y": y}, {"axis": -1})

    @staticmethod
    def expand(x: PaddleTensor, shape: list[int]) -> PaddleTensor:
        return op("expand_v2", {"X": x}, {"shape": shape})

    @staticmethod
    def where(condition: PaddleTensor, x: PaddleTensor, y: PaddleTensor) -> PaddleTensor:
        return op("where", {"X": x, "Y": y, "Condition": condition})

    @staticmethod
    def sum(x: PaddleTensor, axis: list[int]) -> PaddleTensor:
        return op("reduce_sum", {"X": x}, {"dim": axis, "keep_dim": False, "reduce_all": False})

    @staticmethod
    def sort(x: PaddleTensor, axis: int) -> PaddleTensor:
        helper = LayerHelper("argsort")
        out = helper.create_variable_for_type_inference(dtype=x.dtype)
        places = helper.create_variable_for_type_inference(dtype="int64")
        outputs = {"Out": out, "Indices": places}
        helper.append_op(type="argsort", inputs={"X": x}, outputs=outputs, attrs={"axis": axis, "descending": False})
        return out

    @staticmethod
    def isfinite(x: PaddleTensor) -> PaddleTensor:
        return op("isfinite_v2", {"X": x}, dtype="bool")

    @staticmethod
    def logical_not(x: PaddleTensor) -> PaddleTensor:
        return op("logical_not", {"X": x}, dtype="bool")

    @staticmethod
    def logical_or(x: PaddleTensor, y: PaddleTensor) -> PaddleTensor:
        return op("logical_or", {"X": x, "Y": y}, dtype="bool")


def op(
    kind: str, inputs: dict[str, PaddleTensor], attrs: dict[str, Any] | None = None, dtype: Any = None
) -> PaddleTensor:
    """Append the operator `kind` to the current program and return its output, of the dtype of X if none is given."""
    helper = LayerHelper(kind)
    out = helper.create_variable_for_type_inference(dtype=dtype or inputs["X"].dtype)
    helper.append_op(type=kind, inputs=inputs, outputs={"Out": out}, attrs=attrs or {})
    return out


OPERATIONS = Operations()
