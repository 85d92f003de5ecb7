"""Compiles the kernels of Triton for two GPUs without one, and prints what came out of it as JSON: not for import."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from gradclip.engines import triton_decide, triton_kernels, triton_rows
from gradclip.engines.triton import LANES, NOWHERE, RANGES
from gradclip.engines.triton_table import BLOCK_BYTES, LONG_ROWS, SHORT_RUNS

SHORT = "short" in sys.argv
"""Only the dtypes and the norm that most trainings have."""
CAPABILITIES = (80, 90)
DUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
POINTERS = {
    "table": "*i64",
    "begin": "i32",
    "end": "i32",
    "addresses": "*i64",
    "firsts": "*i64",
    "tickets": "*i32",
    "totals": "*fp64",
    "scales": "*fp64",
    "counts": "*i32",
    "out": "*fp64",
    "coefficients": "*fp64",
    "bounds": "*fp64",
    "step": "i32",
    "measured": "*fp64",
    "segments": "i32",
    "bits": "i64",
    "divisor": "*fp32",
    "numbers": "*fp64",
    "actions": "*i64",
}
BYTES = {tl.float16: 2, tl.bfloat16: 2, tl.float32: 4, tl.float64: 8}


def cases() -> Iterator[tuple[str, Any, dict[str, Any], bool]]:
    """The name of each kernel in each form that training meets, its constants, and whether its loads are wide."""
    for dtype, size in [*BYTES.items()][1:3] if SHORT else BYTES.items():
        acc = tl.float64 if dtype is tl.float64 else tl.float32
        flat = {"DTYPE": dtype, "ALIGNED": True, "BLOCK": BLOCK_BYTES // size}
        for order in (2.0,) if SHORT else (0.0, 1.0, 2.0, 3.0):
            low, high = RANGES.get((acc, order), NOWHERE)
            scaled = order > 0.0 and (dtype is tl.float64 or order == 3.0)
            how = {"ORDER": order, "ACC": acc, "LOW": low, "HIGH": high, "SCALED": scaled}
            yield f"measure {dtype} {order:g}", triton_kernels.measure, {**flat, **how, "LANES": LANES}, True
            for rows, columns in (LONG_ROWS, SHORT_RUNS):
                shape = {"DTYPE": dtype, "ROWS": rows, "COLUMNS": columns}
                yield f"measure {rows} rows {dtype} {order:g}", triton_rows.measure_rows, {**shape, **how}, False
        yield f"scale {dtype}", triton_kernels.scale, {**flat, "ACC": acc, "LANES": LANES}, True
        for measures, writes in ((True, False), (True, True), (False, True)):
            how = {"ACC": acc, "MEASURES": measures, "WRITES": writes, "LANES": LANES}
            yield f"clamp {dtype} {measures} {writes}", triton_kernels.clamp, {**flat, **how}, True
        yield f"zero {dtype}", triton_kernels.zero_nonfinite, flat, False
        if dtype is tl.float32:
            yield from decisions()
        shape = {"DTYPE": dtype, "ROWS": LONG_ROWS[0], "COLUMNS": LONG_ROWS[1]}
        yield f"scale rows {dtype}", triton_rows.scale_rows, shape, False


def decisions() -> Iterator[tuple[str, Any, dict[str, Any], bool]]:
    """The kernel that decides, with and without scales and a divisor."""
    actions = {"ACTION": 1, "BROKEN_COEFFICIENT": 1.0, "BROKEN_ACTION": 3, "BLOCK": triton_decide.BLOCK}
    for order, scaled, divides in ((2.0, False, False), (2.0, True, True), (3.0, True, False)):
        how = {"ORDER": order, "SCALED": scaled, "DIVIDES": divides}
        yield f"decide {how}", triton_decide.decide, {**how, **actions}, False


def compiled(kernel: Any, constants: dict[str, Any], capability: int) -> dict[str, Any]:
    """How a kernel came out: its wide loads, and what of its registers was spilled to memory."""
    names = [name for name in kernel.arg_names if name not in constants]
    signature = {**{name: POINTERS[name] for name in names}, **dict.fromkeys(constants, "constexpr")}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
    wide = re.findall(r"ld\.global[\w.:]*\.(?:v4|v2\.[bf]64)|cp\.async[\w.]*[^;]*, 0x10", made.asm["ptx"])
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run([DUMP, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    registers, stack = map(int, re.findall(r"REG:(\d+) STACK:(\d+)", said.stdout)[0])
    return {"wide": len(wide), "registers": registers, "stack": stack}


if __name__ == "__main__":
    assert math.isinf(NOWHERE[0])
    found = {
        f"{name}, sm_{capability}": {**compiled(kernel, constants, capability), "wants_wide": wide}
        for name, kernel, constants, wide in cases()
        for capability in CAPABILITIES
    }
    print(json.dumps(found))
