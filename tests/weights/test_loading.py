"""Loading weight files, and refusing those that are none."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from weights.errors import WeightsError
from weights.loading import load_state_dict


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.last = nn.Linear(4, 2)
        self.register_buffer("table", torch.arange(6).view(2, 3).t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x).mean(dim=(2, 3)))


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return sorted(first) == sorted(second) and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", ["bare", "model", "state_dict", "module."])
def test_torch_files(small: Small, tmp_path: Path, legacy: bool, wrap: str) -> None:
    state: Any = small.state_dict()
    if wrap == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    elif wrap != "bare":
        state = {wrap: state, "epoch": 3}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    assert same(load_state_dict(tmp_path / "x.pth"), small.state_dict())


def test_safetensors(small: Small, tmp_path: Path) -> None:
    save_file({key: value.contiguous() for key, value in small.state_dict().items()}, tmp_path / "x")
    assert same(load_state_dict(tmp_path / "x"), small.state_dict())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["script", "trace"])
def test_torchscript_gives_tensors_without_being_compiled(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    example = torch.zeros(1, 3, 8, 8)
    archive = torch.jit.script(small) if kind == "script" else torch.jit.trace(small, example, check_trace=False)
    archive.save(tmp_path / "x.zip")

    def never(*_: object, **__: object) -> None:
        raise AssertionError("the archive's code was loaded")

    monkeypatch.setattr(torch.jit, "load", never)
    assert same(load_state_dict(tmp_path / "x.zip"), small.state_dict())


class Evil:
    """Unpickled, it would make a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("container", ["pickle", "torch", "legacy torch", "torchscript"])
def test_code_in_a_file_is_not_run(small: Small, tmp_path: Path, container: str) -> None:
    target, path = tmp_path / "made", tmp_path / "evil.pth"
    payload = {"model": {"weight": Evil(target)}}
    if container == "pickle":
        path.write_bytes(pickle.dumps(payload))
    elif container == "torchscript":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x/constants.pkl", pickle.dumps(()))
            archive.writestr("x/data.pkl", pickle.dumps(payload))
    else:
        torch.save(payload, path, _use_new_zipfile_serialization=container == "torch")
    with pytest.raises(WeightsError, match="can be loaded safely"):
        load_state_dict(path)
    assert not target.exists()
    pickle.loads(pickle.dumps(payload))  # the payload is a live one
    assert target.exists()


def test_damaged_files_are_refused(small: Small, tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save(small.state_dict(), whole)
    cases = {
        "cut": whole.read_bytes()[:-200],
        "empty": b"",
        "text": b"<html>not found</html>",
        "safetensors": (10**6).to_bytes(8, "little") + b'{"a":',
        "list": None,
        "number": None,
    }
    torch.save([torch.zeros(1)], tmp_path / "list")
    torch.save({"a": 1}, tmp_path / "number")
    for name, content in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match=f"{name} is not a weight file that can be loaded safely"):
            load_state_dict(tmp_path / name)
    with pytest.raises(WeightsError):
        load_state_dict(tmp_path / "nothing here")
