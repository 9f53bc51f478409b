"""Victim networks run by ONNX Runtime, called like the torch modules they were exported from.

A reader gets one from `authorised(victim)`: each network is exported on first use, compared with torch, and kept in the
user's cache under a hash of everything that the graph depends on.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import inspect
import io
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnxruntime
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from export.device import DEVICES, Device
from victims.base import ExportSpec, Victim
from weights.errors import DeviceError, DrsfError, InputError, OutputError
from weights.files import write_atomically

OPSET = 17
"""Opset of exported graphs unless another is asked for."""

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"
# TF32 would cost three digits of parity; an exhaustive search would run anew for every size of a pyramid.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}

# ONNX Runtime's exceptions have no common base of their own.
_ORT_ERRORS: tuple[type[Exception], ...] = (
    RuntimeError,
    ValueError,
    *(
        value
        for value in vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
        if isinstance(value, type) and issubclass(value, Exception)
    ),
)

V = TypeVar("V", bound=Victim)


def usable_cpus() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OnnxNetwork:
    """One exported network: takes and returns CPU tensors, float32, as the torch network does.

    `source` is a file or its bytes. `device` "auto" is CUDA where ONNX Runtime can run on it, else the CPU, and never
    fails; "cuda" raises DeviceError with what ONNX Runtime says. On the CPU a call computes on one thread, since split
    networks of this size gain little. Calls from several threads at once are safe.

    Raises InputError if `source` is not an ONNX graph that can be run.
    """

    def __init__(self, source: str | Path | bytes, device: Device = "auto") -> None:
        self.name = "exported network" if isinstance(source, bytes) else str(source)
        cuda = use_cuda(device)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised, there is no need to print them as well
        options.intra_op_num_threads = 1
        # Inputs change size from call to call. A memory plan for one size does not fit the next, and would be kept.
        options.enable_mem_pattern = False
        try:
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=[(_CUDA, _CUDA_OPTIONS), _CPU] if cuda else [_CPU],
                enable_fallback=0,
            )
        except _ORT_ERRORS as error:
            raise InputError(
                f"{self.name}: is not an ONNX graph that ONNX Runtime can run ({_first_line(str(error))}); "
                "export it anew."
            ) from error
        self.input_names = tuple(node.name for node in self._session.get_inputs())
        self.output_names = tuple(node.name for node in self._session.get_outputs())
        self.input_shapes = tuple(tuple(node.shape) for node in self._session.get_inputs())
        """Whole numbers; a string or None for an axis that may have any length."""

    @property
    def providers(self) -> tuple[str, ...]:
        """The providers that really run it, in order of precedence."""
        return tuple(self._session.get_providers())

    @property
    def metadata(self) -> dict[str, str]:
        """The file's metadata."""
        return dict(self._session.get_modelmeta().custom_metadata_map)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Outputs in the graph's order; an empty batch is allowed.

        Raises ValueError if the number of inputs is not the graph's.
        """
        empty = any(value.shape[0] == 0 for value in inputs)
        if empty:  # reshapes with an inferred size cannot be run on nothing
            inputs = tuple(value.new_zeros(1, *value.shape[1:]) for value in inputs)
        feed = {
            name: np.ascontiguousarray(value.detach().cpu().numpy())
            for name, value in zip(self.input_names, inputs, strict=True)
        }
        try:
            outputs = self._session.run(None, feed)
        except _ORT_ERRORS as error:
            raise DrsfError(f"{self.name}: ONNX Runtime failed ({_first_line(str(error))}).") from error
        return tuple(torch.from_numpy(output[:0] if empty else output) for output in outputs)


# ------------------------------------------------------------------------------------------------- providers


def use_cuda(device: Device) -> bool:
    """Whether sessions for `device` run on CUDA. Raises DeviceError for "cuda" where they cannot."""
    if device not in DEVICES:
        raise ValueError(f"device is one of {', '.join(DEVICES)}, not {device!r}")
    if device == "cpu" or (device == "auto" and not _driver_is_there()):
        return False
    problem = cuda_problem()
    if device == "cuda" and problem is not None:
        raise DeviceError(f"--device cuda cannot be used: ONNX Runtime reports {problem!r}; use --device cpu or auto.")
    return problem is None


@functools.cache
def cuda_problem() -> str | None:
    """Why ONNX Runtime cannot run on CUDA here, in its own words; None if it can.

    It is not enough that a build *has* the provider: without a driver or a library, a session falls back to the CPU
    with a line on stderr. So one addition is really run, and what is printed during it is read.
    """
    if _CUDA not in onnxruntime.get_available_providers():
        return "this build of ONNX Runtime has no CUDAExecutionProvider"
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses; the session says it better
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    error: Exception | None = None
    providers: list[str] = []
    with _stderr_to_file() as read:
        onnxruntime.set_default_logger_severity(3)
        try:
            session = onnxruntime.InferenceSession(
                _addition(), options, providers=[(_CUDA, _CUDA_OPTIONS)], enable_fallback=0
            )
            session.run(None, {"x": np.ones(1, dtype=np.float32)})
            providers = session.get_providers()
        except _ORT_ERRORS as caught:
            error = caught
        printed = read()
    if error is None and _CUDA in providers:
        return None
    return _reason(str(error) if error is not None else printed)


def _driver_is_there() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def _addition() -> bytes:
    import onnx
    from onnx import TensorProto, helper

    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "addition", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@contextlib.contextmanager
def _stderr_to_file() -> Iterator[Callable[[], str]]:
    """Redirect the descriptor of stderr, because native code bypasses sys.stderr.

    Yields a function that returns what was written.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)

        def read() -> str:
            file.seek(0)
            return file.read().decode("utf-8", "replace")

        try:
            yield read
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _reason(text: str) -> str:
    """The sentence in ONNX Runtime's log or exception that names the cause."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    for pattern in (r"with error: ([^\n]+)", r"(CUDA failure [^\n;]+)", r"\[ONNXRuntimeError\] : \d+ : \w+ : ([^\n]+)"):
        if match := re.search(pattern, plain):
            return match[1].strip()
    return _first_line(plain) or "that the CUDAExecutionProvider was not taken up"


def _first_line(text: str) -> str:
    line = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return line if len(line) <= 300 else line[:297] + "..."


# ------------------------------------------------------------------------------------------------- the cache


def drsf_version() -> str:
    """The version of the installed package; 0 if drsf runs from a folder that was never installed."""
    try:
        return metadata.version("drsf")
    except metadata.PackageNotFoundError:
        return "0"


def cache_folder() -> Path:
    """Where exported graphs are kept: `onnx` in DRSF_CACHE, or in `drsf` of the user's cache."""
    override = os.environ.get("DRSF_CACHE")
    return (Path(override) if override else user_cache_path("drsf")) / "onnx"


class OnnxCache:
    """Keeps exported graphs under what they depend on. A folder that cannot be read or written only costs time."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() if folder is None else folder

    def load(self, victim: Victim, name: str, device: Device = "auto") -> OnnxNetwork:
        """Network `name` of the victim, from the cache or exported now.

        Raises DrsfError if it cannot be exported faithfully, and DeviceError as OnnxNetwork does.
        """
        module = victim.networks[name]
        if not isinstance(module, nn.Module):
            raise ValueError(f"{victim.name}: network {name!r} is no torch module, there is nothing to export")
        spec = victim.export_specs()[name]
        key = _graph_key(victim, name, module, spec)
        path = self.folder / f"{victim.name}_{name}_{key[:16]}.onnx"
        network = self._read(path, key, device)
        if network is None:
            from export.onnx import export_network  # not needed, nor onnx imported, where the cache has it

            data, _ = export_network(victim, name, extra_metadata={"key": key})
            with contextlib.suppress(OSError, OutputError):  # a cache that cannot be written is no reason to fail
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)
            network = OnnxNetwork(data, device)
        network.name = f"{victim.name} {name} (ONNX)"
        return network

    def _read(self, path: Path, key: str, device: Device) -> OnnxNetwork | None:
        """The cached network. None if there is no such file, or if it is damaged or holds another graph."""
        try:
            network = OnnxNetwork(path.read_bytes(), device)
        except (OSError, InputError):
            return None
        return network if network.metadata.get("key") == key else None


def authorised(victim: V, device: Device = "auto", cache: OnnxCache | None = None) -> V:
    """The victim reading through ONNX Runtime. Raises as OnnxCache.load does."""
    use_cuda(device)  # raises before anything is exported
    cache = cache or OnnxCache()
    return victim.with_networks({name: cache.load(victim, name, device) for name in victim.networks})


def _graph_key(victim: Victim, name: str, module: nn.Module, spec: ExportSpec) -> str:
    """sha256 over all that decides the graph: the loaded weights, the network's and the exporter's code, inputs."""
    digest = hashlib.sha256(Path(__file__).with_name("onnx.py").read_bytes())
    for part in (drsf_version(), torch.__version__, OPSET, victim.name, name, spec.preprocessing, spec.input_names):
        digest.update(repr(part).encode())
    digest.update(repr((spec.output_names, sorted(spec.dynamic_axes.items()))).encode())
    digest.update(repr([(tuple(value.shape), value.dtype) for value in spec.inputs]).encode())
    for source in sorted({_source_file(type(part)) for part in module.modules()} - {None}):  # type: ignore[type-var]
        digest.update(Path(source).read_bytes())  # type: ignore[arg-type]
    for key, value in module.state_dict().items():
        digest.update(f"{key} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()


def _source_file(kind: type) -> str | None:
    """The source file of a class that is not torch's own."""
    if kind.__module__.split(".")[0] == "torch":
        return None
    try:
        return inspect.getsourcefile(kind)
    except TypeError:
        return None
