"""The tensors of a TorchScript archive, without running what is in it.

A TorchScript archive (torch.jit.save) is a zip with `NAME/data.pkl`, a pickle of the module tree whose classes are
named `__torch__...`, raw storages `NAME/data/K`, and Python-like code under `NAME/code/`. `torch.jit.load` compiles
that code; torch's weights-only unpickler refuses such archives. Here only the pickle is read, by an unpickler that
knows four things: how to rebuild a tensor from a storage, ordered dictionaries, lists with a type, and a holder of
attributes that stands for every `__torch__` class. Any other name in the pickle is refused.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


def is_torchscript(path: Path) -> bool:
    """Whether `path` is a zip archive as torch.jit.save writes it."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Parameters, buffers and other tensor attributes by their dotted names, on the CPU.

    Raises pickle.UnpicklingError for a pickle that names anything else than tensors and modules; zipfile.BadZipFile,
    KeyError or ValueError for an archive that is not whole.
    """
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith("/data.pkl")).removesuffix("data.pkl")
        if f"{root}byteorder" in archive.namelist() and archive.read(f"{root}byteorder") != b"little":
            raise ValueError("the archive is not little-endian")
        with archive.open(f"{root}data.pkl") as stream:
            tree = _unpickler(stream, lambda key: archive.read(f"{root}data/{key}")).load()
    if not isinstance(tree, _Module):
        raise pickle.UnpicklingError("its root is not a module")
    tensors: dict[str, Tensor] = {}
    _collect(tree, "", tensors, {id(tree)})
    return tensors


class _Module:
    """Stands for a `__torch__` class: it has the attributes and nothing else."""

    attributes: dict[str, Any]


class _Storage:
    """Stands for a class of storages: it says what their numbers are."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


def _unpickler(stream: IO[bytes], read_storage: Callable[[str], bytes]) -> pickle.Unpickler:
    known = _known()

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if module == "__torch__" or module.startswith("__torch__."):
                return known["__torch__", ""]
            if (module, name) not in known:
                raise pickle.UnpicklingError(f"it names {module}.{name}, which is no tensor")
            return known[module, name]

        def persistent_load(self, pid: Any) -> Tensor:
            kind, storage, key, _location, count = pid
            if kind != "storage" or not isinstance(storage, _Storage):
                raise pickle.UnpicklingError("it refers to something that is no storage")
            if count == 0:
                return torch.empty(0, dtype=storage.dtype)
            return torch.frombuffer(bytearray(read_storage(str(key))), dtype=storage.dtype, count=count)

    return Restricted(stream)


def _known() -> dict[tuple[str, str], object]:
    """What a pickle may name.

    It is made anew for every file: a pickle's BUILD may set attributes on whatever find_class returns.
    """

    class Module(_Module):
        def __setstate__(self, state: object) -> None:
            if not isinstance(state, dict):
                raise pickle.UnpicklingError("a module's state is not a table of attributes")
            self.attributes = {str(name): value for name, value in state.items()}

    def rebuild(storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
        return storage.as_strided(size, stride, offset)

    def same(value: object, *_: object) -> object:
        return value

    return {
        ("__torch__", ""): Module,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("collections", "OrderedDict"): OrderedDict,
        ("torch.jit._pickle", "restore_type_tag"): same,
        ("torch.jit._pickle", "build_intlist"): same,
        ("torch.jit._pickle", "build_doublelist"): same,
        ("torch.jit._pickle", "build_boollist"): same,
        ("torch.jit._pickle", "build_tensorlist"): same,
        **{("torch", name): _Storage(dtype) for name, dtype in _DTYPES.items()},
    }


def _collect(module: _Module, prefix: str, into: dict[str, Tensor], above: set[int]) -> None:
    """Collect the tensors depth first. `above` holds the modules on the way down, so that a cycle ends."""
    for name, value in getattr(module, "attributes", {}).items():
        if isinstance(value, Tensor):
            into[prefix + name] = value
        elif isinstance(value, _Module) and id(value) not in above:
            _collect(value, f"{prefix}{name}.", into, above | {id(value)})
