"""What is to be read of the output where that is not just what is read of the original.

Attributes that are given (`--targets`), and faces with the average shape (`--shape average`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from attacks.obscure import Region
from drsf_cli.deid.shape import average_face
from drsf_cli.deid.survey import Survey, told_apart
from drsf_cli.measure.evaluation import match_faces
from drsf_cli.measure.records import read_observations
from drsf_cli.media.probe import VideoInfo
from victims.base import GazeEstimator
from victims.camera import (
    Camera,
    angle_between_degrees,
    angles_to_vector,
    euler_angles,
    solve_head_pose,
    vector_to_angles,
)
from victims.face import Array, Face, FrameObservation, iou
from victims.mediapipe.facemesh import FaceMesh
from victims.mediapipe.topology import POINTS, landmarks_68
from victims.observe import Observer
from weights.errors import DrsfError, InputError

LEAST_SIZE = 8.0
"""px. No detector sees a smaller face; smaller numbers are shares of the picture, or of another size of it."""
SAME_PLACE = 0.5
"""IoU from which two boxes of one frame are of one face."""
BESIDE = 0.5
"""How far the middle of the landmarks may lie from the box's, in its width and height."""
EXTENT = (0.3, 3.0)
"""The least and the most that the landmarks may span, in its width and height."""
TURNED_AWAY = 120.0
"""Degrees from the direction to the camera. A gaze beyond is nobody's whose face is seen, but has the wrong sign."""
OTHER_MESH = 0.01
"""Mean distance between landmarks and those of a mesh beside them, in sizes of the box, from which they contradict."""
OTHER_POSE = 20.0
"""Degrees between head poses that cannot be of the same landmarks, whatever the camera."""


@dataclass(frozen=True)
class Given:
    """Attributes from a file, as it has them. A frame without an entry, or whose entry has no face, gets none."""

    path: Path
    frames: Mapping[int, FrameObservation]


def read_targets(path: Path, info: VideoInfo) -> Given:
    """Attributes in the form that `drsf infer` writes (drsf_cli/measure/records.py).

    They are checked as far as they can be before the video's frames are read. Coordinates are px of the frame, of any
    precision; `frame_id` counts the frames that are read (from --start on). Raises InputError, which names frame and
    field.
    """
    frames = {one.index: one for one in read_observations(path, unit_gaze=True)}
    if not any(one.faces for one in frames.values()):
        raise InputError(f"{path}: has no face in any frame; give the attributes that are to be embedded.")
    for one in frames.values():
        for number, face in enumerate(one.faces):
            _check_face(face, info.width, info.height, _place(path, one.index, number))
            for earlier in one.faces[:number]:
                if iou(earlier.box, face.box) > SAME_PLACE:
                    _refuse(_place(path, one.index, number), '"bboxes" lies where another face of the frame does')
    return Given(path, frames)


def given_survey(
    survey: Survey, given: Given, regions: Sequence[Sequence[Region]], chain: Observer, camera: Camera
) -> Survey:
    """The survey of a whole clip with the faces of `given` in place of those that were seen.

    An entry says what is new: an attribute that it lacks is that of the face which lies there in the original, and one
    that no victim of `chain` reads is left out. Head pose and `gaze_angle` follow from landmarks and gaze, as a reader
    works them out. `regions`: what each frame hides. Raises InputError, which names frame and field.
    """
    _check_frames(survey, given)
    observations = []
    for index, seen in enumerate(survey.observations):
        wanted = given.frames[index].faces if index in given.frames else ()
        faces = []
        for number, (face, same) in enumerate(zip(wanted, match_faces(wanted, seen.faces), strict=True)):
            place = _place(given.path, index, number)
            x, y = (face.box[:2] + face.box[2:]) / 2
            if not any(one.rect[0] <= x < one.rect[2] and one.rect[1] <= y < one.rect[3] for one in regions[index]):
                _refuse(place, '"bboxes" lies where nothing is hidden; cover it with --region, or leave the face out')
            faces.append(_completed(face, same, chain, camera, place))
        observations.append(replace(seen, faces=tuple(faces)))
    return _resurveyed(survey, observations)


def averaged_survey(survey: Survey, chain: Observer, camera: Camera) -> Survey:
    """The survey with the average shape in place of each track's own.

    A face whose landmarks fit no head is left out: its shape would show.
    """
    places: dict[int, list[tuple[int, Face]]] = {}
    for index, (seen, tracks) in enumerate(zip(survey.observations, survey.tracks, strict=True)):
        for face, track in zip(seen.faces, tracks, strict=True):
            if face.landmarks is not None and _fits(face.landmarks, camera):
                places.setdefault(track, []).append((index, face))
    changed: dict[tuple[int, int], Face] = {}
    for track, own in places.items():
        shapes = average_face(np.stack([face.landmarks for _, face in own if face.landmarks is not None]), camera)
        for (index, face), landmarks in zip(own, shapes, strict=True):
            changed[index, track] = _consistent(replace(face, landmarks=landmarks), chain.gaze, camera)
    observations, all_tracks = [], []
    for index, (seen, tracks) in enumerate(zip(survey.observations, survey.tracks, strict=True)):
        kept = tuple(track for track in tracks if (index, track) in changed)
        observations.append(replace(seen, faces=tuple(changed[index, track] for track in kept)))
        all_tracks.append(kept)
    return replace(survey, observations=observations, tracks=all_tracks)


def _resurveyed(survey: Survey, observations: Sequence[FrameObservation]) -> Survey:
    found = told_apart(observations, survey.times, sustained=False)
    return replace(survey, observations=[one for one, _ in found], tracks=[tracks for _, tracks in found])


# ------------------------------------------------------------------------------------------------------- checks


def _place(path: Path, index: int, number: int) -> str:
    return f"{path}: frame {index}" + (f': "faces" {number - 1}' if number else "")


def _refuse(place: str, what: str) -> NoReturn:
    raise InputError(f"{place}: {what}.")


def _check_face(face: Face, width: int, height: int, place: str) -> None:
    x1, y1, x2, y2 = face.box
    if min(x2 - x1, y2 - y1) < LEAST_SIZE:
        _refuse(place, f'"bboxes" is {x2 - x1:.3g} x {y2 - y1:.3g} px; it takes px of the frame, {width} x {height}')
    if not (0 <= (x1 + x2) / 2 < width and 0 <= (y1 + y2) / 2 < height) or x2 - x1 > 2 * width or y2 - y1 > 2 * height:
        _refuse(place, f'"bboxes" lies outside of the frame, which has {width} x {height} px')
    if face.landmarks is not None:
        _check_landmarks(face.landmarks, face.box, place)
    if face.gaze is not None and angle_between_degrees(face.gaze, np.array([0.0, 0.0, -1.0])) > TURNED_AWAY:
        _refuse(place, '"gaze_vector" points away from the camera; its third component is negative towards it')
    if face.gaze_angle is not None and (abs(face.gaze_angle[0]) > math.pi / 2 or abs(face.gaze_angle[1]) > math.pi):
        _refuse(place, '"gaze_angle" is more than a quarter turn up or half a turn aside; it takes pitch, yaw in rad')


def _check_landmarks(landmarks: Array, box: Array, place: str) -> None:
    size = box[2:] - box[:2]
    away = np.abs((landmarks.min(axis=0) + landmarks.max(axis=0)) / 2 - (box[:2] + box[2:]) / 2) / size
    extent = np.ptp(landmarks, axis=0) / size
    if (away > BESIDE).any() or (extent < EXTENT[0]).any() or (extent > EXTENT[1]).any():
        _refuse(place, '"landmarks" do not lie in "bboxes"; both take px of the frame')
    across, down = landmarks[42:48].mean(axis=0) - landmarks[36:42].mean(axis=0), landmarks[8] - landmarks[27]
    if across[0] * down[1] - across[1] * down[0] <= 0:
        _refuse(place, '"landmarks" are those of a mirrored face; the order is iBUG\'s, image-left eye first')


def _check_frames(survey: Survey, given: Given) -> None:
    times = np.array(survey.times)
    slack = float(np.median(np.diff(times))) / 2 if len(times) > 1 else math.inf
    for one in given.frames.values():
        if one.index >= len(times):
            _refuse(_place(given.path, one.index, 0), f'"frame_id" is beyond the clip, which has {len(times)} frames')
        if abs(one.pts - times[one.index]) > slack:  # never where it is not said
            said = f'"pts" is {one.pts:.3f} s where the frame is shown at {times[one.index]:.3f} s'
            _refuse(_place(given.path, one.index, 0), f"{said}; give a reading of the same part of the same clip")


# --------------------------------------------------------------------------------------------------- attributes


def _completed(face: Face, same: Face | None, chain: Observer, camera: Camera, place: str) -> Face:
    """`face` with what it lacks from `same`, the one of the original that lies there."""
    bare = Face(face.box, face.score, followed=face.followed)
    if chain.aligner is None:
        return bare
    landmarks, mesh = _points_for(face, same, chain, place)
    if not _fits(landmarks, camera):
        _refuse(place, '"landmarks" fit no head')
    gaze = face.gaze
    if chain.gaze is not None and gaze is None:
        view = chain.gaze.view(landmarks, camera)
        if face.gaze_angle is not None and view is not None:
            gaze = angles_to_vector(face.gaze_angle) @ view
        elif same is not None and same.gaze is not None and np.isfinite(same.gaze).all():
            gaze = same.gaze
        else:
            _refuse(place, '"gaze_vector" is missing, and the original shows no face there to take it from')
    whole = _consistent(replace(bare, landmarks=landmarks, gaze=gaze, mesh=mesh), chain.gaze, camera)
    if face.euler_angles is not None and whole.euler_angles is not None:
        between = _between(face.euler_angles, whole.euler_angles)
        if between > OTHER_POSE:
            said = f'"euler_angles" are {between:.0f} degrees from the head pose of the landmarks'
            _refuse(place, f"{said}, from which readers take it; change these, and leave the angles out")
    return whole


def _points_for(face: Face, same: Face | None, chain: Observer, place: str) -> tuple[Array, Array | None]:
    """Landmarks (68, 2), and for an aligner that reads one the mesh that they are parts of."""
    if isinstance(chain.aligner, FaceMesh):
        mesh = _mesh_for(face, same, place)
        return landmarks_68(mesh), mesh
    landmarks = face.landmarks
    if landmarks is None and same is not None:
        landmarks = same.landmarks
    if landmarks is None:
        _refuse(place, '"landmarks" are missing, and the original shows no face there to take them from')
    return landmarks, None


def _mesh_for(face: Face, same: Face | None, place: str) -> Array:
    """The mesh (478, 3) that facemesh is to read: the one given, or the original's where no landmarks are given."""
    mesh = face.mesh
    if mesh is None and face.landmarks is None and same is not None:
        mesh = same.mesh
    if mesh is None:
        _refuse(place, '"mesh" is missing, and facemesh needs it beside "landmarks"; `drsf infer --mesh` writes it')
    if len(mesh) != POINTS:
        _refuse(place, f'"mesh" has {len(mesh)} points where facemesh reads {POINTS}')
    if face.landmarks is not None:
        size = math.sqrt(float(np.prod(face.box[2:] - face.box[:2])))
        off = float(np.linalg.norm(landmarks_68(mesh) - face.landmarks, axis=1).mean()) / size
        if off > OTHER_MESH:
            said = f'"landmarks" lie {100 * off:.1f} % of the box\'s size from those of "mesh"'
            _refuse(place, f"{said}; change both alike, or leave the landmarks out")
    return mesh


def _consistent(face: Face, gaze: GazeEstimator | None, camera: Camera) -> Face:
    """`face` with the head pose and the gaze angles that follow from its landmarks and its gaze.

    As far as `gaze` reads one. Landmarks must fit a head.
    """
    if face.landmarks is None:
        return face
    euler = euler_angles(solve_head_pose(face.landmarks, camera).rotation)
    if gaze is None or face.gaze is None:
        return replace(face, euler_angles=euler, gaze=None, gaze_angle=None)
    view = gaze.view(face.landmarks, camera)
    return replace(face, euler_angles=euler, gaze_angle=None if view is None else vector_to_angles(view @ face.gaze))


def _fits(landmarks: Array, camera: Camera) -> bool:
    if not np.isfinite(landmarks).all():
        return False
    try:
        solve_head_pose(landmarks, camera)
    except DrsfError:
        return False
    return True


def _between(one: Array, other: Array) -> float:
    """Degrees between two poses, given as Euler angles (3,), degrees."""
    from scipy.spatial.transform import Rotation

    first, second = (Rotation.from_euler("XYZ", angles, degrees=True) for angles in (one, other))
    return math.degrees((first.inv() * second).magnitude())
