"""`drsf export`: which victims, and the frames their parity is measured on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from drsf_cli.media.demo_clip import demo_frames
from drsf_cli.progress import SILENT, Progress
from export.onnx import ExportedNetwork, export_victim, recorded_inputs
from victims import registry
from victims.base import Aligner, Detector, GazeEstimator, Image, Role, Victim
from victims.camera import Camera
from victims.observe import Observer
from weights.errors import UsageError, WeightsError


def export_victims(
    folder: Path,
    chosen: Mapping[Role, str | None],
    *,
    everything: bool = False,
    opset: int = 17,
    fp16: bool = False,
    allow_unknown: bool = False,
    progress: Progress = SILENT,
) -> tuple[list[ExportedNetwork], list[str]]:
    """Export the victims named by role, or with `everything` all whose weights are here.

    Parity is measured on crops of real frames, made by the demo clip. Returns the rows of the parity table and, with
    `everything`, why victims were left out. Raises UsageError, WeightsError, DrsfError where a network differs.
    """
    named: list[tuple[Role, str]] = [
        (role, name) for role, name in chosen.items() if name is not None and name != "none"
    ]
    if everything == bool(named):
        raise UsageError("drsf export: name victims with --chain, -d, -a or -z, or give --all; not both.")
    if everything:
        named = [(entry.role, name) for name, entry in registry.VICTIMS.items()]
    progress.begin("Exporting", len(named))
    victims: list[Victim] = []
    left_out: list[str] = []
    for role, name in named:
        try:
            registry.resolve(name, role)
        except UsageError as error:
            raise UsageError(f"{FLAGS[role]}: {error}") from error
        try:
            victims.append(registry.load(name, role, allow_unknown))
        except WeightsError as error:
            if not everything:
                raise
            left_out.append(str(error))
            progress.advance()
    images = list(demo_frames(seconds=0.12, fps=25))[:2]
    rows: list[ExportedNetwork] = []
    for victim in victims:
        rows += export_victim(victim, folder, opset, fp16, recorded_inputs(victim, Reading(images)))
        progress.advance()
    return rows, left_out


FLAGS: Mapping[Role, str] = {"detector": "-d", "aligner": "-a", "gaze": "-z"}


class Reading:
    """Gives a victim the input that it would get on real frames; the compact victims say where the face is."""

    def __init__(self, images: Sequence[Image]) -> None:
        self.images = images
        chain = Observer(registry.load_detector("mtcnn"), registry.load_aligner_named("fan-compact"))
        found = chain.detector.detect(images)
        self.boxes = [one.boxes[:1] for one in found]
        assert chain.aligner is not None
        self.landmarks = chain.aligner.align(images, self.boxes)

    def __call__(self, victim: Victim) -> None:
        """Let `victim` read the images."""
        height, width = np.shape(self.images[0])[:2]
        match victim:
            case Detector():
                victim.detect(self.images)
            case Aligner():
                victim.align(self.images, self.boxes)
            case GazeEstimator():
                victim.estimate(self.images, self.landmarks, Camera.default(width, height))
