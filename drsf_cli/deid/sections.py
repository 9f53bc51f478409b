"""Fills the sections of a run's report, whose form is in drsf_cli/report/schema.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attacks.embed import TOLERANCES, Embedded
from drsf_cli.deid.changes import FaceKey
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.deid.fidelity import Fidelity, faces_section, fidelity, frame_row, summary
from drsf_cli.deid.targets import Given
from drsf_cli.deid.work import Work
from drsf_cli.measure.evaluation import Evaluation
from drsf_cli.measure.leakage_form import Leakage
from drsf_cli.media.files import digest, size_of
from drsf_cli.memory import peak_memory_mb
from drsf_cli.report import schema
from drsf_cli.report.versions import versions
from drsf_cli.settings import settings_to_dict
from victims.base import Detector, Victim
from victims.face import FrameObservation


@dataclass(frozen=True)
class Findings:
    """What is known about a run once its file is written, read back and audited."""

    work: Work
    clip: SurveyedClip
    embedded: Mapping[FaceKey, Embedded]
    recovered: Sequence[FrameObservation]
    """Of every frame of the written file."""
    result: Fidelity
    floor: Evaluation | None
    """Errors of the untouched clip after the same codec."""
    frames: Sequence[schema.FrameSection]
    obscured_only: Mapping[int, FrameObservation]
    """Frame -> what is read of it with nothing embedded."""
    shown: Sequence[int]
    """Frames that the page shows."""
    audit: schema.AuditSection
    leakage: Leakage | None
    seconds: float


def report_section(found: Findings, output: Path, written: Path) -> schema.Report:
    """The report. `written` is the temporary file that will be called `output`."""
    settings, models = found.work.settings, found.work.models
    observations = found.clip.targets.observations
    return {
        "drsf": versions()["drsf"],
        "input": input_section(found.clip, settings.camera),
        "output": {"path": str(output), "sha256": digest(written), "bytes": size_of(written)},
        "settings": settings_to_dict(settings),
        "targets": targets_section(found.work.given),
        "victims": models.describe(),
        "drawer": None if settings.attack_settings is None else found.work.drawer.weights,
        "repelled": {name: _named(victim) for name, victim in found.work.repelled.items()},
        "providers": models.providers(),
        "versions": versions(),
        "fidelity": fidelity_section(found),
        "tolerances": {str(role): tolerance for role, tolerance in TOLERANCES.items()},
        "frames": list(found.frames),
        "samples": [
            schema.sample(
                index,
                found.clip.regions[index],
                observations[index],
                found.recovered[index],
                found.obscured_only.get(index),
            )
            for index in found.shown
        ],
        "visibility": visibility_section(found.embedded),
        "cost": cost_section(found.embedded, len(found.clip), found.seconds),
        "covering": covering_section(found.clip, [found.work.observer.detector, *found.work.companions]),
        "audit": found.audit,
        "leakage": found.leakage,
    }


def frames_section(
    clip: SurveyedClip, embedded: Mapping[FaceKey, Embedded], result: Fidelity, floor: Evaluation | None
) -> list[schema.FrameSection]:
    """Of each frame."""
    floors = {} if floor is None else {row.frame_id: row for row in floor.frames}
    in_frame: dict[int, list[Embedded]] = {}
    for (index, _), one in embedded.items():
        in_frame.setdefault(index, []).append(one)
    return [
        frame_row(
            row,
            in_frame.get(row.frame_id, []),
            floors.get(row.frame_id),
            result.read[row.frame_id],
            clip.regions[row.frame_id],
        )
        for row in result.frames.frames
    ]


def fidelity_section(found: Findings) -> schema.FidelitySection:
    """How well the attributes are read back, and the baselines beside it."""
    weak = found.obscured_only
    return {
        "recovered": summary(found.result.frames),
        "noise_floor": None if found.floor is None else summary(found.floor),
        "obscured_only": summary(fidelity(found.clip.targets, weak.values()).frames) if weak else None,
        "other_faces": faces_section(found.result),
    }


def input_section(clip: SurveyedClip, camera: Path | None) -> schema.InputSection:
    """What was read: the file, its frames, its camera."""
    info = clip.reader.info
    return {
        "path": str(clip.reader.path),
        "sha256": digest(clip.reader.path),
        "frames": len(clip),
        "width": info.width,
        "height": info.height,
        "fps": float(info.average_rate),
        "notes": list(clip.reader.notes),
        "rotate": clip.reader.rotate,
        "camera_sha256": None if camera is None else digest(camera),
    }


def visibility_section(embedded: Mapping[FaceKey, Embedded]) -> schema.VisibilitySection | None:
    """Over all faces; None where nothing was embedded."""
    seen = [one.visibility for one in embedded.values() if one.visibility is not None]
    if not seen:
        return None

    def over(values: Sequence[float], of: Callable[[NDArray[np.float64]], float] = np.mean) -> float | None:
        known = np.array([value for value in values if np.isfinite(value)])
        return float(of(known)) if known.size else None

    return {
        "rms": over([one.rms for one in seen]),
        "rms_worst": over([one.rms for one in seen], np.max),
        "p95": over([one.p95 for one in seen]),
        "at_eps": over([one.at_eps for one in seen]),
        "ssim": over([one.ssim for one in seen]),
    }


def cost_section(embedded: Mapping[FaceKey, Embedded], count: int, seconds: float) -> schema.CostSection:
    """Of `count` frames that took `seconds`."""
    return {
        "victim_passes_per_frame": sum(one.passes for one in embedded.values()) / count,
        "victim_checks_per_frame": sum(one.checks for one in embedded.values()) / count,
        "steps_per_frame": sum(one.steps for one in embedded.values()) / count,
        "seconds_per_frame": seconds / count,
        "peak_memory_mb": peak_memory_mb(),
    }


def covering_section(clip: SurveyedClip, detectors: Sequence[Detector]) -> schema.CoveringSection:
    """Which detectors decided about covering, and on how many frames."""
    return {
        "detectors": [_named(one) for one in detectors],
        "frames_with_face": sum(len(found) > 0 for found in clip.survey.seen),
        "frames_covered": sum(bool(own) for own in clip.regions),
        "frames_filled_in": sum(
            bool(own) and not len(found) for own, found in zip(clip.regions, clip.survey.seen, strict=True)
        ),
    }


def targets_section(given: Given | None) -> schema.TargetsSection | None:
    """About the given attributes; None if those of the original are embedded."""
    if given is None:
        return None
    return {
        "path": str(given.path),
        "sha256": digest(given.path),
        "frames": sum(bool(one.faces) for one in given.frames.values()),
        "faces": sum(len(one.faces) for one in given.frames.values()),
    }


def _named(victim: Victim) -> schema.ModelSection:
    return {"name": victim.name, "weights": dict(victim.weights)}
