"""Name -> victim: the one table of what can be named on the command line.

To add a victim, write its module and its row in `VICTIMS`. Modules are imported when a victim is loaded, so that names
are known without torch: help and completion need them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from weights.errors import UsageError

if TYPE_CHECKING:
    from victims.base import Aligner, Detector, GazeEstimator, Network, Role, Victim

    Loader = Callable[[str, Path | None, bool], Victim]
    """(name, weight file or None for the catalogue's, whether unknown weights are allowed) -> the victim."""


@dataclass(frozen=True)
class Entry:
    """One victim."""

    role: Role
    loader: str
    """MODULE:FUNCTION, a `Loader`."""
    aliases: tuple[str, ...] = ()
    """Other spellings that people use, lower case."""
    single: str | None = None
    """MODULE:CALLABLE that makes the victim of (name, network, weights) where it has one network; such a victim can
    also read through an exported file."""

    @property
    def load(self) -> Loader:
        """What loads it; its module is imported now."""
        return cast("Loader", _named(self.loader))


_RETINAFACE = "victims.retinaface:RetinaFace"
_FAN = "victims.fan:around"
_GAZE = "victims.gaze:NormalizedGaze"

VICTIMS: dict[str, Entry] = {
    "mtcnn": Entry("detector", "victims.mtcnn:load_mtcnn"),
    "retinaface": Entry(
        "detector",
        "victims.retinaface:load_retinaface",
        ("retinaface-mobilenet0.25", "retinaface-mnet", "mobilenet0.25"),
        _RETINAFACE,
    ),
    "retinaface-resnet50": Entry(
        "detector", "victims.retinaface:load_retinaface", ("retinaface-r50", "retinaface_resnet50"), _RETINAFACE
    ),
    "blazeface": Entry("detector", "victims.mediapipe.blazeface:load_blazeface", ("blazeface-short",)),
    "blazeface-full": Entry("detector", "victims.mediapipe.blazeface:load_blazeface", ("blazeface_full",)),
    "fan-compact": Entry("aligner", "victims.fan:load_aligner", ("fan_compact",), _FAN),
    "fan": Entry("aligner", "victims.fan:load_aligner", ("2dfan4", "fan4"), _FAN),
    "facemesh": Entry("aligner", "victims.mediapipe.facemesh:load_facemesh", ("face-mesh", "face_mesh")),
    "gaze-compact": Entry("gaze", "victims.gaze:load_gaze", ("gaze_compact",), _GAZE),
    "mpiigaze": Entry("gaze", "victims.gaze:load_gaze", single=_GAZE),
    "mpiifacegaze": Entry("gaze", "victims.gaze:load_gaze", single=_GAZE),
    "eth-xgaze": Entry("gaze", "victims.gaze:load_gaze", ("ethxgaze", "eth_xgaze", "xgaze"), _GAZE),
    "iris": Entry("gaze", "victims.mediapipe.iris:load_iris"),
}


def _named(place: str) -> Any:
    """What MODULE:NAME names."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def names(role: Role) -> list[str]:
    """Valid names of a role."""
    return [name for name, entry in VICTIMS.items() if entry.role == role]


def resolve(text: str, role: Role) -> tuple[str, Path | None]:
    """A name as typed, `NAME` or `NAME@FILE`, to the table's name and the weight file given with it.

    Raises UsageError with the valid names.
    """
    typed, _, file = text.partition("@")
    wanted = typed.strip().lower()
    for name, entry in VICTIMS.items():
        if wanted == name or wanted in entry.aliases:
            if entry.role != role:
                article = "an" if entry.role == "aligner" else "a"
                raise UsageError(
                    f"{typed!r} is {article} {entry.role} model, not {role}; use one of {', '.join(names(role))}."
                )
            return name, Path(file) if file else None
    raise UsageError(f"{typed!r} is not a known {role}; use one of {', '.join(names(role))}.")


def role_of(text: str) -> Role | None:
    """The role of the victim that `text`, `NAME` or `NAME@FILE`, names; None where it names none."""
    wanted = text.partition("@")[0].strip().lower()
    return next((e.role for name, e in VICTIMS.items() if wanted == name or wanted in e.aliases), None)


def load(text: str, role: Role, allow_unknown: bool = False) -> Victim:
    """The victim of a role named `text` with its weights. Raises UsageError or WeightsError."""
    name, override = resolve(text, role)
    return VICTIMS[name].load(name, override, allow_unknown)


def around(name: str, network: Network, weights: dict[str, str]) -> Victim:
    """The victim `name` reading through another implementation of its one network.

    `weights`: file name -> sha256. Raises UsageError where it has several networks.
    """
    single = VICTIMS[name].single
    if single is None:
        raise UsageError(f"{name} has several networks; give its weights instead.")
    return cast("Victim", _named(single)(name, network, weights))


def load_detector(text: str, allow_unknown: bool = False) -> Detector:
    """The detector named `text` with its weights. Raises UsageError or WeightsError."""
    return cast("Detector", load(text, "detector", allow_unknown))


def load_aligner_named(text: str, allow_unknown: bool = False) -> Aligner:
    """The aligner named `text` with its weights. Raises UsageError or WeightsError."""
    return cast("Aligner", load(text, "aligner", allow_unknown))


def load_gaze_named(text: str, allow_unknown: bool = False) -> GazeEstimator:
    """The gaze estimator named `text` with its weights. Raises UsageError or WeightsError."""
    return cast("GazeEstimator", load(text, "gaze", allow_unknown))
