"""`drsf doctor`: which providers, codecs, victims and weights are usable here, and why the others are not.

Everything is tried, not looked up: a provider runs a network, a codec writes and reads a picture, a victim is loaded.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from attacks.codec import CODECS
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.models import Models
from drsf_cli.settings import VictimNames
from export.session import cuda_problem
from victims import registry
from weights import store
from weights.errors import DrsfError


@dataclass(frozen=True)
class Check:
    """One thing that was tried."""

    kind: str
    """provider, codec, victim or weights."""
    name: str
    usable: bool
    detail: str
    """What it is, or why it is not usable and what to do, one sentence."""
    needed: bool
    """Whether the defaults of `drsf deid` need it."""


def examine() -> list[Check]:
    """Try everything. A missing piece never raises; it is reported."""
    return [*_providers(), *_codecs(), *_victims(), *_weights()]


def healthy(checks: list[Check]) -> bool:
    """Whether the defaults work."""
    return all(check.usable for check in checks if check.needed)


def _providers() -> list[Check]:
    try:
        ran = Models.load(VictimNames(), "cpu").providers()
        cpu = Check("provider", "CPU", True, f"ONNX Runtime runs {', '.join(ran)}", True)
    except DrsfError as error:
        cpu = Check("provider", "CPU", False, str(error), True)
    problem = cuda_problem()
    if problem is None and not torch.cuda.is_available():
        problem = "torch sees no CUDA device"
    detail = f"{problem}; --device auto takes the CPU" if problem else f"{torch.cuda.get_device_name()}"
    return [cpu, Check("provider", "CUDA", problem is None, detail, False)]


def _codecs() -> list[Check]:
    checks = []
    with tempfile.TemporaryDirectory(prefix="drsf-doctor-") as folder:
        for name, codec in CODECS.items():
            kind = f"{codec.encoder}, {'lossless' if codec.lossless else 'lossy'}, {' '.join(codec.suffixes)}"
            try:
                path = Path(folder) / f"{name}{codec.suffixes[0]}"
                frames = list(VideoReader(make_demo_clip(path, seconds=0.04, size=(64, 64), codec=name)))
                usable = len(frames) == 1
                checks.append(Check("codec", name, usable, kind if usable else "no frame came back", name == "h264"))
            except DrsfError as error:
                checks.append(Check("codec", name, False, str(error), name == "h264"))
    return checks


def _victims() -> list[Check]:
    defaults = VictimNames()
    checks = []
    for name, entry in registry.VICTIMS.items():
        needed = name in (defaults.detector, defaults.aligner, defaults.gaze)
        try:
            files = ", ".join(registry.load(name, entry.role).weights)
            checks.append(Check("victim", name, True, f"{entry.role}, {files}", needed))
        except DrsfError as error:
            checks.append(Check("victim", name, False, str(error), needed))
    return checks


def _weights() -> list[Check]:
    """The store and its damaged files. Missing files are reported with their victims."""
    files = store.default_store().verify()
    damaged = [file for file in files if file.state == "damaged"]
    ready = sum(file.state == "ready" for file in files)
    folder = f"{ready} of {len(files)} known files are ready; fetched ones live in {store.weights_folder()}"
    return [Check("weights", "store", True, folder, False)] + [
        Check("weights", file.record.name, False, f"{file.path}: its sha256 is not the catalogue's; replace it.", True)
        for file in damaged
    ]
