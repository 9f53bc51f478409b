"""Name -> victim: the one table of what can be named on the command line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from victims.base import Aligner, Detector, GazeEstimator, Role, Victim
from victims.fan import load_aligner
from victims.gaze import load_gaze
from victims.mediapipe.blazeface import load_blazeface
from victims.mediapipe.facemesh import load_facemesh
from victims.mediapipe.iris import load_iris
from victims.mtcnn import load_mtcnn
from victims.retinaface import load_retinaface
from weights.errors import UsageError

Loader = Callable[[str, Path | None, bool], Victim]


@dataclass(frozen=True)
class Entry:
    """A victim that may be named: what it does, and how it is loaded."""

    role: Role
    load: Loader
    aliases: tuple[str, ...] = ()
    """Other spellings that people use, lower case."""


VICTIMS: dict[str, Entry] = {
    "mtcnn": Entry("detector", load_mtcnn),
    "retinaface": Entry("detector", load_retinaface, ("retinaface-mobilenet0.25", "retinaface-mnet", "mobilenet0.25")),
    "retinaface-resnet50": Entry("detector", load_retinaface, ("retinaface-r50", "retinaface_resnet50")),
    "blazeface": Entry("detector", load_blazeface, ("blazeface-short",)),
    "blazeface-full": Entry("detector", load_blazeface, ("blazeface_full",)),
    "fan-compact": Entry("aligner", load_aligner, ("fan_compact",)),
    "fan": Entry("aligner", load_aligner, ("2dfan4", "fan4")),
    "facemesh": Entry("aligner", load_facemesh, ("face-mesh", "face_mesh")),
    "gaze-compact": Entry("gaze", load_gaze, ("gaze_compact",)),
    "mpiigaze": Entry("gaze", load_gaze),
    "mpiifacegaze": Entry("gaze", load_gaze),
    "eth-xgaze": Entry("gaze", load_gaze, ("ethxgaze", "eth_xgaze", "xgaze")),
    "iris": Entry("gaze", load_iris),
}


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


def load_detector(text: str, allow_unknown: bool = False) -> Detector:
    """The detector named `text` with its weights. Raises UsageError or WeightsError."""
    victim = load(text, "detector", allow_unknown)
    assert isinstance(victim, Detector)
    return victim


def load_aligner_named(text: str, allow_unknown: bool = False) -> Aligner:
    """The aligner named `text` with its weights. Raises UsageError or WeightsError."""
    victim = load(text, "aligner", allow_unknown)
    assert isinstance(victim, Aligner)
    return victim


def load_gaze_named(text: str, allow_unknown: bool = False) -> GazeEstimator:
    """The gaze estimator named `text` with its weights. Raises UsageError or WeightsError."""
    victim = load(text, "gaze", allow_unknown)
    assert isinstance(victim, GazeEstimator)
    return victim
