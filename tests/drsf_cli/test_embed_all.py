"""Two faces in one frame, both to be read again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from attacks.embed import Embedded, Embedder, Target
from attacks.obscure import Pixelate, Region
from drsf_cli.app import main
from drsf_cli.deid.changes import ChangeStore
from drsf_cli.deid.clip import SurveyedClip, nearest_face
from drsf_cli.deid.faces import embed_faces, focus_of, redrawn
from drsf_cli.deid.fidelity import fidelity, score
from drsf_cli.deid.survey import Survey, survey_video
from drsf_cli.measure.evaluation import evaluate, match_faces
from drsf_cli.measure.records import read_observations
from drsf_cli.media.demo_clip import demo_frames
from drsf_cli.media.reader import Frame, VideoReader
from drsf_cli.report.page import render_html
from drsf_cli.settings import DeidSettings
from tests.clips import make_clip
from tests.drsf_cli.test_faults import Told
from victims.base import Window
from victims.face import Array, Face, FrameObservation
from victims.observe import Observer
from weights.errors import UsageError

COUNT = 5


def box(x: float, y: float, size: float = 40.0) -> Array:
    return np.array([x, y, x + size, y + size])


def face(x: float, y: float, size: float = 40.0, gaze: float | None = None) -> Face:
    look = None if gaze is None else np.array([math.sin(math.radians(gaze)), 0, -math.cos(math.radians(gaze))])
    return Face(box(x, y, size), 0.9, gaze=look)


# ------------------------------------------------------------------------------------------------- by hand


def test_faces_are_matched_by_where_they_lie() -> None:
    """The greatest sum of overlaps: the first would take what the second needs."""
    wanted = [face(0, 0), face(30, 0), face(200, 0)]
    read = [face(20, 0), face(-10, 0)]
    assert match_faces(wanted, read) == [read[1], read[0], None]
    assert match_faces(wanted, []) == [None] * 3
    assert match_faces([], read) == []


def test_each_pixel_belongs_to_the_nearest_face_in_sizes() -> None:
    """Centres 20 and 80 px from the left; the second is three times as wide, so the border is at 20 + 60 / 4."""
    near = nearest_face([np.array([10.0, 10, 30, 30]), np.array([50.0, -10, 110, 50])], 40, 100)
    assert near[20].tolist() == [0] * 35 + [1] * 65


def test_further_faces_are_compared_with_what_lies_where_they_do() -> None:
    """The frame's own is the first of each list. Of three further faces one is turned by 30 degrees, one by 10,
    one is missed."""
    truth = [
        FrameObservation(0, 0.0, (face(0, 0, 50, 0), face(100, 0, 40, 0))),
        FrameObservation(1, 0.1, (face(0, 0, 50, 0), face(100, 0, 40, 0), face(200, 0, 30, 0))),
    ]
    read = [
        FrameObservation(0, 0.0, (face(0, 0, 50, 0), face(100, 0, 40, 30))),
        FrameObservation(1, 0.1, (face(0, 0, 50, 0), face(100, 0, 40, 10))),
    ]
    result = evaluate(truth, read)
    assert result.summaries["gaze_deg"].mean == pytest.approx(0)
    assert result.others is not None
    assert (result.others.faces, result.others.missed) == (3, 1)
    assert result.others.summaries["gaze_deg"].mean == pytest.approx(20)
    assert result.others.summaries["gaze_deg"].worst_frame == 0
    assert evaluate(truth, truth[:1]).others is not None
    assert evaluate([FrameObservation(0, 0.0, (face(0, 0),))], read).others is None


def test_the_face_that_was_embedded_for_is_judged_and_no_larger_one() -> None:
    """A point chose the smaller of two faces; what is read where the larger one was says nothing."""
    survey = Survey([FrameObservation(0, 0.0, (face(100, 0, 30, 0),))], [(0,)], [], [0.0])
    both = [FrameObservation(0, 0.0, (face(0, 0, 50, 60), face(100, 0, 30, 36)))]
    result = fidelity(survey, both)
    assert result.frames.summaries["gaze_deg"].mean == pytest.approx(36)
    assert result.others is None
    assert result.worst == {0: pytest.approx(36 / 0.8)}  # in tolerances
    assert score(result.faces[0, 0]) == pytest.approx(36 / 0.8)
    lost = fidelity(survey, [FrameObservation(0, 0.0, (face(0, 0, 50, 60),))])
    assert lost.frames.missed == (0,)
    survey = Survey([FrameObservation(0, 0.0, ())], [()], [], [0.0])
    assert fidelity(survey, both).frames.extra == (0,)


def survey_of(boxes: list[list[Array]], whose: Any, tmp_path: Path) -> Survey:
    images = [np.full((96, 240, 3), 90, np.uint8)] * len(boxes)
    path = make_clip(tmp_path / "x.mkv", images, codec="ffv1", pixel_format="bgr0", options={})
    return survey_video(VideoReader(path), Observer(Told(boxes)), whose)


def test_all_are_those_that_are_seen_for_long_enough(tmp_path: Path) -> None:
    """One that is there throughout but for a frame, one of four frames, one of a single frame."""
    boxes = [[box(10 + k, 20)] for k in range(8)]
    boxes[3] = []
    for k in range(2, 6):
        boxes[k].append(box(120, 20, 50))
    boxes[6].append(box(200, 10, 20))
    survey = survey_of(boxes, "all", tmp_path)
    assert [sorted(own) for own in survey.tracks] == [[0], [0], [0, 1], [1], [0, 1], [0, 1], [0], [0]]
    for own, observation in zip(survey.tracks, survey.observations, strict=True):
        for track, one in zip(own, observation.faces, strict=True):
            assert (one.box[0] < 100) == (track == 0)
    assert [len(found) for found in survey.seen] == [1, 1, 2, 1, 2, 2, 2, 1]


def test_another_face_is_of_another_track(tmp_path: Path) -> None:
    """What was embedded for one face is no start for another's."""
    boxes = [[box(10, 20), box(120, 20, 50)], [], [box(10, 20)]]
    largest, pointed = survey_of(boxes, "largest", tmp_path), survey_of(boxes, (30.0, 40.0), tmp_path)
    assert largest.tracks == [(0,), (), (1,)]
    assert pointed.tracks == [(0,), (), (0,)]
    assert [one.faces[0].box[0] for one in largest.observations if one.faces] == [120, 10]
    assert [one.faces[0].box[0] for one in pointed.observations if one.faces] == [10, 10]


def test_no_pixel_has_two_faces(tmp_path: Path) -> None:
    """Regions that overlap are divided; that of one face alone is not. Only what is hidden of a face's head is its
    own: for a box of 50 px, 32.5 px beside it, 35 above it and 17.5 below (attacks/obscure.py has the shares)."""
    one, two = box(20, 40, 50), box(90, 40, 50)
    regions = (Region((0, 0, 100, 90), 12), Region((60, 0, 155, 90), 12))
    image = np.zeros((120, 160, 3), np.uint8)
    reader = VideoReader(make_clip(tmp_path / "x.mkv", [image], codec="ffv1", pixel_format="bgr0", options={}))
    frame = Frame(0, 0.0, 0, image)

    def masks(*boxes: Array) -> list[np.ndarray]:
        faces = tuple(Face(own, 0.9) for own in boxes)
        survey = Survey([FrameObservation(0, 0.0, faces)], [tuple(range(len(faces)))], [], [0.0])
        clip = SurveyedClip(reader, survey, [regions], Pixelate(5), survey)
        targets = [clip.target(frame, image, track) for track in range(len(faces))]
        return [target.mask for target in targets if target is not None]

    def hidden(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
        mask = np.zeros((120, 160), bool)
        mask[y1:y2, x1:x2] = True
        return mask

    first, second = masks(one, two)
    assert (first == hidden(0, 5, 80, 90)).all()  # both are as near to column 80
    assert (second == hidden(80, 5, 155, 90)).all()
    (alone,) = masks(one)
    assert (alone == hidden(0, 5, 102, 90)).all()
    assert masks(box(20, 140, 10)) == []


def test_whose() -> None:
    assert DeidSettings(embed="All").whose == "all"
    assert DeidSettings(embed="10, 20.5").whose == (10.0, 20.5)
    assert DeidSettings().whose == "largest"
    with pytest.raises(UsageError, match="--embed"):
        DeidSettings(embed="everyone")


# ------------------------------------------------------------------------------------------------- a real pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo clip's driver, and beside her a passenger: mirrored, later, in another light. Their regions overlap."""
    frames = list(demo_frames((COUNT + 8) / 25, 25, (320, 240)))
    images = []
    for driver, passenger in zip(frames[:COUNT], frames[8:], strict=True):
        other = np.clip(0.8 * passenger[:, ::-1] + (10, 20, 30), 0, 255).astype(np.uint8)
        images.append(np.ascontiguousarray(np.concatenate([driver[:, 70:250], other[:, 80:240]], axis=1)))
    path = tmp_path_factory.mktemp("pair") / "pair.mkv"
    return make_clip(path, images, codec="ffv1", pixel_format="bgr0", options={})


@pytest.fixture(scope="module")
def runs(pair: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    found = {}
    for name, flags in {
        "all": ["--embed", "all"], "largest": ["--effort", "fast"], "none": ["--attack", "none", "--embed", "all"],
    }.items():  # fmt: skip
        output = pair.parent / f"{name}.mkv"
        assert main(["deid", str(pair), "-o", str(output), "--codec", "ffv1", "--min-face", "0.2", "-q", *flags]) == 0
        found[name] = output, json.loads((pair.parent / f"{name}.mkv.report.json").read_text())
    return found


@pytest.mark.slow
def test_both_faces_come_back(runs: dict[str, Any]) -> None:
    fidelity_of = runs["all"][1]["fidelity"]
    for part in (fidelity_of["recovered"], fidelity_of["other_faces"], *fidelity_of["other_faces"]["tracks"]):
        assert (part["frames"], part["missed"]) == (COUNT, 0)
        assert part["iou"]["mean"] > 0.9
        assert part["nme"]["mean"] < 2.0
        assert part["gaze_deg"]["mean"] < 8.0
    assert [one["track"] for one in fidelity_of["other_faces"]["tracks"]] == [0, 1]
    assert runs["largest"][1]["fidelity"]["other_faces"] is None


@pytest.mark.slow
def test_the_page_tells_of_the_other_face(runs: dict[str, Any]) -> None:
    output, document = runs["all"]
    report = output.with_name("all.mkv.report.json")
    assert f"{COUNT} further faces read again, 0 missed; means: " in render_html([(report, document)])
    output, document = runs["largest"]
    assert "further faces" not in render_html([(output.with_name("largest.mkv.report.json"), document)])


@pytest.mark.slow
def test_without_embedding_neither_comes_back(runs: dict[str, Any]) -> None:
    fidelity_of = runs["none"][1]["fidelity"]
    assert fidelity_of["other_faces"]["missed"] + fidelity_of["recovered"]["missed"] > COUNT


@pytest.mark.slow
def test_only_what_is_obscured_changes_and_by_no_more_than_eps(pair: Path, runs: dict[str, Any]) -> None:
    source, hidden, both = (
        np.stack([frame.image for frame in VideoReader(path)]).astype(int)
        for path in (pair, runs["none"][0], runs["all"][0])
    )
    change = np.abs(both - hidden)
    assert change.max() <= 24
    assert (change > 12).any(axis=-1).mean() > 0.05
    outside = (source == hidden).all(axis=-1)
    changed = change.any(axis=-1)
    assert not (changed & outside).sum() > 0.02 * outside.sum()  # a block may have its own mean's colour


@pytest.mark.slow
def test_infer_and_eval_tell_of_the_other_face(pair: Path, runs: dict[str, Any], capsys: Any) -> None:
    paths = {name: pair.parent / f"{name}.json" for name in ("pair", "all", "largest")}
    for name, path in paths.items():
        video = pair if name == "pair" else runs[name][0]
        assert main(["infer", str(video), "-o", str(path), "--quiet"]) == 0
    assert [len(one.faces) for one in read_observations(paths["all"])] == [2] * COUNT
    for name, missed in (("all", 0), ("largest", COUNT)):
        target = pair.parent / f"{name}.eval.json"
        capsys.readouterr()
        assert main(["eval", str(paths["pair"]), str(paths[name]), "--json", str(target)]) == 0
        assert f"of {COUNT} further faces {missed} missed" in " ".join(capsys.readouterr().out.split())
        others = json.loads(target.read_text())["other_faces"]
        assert (others["faces"], others["missed"]) == (COUNT, missed)
    assert json.loads((pair.parent / "all.eval.json").read_text())["other_faces"]["metrics"]["nme"]["mean"] < 2


class Brighter:
    """An embedder that makes the mask of every frame brighter by 8, and keeps what it was given."""

    def __init__(self) -> None:
        self.given: list[list[Target]] = []

    def embed(self, targets: list[Target], track: int = 0) -> list[Embedded]:
        self.given.append(targets)
        done = []
        for one in targets:
            change = np.where(one.mask[..., None], 8, 0).astype(np.int8).repeat(3, axis=2)
            height, width = one.mask.shape
            done.append(Embedded(one.index, Window(0, 0, width, height), one.focus, change, {}, 0, 0, 0))
        return done


@pytest.mark.slow
def test_a_face_is_embedded_in_frames_that_show_the_others(tmp_path: Path) -> None:
    """Two faces, the frame's own last: it sees the other one's change, and is told where that is."""
    images = [np.full((96, 160, 3), 90, np.uint8)] * 2
    reader = VideoReader(make_clip(tmp_path / "x.mkv", images, codec="ffv1", pixel_format="bgr0", options={}))
    observations = [FrameObservation(k, k / 25, (face(20, 30), face(110, 30))) for k in range(2)]
    survey = Survey(observations, [(0, 1)] * 2, [], [k / 25 for k in range(2)])
    clip = SurveyedClip(reader, survey, [(Region((0, 0, 160, 96), 12),)] * 2, Pixelate(5), survey)
    brighter = Brighter()
    frames = list(clip.frames())
    done, embedded = embed_faces(clip, cast(Embedder, brighter), frames, [frame.image for frame in frames])
    other, own = brighter.given
    assert [one.index for one in other] == [one.index for one in own] == [0, 1]
    assert [one.beside for one in other] == [(), ()]
    assert [one.beside for one in own] == [(other[0].focus,)] * 2
    assert (own[0].covered[other[0].mask] == 98).all()
    assert (own[0].covered[own[0].mask] == 90).all()
    assert (done[0][own[0].mask | other[0].mask] == 98).all()
    assert set(embedded) == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.slow
def test_what_is_kept_is_drawn_again(tmp_path: Path) -> None:
    """Two faces of one frame, 8 and 5 levels brighter."""
    image = np.full((96, 160, 3), 90, np.uint8)
    reader = VideoReader(make_clip(tmp_path / "x.mkv", [image], codec="ffv1", pixel_format="bgr0", options={}))
    survey = Survey([FrameObservation(0, 0.0, (face(20, 30), face(90, 30)))], [(3, 1)], [], [0.0])
    clip = SurveyedClip(reader, survey, [()], Pixelate(5), survey)
    kept = {}
    store = ChangeStore()
    for track, window, level in ((3, Window(0, 0, 64, 64), 8), (1, Window(64, 32, 64, 64), 5)):
        change = np.full((64, 64, 3), level, np.int8)
        one = Embedded(0, window, (0, 0, 64, 64), change, {}, 1, 1, 1)
        store.put((0, track), one)
        kept[0, track] = one.without_pixels()
    (frame,) = clip.frames()
    whole = redrawn(clip, store, kept, frame)
    assert (whole[:64, :64] == 98).all()
    assert (whole[32:96, 64:128] == 95).all()
    assert (whole != 90).all(axis=-1).sum() == 2 * 64 * 64
    assert focus_of(kept) == {0: [(0, 0, 64, 64)] * 2}
    store.close()
