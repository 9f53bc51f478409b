"""The tensors of a weight file, loaded without running code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from weights.errors import WeightsError
from weights.torchscript import is_torchscript, torchscript_tensors


def load_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a weight file by name, on the CPU, without running anything that is in the file.

    Reads safetensors, torch checkpoints (zip and legacy; weights_only) and TorchScript archives (their tensors alone).
    A wrapper {'model': ...} or {'state_dict': ...} is removed, and so is a prefix `module.` of every key. Raises
    WeightsError for a file that is none of these, is damaged, or holds anything but tensors.
    """
    try:
        if _is_safetensors(path):
            state: Any = load_file(path, device="cpu")
        elif is_torchscript(path):
            state = torchscript_tensors(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError, SafetensorError, zipfile.BadZipFile, RuntimeError, EOFError, OSError,
        ValueError, TypeError, KeyError, IndexError, AttributeError, StopIteration,
    ) as error:  # fmt: skip
        _refuse(path, str(error).splitlines()[0] if str(error) else type(error).__name__, error)
    while isinstance(state, Mapping) and len(wrapped := [key for key in ("model", "state_dict") if key in state]) == 1:
        if not isinstance(state[wrapped[0]], Mapping):
            break
        state = state[wrapped[0]]
    if not isinstance(state, Mapping) or not state:
        _refuse(path, "it holds no table of tensors")
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            _refuse(path, f"entry {key!r} is not a tensor")
    if all(key.startswith("module.") for key in state):
        return {key.removeprefix("module."): value for key, value in state.items()}
    return dict(state)


def _refuse(path: Path, why: str, cause: BaseException | None = None) -> NoReturn:
    raise WeightsError(
        f"{path} is not a weight file that can be loaded safely ({why}); get the original again."
    ) from cause


def _is_safetensors(path: Path) -> bool:
    """Eight bytes of header length, then a JSON object."""
    with path.open("rb") as stream:
        return stream.read(9)[8:] == b"{"
