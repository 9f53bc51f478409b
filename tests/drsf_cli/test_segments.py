"""Clips in segments: cut where, read from the middle, embedded by themselves, and put together again."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drsf_cli.batch.parts import complete, embed_part, plan_parts
from drsf_cli.deid import work as passes
from drsf_cli.deid.clip import SourceChangedError
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.deid.segments import Part, in_segments, parts_of
from drsf_cli.deid.work import Work
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.progress import Silent
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings
from tests import clips
from tests.drsf_cli.many import MIN_FACE, contents, job_of

F = Fraction
ATTACK = {"attack": None, "effort": "fast", "threads": 1, "segment": 1.0, "min_face": MIN_FACE}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """14 frames with a face, five a second: segments of 1 s hold 5, 5 and 4 of them."""
    return make_demo_clip(tmp_path_factory.mktemp("clip") / "drive.mp4", seconds=2.8, fps=5, size=(160, 120))


@pytest.fixture(scope="module")
def models() -> Models:
    return Models.load(DeidSettings().victims, threads=1)


@pytest.mark.parametrize(
    ("start", "end", "duration", "length", "expected"),
    [
        (None, None, 2.5, 1.0, [None, 1, 2, None]),
        (None, None, 3.0, 1.0, [None, 1, 2, None]),
        (None, None, 0.9, 1.0, [None, None]),
        (F("1.5"), None, 3.5, 1.0, [F("1.5"), 2, 3, None]),
        (F(1), F(3), 9.0, 1.0, [1, 2, 3]),
        (None, F("2.2"), 9.0, 1.0, [None, 1, 2, F("2.2")]),
        (None, F(9), 2.5, 1.0, [None, 1, 2, 9]),
        (None, F(3), None, 1.0, [None, 1, 2, 3]),
        (None, None, None, 1.0, [None, None]),
        (None, None, 0.35, 0.1, [None, F("0.1"), F("0.2"), F("0.3"), None]),
    ],
)
def test_where_it_is_cut(
    start: Any, end: Any, duration: float | None, length: float, expected: list[Any], tmp_path: Path
) -> None:
    reader: Any = SimpleNamespace(start=start, end=end, info=SimpleNamespace(duration=duration))
    parts = parts_of(reader, length)
    assert parts == [Part(*both) for both in itertools.pairwise(expected)]


def test_segments_are_counted_on_the_files_clock() -> None:
    """Ticks of a tenth of a second, segments of 0.3 s: the border itself belongs to what comes after."""
    frames: Any = [SimpleNamespace(pts_ticks=ticks) for ticks in (-1, 0, 2, 3, 5, 6, 12)]
    found = [[frame.pts_ticks for frame in own] for own in in_segments(frames, 0.3, F(1, 10))]
    assert found == [[-1], [0, 2], [3, 5], [6], [12]]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.avi", "uneven.mp4", "one-key-frame.mp4", "pictures"])
def test_parts_hold_the_frames_of_the_whole(name: str, tmp_path: Path) -> None:
    """Indexed and not, with B-frames, at a variable rate, with the only key frame at the start: the same times and
    pixels as read from the start, each once."""
    images = clips.patterns(32, 64, 48)
    path = tmp_path / name
    if name == "pictures":
        path.mkdir()
        for number, image in enumerate(images):
            (path / f"{number}.png").write_bytes(clips._png(image))
        length = 0.3
    else:
        pts = [10 * k + (k * k) % 7 for k in range(32)] if name == "uneven.mp4" else [10 * k for k in range(32)]
        if path.suffix == ".avi":  # knows of no time base but the rate's
            clips.make_clip(path, images, time_base=F(1, 10), rate=F(10), options={"bf": "0"})
        else:
            options = {"g": "250" if name.startswith("one") else "6", "bf": "2", "preset": "veryfast"}
            clips.make_clip(path, images, time_base=F(1, 100), rate=F(10), pts=pts, options=options)
        length = 0.7
    reader = VideoReader(path)
    whole = list(reader)
    parts = parts_of(reader, length)
    assert len(parts) >= 4
    found = []
    for part in parts:
        own = list(reader.part(part.start, part.end))
        assert [frame.index for frame in own] == list(range(len(own)))
        found += own
    assert [frame.pts_ticks for frame in found] == [frame.pts_ticks for frame in whole]
    assert all(np.array_equal(one.image, other.image) for one, other in zip(found, whole, strict=True))


@pytest.mark.slow
def test_each_segment_starts_from_nothing(clip: Path, models: Models, tmp_path: Path, monkeypatch: Any) -> None:
    """A new embedder for each, and no run of frames reaches over a cut."""
    real, seen = passes.Embedder, []

    class Recording(real):  # type: ignore[misc, valid-type]
        def embed(self, targets: Any, track: int = 0) -> Any:
            if not self.__dict__.setdefault("told", []):
                seen.append(self.told)
            self.told.append([target.index for target in targets])
            return super().embed(targets, track)

    monkeypatch.setattr(passes, "Embedder", Recording)
    deidentify(clip, tmp_path / "out.mp4", DeidSettings(**ATTACK, batch_size=2), models=models)  # type: ignore[arg-type]
    assert [run for own in seen for run in own] == [[0, 1], [2, 3], [4], [5, 6], [7, 8], [9], [10, 11], [12, 13]]
    assert {own[0][0] for own in seen} >= {0, 5, 10}  # and wherever so few steps lost the face


@pytest.mark.slow
@pytest.mark.parametrize(("embed", "effort"), [("largest", "fast"), ("all", "normal")])
def test_parts_in_any_order_give_what_one_run_gives(
    embed: str, effort: str, clip: Path, models: Models, tmp_path: Path
) -> None:
    """Byte for byte, and every figure of the report but times and memory; what lies in between is removed by whoever
    made it."""
    alone, apart, between = (tmp_path / name for name in ("alone", "apart", "between"))
    for folder in (alone, apart, between):
        folder.mkdir()
    job = job_of(clip, apart / "out.mp4", embed=embed, **(ATTACK | {"effort": effort}))
    deidentify(clip, alone / "out.mp4", job.settings, models=models)
    work = Work.on(clip, job.settings, models)
    parts = parts_of(work.reader, job.settings.segment)
    assert parts == [Part(None, F(1)), Part(F(1), F(2)), Part(F(2), None)]
    parts[2:] = [Part(F(2), F(50)), Part(F(50), None)]  # a file may be shorter than it says
    surveys = [work.part(part).survey(Silent()) for part in reversed(parts)][::-1]
    regions = plan_parts(work, surveys)
    assert [len(own) for own in regions] == [5, 5, 4, 0]
    embedded = [
        embed_part(work, parts[k], surveys[k], regions[k], between / f"{k}", Silent()) for k in reversed(range(4))
    ][::-1]
    report = complete(job, work, surveys, regions, embedded, 1000.0, Silent())
    assert report["cost"]["seconds_per_frame"] > 1000 / 14
    assert any(row["passes"] > 0 for row in report["frames"]) == (effort == "normal")
    assert contents(apart) == contents(alone)
    assert len(list(between.iterdir())) == 4


def test_parts_that_do_not_make_up_the_clip_are_refused(clip: Path, models: Models, tmp_path: Path) -> None:
    job = job_of(clip, tmp_path / "out.mp4", segment=1.0)
    work = Work.on(clip, job.settings, models)
    first, _, last = parts_of(work.reader, 1.0)
    surveys = [work.part(part).survey(Silent()) for part in (first, last)]
    regions = plan_parts(work, surveys)
    embedded = [
        embed_part(work, part, *own, tmp_path / f"{number}", Silent())
        for number, (part, *own) in enumerate(zip((first, last), surveys, regions, strict=True))
    ]
    with pytest.raises(SourceChangedError):
        complete(job, work, surveys, regions, embedded, 0.0, Silent())
    assert {path.name for path in tmp_path.iterdir()} == {"0", "1"}
