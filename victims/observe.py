"""Detect, align, look: what the authorised victims read from frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from victims.base import Aligner, Detector, GazeEstimator, Image
from victims.camera import Camera, euler_angles, solve_head_pose
from victims.face import Alignment, Array, Detections, Face, FrameObservation, iou

SAME = 0.3
"""IoU from which a face is taken for that of the frame before."""


class TimedImage(Protocol):
    """A frame with its place in the video."""

    @property
    def index(self) -> int:
        """0 for the first frame that is read."""

    @property
    def pts(self) -> float:
        """Seconds."""

    @property
    def image(self) -> Image:
        """(H, W, 3) uint8 RGB."""


@dataclass(eq=False)
class Observer:
    """A detector, an aligner and a gaze estimator in a row. The last two may be left out.

    `camera` is that of the video; None means the field's default for the frame's size.
    """

    detector: Detector
    aligner: Aligner | None = None
    gaze: GazeEstimator | None = None
    camera: Camera | None = None

    @property
    def victims(self) -> dict[str, Detector | Aligner | GazeEstimator]:
        """Those in use, by role."""
        chain = {"detector": self.detector, "aligner": self.aligner, "gaze": self.gaze}
        return {role: victim for role, victim in chain.items() if victim is not None}

    def observe(self, frames: Sequence[TimedImage], before: FrameObservation | None = None) -> list[FrameObservation]:
        """One observation a frame; all frames of one size, which follow one another.

        Faces are ordered by prominence: the frame's own first. `before`: of the frame before the first, whose faces are
        followed, as `follow` says.
        """
        images = [frame.image for frame in frames]
        if not images:
            return []
        faces = self.follow(images, self.read(images), () if before is None else before.faces)
        return [FrameObservation(frame.index, frame.pts, own) for frame, own in zip(frames, faces, strict=True)]

    def read(self, images: Sequence[Image]) -> list[tuple[Face, ...]]:
        """The faces that are seen in each image by itself, the first by prominence first; images of one size."""
        height, width = images[0].shape[:2]
        found = [self.detector.in_order(one, height, width) for one in self.detector.detect(images)]
        return self.read_faces(images, found)

    def follow(
        self, images: Sequence[Image], faces: Sequence[tuple[Face, ...]], before: tuple[Face, ...] = ()
    ) -> list[tuple[Face, ...]]:
        """`faces` of images that follow one another and the frame with the faces `before`.

        Where the aligner can follow faces, an image's own face stays that of the image before, whoever else comes more
        clearly into view: the one that lies there comes first. Where none does, it is the one that the aligner still
        reads where it read it one image earlier; an image without any face gets all that it reads so.
        """
        followed: list[tuple[Face, ...]] = []
        for image, own in zip(images, faces, strict=True):
            before = self._followed(image, own, before)
            followed.append(before)
        return followed

    def _followed(self, image: Image, own: tuple[Face, ...], before: tuple[Face, ...]) -> tuple[Face, ...]:
        meshes = [face.mesh for face in before if face.mesh is not None]
        if not meshes or self.aligner is None:
            return own
        ordered = sorted(own, key=lambda face: bool(iou(face.box, before[0].box) <= SAME))
        if own and iou(ordered[0].box, before[0].box) > SAME:
            return tuple(ordered)
        found, aligned = self.aligner.follow(image, np.stack(meshes[: 1 if own else None]))
        return (*(replace(face, followed=True) for face in self._faces([image], [found], [aligned])[0]), *own)

    def read_faces(self, images: Sequence[Image], detections: Sequence[Detections]) -> list[tuple[Face, ...]]:
        """Faces of `detections`, in their order, with landmarks, head pose and gaze where those victims are there."""
        aligned = None
        if self.aligner is not None:
            aligned = self.aligner.align_faces(images, [found.boxes for found in detections])
        return self._faces(images, detections, aligned)

    def _faces(
        self, images: Sequence[Image], detections: Sequence[Detections], aligned: Sequence[Alignment] | None
    ) -> list[tuple[Face, ...]]:
        """Faces with head pose and gaze."""
        height, width = images[0].shape[:2]
        camera = self.camera or Camera.default(width, height)
        eulers: list[Array] | None = None
        looks: list[tuple[Array, Array]] | None = None
        if aligned is not None:
            eulers = [
                np.array([euler_angles(solve_head_pose(points, camera).rotation) for points in own.landmarks]).reshape(
                    -1, 3
                )
                for own in aligned
            ]
            if self.gaze is not None:
                looks = self.gaze.estimate_faces(images, aligned, camera)
        return [
            tuple(
                Face(
                    box=found.boxes[k],
                    score=float(found.scores[k]),
                    landmarks=None if aligned is None else aligned[i].landmarks[k],
                    euler_angles=None if eulers is None else eulers[i][k],
                    gaze=None if looks is None else looks[i][0][k],
                    gaze_angle=None if looks is None else looks[i][1][k],
                    mesh=None if aligned is None or (mesh := aligned[i].mesh) is None else mesh[k],
                    start=None if aligned is None or (starts := aligned[i].starts) is None else starts[k],
                )
                for k in range(len(found))
                if aligned is None or (present := aligned[i].present) is None or present[k]
            )
            for i, found in enumerate(detections)
        ]
