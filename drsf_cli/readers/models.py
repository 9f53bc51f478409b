"""The victims of a run: loaded once, used for many videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch

from drsf_cli.readers.covering import load_companions
from drsf_cli.settings import DeidSettings, VictimNames
from export.device import Device
from export.session import OnnxNetwork, authorised, usable_cpus, use_cuda
from victims import registry
from victims.base import Detector
from victims.camera import Camera
from victims.crew import Crew, Each
from victims.observe import Observer
from weights.errors import DeviceError


@dataclass
class Models:
    """The chain of victims in two forms.

    As torch networks, which have gradients, and as ONNX Runtime sessions, as authorised readers run them. Sessions are
    opened on first use.
    """

    torch_chain: Observer
    device: Device
    threads: int | None = None
    """Cores to use; None: all that this process may run on."""
    companions: dict[tuple[str, ...], list[Detector]] = field(default_factory=dict, repr=False)
    """Detectors that cover beside the chain's own, by the names they were asked for with."""
    _onnx: Observer | None = field(default=None, repr=False)

    @classmethod
    def load(
        cls, names: VictimNames, device: Device = "auto", allow_unknown: bool = False, threads: int | None = None
    ) -> Models:
        """Load every victim named. Raises UsageError, WeightsError, DeviceError."""
        chain = Observer(
            registry.load_detector(names.detector, allow_unknown),
            None if names.aligner is None else registry.load_aligner_named(names.aligner, allow_unknown),
            None
            if names.gaze is None or names.aligner is None
            else registry.load_gaze_named(names.gaze, allow_unknown),
        )
        where = torch_device(device)
        for victim in chain.victims.values():
            victim.to(where)
        return cls(chain, device, threads)

    @classmethod
    def of(cls, settings: DeidSettings) -> Models:
        """Those that a run with these settings works with. Raises as `load`."""
        return cls.load(*cls.key(settings))

    @staticmethod
    def key(settings: DeidSettings) -> tuple[VictimNames, Device, bool, int | None]:
        """What decides which models a run works with."""
        return settings.victims, settings.device, settings.allow_unknown_weights, settings.threads

    @cached_property
    def each(self) -> Each:
        """What shares work among the cores."""
        return Crew(self.threads or usable_cpus()).each

    def covering(self, names: tuple[str, ...] = (), allow_unknown: bool = False) -> list[Detector]:
        """The detectors that cover beside the chain's own, loaded once; see `covering.load_companions`."""
        if names not in self.companions:
            own = self.torch_chain.detector
            self.companions[names] = load_companions(names, own, self.device, allow_unknown)
        return self.companions[names]

    def reader(self, backend: str = "onnx", camera: Camera | None = None) -> Observer:
        """An observer of whole frames: through ONNX Runtime, or through torch, which is differentiable."""
        chain = self.torch_chain if backend == "torch" else self._onnx_chain()
        return replace(chain, camera=camera)

    def _onnx_chain(self) -> Observer:
        if self._onnx is None:
            chain = self.torch_chain
            self._onnx = Observer(
                authorised(chain.detector, self.device),
                None if chain.aligner is None else authorised(chain.aligner, self.device),
                None if chain.gaze is None else authorised(chain.gaze, self.device),
            )
        return self._onnx

    def describe(self) -> dict[str, Any]:
        """Names and weights by role, for reports."""
        return {
            role: {"name": victim.name, "weights": dict(victim.weights)}
            for role, victim in self.torch_chain.victims.items()
        }

    def providers(self) -> dict[str, list[str]]:
        """Victim -> the ONNX Runtime providers that really run its networks."""
        return {victim.name: _providers(victim.networks) for victim in self._onnx_chain().victims.values()}


def _providers(networks: Mapping[str, Any]) -> list[str]:
    used = {p for network in networks.values() if isinstance(network, OnnxNetwork) for p in network.providers[:1]}
    return sorted(used)


def torch_device(device: Device) -> torch.device:
    """Where torch runs. Raises DeviceError when CUDA was asked for and cannot be had."""
    if device == "cpu":
        return torch.device("cpu")
    if torch.cuda.is_available():
        return torch.device("cuda")
    if device == "cuda":
        use_cuda(device)  # which reports the problem in ONNX Runtime's words
        raise DeviceError("--device cuda cannot be used: torch sees no CUDA device; use --device cpu or auto.")
    return torch.device("cpu")
