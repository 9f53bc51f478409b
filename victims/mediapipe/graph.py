"""A TensorFlow Lite graph as a torch module.

Tensors of rank 4 are NCHW inside, others as TensorFlow has them; the batch, which the file says is 1, is free. What
TensorFlow Lite computes differently from torch:

- Padding SAME is asymmetric where the total is odd: the larger half lies at the end.
- RESHAPE, CONCATENATION and PAD name NHWC's axes; PAD also pads channels.
- DEPTH_TO_SPACE takes channel (by · block + bx) · C + c, `pixel_shuffle` c · block² + by · block + bx.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from victims.mediapipe.attention import CUSTOM_OPERATORS
from victims.mediapipe.tflite import Graph, Operator, read_tflite
from weights.errors import WeightsError

_CHANNELS_FIRST = (0, 3, 1, 2)
_CHANNELS_LAST = (0, 2, 3, 1)
_SAME = 0


class TfliteNetwork(nn.Module):
    """A graph of one input.

    Called with (N, C, H, W), it returns a tuple: outputs of rank 4 flattened to (N, k) in NHWC's order, others (N, ...)
    as they are.
    """

    def __init__(self, graph: Graph) -> None:
        """Raises ValueError for an operator or option that is not supported."""
        super().__init__()
        (self.input,) = graph.inputs
        _, height, width, channels = graph.shapes[self.input]
        self.input_shape = channels, height, width
        self.graph = graph
        self._steps: list[tuple[Operator, Run]] = []
        for operator in graph.operators:
            build = _BUILDERS.get(operator.kind) or CUSTOM_OPERATORS.get(operator.kind)
            if build is None:
                raise ValueError(f"it has the operator {operator.kind}, which is not supported")
            self._steps.append((operator, build(self, operator)))
        self._last_use = {n: k for k, operator in enumerate(graph.operators) for n in operator.inputs}
        # The wiring is data here, and a cache of exported graphs knows a module by its class and its state.
        wiring = repr((graph.operators, graph.shapes, graph.inputs, graph.outputs)).encode()
        self.register_buffer("wiring", torch.tensor(list(hashlib.sha256(wiring).digest()), dtype=torch.uint8))

    def constant(self, number: int, axes: tuple[int, ...] | None = None) -> str:
        """The name of a buffer with constant `number`, its axes permuted."""
        name = f"constant{number}"
        if name not in self._buffers:
            value = torch.from_numpy(np.array(self.graph.constants[number]))
            self.register_buffer(name, value if axes is None else value.permute(axes).contiguous())
        return name

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images in the graph's own layout -> the graph's outputs, in its order."""
        values: dict[int, Tensor] = {self.input: images}
        for step, (operator, run) in enumerate(self._steps):
            own = [values[n] for n in operator.inputs if n >= 0 and n in values]
            values[operator.outputs[0]] = run(self, *own)
            for n in operator.inputs:
                if self._last_use[n] == step and n not in self.graph.outputs:
                    values.pop(n, None)
        outputs = (values[n] for n in self.graph.outputs)
        return tuple(o.permute(_CHANNELS_LAST).flatten(1) if o.ndim == 4 else o for o in outputs)


def load_network(path: Path, outputs: Mapping[int, tuple[int, ...]] | None = None) -> TfliteNetwork:
    """The network in a .tflite file, in evaluation mode, without gradients for its weights.

    `outputs`: shapes without the batch that some of its outputs, by position, must have. Raises WeightsError where the
    file is damaged, or of another model.
    """
    graph = read_tflite(path)
    for position, shape in (outputs or {}).items():
        found = graph.shapes[graph.outputs[position]][1:] if position < len(graph.outputs) else None
        if found != shape:
            raise WeightsError(
                f"{path} is another model: output {position} has shape {found} where {shape} is expected; give the "
                "file that mediapipe's wheel holds."
            )
    try:
        return TfliteNetwork(graph).eval().requires_grad_(False)
    except (ValueError, KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"{path} cannot be used ({error}); give the file that mediapipe's wheel holds.") from error


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Zeros before and after an axis of `size` px with TensorFlow's padding SAME."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def depth_to_space(images: Tensor, block: int) -> Tensor:
    """(N, block² · C, H, W) -> (N, C, block · H, block · W) in TensorFlow's order of channels."""
    count, channels, height, width = images.shape
    inner = channels // block**2
    spread = images.reshape(count, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    return spread.reshape(count, inner, height * block, width * block)


Run = Callable[..., Tensor]
"""Called with the network, whose buffers hold the constants, and the operator's inputs that are no constants."""
_Builder = Callable[["TfliteNetwork", Operator], Run]


def _activated(run: Run, code: int) -> Run:
    if code == 0:
        return run
    if code == 1:
        return lambda network, *values: functional.relu(run(network, *values))
    raise ValueError(f"it has the fused activation {code}, which is not supported")


def _pads(
    network: TfliteNetwork, operator: Operator, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> tuple[int, int, int, int]:
    """Left, right, top, bottom."""
    if operator.options["padding"] != _SAME:
        return 0, 0, 0, 0
    _, height, width, _ = network.graph.shapes[operator.inputs[0]]
    rows = same_padding(height, kernel[0], operator.options["stride_y"], dilation[0])
    columns = same_padding(width, kernel[1], operator.options["stride_x"], dilation[1])
    return (*columns, *rows)


def _convolution(network: TfliteNetwork, operator: Operator) -> Run:
    options = operator.options
    depthwise = operator.kind == "DEPTHWISE_CONV_2D"
    # TensorFlow's kernels are (out, h, w, in), and (1, h, w, out) for one that keeps channels apart
    weight = network.constant(operator.inputs[1], (3, 0, 1, 2) if depthwise else _CHANNELS_FIRST)
    bias = network.constant(operator.inputs[2]) if len(operator.inputs) > 2 and operator.inputs[2] >= 0 else None
    kernel = network.get_buffer(weight)
    dilation = options["dilation_y"], options["dilation_x"]
    left, right, top, bottom = _pads(network, operator, (kernel.shape[2], kernel.shape[3]), dilation)
    even = left == right and top == bottom
    groups = network.graph.shapes[operator.inputs[0]][3] if depthwise else 1
    stride = options["stride_y"], options["stride_x"]

    def run(network: TfliteNetwork, images: Tensor) -> Tensor:
        padded = images if even else functional.pad(images, (left, right, top, bottom))
        return functional.conv2d(
            padded,
            network.get_buffer(weight),
            None if bias is None else network.get_buffer(bias),
            stride,
            (top, left) if even else 0,
            dilation,
            groups,
        )

    return _activated(run, options["activation"])


def _max_pool(network: TfliteNetwork, operator: Operator) -> Run:
    options = operator.options
    kernel = options["height"], options["width"]
    pads = _pads(network, operator, kernel)
    stride = options["stride_y"], options["stride_x"]

    def run(network: TfliteNetwork, images: Tensor) -> Tensor:
        padded = functional.pad(images, pads, value=-torch.inf) if any(pads) else images
        return functional.max_pool2d(padded, kernel, stride)

    return _activated(run, options["activation"])


def _pad(network: TfliteNetwork, operator: Operator) -> Run:
    amounts = network.graph.constants[operator.inputs[1]]
    if amounts.shape != (4, 2) or amounts[0].any():
        raise ValueError("it pads what is no batch of images")
    (top, bottom), (left, right), (front, back) = amounts[1:].tolist()
    return lambda network, images: functional.pad(images, (left, right, top, bottom, front, back))


def _resize(network: TfliteNetwork, operator: Operator) -> Run:
    size = network.graph.constants[operator.inputs[1]].tolist()
    if operator.options["align_corners"] or not operator.options["half_pixel_centers"]:
        raise ValueError("it resizes without half-pixel centres, which is not supported")
    return lambda network, images: functional.interpolate(images, size, mode="bilinear", align_corners=False)


def _depth_to_space(network: TfliteNetwork, operator: Operator) -> Run:
    block = operator.options["block"]
    return lambda network, images: depth_to_space(images, block)


def _reshape(network: TfliteNetwork, operator: Operator) -> Run:
    shape = network.graph.shapes[operator.outputs[0]][1:]

    def run(network: TfliteNetwork, value: Tensor) -> Tensor:
        flat = value.permute(_CHANNELS_LAST) if value.ndim == 4 else value
        shaped = flat.reshape(-1, *shape)
        return shaped.permute(_CHANNELS_FIRST) if len(shape) == 3 else shaped

    return run


def _concatenation(network: TfliteNetwork, operator: Operator) -> Run:
    rank = len(network.graph.shapes[operator.outputs[0]])
    axis = operator.options["axis"] % rank
    place = {1: 2, 2: 3, 3: 1}[axis] if rank == 4 else axis
    return _activated(lambda network, *values: torch.cat(values, dim=place), operator.options["activation"])


def _elementwise(combine: Callable[[Tensor, Tensor], Tensor]) -> _Builder:
    def build(network: TfliteNetwork, operator: Operator) -> Run:
        constant = [n for n in operator.inputs if n in network.graph.constants]
        if not constant:
            return _activated(lambda network, *values: combine(*values), operator.options["activation"])
        shape = network.graph.constants[constant[0]].shape
        name = network.constant(constant[0], _CHANNELS_FIRST if len(shape) == 4 else None)

        def run(network: TfliteNetwork, value: Tensor) -> Tensor:
            return combine(value, network.get_buffer(name))

        return _activated(run, operator.options["activation"])

    return build


def _relu(network: TfliteNetwork, operator: Operator) -> Run:
    return lambda network, value: functional.relu(value)


def _prelu(network: TfliteNetwork, operator: Operator) -> Run:
    name = network.constant(operator.inputs[1])  # (1, 1, C)
    return lambda network, images: functional.prelu(images, network.get_buffer(name).flatten())


def _whole_slice(network: TfliteNetwork, operator: Operator) -> Run:
    """A slice that takes everything, as converters leave it."""
    if network.graph.shapes[operator.inputs[0]] != network.graph.shapes[operator.outputs[0]]:
        raise ValueError("it slices a tensor, which is not supported")
    return lambda network, value: value


_BUILDERS: Mapping[str, _Builder] = {
    "ADD": _elementwise(torch.add),
    "CONCATENATION": _concatenation,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _convolution,
    "DEPTH_TO_SPACE": _depth_to_space,
    "MAX_POOL_2D": _max_pool,
    "MUL": _elementwise(torch.mul),
    "PAD": _pad,
    "PRELU": _prelu,
    "RELU": _relu,
    "RESHAPE": _reshape,
    "RESIZE_BILINEAR": _resize,
    "STRIDED_SLICE": _whole_slice,
}
