"""Scenarios with known faces: whatever the detector misses, the frame covers the face."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from victims.drawn_regions import ManualRegion, add_regions, parse_region
from victims.face import Array, Detections
from victims.merging import merge_detections
from victims.track import CoverBox, cover_boxes, link
from weights.errors import UsageError

Path = Callable[[float], tuple[float, float, float]]  # seconds -> centre x, centre y, width
Truth = list[list[Array]]  # per frame, the faces that are there

FPS = 25.0


def clock(count: int, fps: float = FPS) -> Array:
    return np.arange(count) / fps


def faces(paths: Sequence[Path], count: int, fps: float = FPS) -> Truth:
    """Each path's box in every frame, 1.3 times as high as wide."""
    truth: Truth = []
    for time in clock(count, fps):
        boxes = []
        for path in paths:
            x, y, w = path(float(time))
            boxes.append(np.array([x - w / 2, y - 0.65 * w, x + w / 2, y + 0.65 * w]))
        truth.append(boxes)
    return truth


def detected(truth: Truth, missed: Callable[[int, int], bool] = lambda frame, face: False) -> list[Detections]:
    out = []
    for frame, boxes in enumerate(truth):
        seen = [box for face, box in enumerate(boxes) if not missed(frame, face)]
        out.append(Detections(np.array(seen).reshape(-1, 4), np.full(len(seen), 0.99)))
    return out


def share(box: Array, covers: Sequence[CoverBox]) -> float:
    """The part of `box` inside the union of `covers`, on a grid of 50 x 50 points."""
    xs = np.linspace(box[0], box[2], 50)[None]
    ys = np.linspace(box[1], box[3], 50)[:, None]
    inside = np.zeros((50, 50), dtype=bool)
    for cover in covers:
        x1, y1, x2, y2 = cover.box
        inside |= (xs >= x1) & (xs <= x2) & (ys >= y1) & (ys <= y2)
    return float(inside.mean())


def worst(truth: Truth, covers: list[list[CoverBox]]) -> float:
    return min(share(box, cover) for boxes, cover in zip(truth, covers, strict=True) for box in boxes)


def covered(
    truth: Truth, missed: Callable[[int, int], bool] = lambda frame, face: False, fps: float = FPS
) -> list[list[CoverBox]]:
    times = clock(len(truth), fps)
    return cover_boxes(link(detected(truth, missed), times), times)


def still(x: float = 300, y: float = 200, w: float = 80) -> Path:
    return lambda time: (x, y, w)


def swaying(time: float) -> tuple[float, float, float]:
    """A driver looking about: 50 px each way, twice in three seconds, nodding, leaning in."""
    return 300 + 50 * math.sin(4.2 * time), 200 + 15 * math.sin(7 * time), 80 + 8 * math.sin(1.5 * time)


class TestMissed:
    def test_all_seen(self) -> None:
        truth = faces([swaying], 100)
        assert worst(truth, covered(truth)) == 1.0

    @pytest.mark.parametrize("gone", [{0}, {99}, {0, 1, 2}, {97, 98, 99}, {50}, set(range(40, 65)), set(range(25))])
    def test_first_last_single_and_a_gap_of_a_second(self, gone: set[int]) -> None:
        truth = faces([still()], 100)
        assert worst(truth, covered(truth, lambda frame, _: frame in gone)) == 1.0

    def test_a_gap_longer_than_the_limit_keeps_both_ends(self) -> None:
        truth = faces([lambda t: (200 + 10 * t, 200, 80)], 300)  # 12 s, seen in the first and the last two
        covers = covered(truth, lambda frame, _: 50 <= frame < 250)
        for frame in range(50, 250):
            assert share(truth[49][0], covers[frame]) == 1.0
            assert share(truth[250][0], covers[frame]) == 1.0

    def test_never_seen_again(self) -> None:
        truth = faces([still()], 2000)
        assert worst(truth, covered(truth, lambda frame, _: frame >= 30)) == 1.0

    def test_only_seen_at_the_very_end(self) -> None:
        truth = faces([still()], 2000)
        assert worst(truth, covered(truth, lambda frame, _: frame < 1990)) == 1.0

    def test_seen_in_one_frame_only(self) -> None:
        truth = faces([still()], 200)
        assert worst(truth, covered(truth, lambda frame, _: frame != 100)) == 1.0

    def test_a_fast_face_seen_twice_is_covered_before_and_between(self) -> None:
        """A passer-by near the camera, twelve of its sizes a second, as on the shared street clip."""
        truth = faces([lambda t: (300 + 1000 * t, 200, 80)], 8)
        covers = covered(truth, lambda frame, _: frame not in (1, 4))
        assert min(share(truth[frame][0], covers[frame]) for frame in range(7)) == 1.0

    @pytest.mark.parametrize("seed", range(5))
    def test_flicker(self, seed: int) -> None:
        truth = faces([swaying], 250)
        drawn = np.random.default_rng(seed).random(250)
        assert worst(truth, covered(truth, lambda frame, _: bool(drawn[frame] < 0.3))) >= 0.99

    def test_every_other_second(self) -> None:
        truth = faces([lambda t: (300 + 30 * math.sin(2 * t), 200, 80)], 500)
        assert worst(truth, covered(truth, lambda frame, _: frame // 25 % 2 == 1)) >= 0.99

    def test_variable_frame_rate(self) -> None:
        """The gap is one second long, whatever the number of frames in it."""
        times = np.concatenate([np.arange(0, 2, 0.04), np.arange(2, 3, 0.005), np.arange(3, 5, 0.2)])
        boxes = [np.array([[300 + 40 * t, 200, 380 + 40 * t, 300]]) for t in times]
        seen = [
            Detections(box, np.ones(1)) if not 2 <= t < 3 else Detections(np.zeros((0, 4)), np.zeros(0))
            for box, t in zip(boxes, times, strict=True)
        ]
        tracks = link(seen, times)
        assert len(tracks) == 1
        covers = cover_boxes(tracks, times)
        assert worst([[box[0]] for box in boxes], covers) == 1.0


class TestMotion:
    def test_a_box_that_grows_or_shrinks_at_one_edge_does_not_move(self) -> None:
        """As where a border or a hand cuts a face: its other edge stays."""
        boxes = [[100.0, 100.0, 180.0, 200.0], [60.0, 100.0, 180.0, 220.0]]
        seen = [Detections(np.array([box]), np.array([0.99])) for box in boxes]
        nothing = Detections(np.zeros((0, 4)), np.zeros(0))
        (held,) = cover_boxes(link([*seen, nothing], clock(3)), clock(3))[2]  # 0.3 of 120 px on every side
        np.testing.assert_allclose(held.box, [24.0, 64.0, 216.0, 256.0])

    @pytest.mark.parametrize("speed", [200, 800, 1500])  # px/s; 800 is ten head widths a second
    def test_fast(self, speed: float) -> None:
        truth = faces([lambda t: (100 + speed * t, 200, 80)], 25)
        assert worst(truth, covered(truth)) == 1.0

    @pytest.mark.parametrize("seed", range(3))
    def test_fast_with_misses(self, seed: int) -> None:
        truth = faces([lambda t: (300 + 150 * math.sin(6 * t), 200, 80)], 150)  # up to 900 px/s
        drawn = np.random.default_rng(seed).random(150)
        assert worst(truth, covered(truth, lambda frame, _: bool(drawn[frame] < 0.3))) >= 0.9

    def test_leaving_goes_on_after_the_last_sighting(self) -> None:
        truth = faces([lambda t: (500 + 120 * t, 200, 80)], 60)
        covers = covered(truth, lambda frame, _: frame >= 50)  # 10 frames on, it has moved 48 px
        assert worst(truth, covers) == 1.0

    def test_entering_was_there_before_the_first_sighting(self) -> None:
        truth = faces([lambda t: (-20 + 120 * t, 200, 80)], 60)
        assert worst(truth, covered(truth, lambda frame, _: frame < 10)) == 1.0

    @pytest.mark.parametrize("seed", range(3))
    def test_crossing(self, seed: int) -> None:
        truth = faces([lambda t: (100 + 100 * t, 200, 80), lambda t: (500 - 100 * t, 210, 90)], 100)
        drawn = np.random.default_rng(seed).random((100, 2))
        # the one behind is hidden while they cross
        hidden = [abs(boxes[0][0] - boxes[1][0]) < 60 for boxes in truth]
        covers = covered(truth, lambda frame, face: bool(drawn[frame, face] < 0.2 or (hidden[frame] and face == 1)))
        assert worst(truth, covers) >= 0.99

    def test_scene_cut(self) -> None:
        truth = faces([lambda t: (200, 200, 80) if t < 2 else (700, 400, 150)], 100)
        tracks = link(detected(truth), clock(100))
        assert len(tracks) == 2
        covers = covered(truth, lambda frame, _: frame in (48, 49, 50, 51))
        assert worst(truth, covers) == 1.0

    def test_zoom(self) -> None:
        truth = faces([lambda t: (400, 300, 40 * 2**t)], 75)
        drawn = np.random.default_rng(0).random(75)
        assert worst(truth, covered(truth, lambda frame, _: bool(drawn[frame] < 0.3))) >= 0.97


class TestTracks:
    def test_one_face_is_one_track_through_misses(self) -> None:
        truth = faces([swaying], 300)
        drawn = np.random.default_rng(1).random(300)
        tracks = link(detected(truth, lambda frame, _: bool(drawn[frame] < 0.3)), clock(300))
        assert len(tracks) == 1
        assert sorted(tracks[0].boxes) == [i for i in range(300) if drawn[i] >= 0.3]

    def test_two_faces_are_two_tracks(self) -> None:
        truth = faces([still(200), still(500, 220)], 50)
        tracks = link(detected(truth), clock(50))
        assert [round(float(track.boxes[0][0])) for track in tracks] == [160, 460]
        assert all(len(track.boxes) == 50 for track in tracks)

    def test_taken_up_again_after_a_long_gap(self) -> None:
        truth = faces([still()], 300)
        assert len(link(detected(truth, lambda frame, _: 50 <= frame < 250), clock(300))) == 1

    def test_largest_is_of_the_whole_track(self) -> None:
        truth = faces([lambda t: (300, 200, 60 + 20 * math.sin(t))], 100)
        times = clock(100)
        tracks = link(detected(truth), times)
        widths = [float(boxes[0][2] - boxes[0][0]) for boxes in truth]
        assert tracks[0].largest == pytest.approx((max(widths), 1.3 * max(widths)))
        assert {cover.largest for frame in cover_boxes(tracks, times) for cover in frame} == {tracks[0].largest}

    def test_no_detections(self) -> None:
        empty = Detections(np.zeros((0, 4)), np.zeros(0))
        assert link([empty] * 5, clock(5)) == []
        assert cover_boxes([], clock(5)) == [[]] * 5


def scored(entries: dict[int, list[tuple[float, float]]], count: int) -> list[Detections]:
    """frame -> (x, score) of 80 x 104 boxes."""
    out = []
    for frame in range(count):
        row = entries.get(frame, [])
        boxes = np.array([[x, 100, x + 80, 204] for x, _ in row], dtype=float).reshape(-1, 4)
        out.append(Detections(boxes, np.array([score for _, score in row])))
    return out


class TestSpurious:
    def test_a_single_low_score_is_no_face(self) -> None:
        assert link(scored({10: [(100, 0.5)]}, 50), clock(50)) == []

    def test_three_low_scores_in_a_second_are(self) -> None:
        assert len(link(scored({k: [(100, 0.5)] for k in (10, 18, 30)}, 50), clock(50))) == 1
        assert link(scored({k: [(100, 0.5)] for k in (10, 40, 70)}, 90), clock(90)) == []

    def test_one_high_score_is(self) -> None:
        assert len(link(scored({10: [(100, 0.7)]}, 50), clock(50))) == 1

    def test_a_low_score_next_to_a_face_counts(self) -> None:
        both = scored({10: [(100, 0.9), (150, 0.5)]}, 50)
        assert len(link(both, clock(50))) == 2

    def test_a_flash_does_not_stay_for_ever(self) -> None:
        times = clock(500)
        entries = {k: [(100.0, 0.99)] for k in range(500)}
        entries[200] = [(100.0, 0.99), (700.0, 0.8)]
        covers = cover_boxes(link(scored(entries, 500), times), times)
        there = [any(cover.box[0] > 500 for cover in frame) for frame in covers]
        assert all(there[175:226])
        assert not any(there[:175])
        assert not any(there[226:])

    def test_two_flashes_do_not_cover_what_is_between_them(self) -> None:
        times = clock(500)
        entries = {k: [(100.0, 0.99)] for k in range(500)}
        entries[100] = entries[300] = [(100.0, 0.99), (700.0, 0.8)]  # eight seconds apart, in one place: one track
        tracks = link(scored(entries, 500), times)
        assert len(tracks) == 2
        there = [any(cover.box[0] > 500 for cover in frame) for frame in cover_boxes(tracks, times)]
        assert all(there[75:126])
        assert all(there[275:326])
        assert not any(there[:75] + there[126:275] + there[326:])

    def test_two_sightings_five_seconds_apart_are_of_somebody_who_is_there(self) -> None:
        times = clock(500)
        entries = {k: [(100.0, 0.99)] for k in range(500)}
        entries[100] = entries[224] = [(100.0, 0.99), (700.0, 0.8)]
        there = [any(c.box[0] > 500 for c in frame) for frame in cover_boxes(link(scored(entries, 500), times), times)]
        assert all(there[75:250])

    def test_a_head_that_goes_on_as_another_track_is_not_held_beside_it(self) -> None:
        """A second detector's smaller box of it, seen 4 times in 200 frames, is a track of its own."""
        times = clock(200)
        whole, part = [100.0, 100.0, 200.0, 220.0], [110.0, 160.0, 160.0, 220.0]
        seen = [Detections(np.array([whole]), np.array([0.99])) for _ in times]
        for k in range(80, 84):
            seen[k] = Detections(np.array([whole, part]), np.array([0.99, 0.9]))
        tracks = link(seen, times)
        assert [len(track.boxes) for track in tracks] == [200, 4]
        counts = [len(frame) for frame in cover_boxes(tracks, times)]
        assert counts[:55] == [1] * 55
        assert counts[109:] == [1] * 91
        alone = cover_boxes(link([Detections(one.boxes[1:], one.scores[1:]) for one in seen], times), times)
        assert all(alone)  # of a head that is seen no more, its last place is

    def test_a_head_that_was_lost_is_held_though_another_passes_by(self) -> None:
        """Lost in frame 50 at 100 px; from frame 150 on one comes from 500 px, is at 100 px in frame 210, and goes."""
        times = clock(400)
        places = dict.fromkeys(range(50), 100.0) | {k: 500.0 - 400.0 * (k - 150) / 60 for k in range(150, 211)}
        places |= {k: 100.0 + 400.0 * (k - 210) / 60 for k in range(211, 271)} | dict.fromkeys(range(271, 400), 500.0)
        tracks = link(scored({k: [(x, 0.99)] for k, x in places.items()}, 400), times)
        assert [len(track.boxes) for track in tracks] == [50, 250]
        assert all(any(cover.track_id == 0 for cover in frame) for frame in cover_boxes(tracks, times))

    def test_a_head_that_is_found_where_it_was_lost_is_held_until_then(self) -> None:
        """Lost in frame 50 at 100 px, found 4 s later at twice the size, which is a track of its own."""
        times = clock(400)
        seen = [Detections(np.zeros((0, 4)), np.zeros(0)) for _ in times]
        for k in (*range(50), *range(150, 400)):
            side = 80.0 if k < 50 else 200.0
            seen[k] = Detections(np.array([[100.0, 100.0, 100.0 + side, 100.0 + side]]), np.array([0.99]))
        tracks = link(seen, times)
        assert [len(track.boxes) for track in tracks] == [50, 250]
        there = [any(cover.track_id == 0 for cover in frame) for frame in cover_boxes(tracks, times)]
        assert all(there[:150])
        assert not any(there[151:])


class TestMonotone:
    @settings(max_examples=40, deadline=None)
    @given(st.sets(st.integers(0, 59), min_size=1, max_size=59), st.integers(0, 3))
    def test_seen_faces_are_covered_whatever_else_is_missed(self, gone: set[int], seed: int) -> None:
        rng = np.random.default_rng(seed)
        jumps = rng.normal(0, 300, (60, 2))
        truth = [[np.array([x, y, x + 60, y + 80])] for x, y in jumps]  # no motion model can follow this
        covers = covered(truth, lambda frame, _: frame in gone)
        for frame in set(range(60)) - gone:
            assert share(truth[frame][0], covers[frame]) == 1.0

    @settings(max_examples=40, deadline=None)
    @given(st.sets(st.integers(0, 79)), st.integers(0, 79))
    def test_another_detection_never_uncovers_a_still_face(self, gone: set[int], extra: int) -> None:
        truth = faces([still()], 80)
        fewer = covered(truth, lambda frame, _: frame in gone)
        more = covered(truth, lambda frame, _: frame in gone - {extra})
        if any(fewer):
            for frame in range(80):
                assert share(truth[frame][0], more[frame]) >= share(truth[frame][0], fewer[frame])


class TestMerging:
    def test_two_detectors_of_one_face_give_the_union(self) -> None:
        one = Detections(np.array([[100.0, 100, 200, 220]]), np.array([0.8]))
        two = Detections(np.array([[105.0, 95, 198, 230], [400, 100, 450, 160]]), np.array([0.9, 0.6]))
        merged = merge_detections([one, two])
        assert merged.boxes.tolist() == [[100, 95, 200, 230], [400, 100, 450, 160]]
        assert merged.scores.tolist() == [0.9, 0.6]

    def test_nothing(self) -> None:
        assert len(merge_detections([Detections(np.zeros((0, 4)), np.zeros(0))] * 2)) == 0


class TestRegionsByHand:
    @pytest.mark.parametrize(
        ("text", "box", "start", "end"),
        [
            ("1,2,30,40", [1, 2, 30, 40], 0.0, math.inf),
            ("1, 2, 30.5, 40 @ 1.5 - 3", [1, 2, 30.5, 40], 1.5, 3.0),
            ("1,2,30,40@-3", [1, 2, 30, 40], 0.0, 3.0),
            ("1,2,30,40@2-", [1, 2, 30, 40], 2.0, math.inf),
        ],
    )
    def test_parsing(self, text: str, box: list[float], start: float, end: float) -> None:
        region = parse_region(text)
        assert (region.box.tolist(), region.start, region.end) == (box, start, end)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "1,2,3",
            "3,2,1,4",
            "1,4,3,4",
            "1,2,3,4@3-2",
            "a,b,c,d",
            "1,2,3,4@",
            "1,2,3,4@5",
            "-1,2,3,4",
            "1,2,3," + "9" * 400,
        ],
    )
    def test_invalid(self, text: str) -> None:
        with pytest.raises(UsageError, match=r"form x1,y1|is empty|ends before|too large"):
            parse_region(text)

    def test_covers_its_time_only(self) -> None:
        region = ManualRegion(np.array([1.0, 2, 30, 40]), 1.0, 2.0)
        covers = add_regions([[] for _ in range(75)], [region], clock(75))
        assert [bool(frame) for frame in covers] == [25 <= k <= 50 for k in range(75)]
        assert covers[25][0].exact
        assert covers[25][0].largest == (29.0, 38.0)
