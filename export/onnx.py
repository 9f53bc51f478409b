"""Victim networks as ONNX files, each compared with the torch network it came from.

The TorchScript exporter is used (`dynamo=False`): with torch 2.15 it exports every victim with dynamic batch, height
and width, needs no onnxscript, and folds batch normalisation into convolutions.

Parity is the largest absolute difference of an output over the width of that output's range on the compared inputs.
"""

from __future__ import annotations

import copy
import json
import math
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch import Tensor, nn

from export.session import OPSET, OnnxNetwork, drsf_version
from victims.base import ExportSpec, Network, Victim
from weights.catalog import catalog
from weights.errors import DrsfError
from weights.files import make_folder, write_atomically

LIMIT = 1e-4
"""Largest relative difference of a float32 file."""
LIMIT_FP16 = 1e-2

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class ExportedNetwork:
    """One row of the parity table."""

    victim: str
    network: str
    path: Path | None
    """None where the graph stayed in memory."""
    bytes: int
    inputs: int
    """Input sets that torch and ONNX Runtime were compared on."""
    max_difference: float
    """Largest absolute difference of the output whose relative difference is largest."""
    range: float
    """Largest minus least value of that output."""
    relative: float
    limit: float
    """The limit for `relative`."""
    fp16: bool


def export_victim(
    victim: Victim,
    folder: str | Path,
    opset: int = OPSET,
    fp16: bool = False,
    samples: Mapping[str, Sequence[Inputs]] | None = None,
) -> list[ExportedNetwork]:
    """Write one file for each network, `VICTIM_NETWORK.onnx` (`..._fp16.onnx`), into `folder`.

    `samples` are inputs for each network on which parity is measured, besides the artificial ones; see
    `recorded_inputs`. With `fp16`, files still have float32 inputs and outputs. Raises DrsfError naming the network if
    it cannot be exported or differs too much (nothing is written then), and OutputError if the folder cannot be
    written.
    """
    folder = Path(folder)
    exported = {
        name: export_network(victim, name, opset, fp16, (samples or {}).get(name, ())) for name in victim.networks
    }
    make_folder(folder, "folder")
    rows = []
    for name, (data, row) in exported.items():
        path = folder / f"{victim.name}_{name}{'_fp16' if fp16 else ''}.onnx"
        write_atomically(path, data)
        rows.append(replace(row, path=path))
    return rows


def export_network(
    victim: Victim,
    name: str,
    opset: int = OPSET,
    fp16: bool = False,
    samples: Sequence[Inputs] = (),
    extra_metadata: Mapping[str, str] | None = None,
) -> tuple[bytes, ExportedNetwork]:
    """Network `name` as the bytes of a checked file, with its parity. Raises DrsfError naming the network."""
    title = f"{victim.name} {name}"
    original = victim.networks[name]
    if not isinstance(original, nn.Module):
        raise ValueError(f"{title} is no torch module, there is nothing to export")
    spec = victim.export_specs()[name]
    module = copy.deepcopy(original).cpu().eval().requires_grad_(False)
    model = _to_onnx(module, spec, opset, title)
    if fp16:
        model = _to_half(model, spec.full_precision)
    else:
        _without_prelu(model.graph)
    onnx.helper.set_model_props(model, {**_metadata(victim, name, spec), **(extra_metadata or {})})
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise DrsfError(f"{title}: the exported graph is not valid ONNX ({_line(error)}).") from error
    data = model.SerializeToString()
    limit = LIMIT_FP16 if fp16 else LIMIT
    compared = [*_artificial_inputs(spec), *samples]
    difference, width = parity(module, OnnxNetwork(data, "cpu"), compared, spec.output_names, title)
    relative = relative_difference(difference, width)
    if relative > limit:
        raise DrsfError(
            f"{title}: ONNX Runtime differs from torch by {relative:.2g} of the output's range, over the limit of "
            f"{limit:g}{'; export it without --fp16' if fp16 else ''}."
        )
    row = ExportedNetwork(victim.name, name, None, len(data), len(compared), difference, width, relative, limit, fp16)
    return data, row


def parity(
    reference: Network, candidate: Network, inputs: Sequence[Inputs], output_names: Sequence[str], title: str
) -> tuple[float, float]:
    """Largest absolute difference over all inputs and range of values, of the output for which their ratio is largest.

    Raises DrsfError if the two networks return different numbers or shapes of outputs.
    """
    count = len(output_names)
    differences = [0.0] * count
    least, largest = [math.inf] * count, [-math.inf] * count
    for sample in inputs:
        with torch.no_grad():
            expected = reference(*sample)
        found = candidate(*sample)
        shapes = [[tuple(value.shape) for value in values] for values in (expected, found)]
        if shapes[0] != shapes[1] or len(expected) != count:
            raise DrsfError(f"{title}: ONNX Runtime returns shapes {shapes[1]} where torch returns {shapes[0]}.")
        for k, (a, b) in enumerate(zip(expected, found, strict=True)):
            if a.numel():
                gap = float((a.double().cpu() - b.double()).abs().max())
                # max() would drop a NaN
                differences[k] = gap if math.isnan(gap) else max(differences[k], gap)
                least[k], largest[k] = min(least[k], float(a.min())), max(largest[k], float(a.max()))
    worst, worst_relative = (0.0, 0.0), -1.0
    for gap, low, high in zip(differences, least, largest, strict=True):
        width = max(0.0, high - low)
        relative = relative_difference(gap, width)
        if relative > worst_relative:
            worst, worst_relative = (gap, width), relative
    return worst


def relative_difference(difference: float, width: float) -> float:
    """The difference divided by the range's width; infinite for NaN, and for any difference of a constant output."""
    if difference == 0:
        return 0.0
    return math.inf if math.isnan(difference) or width == 0 else difference / width


def recorded_inputs(victim: Victim, read: Callable[[Victim], object], at_most: int = 4) -> dict[str, list[Inputs]]:
    """The inputs that each network of the victim gets while `read` uses a copy of the victim: real crops for parity.

    The first `at_most` calls are kept, with the first two items of each batch.
    """
    kept: dict[str, list[Inputs]] = {name: [] for name in victim.networks}

    def recording(name: str, network: Network) -> Network:
        def call(*inputs: Tensor) -> tuple[Tensor, ...]:
            if len(kept[name]) < at_most:
                kept[name].append(tuple(value[:2].detach().cpu().clone() for value in inputs))
            with torch.no_grad():
                return network(*inputs)

        return call

    copied = victim.with_networks({name: recording(name, network) for name, network in victim.networks.items()})
    copied.device = victim.device
    read(copied)
    return kept


def _to_onnx(module: nn.Module, spec: ExportSpec, opset: int, title: str) -> onnx.ModelProto:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # deprecation of the exporter, and tracing of Python numbers
        path = Path(folder) / "network.onnx"
        try:
            torch.onnx.export(
                module,
                spec.inputs,
                path,
                dynamo=False,
                opset_version=opset,
                input_names=list(spec.input_names),
                output_names=list(spec.output_names),
                dynamic_axes={name: dict(axes) for name, axes in spec.dynamic_axes.items()},
            )
        except (RuntimeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
            raise DrsfError(f"{title}: cannot be exported with opset {opset} ({_line(error)}); use {OPSET}.") from error
        return onnx.load(path)


def _to_half(model: onnx.ModelProto, full_precision: Sequence[str]) -> onnx.ModelProto:
    """Weights and arithmetic in half precision; inputs and outputs stay float32.

    Two things stay float32: the modules of ExportSpec.full_precision, and depthwise convolutions. Those have nine
    weights a channel, and rounding a weight makes the same error at every pixel.
    """
    kept = [
        node.name
        for node in model.graph.node
        if (node.op_type == "Conv" and (_attribute(node, "group") or 1) > 1)
        or node.name.startswith(tuple(full_precision))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numbers below half's smallest are raised to it, as parity then shows
        half = OnnxModel(convert_float_to_float16(model, keep_io_types=True, node_block_list=kept))
    _without_detours(half.model.graph)
    half.topological_sort()  # the converter appends its casts at the end
    return half.model


def _without_detours(graph: onnx.GraphProto) -> None:
    """Remove needless casts.

    The converter also rounds to half and back between float32 nodes, and casts a tensor anew for each of them.
    """
    nodes = list({node.output[0]: copy.deepcopy(node) for node in graph.node}.values())
    makers = {node.output[0]: node for node in nodes}
    direct: dict[str, str] = {}
    for node in nodes:
        before = makers.get(node.input[0]) if _attribute(node, "to") == onnx.TensorProto.FLOAT else None
        if before is not None and _attribute(before, "to") == onnx.TensorProto.FLOAT16:
            direct[node.output[0]] = before.input[0]
    for node in nodes:
        node.input[:] = [direct.get(name, name) for name in node.input]
    outputs = {output.name for output in graph.output}
    alive: list[onnx.NodeProto] = []
    while len(alive) != len(nodes):
        alive, used = nodes, outputs.union(*(node.input for node in nodes))
        nodes = [node for node in nodes if used.intersection(node.output)]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)


def _without_prelu(graph: onnx.GraphProto) -> None:
    """Replace PReLU of maps by a·x + (1 - a)·max(x, 0), with a depthwise convolution for a·x.

    On CPUs ONNX Runtime keeps maps in blocks of channels from one convolution to the next, but not through a PRelu.
    """
    slopes = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    nodes = []
    for node in graph.node:
        slope = slopes.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None or slope.shape != (len(slope), 1, 1):
            nodes.append(node)
            continue
        x, y, make = node.input[0], node.output[0], onnx.helper.make_node
        weights = {f"{y}.slope": slope[:, None], f"{y}.rest": 1.0 - slope}
        graph.initializer.extend(onnx.numpy_helper.from_array(value, key) for key, value in weights.items())
        nodes += [
            make("Conv", [x, f"{y}.slope"], [f"{y}.scaled"], group=len(slope)),
            make("Relu", [x], [f"{y}.positive"]),
            make("Mul", [f"{y}.positive", f"{y}.rest"], [f"{y}.more"]),
            make("Add", [f"{y}.scaled", f"{y}.more"], [y]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)


def _attribute(node: onnx.NodeProto, name: str) -> int | None:
    """A whole number; None where the node does not have it."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), None)


def _metadata(victim: Victim, name: str, spec: ExportSpec) -> dict[str, str]:
    known = catalog()
    own = {file: sha for file, sha in victim.weights.items() if file in known and known[file].network == name}
    files = own or victim.weights  # weights of a user's own, or one file for all networks
    licences = {
        file: known[file].weights_licence for file in files if file in known and known[file].sha256 == files[file]
    }
    return {
        "drsf_version": drsf_version(),
        "victim": victim.name,
        "network": name,
        "role": victim.role,
        "preprocessing": spec.preprocessing,
        "weights": json.dumps(files, sort_keys=True),
        "weights_licence": json.dumps(licences, sort_keys=True),
    }


def _artificial_inputs(spec: ExportSpec) -> list[Inputs]:
    """The example, noise of its shape, and noise of another size along each dynamic axis."""
    generator = torch.Generator().manual_seed(0)

    def noise(shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=generator)

    others = []
    for value, name in zip(spec.inputs, spec.input_names, strict=True):
        axes = spec.dynamic_axes.get(name, {})
        others.append(
            [1 if axes.get(i) == "batch" else size + 7 if i in axes else size for i, size in enumerate(value.shape)]
        )
    return [spec.inputs, tuple(noise(value.shape) for value in spec.inputs), tuple(noise(shape) for shape in others)]


def _line(error: BaseException) -> str:
    """First line of another library's message."""
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else type(error).__name__
