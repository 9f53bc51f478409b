"""Camera intrinsics, head pose from 68 landmarks, and the normalised views the gaze networks look at.

Conventions, the same in every function here:

- pixels are (x, y), x to the right, y down, the centre of the top-left pixel at (0, 0);
- the camera frame is OpenCV's: x right, y down, z away from the camera, metres;
- a rotation maps head (or camera) coordinates onto camera (or normalised) coordinates as ``R @ v``;
- gaze angles are (pitch, yaw) in radians: pitch > 0 looks up (image -y), yaw > 0 looks to the left of the
  image (-x), (0, 0) is (0, 0, -1), straight into the camera.

Normalisation follows Zhang, Sugano and Bulling, "Revisiting data normalization for appearance-based gaze
estimation" (ETRA 2018), with the constants of ptgaze 0.3.0 (hysts, MIT).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
import yaml
from scipy.spatial.transform import Rotation

from victims.face_model import FACE_MODEL_68, LEFT_EYE_CORNERS, MOUTH_CORNERS, NOSE_WINGS, RIGHT_EYE_CORNERS
from weights.errors import DrsfError, InputError

_ASPECT_TOLERANCE = 0.01
"""Relative difference of aspect ratio up to which a camera file is taken to describe the video's camera."""


@dataclass(frozen=True)
class Camera:
    """Pinhole intrinsics with OpenCV's lens distortion."""

    matrix: np.ndarray
    """(3, 3) float64, pixels: [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]."""

    distortion: np.ndarray
    """(k,) float64, OpenCV order k1 k2 p1 p2 k3 ...; k is 4, 5, 8, 12 or 14."""

    @staticmethod
    def default(width: int, height: int) -> Camera:
        """The field's guess when nothing is known: fx = fy = width, centre of the image, no distortion."""
        matrix = np.array([[width, 0, width // 2], [0, width, height // 2], [0, 0, 1]], dtype=np.float64)
        return Camera(matrix, np.zeros(5))

    @staticmethod
    def load(path: str | Path, width: int, height: int) -> Camera:
        """Read a calibration file for a video of `width` x `height` px.

        It is as cv2.FileStorage writes it, or plain YAML as ROS (camera_info_manager) and ptgaze have it, whose
        matrices are mappings with `rows`, `cols` and `data`.

        Nodes: ``camera_matrix``; ``distortion_coefficients`` or ``dist_coeffs`` (none: zero); optionally
        ``image_width`` and ``image_height``. When the file was made at another size of the same aspect, the
        intrinsics are scaled; pixel centres count, so cx' = (cx + 0.5) s - 0.5.

        Raises InputError, one sentence naming the file, when it cannot be read or does not fit the video.
        """
        path = Path(path)
        if not path.is_file():
            raise InputError(f"camera file {path} does not exist; give an OpenCV calibration file (YAML)")
        try:
            matrix, distortion, file_width, file_height = _calibration(path.read_text("utf-8-sig"))
        except (cv2.error, OSError, SystemError, yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"camera file {path} is no YAML with a 3x3 camera_matrix ({str(error).splitlines()[0]}); write it with "
                "cv2.FileStorage, or as ROS does"
            ) from error
        if matrix is None or matrix.shape != (3, 3) or not np.all(np.isfinite(matrix)):
            raise InputError(
                f"camera file {path} has no 3x3 node camera_matrix; write it with cv2.FileStorage, or as ROS does"
            )
        matrix = matrix.astype(np.float64)
        if matrix[0, 0] <= 0 or matrix[1, 1] <= 0:
            raise InputError(f"camera file {path} has a focal length that is not positive; calibrate again")
        coefficients = np.zeros(5) if distortion is None else distortion.astype(np.float64).ravel()
        if coefficients.size not in (4, 5, 8, 12, 14) or not np.all(np.isfinite(coefficients)):
            raise InputError(
                f"camera file {path} has {coefficients.size} distortion coefficients; "
                "OpenCV's models have 4, 5, 8, 12 or 14 finite ones"
            )
        if file_width > 0 and file_height > 0 and (file_width, file_height) != (width, height):
            scale_x, scale_y = width / file_width, height / file_height
            if abs(scale_x / scale_y - 1) > _ASPECT_TOLERANCE:
                raise InputError(
                    f"camera file {path} is for {file_width:.0f}x{file_height:.0f} px, which is another "
                    f"aspect than the video's {width}x{height}; give the calibration of this camera"
                )
            to_video = np.diag([scale_x, scale_y, 1.0])
            to_video[:2, 2] = (scale_x - 1) / 2, (scale_y - 1) / 2
            matrix = to_video @ matrix
        return Camera(matrix, coefficients)

    @property
    def is_distorted(self) -> bool:
        """Whether the lens bends straight lines."""
        return bool(np.any(self.distortion))

    def undistort_points(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) px as filmed -> (N, 2) px as the same camera without distortion would see them."""
        points = np.asarray(points, dtype=np.float64)
        if not self.is_distorted:
            return points
        flat = cv2.undistortPoints(points.reshape(-1, 1, 2), self.matrix, self.distortion, P=self.matrix)
        return np.asarray(flat, dtype=np.float64).reshape(-1, 2)

    def distort_points(self, points: np.ndarray) -> np.ndarray:
        """(N, 2) px without distortion -> (N, 2) px as filmed; the inverse of `undistort_points`."""
        points = np.asarray(points, dtype=np.float64)
        if not self.is_distorted:
            return points
        homogeneous = np.concatenate([points, np.ones((len(points), 1))], axis=1)
        rays = homogeneous @ np.linalg.inv(self.matrix).T
        filmed, _ = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), self.matrix, self.distortion)
        return np.asarray(filmed, dtype=np.float64).reshape(-1, 2)


def _calibration(text: str) -> tuple[np.ndarray | None, np.ndarray | None, float, float]:
    """Matrix, distortion, image width and height of a calibration file; None or 0 where it names none."""
    if "opencv-matrix" in text or text.lstrip().startswith(("%YAML:", "<?xml", "{")):
        # From memory: OpenCV prints its own lines to stderr for a path it cannot parse.
        storage = cv2.FileStorage(text, cv2.FILE_STORAGE_READ | cv2.FILE_STORAGE_MEMORY)
        distortion = storage.getNode("distortion_coefficients").mat()
        if distortion is None:
            distortion = storage.getNode("dist_coeffs").mat()
        width, height = (float(storage.getNode(name).real()) for name in ("image_width", "image_height"))
        return storage.getNode("camera_matrix").mat(), distortion, width, height
    document = yaml.safe_load(text)
    if not isinstance(document, Mapping):
        raise ValueError("it holds no names")
    model = document.get("distortion_model", "plumb_bob")
    if model not in ("plumb_bob", "rational_polynomial"):
        raise ValueError(f"its distortion_model {model} is none of plumb_bob and rational_polynomial")
    nodes = [document.get(name) for name in ("camera_matrix", "distortion_coefficients", "dist_coeffs")]
    matrix, plain, other = (None if node is None else _plain_matrix(node) for node in nodes)
    width, height = (float(document.get(name) or 0) for name in ("image_width", "image_height"))
    return matrix, other if plain is None else plain, width, height


def _plain_matrix(node: object) -> np.ndarray:
    """A matrix of plain YAML: a mapping with `rows`, `cols`, `data`, or nested lists. Raises ValueError, TypeError."""
    if not isinstance(node, Mapping):
        return np.asarray(node, dtype=np.float64)
    data = np.asarray(node.get("data"), dtype=np.float64)
    return data.reshape(int(node.get("rows", -1)), int(node.get("cols", data.shape[-1])))


@dataclass(frozen=True)
class HeadPose:
    """Where the 68-point template lies in the camera frame: X = rotation @ P + translation."""

    rotation: np.ndarray
    """(3, 3); a frontal head is the identity."""

    translation: np.ndarray
    """(3,) metres: the nose tip."""

    def points(self, indices: tuple[int, ...]) -> np.ndarray:
        """Template points -> (len(indices), 3) metres in the camera frame."""
        return np.asarray(FACE_MODEL_68[list(indices)] @ self.rotation.T + self.translation)


@dataclass(frozen=True)
class Normalization:
    """The virtual camera a gaze network was trained behind."""

    focal: float
    """Its focal length, px."""

    size: tuple[int, int]
    """(width, height) of its image, px."""

    center: tuple[float, float]
    """Its principal point (x, y), px."""

    distance: float
    """Its distance from the centre below, metres."""

    landmarks: tuple[int, ...]
    """Template points whose mean is the point it looks at."""

    mirrored: bool = False
    """Whether the network wants this view mirrored left to right (and yaws, in and out, negated)."""

    @property
    def matrix(self) -> np.ndarray:
        """(3, 3) intrinsics of the virtual camera."""
        (cx, cy), f = self.center, self.focal
        return np.array([[f, 0, cx], [0, f, cy], [0, 0, 1]], dtype=np.float64)


NORMALIZATIONS: Mapping[str, Normalization] = MappingProxyType(
    {
        "eth-xgaze": Normalization(
            960.0, (224, 224), (112.0, 112.0), 0.6, RIGHT_EYE_CORNERS + LEFT_EYE_CORNERS + NOSE_WINGS
        ),
        "mpiifacegaze": Normalization(
            1600.0, (224, 224), (112.0, 112.0), 1.0, RIGHT_EYE_CORNERS + LEFT_EYE_CORNERS + MOUTH_CORNERS
        ),
        "mpiigaze-right": Normalization(960.0, (60, 36), (30.0, 18.0), 0.6, RIGHT_EYE_CORNERS, mirrored=True),
        "mpiigaze-left": Normalization(960.0, (60, 36), (30.0, 18.0), 0.6, LEFT_EYE_CORNERS),
    }
)
"""Name -> virtual camera. Right and left are the person's eyes."""


@dataclass(frozen=True)
class NormalizedView:
    """One face (or eye) seen by a virtual camera."""

    warp: np.ndarray
    """(3, 3) homography, source px -> patch px, scaled so that the last entry is 1. Not mirrored."""

    rotation: np.ndarray
    """(3, 3) N: camera frame -> normalised frame."""

    head_rotation: np.ndarray
    """(3, 3) N @ R: head -> normalised frame."""

    center: np.ndarray
    """(3,) metres: the point looked at, in the camera frame."""

    size: tuple[int, int]
    """(width, height) of the patch, px."""

    @property
    def head_angles(self) -> np.ndarray:
        """(2,) radians: the head's (pitch, yaw) as MPIIGaze was trained on, from the head's z axis.

        Third column v of N R; pitch = asin(v_y), yaw = atan2(v_x, v_z) (pytorch_mpiigaze's preprocessing and
        ptgaze 0.3.0; 0.2.8 has the opposite signs).
        """
        v = self.head_rotation[:, 2]
        return np.array([np.arcsin(np.clip(v[1], -1.0, 1.0)), np.arctan2(v[0], v[2])])


def solve_head_pose(landmarks: np.ndarray, camera: Camera) -> HeadPose:
    """Head pose from all 68 landmarks, (68, 2) px as filmed.

    OpenCV's iterative solver, started from a frontal head one metre away. Where that ends behind the camera
    or at no finite pose, it starts again from SQPnP's answer.

    Raises ValueError for another shape or points that are not finite, DrsfError where no pose fits.
    """
    landmarks = np.asarray(landmarks, dtype=np.float64)
    if landmarks.shape != (68, 2) or not np.all(np.isfinite(landmarks)):
        raise ValueError(f"head pose needs (68, 2) finite landmarks, got shape {landmarks.shape}")
    points = np.ascontiguousarray(camera.undistort_points(landmarks))
    model = np.ascontiguousarray(FACE_MODEL_68)
    start: tuple[np.ndarray, np.ndarray] = (np.zeros(3), np.array([0.0, 0.0, 1.0]))
    for attempt in range(2):
        if attempt:
            try:
                found, *guess = cv2.solvePnP(model, points, camera.matrix, None, flags=cv2.SOLVEPNP_SQPNP)
            except cv2.error:
                break
            if not found:
                break
            start = (guess[0].ravel(), guess[1].ravel())
        found, rotation_vector, translation = cv2.solvePnP(
            model,
            points,
            camera.matrix,
            None,
            rvec=start[0].copy(),
            tvec=start[1].copy(),
            useExtrinsicGuess=True,
            flags=cv2.SOLVEPNP_ITERATIVE,
        )
        # OpenCV 5 answers with (3, 1) even where (3,) went in.
        rotation_vector, translation = rotation_vector.ravel(), translation.ravel()
        if found and np.all(np.isfinite(rotation_vector)) and translation[2] > 0:
            return HeadPose(Rotation.from_rotvec(rotation_vector).as_matrix(), translation)
    raise DrsfError("no head pose fits the landmarks; the face is not a face or the camera file is wrong")


def euler_angles(rotation: np.ndarray) -> np.ndarray:
    """(3, 3) -> (3,) degrees (a, b, c) with R = Rx(a) Ry(b) Rz(c), intrinsic XYZ; a frontal head is 0 0 0."""
    return np.asarray(Rotation.from_matrix(rotation).as_euler("XYZ", degrees=True))


def normalize_view(pose: HeadPose, spec: Normalization, camera: Camera) -> NormalizedView:
    """The virtual camera's view of a head: z towards the centre, x along the head's x axis, roll gone.

    The warp is exact for a camera without distortion. With distortion it is the homography that fits the
    filmed pixels of the patch best (least squares over a grid on the patch): the frame itself is never
    undistorted, so that pixels of the patch stay pixels of the frame.
    """
    center = pose.points(spec.landmarks).mean(axis=0)
    distance = float(np.linalg.norm(center))
    z = center / distance
    y = np.cross(z, pose.rotation[:, 0])
    y /= np.linalg.norm(y)
    x = np.cross(y, z)
    x /= np.linalg.norm(x)
    rotation = np.stack([x, y, z])
    scale = np.diag([1.0, 1.0, spec.distance / distance])
    warp = spec.matrix @ scale @ rotation @ np.linalg.inv(camera.matrix)
    if camera.is_distorted:
        width, height = spec.size
        grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9)), axis=-1)
        patch = grid.reshape(-1, 1, 2)
        pinhole = cv2.perspectiveTransform(patch, np.linalg.inv(warp)).reshape(-1, 2)
        fitted, _ = cv2.findHomography(camera.distort_points(pinhole), patch.reshape(-1, 2), 0)
        if fitted is None:
            raise DrsfError("no homography fits the patch behind this lens; the landmarks or the camera file are wrong")
        warp = np.asarray(fitted, dtype=np.float64)
    return NormalizedView(warp / warp[2, 2], rotation, rotation @ pose.rotation, center, spec.size)


def angles_to_vector(pitch_yaw: np.ndarray) -> np.ndarray:
    """(..., 2) radians -> (..., 3) unit vectors: g = -(cos p sin y, sin p, cos p cos y)."""
    pitch_yaw = np.asarray(pitch_yaw, dtype=np.float64)
    pitch, yaw = pitch_yaw[..., 0], pitch_yaw[..., 1]
    return -np.stack([np.cos(pitch) * np.sin(yaw), np.sin(pitch), np.cos(pitch) * np.cos(yaw)], axis=-1)


def vector_to_angles(gaze: np.ndarray) -> np.ndarray:
    """(..., 3) vectors of any length -> (..., 2) radians: p = asin(-g_y / |g|), y = atan2(-g_x, -g_z)."""
    gaze = np.asarray(gaze, dtype=np.float64)
    unit = gaze / np.linalg.norm(gaze, axis=-1, keepdims=True)
    pitch = np.arcsin(np.clip(-unit[..., 1], -1.0, 1.0))
    return np.stack([pitch, np.arctan2(-unit[..., 0], -unit[..., 2])], axis=-1)


def angle_between_degrees(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Angle between (..., 3) vectors of any length, degrees.

    atan2(|a x b|, a . b): exact near 0 and 180, where the arc cosine of a dot product loses half its digits
    or leaves its domain.
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    cross = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.asarray(np.degrees(np.arctan2(cross, np.sum(a * b, axis=-1))))
