"""Sections of a run's report, as JSON has them; drsf_cli/report/schema.py tells the whole form."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attacks.embed import Embedded
from drsf_cli.deid.changes import FaceKey
from drsf_cli.deid.clip import SurveyedClip
from drsf_cli.deid.targets import Given
from drsf_cli.media.files import digest, size_of
from victims.base import Detector, Victim


def input_section(clip: SurveyedClip, camera: Path | None) -> dict[str, Any]:
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


def output_section(output: Path, written: Path) -> dict[str, Any]:
    """Of the file that is to be called `output` and still is `written`."""
    return {"path": str(output), "sha256": digest(written), "bytes": size_of(written)}


def cost_section(embedded: Mapping[FaceKey, Embedded], count: int, seconds: float) -> dict[str, Any]:
    """Of `count` frames that took `seconds`."""
    return {
        "victim_passes_per_frame": sum(one.passes for one in embedded.values()) / count,
        "victim_checks_per_frame": sum(one.checks for one in embedded.values()) / count,
        "steps_per_frame": sum(one.steps for one in embedded.values()) / count,
        "seconds_per_frame": seconds / count,
        "peak_memory_mb": peak_memory_mb(),
    }


def covering_section(clip: SurveyedClip, detectors: Sequence[Detector]) -> dict[str, Any]:
    """Which detectors decided about covering, and on how many frames."""
    return {
        "detectors": [_named(one) for one in detectors],
        "frames_with_face": sum(len(found) > 0 for found in clip.survey.seen),
        "frames_covered": sum(bool(own) for own in clip.regions),
        "frames_filled_in": sum(
            bool(own) and not len(found) for own, found in zip(clip.regions, clip.survey.seen, strict=True)
        ),
    }


def targets_section(given: Given | None) -> dict[str, Any] | None:
    """Of attributes that are given; None where those of the original are embedded."""
    if given is None:
        return None
    return {
        "path": str(given.path),
        "sha256": digest(given.path),
        "frames": sum(bool(one.faces) for one in given.frames.values()),
        "faces": given.face_count,
    }


def repelled_section(repelled: Mapping[str, Victim]) -> dict[str, Any]:
    """Which models were repelled, and the hashes of their weights."""
    return {name: _named(victim) for name, victim in repelled.items()}


def _named(victim: Victim) -> dict[str, Any]:
    return {"name": victim.name, "weights": dict(victim.weights)}


def peak_memory_mb() -> float:
    """Most memory this process has had in use, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)
