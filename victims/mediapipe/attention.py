"""The three custom operators of MediaPipe's attention mesh (Grishchenko et al. 2020, arXiv 2006.10962), version 2.

The network cuts its own feature map around lips and eyes, and moves the points found there back. The operators were
rebuilt from their definitions in MediaPipe (`mediapipe/util/tflite/operations`, Apache-2.0) and held against its
client. Their options are FlexBuffers, of which `read_options` reads what occurs.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from victims.mediapipe.tflite import Operator

if TYPE_CHECKING:
    from torch import nn


def read_options(data: bytes) -> dict[str, Any]:
    """A FlexBuffers map of whole numbers, fractions, and vectors of them. Raises ValueError for anything else."""
    width, packed = data[-1], data[-2]
    if packed >> 2 != _MAP:
        raise ValueError("the options of a custom operator are no map")
    at = len(data) - 2 - width
    return _map(data, at - _number(data, at, width), 1 << (packed & 3))


_INT, _UINT, _FLOAT, _MAP, _VECTOR = 1, 2, 3, 9, 10
_TYPED = {11: _INT, 12: _UINT, 13: _FLOAT}


def _number(data: bytes, at: int, width: int, kind: int = _UINT) -> Any:
    codes = {_INT: "bhiq", _UINT: "BHIQ", _FLOAT: "?efd"}[kind]
    return struct.unpack_from("<" + codes[width.bit_length() - 1], data, at)[0]


def _map(data: bytes, at: int, width: int) -> dict[str, Any]:
    keys = at - 3 * width - _number(data, at - 3 * width, width)
    key_width = _number(data, at - 2 * width, width)
    count = _number(data, at - width, width)
    found = {}
    for k in range(count):
        place = keys + k * key_width
        start = place - _number(data, place, key_width)
        name = data[start : data.index(b"\0", start)].decode("ascii")
        found[name] = _value(data, at + k * width, width, data[at + count * width + k])
    return found


def _value(data: bytes, at: int, width: int, packed: int) -> Any:
    kind, own_width = packed >> 2, 1 << (packed & 3)
    if kind in (_INT, _UINT, _FLOAT):
        return _number(data, at, width, kind)
    start = at - _number(data, at, width)
    count = _number(data, start - own_width, own_width)
    if kind in _TYPED:
        return [_number(data, start + k * own_width, own_width, _TYPED[kind]) for k in range(count)]
    if kind == _VECTOR:
        types = start + count * own_width
        return [_value(data, start + k * own_width, own_width, data[types + k]) for k in range(count)]
    raise ValueError(f"an option of a custom operator has type {kind}, which is not supported")


def _transform_matrix(network: nn.Module, operator: Operator) -> Callable[..., Tensor]:
    options = read_options(operator.custom)
    subset = list(options["subset_idxs"])
    left, right = options["left_rotation_idx"], options["right_rotation_idx"]
    scale = float(options["scale_x"]), float(options["scale_y"])
    size = int(options["output_width"]), int(options["output_height"])

    def run(network: nn.Module, points: Tensor) -> Tensor:
        return transform_matrix(points, subset, (left, right), scale, size)

    return run


def transform_matrix(
    points: Tensor, subset: list[int], axis: tuple[int, int], scale: tuple[float, float], size: tuple[int, int]
) -> Tensor:
    """Matrices (N, 4, 4) from patches of `size` (width, height) to the map that points (N, n, 3) lie on.

    The patch is the box of the `subset`, made `scale` times as large, in axes turned so that point axis[1] lies to the
    right of point axis[0].
    """
    along = points[:, axis[1], :2] - points[:, axis[0], :2]
    cosine, sine = functional.normalize(along, dim=1).unbind(1)
    x, y = points[:, subset, 0], points[:, subset, 1]
    turned = torch.stack(
        (cosine[:, None] * x + sine[:, None] * y, cosine[:, None] * y - sine[:, None] * x), dim=1
    )  # (N, 2, n)
    low, high = turned.amin(dim=2), turned.amax(dim=2)
    centre_x, centre_y = ((low + high) / 2).unbind(1)
    step_x, step_y = ((high - low) * low.new_tensor([scale[0] / size[0], scale[1] / size[1]])).unbind(1)
    zero = torch.zeros_like(cosine)
    one = torch.ones_like(cosine)
    half_x, half_y = size[0] / 2, size[1] / 2
    shift_x = cosine * (centre_x - step_x * half_x) - sine * (centre_y - step_y * half_y)
    shift_y = sine * (centre_x - step_x * half_x) + cosine * (centre_y - step_y * half_y)
    rows = (
        (cosine * step_x, -sine * step_y, zero, shift_x),
        (sine * step_x, cosine * step_y, zero, shift_y),
        (zero, zero, one, zero),
        (zero, zero, zero, one),
    )
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def _transform_tensor(network: nn.Module, operator: Operator) -> Callable[..., Tensor]:
    options = read_options(operator.custom)
    size = int(options["output_height"]), int(options["output_width"])
    return lambda network, maps, matrices: transform_tensor(maps, matrices, size)


def transform_tensor(maps: Tensor, matrices: Tensor, size: tuple[int, int]) -> Tensor:
    """Patches (N, C, *size) of maps (N, C, H, W): bilinear samples at M (x + 0.5) - 0.5.

    They are zero where that is outside the centres of the border pixels.
    """
    height, width = maps.shape[-2:]
    lines, columns = (torch.arange(n, dtype=maps.dtype, device=maps.device) + 0.5 for n in size)
    x, y = columns.expand(size), lines[:, None].expand(size)
    across = matrices[:, 0, 0, None, None] * x + matrices[:, 0, 1, None, None] * y + matrices[:, 0, 3, None, None] - 0.5
    down = matrices[:, 1, 0, None, None] * x + matrices[:, 1, 1, None, None] * y + matrices[:, 1, 3, None, None] - 0.5
    grid = torch.stack((across * (2.0 / (width - 1)) - 1.0, down * (2.0 / (height - 1)) - 1.0), dim=-1)
    inside = (across >= 0) & (across <= width - 1) & (down >= 0) & (down <= height - 1)
    sampled = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=True)
    return sampled * inside[:, None].to(maps.dtype)


def _transform_landmarks(network: nn.Module, operator: Operator) -> Callable[..., Tensor]:
    return lambda network, points, matrices: transform_landmarks(points, matrices)


def transform_landmarks(points: Tensor, matrices: Tensor) -> Tensor:
    """Points (N, n, 2) moved by matrices (N, 4, 4)."""
    return points @ matrices[:, :2, :2].transpose(1, 2) + matrices[:, None, :2, 3]


CUSTOM_OPERATORS: Mapping[str, Callable[[nn.Module, Operator], Callable[..., Tensor]]] = {
    "Landmarks2TransformMatrix": _transform_matrix,
    "TransformLandmarks": _transform_landmarks,
    "TransformTensorBilinear": _transform_tensor,
}
