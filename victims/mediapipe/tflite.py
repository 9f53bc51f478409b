"""Reading .tflite files: a FlatBuffers file as a list of operators and constants, with `struct` and numpy alone.

Field numbers and codes are those of TensorFlow Lite's schema, `tensorflow/lite/schema/schema.fbs`; only what
MediaPipe's face models use is read. Nothing in the file is executed.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weights.errors import WeightsError

IDENTIFIER = b"TFL3"
"""Bytes 4 to 8 of every file."""

OPERATORS: Mapping[int, str] = MappingProxyType(
    {
        0: "ADD",
        2: "CONCATENATION",
        3: "CONV_2D",
        4: "DEPTHWISE_CONV_2D",
        5: "DEPTH_TO_SPACE",
        6: "DEQUANTIZE",
        17: "MAX_POOL_2D",
        18: "MUL",
        19: "RELU",
        22: "RESHAPE",
        23: "RESIZE_BILINEAR",
        32: "CUSTOM",
        34: "PAD",
        45: "STRIDED_SLICE",
        54: "PRELU",
        124: "DENSIFY",
    }
)
"""Code -> name of the operators that are known here."""

_DTYPES: Mapping[int, np.dtype[Any]] = {0: np.dtype("<f4"), 1: np.dtype("<f2"), 2: np.dtype("<i4")}

# option -> (field number, struct code, value where the file leaves it out), of what moves over a map
_STRIDES: dict[str, tuple[int, str, int]] = {"padding": (0, "b", 0), "stride_x": (1, "i", 0), "stride_y": (2, "i", 0)}

# operator -> option -> the same
_OPTIONS: Mapping[str, Mapping[str, tuple[int, str, int]]] = MappingProxyType(
    {
        "ADD": {"activation": (0, "b", 0)},
        "MUL": {"activation": (0, "b", 0)},
        "CONCATENATION": {"axis": (0, "i", 0), "activation": (1, "b", 0)},
        "CONV_2D": _STRIDES | {"activation": (3, "b", 0), "dilation_x": (4, "i", 1), "dilation_y": (5, "i", 1)},
        "DEPTHWISE_CONV_2D": _STRIDES
        | {"activation": (4, "b", 0), "dilation_x": (5, "i", 1), "dilation_y": (6, "i", 1)},
        "MAX_POOL_2D": _STRIDES | {"width": (3, "i", 0), "height": (4, "i", 0), "activation": (5, "b", 0)},
        "RESIZE_BILINEAR": {"align_corners": (2, "b", 0), "half_pixel_centers": (3, "b", 0)},
        "DEPTH_TO_SPACE": {"block": (0, "i", 0)},
        "STRIDED_SLICE": {
            "begin_mask": (0, "i", 0),
            "end_mask": (1, "i", 0),
            "ellipsis_mask": (2, "i", 0),
            "new_axis_mask": (3, "i", 0),
            "shrink_axis_mask": (4, "i", 0),
        },
    }
)


@dataclass(frozen=True)
class Operator:
    """One node of the graph."""

    kind: str
    """A name of `OPERATORS`, or of a custom operator."""
    inputs: tuple[int, ...]
    """Numbers of tensors; -1 where an optional one is left out."""
    outputs: tuple[int, ...]
    options: Mapping[str, int]
    custom: bytes
    """Options of a custom operator, as they lie in the file."""


@dataclass(frozen=True)
class Graph:
    """The first subgraph of a file. Tensors are numbered; layouts are TensorFlow's (NHWC, OHWI)."""

    operators: tuple[Operator, ...]
    """In an order in which they can run."""
    shapes: tuple[tuple[int, ...], ...]
    """Of every tensor."""
    constants: Mapping[int, NDArray[Any]]
    """Tensor -> value: float32 or int32. Sparse ones are dense here."""
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class _Table:
    """A FlatBuffers table at a position of the file."""

    def __init__(self, data: bytes, position: int) -> None:
        self.data, self.position = data, position
        self.vtable = position - struct.unpack_from("<i", data, position)[0]
        self.size = struct.unpack_from("<H", data, self.vtable)[0]

    def _field(self, number: int) -> int:
        """Where field `number` is; 0 where it is left out."""
        slot = 4 + 2 * number
        offset = struct.unpack_from("<H", self.data, self.vtable + slot)[0] if slot < self.size else 0
        return self.position + offset if offset else 0

    def scalar(self, number: int, code: str, missing: int = 0) -> int:
        at = self._field(number)
        return int(struct.unpack_from("<" + code, self.data, at)[0]) if at else missing

    def _target(self, number: int) -> int:
        at = self._field(number)
        return at + struct.unpack_from("<I", self.data, at)[0] if at else 0

    def table(self, number: int) -> _Table | None:
        at = self._target(number)
        return _Table(self.data, at) if at else None

    def tables(self, number: int) -> list[_Table]:
        at = self._target(number)
        if not at:
            return []
        count = struct.unpack_from("<I", self.data, at)[0]
        places = [at + 4 + 4 * k for k in range(self._counted(count, at, 4))]
        return [_Table(self.data, place + struct.unpack_from("<I", self.data, place)[0]) for place in places]

    def array(self, number: int, dtype: str) -> NDArray[Any]:
        """A vector of numbers; empty where it is left out."""
        at = self._target(number)
        if not at:
            return np.zeros(0, dtype)
        count = struct.unpack_from("<I", self.data, at)[0]
        return np.frombuffer(self.data, dtype, self._counted(count, at, np.dtype(dtype).itemsize), at + 4)

    def _counted(self, count: int, at: int, size: int) -> int:
        if at + 4 + count * size > len(self.data):
            raise ValueError("a vector reaches beyond the end")
        return int(count)


def read_tflite(path: Path) -> Graph:
    """The graph in a .tflite file.

    Raises WeightsError where the file cannot be read, is truncated, is no TensorFlow Lite model, or has an operator
    that is not in `OPERATORS`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror}); check the path and its permissions.") from error
    if data[4:8] != IDENTIFIER:
        raise WeightsError(f"{path} is no TensorFlow Lite model; give the .tflite file that mediapipe's wheel holds.")
    try:
        return _graph(data)
    except (struct.error, ValueError, IndexError, KeyError) as error:
        raise WeightsError(
            f"{path} is damaged or of another model ({error}); run `drsf weights pull mediapipe` to get it anew."
        ) from error


def _graph(data: bytes) -> Graph:
    model = _Table(data, struct.unpack_from("<I", data, 0)[0])
    codes = [_operator_name(code) for code in model.tables(1)]
    buffers = [buffer.array(0, "u1") for buffer in model.tables(4)]
    subgraph = model.tables(2)[0]
    tensors = subgraph.tables(0)
    shapes = tuple(tuple(int(n) for n in tensor.array(0, "<i4")) for tensor in tensors)
    constants = {}
    for number, tensor in enumerate(tensors):
        raw = buffers[tensor.scalar(2, "I")]
        if len(raw):
            constants[number] = _constant(tensor, raw, shapes[number])
    operators = []
    for node in subgraph.tables(3):
        name = codes[node.scalar(0, "I")]
        operator = Operator(
            name,
            tuple(int(n) for n in node.array(1, "<i4")),
            tuple(int(n) for n in node.array(2, "<i4")),
            _options(name, node.table(4)),
            node.array(5, "u1").tobytes(),
        )
        if name in ("DEQUANTIZE", "DENSIFY") and operator.inputs[0] in constants:
            constants[operator.outputs[0]] = constants.pop(operator.inputs[0])
        else:
            operators.append(operator)
    inputs, outputs = (tuple(int(n) for n in subgraph.array(k, "<i4")) for k in (1, 2))
    if not inputs or not outputs:
        raise ValueError("the graph has no input or no output")
    return Graph(tuple(operators), shapes, constants, inputs, outputs)


def _operator_name(code: _Table) -> str:
    number = max(code.scalar(0, "b"), code.scalar(3, "i"))  # the first field holds what fits into a byte
    if number not in OPERATORS:
        raise ValueError(f"it has operator {number}, which no face model has")
    return code.array(1, "u1").tobytes().decode("ascii") if OPERATORS[number] == "CUSTOM" else OPERATORS[number]


def _options(name: str, table: _Table | None) -> Mapping[str, int]:
    found = {}
    for key, (number, code, missing) in _OPTIONS.get(name, {}).items():
        found[key] = missing if table is None else table.scalar(number, code, missing)
    return found


def _constant(tensor: _Table, raw: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[Any]:
    """Its value, half precision widened and sparse values spread."""
    kind = tensor.scalar(1, "b")
    if kind not in _DTYPES:
        raise ValueError(f"it has a tensor of type {kind}, which no face model has")
    values = np.frombuffer(raw.tobytes(), _DTYPES[kind])
    sparsity = tensor.table(6)
    if sparsity is not None:
        values = _densify(values, shape, sparsity)
    return values.reshape(shape).astype(np.float32 if values.dtype.kind == "f" else np.int32)


def _densify(values: NDArray[Any], shape: tuple[int, ...], sparsity: _Table) -> NDArray[Any]:
    """Values of a sparse tensor (`SparsityParameters`) in their places, (*shape).

    The dimensions are walked in traversal order. A dense one visits every index; a sparse one (compressed rows) those
    listed between two entries of its segments, which are counted by the position on the level above.
    """
    order = sparsity.array(0, "<i4").tolist()
    if sorted(order) != list(range(len(shape))):
        raise ValueError("it has a tensor that is sparse in blocks, which no face model has")
    positions = np.zeros(1, np.int64)  # on the level above
    coordinates = np.zeros((1, len(shape)), np.int64)
    for axis, level in zip(order, sparsity.tables(2), strict=True):
        if level.scalar(0, "b") == 0:
            size = level.scalar(1, "i")
            counts = np.full(len(positions), size)
            indices = np.tile(np.arange(size), len(positions))
            following = positions[:, None] * size + np.arange(size)
        else:
            segments, listed = _indices(level, 2, 3), _indices(level, 4, 5)
            counts = segments[positions + 1] - segments[positions]
            spans = [np.arange(segments[p], segments[p + 1]) for p in positions]
            following = np.concatenate(spans)
            indices = listed[following]
        positions = following.reshape(-1)
        coordinates = np.repeat(coordinates, counts, axis=0)
        coordinates[:, axis] = indices
    dense = np.zeros(shape, values.dtype)
    dense[tuple(coordinates.T)] = values[positions]
    return dense


def _indices(level: _Table, kind: int, vector: int) -> NDArray[np.int64]:
    """A vector of indices of one of three widths."""
    table = level.table(vector)
    dtype = {1: "<i4", 2: "<u2", 3: "u1"}[level.scalar(kind, "B")]
    if table is None:
        raise ValueError("a sparse tensor has no indices")
    return table.array(0, dtype).astype(np.int64)
