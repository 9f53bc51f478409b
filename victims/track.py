"""Faces over time: what must be covered in a frame, whether or not the detector saw a face in it.

Two passes. `link` joins the detections of all frames into tracks; `cover_boxes` says what every frame has to cover.
Both err towards covering: a detection that fits no track starts one, a track that ends stays covered where it was,
a gap is bridged from both sides. Wrong links cost coverage, never expose a face.

Boxes are xyxy px of the frame as a detector gives them; enlarging them to heads is the business of obscuring.
Times are in seconds, one a frame, rising; frame rates may vary.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from victims.face import Array, Detections, iou
from victims.merging import union

Times = Sequence[float] | Array  # s, one a frame

CONFIRM_SCORE = 0.65
"""One detection with this score is a face."""

CERTAIN_SCORE = 0.7
"""A score that is no higher than the threshold at which a detector's output is read."""

SUSTAINED_HITS = 3
"""So many detections of any score within a second are a face too. So many that reach `CERTAIN_SCORE` make it certain:
only such a track is held to the ends of the clip, since false alarms come alone or weak."""

UNCERTAIN_GAP_S = 5.0
"""A track that is not certain is covered in gaps of up to so many seconds: a passenger whom a detector hardly sees is
seen more often than that, and two false alarms in one place, further apart, would cover it for no reason."""

RADIUS_S = 0.1
"""A frame's box is the union over its neighbours at most this far away (and at least one frame on either side)."""

GROWTH = 0.25
GROWTH_RATE = 1.0
"""A box that was not seen grows on every side by the share `GROWTH` of its size, and by `GROWTH_RATE` for every second
to the nearest sighting."""

DRIFT = 0.25
"""Beyond its first and last sighting a face is taken to move on as it did; its box grows by this share of the way."""

HELD_GROWTH = 0.3
"""A box that is held grows on every side by this share of its size."""

EXTEND_S = 1.0
"""So many seconds a box is held at least."""

SWEEP_S = 0.5
"""A held box is also swept along its last (or first) motion for this long, by at most `SWEEP_SIZES` of its size."""

SWEEP_SIZES = 1.5

_SIZE_RATIO = 2.0
_REACH = 0.8  # centre distance to the predicted box, in box sizes, at which a link is still believed ...
_REACH_RATE = 1.5  # ... and what a second without a sighting adds to it
_REACH_UNKNOWN = 0.6  # ... and what is added while a track was seen once, and its motion is unknown
_LOST_IOU = 0.2  # with its last box, for a track that is lost for longer than the gap to be taken up again
_LOST_COST = 3.0  # a track within the gap wins over one that is longer lost
_SAME_HEAD = 0.5  # share of the smaller of two boxes that lies in the other where both are of one head
_MOTION_S = 0.3  # the time over which a velocity is measured


@dataclass(eq=False)
class Track:
    """One face through the clip, as far as it was seen."""

    id: int
    boxes: dict[int, Array] = field(default_factory=dict)
    """Frame index -> box (4,) px, only where a detector saw it, in rising order."""
    scores: dict[int, float] = field(default_factory=dict)
    """Frame index -> the detector's score."""
    turns: dict[int, NDArray[np.bool_]] = field(default_factory=dict)
    """Frame index -> the quarter turns (4,) of the head, see `Detections.turns`."""

    @property
    def largest(self) -> tuple[float, float]:
        """The greatest width and the greatest height of the face seen, px, each along the head's own axis."""
        sides = np.array([box[2:] - box[:2] for box in self.boxes.values()])
        turns = np.stack([self.turns[frame] for frame in self.boxes])
        along = np.concatenate([sides[turns[:, ::2].any(axis=1)], sides[turns[:, 1::2].any(axis=1)][:, ::-1]])
        return float(along[:, 0].max()), float(along[:, 1].max())


@dataclass(frozen=True, eq=False)
class CoverBox:
    """One box that a frame must cover."""

    track_id: int
    """Of the track it comes from; negative for a region drawn by hand."""
    box: Array
    """(4,) px of the frame; may reach over the border."""
    largest: tuple[float, float]
    """Greatest width and height of the face along the whole track, px, along the head's own axes: what the block size
    is made for."""
    exact: bool = False
    """True when the box is the region itself (drawn by hand), false when it is a face that belongs to a head."""
    turns: tuple[int, ...] = (0,)
    """Quarter turns clockwise by which the head may be turned: 0 crown up, 1 right, 2 down, 3 left."""


def link(
    detections: Sequence[Detections], times: Times, max_gap_s: float = 1.0, confirm_score: float = CONFIRM_SCORE
) -> list[Track]:
    """Join the detections of all frames into tracks, in the order of their first sighting.

    Detections go to tracks by the cheapest assignment (centre distance to where the track should be by now, overlap,
    size); one that nothing is near starts a track, so a scene cut starts new ones. A track that was not seen for
    longer than `max_gap_s` is taken up again only where it was lost. Tracks that never reached
    `confirm_score`, were not seen `SUSTAINED_HITS` times within a second and are not near a track that was, are
    spurious and left out.
    """
    from scipy.optimize import linear_sum_assignment  # takes a second to import, and reading needs no tracks

    if len(detections) != len(times):
        raise ValueError(f"{len(detections)} frames of detections, {len(times)} times")
    tracks: list[Track] = []
    for index, seen in enumerate(detections):
        if not len(seen):
            continue
        boxes = np.asarray(seen.boxes, dtype=np.float64).reshape(-1, 4)
        taken: dict[int, int] = {}
        if tracks:
            cost = _link_cost(tracks, boxes, index, times, max_gap_s)
            rows, columns = linear_sum_assignment(np.where(np.isfinite(cost), cost, 1e6))
            taken = {int(c): int(r) for r, c in zip(rows, columns, strict=True) if np.isfinite(cost[r, c])}
        for column, box in enumerate(boxes):
            if column in taken:
                track = tracks[taken[column]]
            else:
                track = Track(len(tracks))
                tracks.append(track)
            track.boxes[index] = box
            track.scores[index] = float(seen.scores[column])
            track.turns[index] = seen.head_turns[column]
    return _confirmed(tracks, times, max_gap_s, confirm_score)


def cover_boxes(tracks: Sequence[Track], times: Times, max_gap_s: float = 1.0) -> list[list[CoverBox]]:
    """What each frame must cover, one list a frame.

    * Where a track is seen, or was seen at most `max_gap_s` apart: its box, interpolated in time, grown
      inside a gap, united with its neighbours within `RADIUS_S`.
    * In a longer gap: the last box before it and the first after it, both, all through the gap, unless the track is
      uncertain and the gap longer than `UNCERTAIN_GAP_S`.
    * Before the first and after the last sighting: the first or last box, to the ends of the clip (a head that
      is no longer detected has most likely only turned away), or until it is seen as another track that is certain,
      and at least for `EXTEND_S`.
    * Uncertain tracks, with fewer than `SUSTAINED_HITS` detections of `CERTAIN_SCORE` within a second, are covered for
      `EXTEND_S` only at the ends and in gaps that are too long, unless there are no others.

    Boxes that are held are swept along the track's motion and grown by `HELD_GROWTH`, for the way a head goes on
    after a detector has lost it. For `max_gap_s` beyond a sighting, the place where a track seen twice or more would be
    by now had it gone on moving is covered as well.
    """
    clock = np.asarray(times, dtype=np.float64)
    covers: list[list[CoverBox]] = [[] for _ in times]
    certain = [is_sustained(track, times, CERTAIN_SCORE) for track in tracks]
    if not any(certain):
        certain = [True] * len(tracks)
    for track, sure in zip(tracks, certain, strict=True):
        largest, turns = track.largest, _Turns(track, clock)
        rivals = [other for other, known in zip(tracks, certain, strict=True) if known and other is not track]
        segments = _segments(sorted(track.boxes), clock, max_gap_s)
        for segment in segments:
            span = range(segment[0], segment[-1] + 1)
            for index, box, own in zip(span, _dense(track, segment, clock), turns.near(span), strict=True):
                covers[index].append(CoverBox(track.id, box, largest, turns=own))
        for k, segment in enumerate(segments):
            before = segments[k - 1][-1] + 1 if k else 0
            after = segments[k + 1][0] if k + 1 < len(segments) else len(clock)
            inner_start = k > 0 and (sure or clock[segment[0]] - clock[before - 1] <= UNCERTAIN_GAP_S)
            inner_end = k + 1 < len(segments) and (sure or clock[after] - clock[segment[-1]] <= UNCERTAIN_GAP_S)
            for frames, edge, forward, inner in (
                (range(before, segment[0]), segment[0], False, inner_start),
                (range(segment[-1] + 1, after), segment[-1], True, inner_end),
            ):
                velocity = _velocity(track, edge, clock, forward)
                (own,) = turns.near([edge])
                longest = _taken_over(track, edge, forward, rivals, clock, max_gap_s) if sure else 0.0
                reach = max(EXTEND_S, longest)
                held = CoverBox(track.id, _held(track.boxes[edge], velocity, forward), largest, turns=own)
                for index in frames:
                    passed = float(abs(clock[index] - clock[edge]))
                    if passed <= reach or inner:
                        covers[index].append(held)
                    if velocity.any() and passed <= min(max_gap_s, reach):
                        on = _moved_on(track.boxes[edge], velocity * (clock[index] - clock[edge]), passed)
                        covers[index].append(CoverBox(track.id, on, largest, turns=own))
    return covers


def _link_cost(tracks: Sequence[Track], boxes: Array, index: int, times: Times, max_gap_s: float) -> Array:
    """(tracks, boxes); infinite where a link is not believed."""
    last = [next(reversed(track.boxes)) for track in tracks]
    elapsed = np.array([times[index] - times[frame] for frame in last])
    moved = [
        track.boxes[frame] + np.tile(_velocity(track, frame, times, True) * min(gap, _MOTION_S), 2)
        for track, frame, gap in zip(tracks, last, elapsed, strict=True)
    ]
    predicted = np.stack(moved)
    size_a, size_b = _size(predicted)[:, None], _size(boxes)[None, :]
    centre_a, centre_b = (predicted[:, :2] + predicted[:, 2:]) / 2, (boxes[:, :2] + boxes[:, 2:]) / 2
    distance = np.linalg.norm(centre_a[:, None] - centre_b[None], axis=-1) / np.maximum(np.minimum(size_a, size_b), 1.0)
    alone = np.array([len(track.boxes) == 1 for track in tracks])
    reach = (_REACH + _REACH_RATE * np.minimum(elapsed, max_gap_s) + _REACH_UNKNOWN * alone)[:, None]
    ratio = np.abs(np.log(size_a / size_b))
    cost = distance / reach + 0.5 * (1.0 - iou(predicted[:, None], boxes)) + 0.5 * ratio
    lost = (elapsed > max_gap_s)[:, None]
    known = np.stack([track.boxes[frame] for track, frame in zip(tracks, last, strict=True)])
    at_rest = iou(known[:, None], boxes) > _LOST_IOU
    believed = np.where(lost, at_rest, (distance <= reach) & (ratio <= math.log(_SIZE_RATIO)))
    return np.where(believed, cost + _LOST_COST * lost, np.inf)


def _velocity(track: Track, frame: int, times: Times, forward: bool) -> Array:
    """(2,) px/s by which both edges of the box move at sighting `frame`: sizes that vary are no motion.

    Over the sightings up to `_MOTION_S` before it (forward) or after it; zero when there are none.
    """
    here = track.boxes[frame]
    other: int | None = None
    for candidate in reversed(track.boxes) if forward else track.boxes:
        passed = (times[frame] - times[candidate]) * (1 if forward else -1)
        if passed <= 0:
            continue
        if passed > _MOTION_S:
            break
        other = candidate
    if other is None:
        return np.zeros(2)
    low, high = (here - track.boxes[other]).reshape(2, 2)
    shared = np.where(low * high > 0.0, np.sign(low) * np.minimum(np.abs(low), np.abs(high)), 0.0)
    return np.asarray(shared / (times[frame] - times[other]))


def is_sustained(track: Track, times: Times, score: float = 0.0) -> bool:
    """Whether the track was seen `SUSTAINED_HITS` times, with at least this score, within some second."""
    frames = [frame for frame, value in track.scores.items() if value >= score]
    last = SUSTAINED_HITS - 1
    return any(times[b] - times[a] <= 1.0 for a, b in zip(frames, frames[last:], strict=False))


def _confirmed(tracks: Sequence[Track], times: Times, max_gap_s: float, confirm_score: float) -> list[Track]:
    sure = [track for track in tracks if max(track.scores.values()) >= confirm_score or is_sustained(track, times)]
    kept = set(map(id, sure))
    for track in tracks:
        if id(track) not in kept and any(_near(track, other, times, max_gap_s) for other in sure):
            kept.add(id(track))
    return [track for track in tracks if id(track) in kept]


def _near(track: Track, other: Track, times: Times, max_gap_s: float) -> bool:
    """Whether a box of `track` lies within one size of `other`'s box at its nearest sighting in time."""
    frames = np.array(list(other.boxes))
    clock = np.array([times[frame] for frame in frames])
    for index, box in track.boxes.items():
        nearest = int(np.argmin(np.abs(clock - times[index])))
        if abs(clock[nearest] - times[index]) > max_gap_s:
            continue
        there = other.boxes[int(frames[nearest])]
        distance = float(np.linalg.norm(box[:2] + box[2:] - there[:2] - there[2:])) / 2
        if distance <= max(_size(box[None])[0], _size(there[None])[0]):
            return True
    return False


def _segments(frames: Sequence[int], clock: Array, max_gap_s: float) -> list[list[int]]:
    """Sightings, split where they are more than `max_gap_s` apart."""
    segments = [[frames[0]]]
    for before, frame in itertools.pairwise(frames):
        if clock[frame] - clock[before] > max_gap_s + 1e-6:
            segments.append([])
        segments[-1].append(frame)
    return segments


def _dense(track: Track, segment: Sequence[int], clock: Array) -> Array:
    """(frames from the first to the last sighting, 4): interpolated, grown inside gaps, united with neighbours."""
    span = clock[segment[0] : segment[-1] + 1]
    seen = clock[segment]
    known = np.stack([track.boxes[frame] for frame in segment])
    boxes = np.stack([np.interp(span, seen, known[:, k]) for k in range(4)], axis=1)
    after = np.searchsorted(seen, span).clip(0, len(seen) - 1)
    gap = np.minimum(np.abs(seen[after] - span), np.abs(span - seen[(after - 1).clip(0)]))
    boxes = _grown(boxes, np.where(gap > 0, GROWTH + GROWTH_RATE * gap, 0.0))
    low = np.minimum(np.searchsorted(span, span - RADIUS_S - 1e-6), np.arange(len(span)) - 1).clip(0)
    high = np.maximum(np.searchsorted(span, span + RADIUS_S + 1e-6), np.arange(len(span)) + 2).clip(0, len(span))
    return np.stack(
        [
            np.concatenate([boxes[a:b, :2].min(axis=0), boxes[a:b, 2:].max(axis=0)])
            for a, b in zip(low, high, strict=True)
        ]
    )


class _Turns:
    """Which quarter turns of a track's head a frame must reckon with."""

    def __init__(self, track: Track, clock: Array) -> None:
        self._clock = clock
        self._seen = clock[list(track.boxes)]
        turns = np.stack([track.turns[frame] for frame in track.boxes])
        self._counts = np.concatenate([np.zeros((1, 4), dtype=np.int64), np.cumsum(turns, axis=0)])

    def near(self, frames: Sequence[int]) -> list[tuple[int, ...]]:
        """For each of `frames` the turns of the sightings around it.

        These are the sightings within `_MOTION_S`, the last at or before it and the first at or after it: a head that
        is about to turn is covered along both axes.
        """
        now = self._clock[list(frames)]
        low = np.minimum(
            np.searchsorted(self._seen, now - _MOTION_S - 1e-6), np.searchsorted(self._seen, now, "right") - 1
        )
        high = np.maximum(
            np.searchsorted(self._seen, now + _MOTION_S + 1e-6, "right"), np.searchsorted(self._seen, now) + 1
        )
        found = self._counts[high.clip(max=len(self._seen))] > self._counts[low.clip(min=0)]
        return [tuple(int(turn) for turn in np.flatnonzero(own)) for own in found]


def _taken_over(
    track: Track, edge: int, forward: bool, others: Sequence[Track], clock: Array, max_gap_s: float
) -> float:
    """How many s after (or before) its sighting `edge` a track's head is seen as another track; inf if it never is.

    It is where another track that is seen beyond `edge` is in the same place at that time, or where one that only
    begins beyond it begins in that place. A head that comes from elsewhere and passes by is another one.
    """
    box, found = track.boxes[edge], math.inf
    for other in others:
        passed = (clock[list(other.boxes)] - clock[edge]) * (1.0 if forward else -1.0)
        nearest = int(np.argmin(np.abs(passed)))
        begins = passed.min() > 0.0
        if passed.max() <= 0.0 or not (begins or abs(passed[nearest]) <= max_gap_s):
            continue
        there = list(other.boxes.values())[nearest]
        sides = np.maximum(np.minimum(box[2:], there[2:]) - np.maximum(box[:2], there[:2]), 0.0)
        if float(np.prod(sides)) > _SAME_HEAD * float(np.minimum(_size(box[None]), _size(there[None]))[0]) ** 2:
            found = min(found, max(float(passed[nearest]), 0.0))
    return found


def _held(box: Array, velocity: Array, forward: bool) -> Array:
    """The box (4,) that stays after a last sighting (forward) or stands before a first one."""
    size = float(_size(box[None])[0])
    way = velocity * (SWEEP_S if forward else -SWEEP_S)
    length = float(np.linalg.norm(way))
    if length > SWEEP_SIZES * size:
        way = way * (SWEEP_SIZES * size / length)
    return np.asarray(_grown(union(box, box + np.tile(way, 2))[None], np.array([HELD_GROWTH]))[0])


def _moved_on(box: Array, way: Array, passed: float) -> Array:
    """The box (4,) after a motion of `way` (2,) px that nobody saw, `passed` s long."""
    size = float(_size(box[None])[0])
    share = GROWTH + GROWTH_RATE * passed + DRIFT * float(np.linalg.norm(way)) / size
    return np.asarray(_grown((box + np.tile(way, 2))[None], np.array([share]))[0])


def _grown(boxes: Array, share: Array) -> Array:
    """Boxes (n, 4) moved out on every side by `share` (n,) of their sizes."""
    margin = _size(boxes) * share
    return np.asarray(boxes + margin[:, None] * [-1.0, -1.0, 1.0, 1.0])


def _size(boxes: Array) -> Array:
    """(n,) square root of the area, px, at least 1."""
    area = np.maximum(boxes[:, 2] - boxes[:, 0], 0.0) * np.maximum(boxes[:, 3] - boxes[:, 1], 0.0)
    return np.asarray(np.sqrt(np.maximum(area, 1.0)))
