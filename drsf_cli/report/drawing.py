"""Observations drawn on frames: box, 68 points, mesh, head axes, gaze arrow, frame number and confidence.

Everything three-dimensional is drawn by projecting it through the camera: head pose and the place of the eyes come
from PnP on the landmarks, the gaze arrow is 10 cm long in camera space (x right, y down, z away, metres) and
foreshortens as a stick of that length would. Line widths and letters grow with the picture. Frames are (H, W, 3)
uint8 RGB; nothing is drawn into the caller's array.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain, zip_longest
from pathlib import Path

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from drsf_cli.media.atomic import same_place
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.media.writer import encoder_settings, open_writer
from drsf_cli.progress import SILENT, Progress
from victims.base import Image
from victims.camera import Camera, HeadPose, solve_head_pose
from victims.face import Array, Face, FrameObservation
from weights.errors import DrsfError, InputError, OutputError, UsageError

Colour = tuple[int, int, int]

BOX_COLOUR: Colour = (86, 180, 233)
POINT_COLOUR: Colour = (255, 255, 255)
LINE_COLOUR: Colour = (0, 200, 140)
MESH_COLOUR: Colour = (190, 150, 255)
GAZE_COLOUR: Colour = (255, 170, 0)
AXIS_COLOURS: tuple[Colour, Colour, Colour] = ((235, 60, 60), (60, 200, 60), (70, 110, 255))
"""Head's x (to the right of the image), y (down), and the direction the face looks in (-z)."""
TEXT_COLOUR: Colour = (255, 255, 255)
_OUTLINE: Colour = (0, 0, 0)
_STRIP_COLOUR: Colour = (24, 24, 27)

# part -> (first, last point, closed); iBUG order of the 68 points
PARTS: Mapping[str, tuple[int, int, bool]] = {
    "jaw": (0, 16, False),
    "right brow": (17, 21, False),
    "left brow": (22, 26, False),
    "nose bridge": (27, 30, False),
    "nose wings": (31, 35, False),
    "right eye": (36, 41, True),
    "left eye": (42, 47, True),
    "outer lips": (48, 59, True),
    "inner lips": (60, 67, True),
}
_EYES = tuple(range(36, 48))

GAZE_LENGTH = 0.10
AXIS_LENGTH = 0.06
"""Metres."""
_NEAR = 0.05
"""Metres before the lens at which lines are cut off."""
_FACE_WIDTH = 0.14
"""Metres: how far away a face is whose landmarks are unknown, from the width of its box."""

_SHIFT = 4  # OpenCV draws at 1/16 px
_MAX_WIDTH = 3840
"""Of panels side by side, px: wider ones are made smaller, or many decoders refuse them."""
_FONT = cv2.FONT_HERSHEY_SIMPLEX


# ------------------------------------------------------------------------------------------------ one frame


def draw(
    image: Image, observation: FrameObservation | None, camera: Camera | None = None, *, label: bool = True
) -> Image:
    """A copy of `image` with what was observed in it; what a victim did not measure is not drawn.

    `camera` None is the field's default for the size. `label`: frame number and time in the corner, and a word where
    no face was seen. `observation` None means that nobody looked: the picture says so.
    """
    height, width = image.shape[:2]
    camera = camera or Camera.default(width, height)
    pen = _Pen(np.ascontiguousarray(image).copy())
    faces = () if observation is None else observation.faces
    for face in faces:
        _draw_face(pen, face, camera)
    if label:
        if observation is None:
            lines = ["not read"]
        else:
            time = "" if np.isnan(observation.pts) else f"  {observation.pts:.2f} s"
            lines = [f"#{observation.index}{time}"] + ([] if faces else ["no face"])
        for number, line in enumerate(lines):
            pen.text(line, (pen.unit * 4, pen.unit * 4 + number * pen.line_height))
    return pen.image


def _draw_face(pen: _Pen, face: Face, camera: Camera) -> None:
    x1, y1, x2, y2 = face.box
    # On small faces lines as thick as the frame's size asks would hide what they mark.
    fine = min(pen.unit, max(0.5, float(np.sqrt(face.area)) / 90))
    pen.lines(
        np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]), BOX_COLOUR, max(2.0, 2 * fine), closed=True, outline=True
    )
    if face.landmarks is not None:
        for first, last, closed in PARTS.values():
            pen.lines(face.landmarks[first : last + 1], LINE_COLOUR, fine, closed=closed)
        pen.dots(face.landmarks, POINT_COLOUR, radius=1.6 * fine)
    if face.mesh is not None:
        pen.specks(face.mesh[:, :2], MESH_COLOUR, radius=0.6 * fine)
    pose = head_pose(face, camera)
    if pose is not None and face.euler_angles is not None:
        for axis, colour in zip(axis_segments(face.euler_angles, pose), AXIS_COLOURS, strict=True):
            pen.arrow(project(axis, camera), colour, 1.5 * fine)
    if face.gaze is not None:
        segment = project(gaze_segment(face, pose, camera), camera)
        pen.arrow(segment, GAZE_COLOUR, 2.5 * fine)
        pen.dots(segment[:1], GAZE_COLOUR, radius=3 * fine)  # what is left of an arrow that is seen end-on
    above = y1 - pen.line_height - pen.unit
    pen.text(f"{face.score:.3f}", (x1, above if above >= 0 else y2 + pen.unit))


def head_pose(face: Face, camera: Camera) -> HeadPose | None:
    """Where the head is in the camera frame; None without landmarks, or where no pose fits them."""
    if face.landmarks is None:
        return None
    try:
        return solve_head_pose(face.landmarks, camera)
    except DrsfError:
        return None  # a picture shows what there is; that the points are no head is plain to see in it


def axis_segments(euler_angles: Array, pose: HeadPose) -> Array:
    """(3, 2, 3) metres, camera frame: from the nose tip along the head's x, y and -z.

    The angles are the observation's own, which another camera may have been used for; only the place is the pose's.
    """
    rotation = Rotation.from_euler("XYZ", euler_angles, degrees=True).as_matrix()
    ends = pose.translation + AXIS_LENGTH * (rotation @ np.diag([1.0, 1.0, -1.0])).T
    return np.stack([np.broadcast_to(pose.translation, (3, 3)), ends], axis=1)


def gaze_segment(face: Face, pose: HeadPose | None, camera: Camera) -> Array:
    """(2, 3) metres, camera frame: from between the eyes, 10 cm along the gaze.

    Without a head pose the eyes are taken to be at 0.4 of the box's height, as far away as a face of 14 cm is.
    """
    assert face.gaze is not None
    if pose is not None:
        origin = pose.points(_EYES).mean(axis=0)
    else:
        x1, y1, x2, y2 = face.box
        pixel = camera.undistort_points(np.array([[(x1 + x2) / 2, y1 + 0.4 * (y2 - y1)]]))[0]
        depth = camera.matrix[0, 0] * _FACE_WIDTH / max(x2 - x1, 1.0)
        origin = depth * (np.linalg.inv(camera.matrix) @ np.append(pixel, 1.0))
    gaze = face.gaze / np.linalg.norm(face.gaze)
    return np.stack([origin, origin + GAZE_LENGTH * gaze])


def project(segment: Array, camera: Camera) -> Array:
    """(2, 3) metres, camera frame -> (2, 2) px as filmed. What is nearer than 5 cm to the lens's plane is cut off."""
    start, end = np.asarray(segment, dtype=np.float64)
    if end[2] < _NEAR <= start[2]:
        end = start + (end - start) * (start[2] - _NEAR) / (start[2] - end[2])
    points, _ = cv2.projectPoints(
        np.stack([start, end]), np.zeros(3), np.zeros(3), camera.matrix, camera.distortion.astype(np.float64)
    )
    return np.asarray(points, dtype=np.float64).reshape(2, 2)


class _Pen:
    """Antialiased lines, dots and outlined letters, all as thick as the picture's size asks."""

    def __init__(self, image: Image) -> None:
        self.image = image
        side = min(image.shape[:2])
        self.unit = max(1.0, side / 420)
        """Width of a fine line, px; 2.6 at 1080 lines."""
        self.letter = max(9.0, side / 32)
        """Height of a capital, px."""
        self.line_height = 1.7 * self.letter
        self._scale = cv2.getFontScaleFromHeight(_FONT, round(self.letter), max(1, round(self.letter / 9)))

    def lines(self, points: Array, colour: Colour, width: float, *, closed: bool, outline: bool = False) -> None:
        fixed = self._fixed(points)
        if outline:
            self._polyline(fixed, _OUTLINE, closed, width + 2)
        self._polyline(fixed, colour, closed, width)

    def dots(self, points: Array, colour: Colour, radius: float) -> None:
        for x, y in self._fixed(points):
            for grown, ink in ((radius + 0.75, _OUTLINE), (radius, colour)):
                cv2.circle(self.image, (int(x), int(y)), round(grown * 2**_SHIFT), ink, -1, cv2.LINE_AA, _SHIFT)

    def specks(self, points: Array, colour: Colour, radius: float) -> None:
        """Dots without an outline, for points that are many."""
        for x, y in self._fixed(points):
            cv2.circle(self.image, (int(x), int(y)), round(radius * 2**_SHIFT), colour, -1, cv2.LINE_AA, _SHIFT)

    def arrow(self, ends: Array, colour: Colour, width: float) -> None:
        """From ends[0] to ends[1], (2, 2) px."""
        start, end = ends
        along = end - start
        length = float(np.linalg.norm(along))
        strokes = [ends]
        if length > 0:
            along = along / length
            across = np.array([-along[1], along[0]])
            head = min(0.35 * length, 7 * width)
            strokes.append(np.stack([end - head * (along + 0.6 * across), end, end - head * (along - 0.6 * across)]))
        for grown, ink in ((width + 2, _OUTLINE), (width, colour)):
            for stroke in strokes:
                self._polyline(self._fixed(stroke), ink, False, grown)

    def text(self, text: str, corner: tuple[float, float]) -> None:
        """`corner`: top left, px; moved so that the text lies inside the picture as far as it fits."""
        weight = max(1, round(self.letter / 9))
        (width, _), _ = cv2.getTextSize(text, _FONT, self._scale, weight)
        rows, columns = self.image.shape[:2]
        x = round(max(0.0, min(corner[0], columns - width - self.unit)))
        y = round(max(self.letter, min(corner[1] + self.letter, rows - 0.4 * self.letter)))
        # Eight shifted copies make the outline: OpenCV 5 draws a thicker letter bolder, not wider.
        edge = max(1, round(self.letter / 9))
        for dx, dy in ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)):
            self._put(text, (x + dx * edge, y + dy * edge), _OUTLINE, weight)
        self._put(text, (x, y), TEXT_COLOUR, weight)

    def _put(self, text: str, place: tuple[int, int], colour: Colour, weight: int) -> None:
        cv2.putText(self.image, text, place, _FONT, self._scale, colour, weight, cv2.LINE_AA)

    def _polyline(self, fixed: Array, colour: Colour, closed: bool, width: float) -> None:
        cv2.polylines(self.image, [fixed], closed, colour, max(1, round(width)), cv2.LINE_AA, _SHIFT)

    @staticmethod
    def _fixed(points: Array) -> Array:
        """Fixed-point px; far points are pulled in, or OpenCV's 32 bits overflow."""
        return np.asarray(np.rint(np.clip(points, -30000, 30000) * 2**_SHIFT), np.int32)


# --------------------------------------------------------------------------------------------- side by side


def three_panels(
    images: Sequence[Image],
    observations: Sequence[FrameObservation | None],
    titles: Sequence[str],
    camera: Camera | None = None,
) -> Image:
    """Pictures of one size side by side, each with its observation drawn and its title above.

    Usually these are the original, the obscured one, and the obscured and attacked one, but any number goes.

    (h + strip, n w, 3), both even, at most 3840 px wide. Raises ValueError for different sizes or lengths.
    """
    if len({image.shape for image in images}) != 1:
        raise ValueError("panels need pictures of one size")
    height, width = images[0].shape[:2]
    gap = 2 * max(1, round(min(height, width) / 360))
    scale = min(1.0, (_MAX_WIDTH - gap * (len(images) - 1)) / (width * len(images)))
    size = (max(1, int(width * scale)), max(1, int(height * scale)))
    columns = []
    for image, observation, title in zip(images, observations, titles, strict=True):
        drawn = draw(image, observation, camera)
        if scale < 1:
            drawn = np.asarray(cv2.resize(drawn, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        columns += [_titled(drawn, title), np.full((1, gap, 3), _STRIP_COLOUR, np.uint8)]
    rows = columns[0].shape[0]
    whole = np.concatenate([np.broadcast_to(column, (rows, *column.shape[1:])) for column in columns[:-1]], axis=1)
    odd_rows, odd_columns = rows % 2, whole.shape[1] % 2
    return np.pad(whole, ((0, odd_rows), (0, odd_columns), (0, 0)), mode="edge")


def _titled(image: Image, title: str) -> Image:
    pen = _Pen(image)
    strip = np.full((round(2 * pen.letter), image.shape[1], 3), _STRIP_COLOUR, np.uint8)
    titled = np.concatenate([strip, image])
    pen.image = titled
    pen.text(title, (4 * pen.unit, 0.5 * pen.letter))
    return titled


# -------------------------------------------------------------------------------------------- whole clips


@dataclass(frozen=True)
class Panel:
    """One clip and what was read from it."""

    title: str
    source: Path | VideoReader | Iterable[Image]
    """A file or folder to read, a reader (with its --start and --end), or frames made on the way, (H, W, 3) RGB."""
    observations: Sequence[FrameObservation]
    """Paired with the frames by `index`."""


def visualize(
    panels: Sequence[Panel],
    output: str | Path,
    *,
    camera: Camera | str | Path | None = None,
    overwrite: bool = False,
    progress: Progress = SILENT,
) -> Path:
    """Draw the panels' observations on their frames and write them, side by side if there are several.

    Size, rate and times are those of the *last* panel (its source is a file or a reader), which is the one under
    inspection; a picture gives a picture and a folder of pictures a folder, unless `output` is named like a video.
    `camera`: of all panels; a path is an OpenCV calibration file. Frames are streamed.

    Raises UsageError for no panel, InputError for clips of different length or size and observations that belong to
    none of the frames, OutputError for a place that cannot be written or is one of the inputs.
    """
    if not panels:
        raise UsageError("There is nothing to draw; name an input.")
    output = Path(output)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(VideoReader(panel.source)) if isinstance(panel.source, Path) else panel.source
            for panel in panels
        ]
        last = readers[-1]
        if not isinstance(last, VideoReader):
            raise ValueError("the last panel's source must be a file or a reader")
        for reader in readers:
            if isinstance(reader, VideoReader) and same_place(reader.path, output):
                raise OutputError(f"{output} is one of the inputs; choose another name.")
        if isinstance(camera, str | Path):
            camera = Camera.load(camera, last.info.width, last.info.height)
        seen = [{observation.index: observation for observation in panel.observations} for panel in panels]
        drawn = stack.enter_context(closing(_drawn(panels, readers, seen, camera)))
        first = next(drawn)
        info = replace(last.info, width=first.image.shape[1], height=first.image.shape[0])
        progress.begin("Drawing", last.info.frame_count)
        settings = encoder_settings(info, crf=18, looks_ahead=True)
        writer = stack.enter_context(open_writer(output, info, settings, overwrite=overwrite))
        for frame in chain((first,), drawn):
            writer.write(frame.image, frame.pts_ticks, frame.duration_ticks)
            progress.advance()
        return writer.publish()


def _frames(source: VideoReader | Iterable[Image]) -> Iterator[tuple[Image, Frame | None]]:
    if isinstance(source, VideoReader):
        yield from ((frame.image, frame) for frame in source)
    else:
        yield from ((image, None) for image in source)


def _drawn(
    panels: Sequence[Panel],
    readers: Sequence[VideoReader | Iterable[Image]],
    seen: Sequence[Mapping[int, FrameObservation]],
    camera: Camera | None,
) -> Generator[Frame, None, None]:
    """The last panel's frames, with the panels as their pictures."""
    titles = [panel.title for panel in panels]
    matched = [False] * len(panels)
    clips = [_frames(reader) for reader in readers]
    for index, entries in enumerate(zip_longest(*clips)):
        for title, entry in zip(titles, entries, strict=True):
            if entry is None:
                raise InputError(
                    f"{title} ends after {index} frames and another panel goes on; compare clips of the same frames."
                )
        images = [image for image, _ in entries]
        for title, image in zip(titles, images, strict=True):
            if image.shape != images[0].shape:
                raise InputError(
                    f"{title} is {image.shape[1]}x{image.shape[0]} and {titles[0]} is "
                    f"{images[0].shape[1]}x{images[0].shape[0]}; compare clips of one size."
                )
        looks = [observations.get(index) for observations in seen]
        matched = [before or look is not None for before, look in zip(matched, looks, strict=True)]
        frame = entries[-1][1]
        assert frame is not None
        whole = draw(images[0], looks[0], camera) if len(panels) == 1 else three_panels(images, looks, titles, camera)
        yield replace(frame, image=whole)
    for title, any_matched in zip(titles, matched, strict=True):
        if not any_matched:
            raise InputError(f"{title}: none of its frames is in the observations; give the JSON of this clip.")
