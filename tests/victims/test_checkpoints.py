"""Every architecture with published weights from every wrapper a checkpoint comes in: strictly, or naming the first key
that is wrong."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from victims.base import Victim
from victims.gaze import GAZE_MODELS
from victims.registry import VICTIMS, load
from victims.retinaface_networks import mobilenet_network, resnet50_network
from weights.errors import WeightsError


def _four_hourglasses() -> nn.Module:
    from face_alignment.models import FAN

    return FAN(4)


ARCHITECTURES: dict[str, Callable[[], nn.Module]] = {
    "retinaface": mobilenet_network,
    "retinaface-resnet50": resnet50_network,
    "fan": _four_hourglasses,
    **{name: GAZE_MODELS[name].network for name in ("eth-xgaze", "mpiifacegaze", "mpiigaze")},
}


@pytest.fixture(scope="module")
def network() -> Callable[[str], nn.Module]:
    @functools.cache
    def made(name: str) -> nn.Module:
        torch.manual_seed(0)
        return ARCHITECTURES[name]().eval()

    return made


def _trace(network: nn.Module, path: Path) -> None:
    with torch.no_grad():
        torch.jit.trace(network, torch.zeros(1, 3, 64, 64), check_trace=False, strict=False).save(str(path))


def _prefixed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{key}": value for key, value in state.items()}


WRAPPERS: dict[str, Callable[[nn.Module, Path], None]] = {
    "raw": lambda own, path: torch.save(own.state_dict(), path),
    "legacy module.": lambda own, path: torch.save(
        _prefixed(own.state_dict()), path, _use_new_zipfile_serialization=False
    ),
    "model": lambda own, path: torch.save({"model": own.state_dict()}, path),
    "state_dict": lambda own, path: torch.save({"epoch": 3, "state_dict": _prefixed(own.state_dict())}, path),
    "safetensors": lambda own, path: save_file(own.state_dict(), str(path)),
    "TorchScript": _trace,
}
CASES = [
    (name, wrapper)
    for name in ARCHITECTURES
    for wrapper in WRAPPERS
    # safetensors is how gaze weights are published, TorchScript how FAN's are
    if (wrapper != "safetensors" or VICTIMS[name].role == "gaze") and (wrapper != "TorchScript" or name == "fan")
]


def _load(name: str, path: Path) -> Victim:
    return load(f"{name}@{path}", VICTIMS[name].role, allow_unknown=True)


def _state(victim: Victim) -> dict[str, Tensor]:
    (own,) = victim.networks.values()
    assert isinstance(own, nn.Module)
    assert not any(module.training for module in own.modules())
    return {key.removeprefix("stack."): value for key, value in own.state_dict().items()}


@pytest.mark.filterwarnings("ignore:.torch.jit.")
@pytest.mark.parametrize(("name", "wrapper"), CASES)
def test_every_wrapper_loads(name: str, wrapper: str, network: Callable[[str], nn.Module], tmp_path: Path) -> None:
    path = tmp_path / "own.pth"
    WRAPPERS[wrapper](network(name), path)
    with pytest.raises(WeightsError, match="--allow-unknown-weights"):
        load(f"{name}@{path}", VICTIMS[name].role)
    victim = _load(name, path)
    assert set(victim.weights) == {"own.pth"}
    loaded, wanted = _state(victim), network(name).state_dict()
    assert list(loaded) == list(wanted)
    counters = "num_batches_tracked" if wrapper == "TorchScript" else "none"  # tracing leaves these out
    assert all(torch.equal(loaded[key], value) for key, value in wanted.items() if not key.endswith(counters))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_wrong_key_is_named(name: str, network: Callable[[str], nn.Module], tmp_path: Path) -> None:
    state, path = network(name).state_dict(), tmp_path / "own.pth"
    needed = [key for key in state if not key.endswith("num_batches_tracked")]
    first, second = needed[len(needed) // 3], needed[2 * len(needed) // 3]
    for wrong, says in (
        ({key: value for key, value in state.items() if key not in (first, second)}, f"'{first}' is missing"),
        (
            {key: value[None] if key in (first, second) else value for key, value in state.items()},
            f"'{first}' has shape",
        ),
        ({**state, "extra.weight": torch.zeros(1), "more": torch.zeros(1)}, "'extra.weight' is unknown"),
    ):
        torch.save(wrong, path)
        with pytest.raises(WeightsError) as caught:
            _load(name, path)
        assert f"own.pth: key {says}" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "other", "key"),
    [
        ("retinaface", "retinaface-resnet50", "body.stage1.0.0.weight"),
        ("retinaface-resnet50", "retinaface", "body.conv1.weight"),
        ("eth-xgaze", "mpiifacegaze", "conv1.weight"),
        ("mpiifacegaze", "mpiigaze", "feature_extractor.conv1.weight"),
        ("fan-compact", "fan", "conv1.weight"),
    ],
)
def test_a_checkpoint_of_another_victim_is_refused(
    name: str, other: str, key: str, network: Callable[[str], nn.Module], tmp_path: Path
) -> None:
    path = tmp_path / "other.pth"
    WRAPPERS["raw"](network(other), path)
    with pytest.raises(WeightsError, match=f"other.pth: key '{key}' "):
        _load(name, path)
