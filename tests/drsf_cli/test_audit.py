"""The audit finds what is planted, and passes what is right."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image as Picture
from skimage.data import astronaut
from skimage.metrics import structural_similarity

from attacks.obscure import Blur, Obscuring, Pixelate, Region, Solid, obscure
from drsf_cli.deid.checks import RETURNED_LIMIT, AuditReport, audit_file
from drsf_cli.measure.hidden import compare_region, returned_share, ssim_map
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.finders import finders_at_hand
from victims.base import Image
from victims.face import Detections

FACE = (170, 60, 290, 200)  # of the portrait, 512 x 512
HEAD = Region((120, 10, 330, 230), 44, (120, 10))
COUNT = 10


@pytest.fixture(scope="module")
def portrait() -> Image:
    return np.asarray(astronaut(), dtype=np.uint8)


def encode(path: Path, images: Sequence[Image], rate: int = 25, lossless: bool = False) -> Path:
    with av.open(str(path), "w", container_options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264rgb" if lossless else "libx264", rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        stream.options = {"crf": "0" if lossless else "23", "preset": "ultrafast"}
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def source(portrait: Image, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encode(tmp_path_factory.mktemp("audit") / "source.mp4", [portrait] * COUNT)


def seeing(box: tuple[int, int, int, int], score: float) -> Callable[[Image], Detections]:
    return lambda image: Detections(np.array([box], dtype=float), np.array([score]))


def nothing(image: Image) -> Detections:
    return Detections(np.zeros((0, 4)), np.zeros(0))


def audit(
    source: Path, written: Path, regions: Sequence[Sequence[Region]] | None = None, **given: object
) -> AuditReport:
    finders = given.pop("finders", {"none": nothing})
    return audit_file(
        VideoReader(source), written, [[HEAD]] * COUNT if regions is None else regions, Pixelate(5), finders, **given  # type: ignore[arg-type]
    )  # fmt: skip


class TestHidden:
    @pytest.mark.parametrize("obscuring", [Pixelate(5), Pixelate(8), Blur(14), Blur(30), Solid()])
    def test_obscured_is_far_from_the_source(self, portrait: Image, obscuring: Obscuring) -> None:
        region = Region(HEAD.rect, obscuring.cell(210), (120, 10))
        hidden = obscure(portrait, [region], obscuring)
        assert compare_region(portrait, hidden, region, obscuring)[2] == 0.0

    @pytest.mark.parametrize("obscuring", [Pixelate(5), Blur(14), Solid()])
    def test_open_is_near(self, portrait: Image, obscuring: Obscuring) -> None:
        region = Region(HEAD.rect, obscuring.cell(210), (120, 10))
        noisy = np.clip(portrait + np.random.default_rng(0).normal(0, 4, portrait.shape), 0, 255).astype(np.uint8)
        ssim, detail, share = compare_region(portrait, noisy, region, obscuring)
        assert ssim > 0.9
        assert detail > 0.9
        assert share > 0.3

    @pytest.mark.parametrize("obscuring", [Pixelate(5), Pixelate(8), Blur(14), Solid()])
    def test_what_came_back(self, portrait: Image, obscuring: Obscuring) -> None:
        """1 - (1 - t)² where the picture is t of the way back, by definition."""
        hidden = obscure(portrait, [HEAD], obscuring)
        for share in (0.0, 0.5, 0.8, 1.0):
            written = np.rint(hidden + share * (portrait.astype(float) - hidden)).astype(np.uint8)
            found = returned_share(portrait, hidden, written, HEAD.rect)
            assert found == pytest.approx(1 - (1 - share) ** 2, abs=0.02)

    @pytest.mark.parametrize("obscuring", [Pixelate(5), Pixelate(8), Blur(14), Solid()])
    def test_noise_at_the_limit_of_the_attack_is_not_the_source(self, portrait: Image, obscuring: Obscuring) -> None:
        hidden = obscure(portrait, [HEAD], obscuring)
        noise = cv2.GaussianBlur(np.random.default_rng(0).normal(0, 1, portrait.shape), (0, 0), 2.0)
        written = np.clip(hidden + np.clip(24 * noise / noise.std(), -24, 24), 0, 255).astype(np.uint8)
        assert returned_share(portrait, hidden, written, HEAD.rect) < RETURNED_LIMIT - 0.15

    @pytest.mark.parametrize("spot", [(150, 210, 180, 280), (120, 150, 175, 225), (10, 230, 120, 150)])
    @pytest.mark.parametrize("obscuring", [Pixelate(5), Pixelate(8), Blur(14), Solid()])
    def test_a_slip_of_the_mask_is_found(
        self, portrait: Image, obscuring: Obscuring, spot: tuple[int, int, int, int]
    ) -> None:
        """The mouth and the chin, one eye, a strip along one side: seen through JPEG."""
        hidden = obscure(portrait, [HEAD], obscuring)
        y1, y2, x1, x2 = spot
        slipped = hidden.copy()
        slipped[y1:y2, x1:x2] = portrait[y1:y2, x1:x2]
        coded = cv2.imdecode(cv2.imencode(".jpg", slipped, [cv2.IMWRITE_JPEG_QUALITY, 60])[1], cv2.IMREAD_COLOR)
        assert returned_share(portrait, hidden, np.asarray(coded, np.uint8), HEAD.rect) > RETURNED_LIMIT + 0.08

    def test_a_finer_grid_than_was_asked_for_is_found(self, portrait: Image) -> None:
        hidden = obscure(portrait, [HEAD], Pixelate(5))
        fine = obscure(portrait, [Region(HEAD.rect, 10, (120, 10))], Pixelate(5))
        assert returned_share(portrait, hidden, fine, HEAD.rect) > RETURNED_LIMIT

    def test_flat_regions_say_nothing(self) -> None:
        flat = np.full((100, 100, 3), 90, dtype=np.uint8)
        assert compare_region(flat, flat, Region((0, 0, 100, 100), 20), Pixelate(5)) == (0.0, 0.0, 0.0)

    def test_ssim_is_the_known_one(self, portrait: Image) -> None:
        a = cv2.cvtColor(portrait, cv2.COLOR_RGB2GRAY).astype(np.float32)
        b = cv2.GaussianBlur(a, (0, 0), 2.0)
        _, expected = structural_similarity(
            a, b, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
        )
        assert np.abs(ssim_map(a, b) - expected)[8:-8, 8:-8].max() < 0.01


class TestFile:
    def test_a_good_file_passes(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        written = encode(tmp_path / "good.mp4", [obscure(portrait, [HEAD], Pixelate(5))] * COUNT)
        report = audit(source, written, finders={"sure": seeing(FACE, 0.99)})
        assert report.problems == []
        assert report.passed
        assert (report.frames, report.regions_checked, report.streams) == (COUNT, COUNT, {"video": 1})
        json.dumps(report.to_dict(), allow_nan=False)
        sheet = Picture.open(io.BytesIO(report.sheet))
        assert sheet.format == "PNG"

    @pytest.mark.parametrize("count", [1, 2, 11, 13, 14])
    def test_any_number_of_frames(self, portrait: Image, tmp_path: Path, count: int) -> None:
        source = encode(tmp_path / "in.mp4", [portrait] * count)
        written = encode(tmp_path / "out.mp4", [obscure(portrait, [HEAD], Pixelate(5))] * count)
        report = audit(source, written, [[HEAD]] * count)
        assert report.passed
        assert report.frames == count
        assert report.frames_looked_at == {1: 1, 2: 2, 11: 2, 13: 2, 14: 3}[count]
        shown = min(count, 12)
        columns, rows = min(4, shown), -(-shown // 4)
        assert Picture.open(io.BytesIO(report.sheet)).size == (480 * columns, 480 * rows)

    def test_one_open_frame_is_found(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        images = [obscure(portrait, [HEAD], Pixelate(5))] * COUNT
        images[6] = portrait
        report = audit(source, encode(tmp_path / "open.mp4", images, lossless=True))
        assert not report.passed
        assert [check["frame"] for check in report.open_regions] == [6]
        assert "Frame 6" in report.problems[0]

    def test_a_slip_in_one_frame_is_found(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        """An eye, in an encoded file."""
        images = [obscure(portrait, [HEAD], Pixelate(5)) for _ in range(COUNT)]
        images[4][120:155, 170:230] = portrait[120:155, 170:230]
        report = audit(source, encode(tmp_path / "slip.mp4", images))
        assert [check["frame"] for check in report.open_regions] == [4]
        assert report.open_regions[0]["returned"] > RETURNED_LIMIT

    def test_obscuring_that_does_nothing_is_found(
        self, source: Path, portrait: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The source's likeness does not rest on the code that obscures."""
        monkeypatch.setattr("drsf_cli.deid.checks.obscure", lambda image, *_: image.copy())
        report = audit(source, encode(tmp_path / "open.mp4", [portrait] * COUNT))
        assert report.worst_returned == 0.0
        assert [check["frame"] for check in report.open_regions] == list(range(COUNT))

    def test_a_face_outside_the_regions_is_found(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        elsewhere = Region((300, 300, 400, 400), 20)
        written = encode(tmp_path / "wrong.mp4", [obscure(portrait, [elsewhere], Pixelate(5))] * COUNT)
        report = audit(source, written, [[elsewhere]] * COUNT, finders={"sure": seeing(FACE, 0.99)})
        assert any("not covered" in problem for problem in report.problems)
        assert report.exposures[0]["uncovered"] == 1.0

    def test_an_uncertain_detector_needs_a_second_one(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        elsewhere = Region((300, 300, 400, 400), 20)
        written = encode(tmp_path / "w.mp4", [obscure(portrait, [elsewhere], Pixelate(5))] * COUNT)
        regions = [[elsewhere]] * COUNT
        alone = audit(source, written, regions, finders={"a": seeing(FACE, float("nan")), "b": nothing})
        assert alone.passed
        assert [one["certain"] for one in alone.exposures] == [False, False]  # the first and the last frame
        json.dumps(alone.to_dict(), allow_nan=False)
        agreed = audit(source, written, regions, finders={"a": seeing(FACE, float("nan")), "b": seeing(FACE, 0.5)})
        assert not agreed.passed

    def test_a_cascade_finds_the_portrait(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        finders = finders_at_hand()
        assert "lbp-cascade" in finders
        boxes = finders["lbp-cascade"](portrait).boxes
        centre = np.array([(FACE[0] + FACE[2]) / 2, (FACE[1] + FACE[3]) / 2])
        assert any((box[:2] < centre).all() and (box[2:] > centre).all() for box in boxes)

    @pytest.mark.slow
    def test_count_size_and_times(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        hidden = obscure(portrait, [HEAD], Pixelate(5))
        short = audit(source, encode(tmp_path / "short.mp4", [hidden] * (COUNT - 1)))
        assert any("lacks 1 frames" in problem for problem in short.problems)
        long = audit(source, encode(tmp_path / "long.mp4", [hidden] * (COUNT + 2)))
        assert any("2 frames that the source does not have" in problem for problem in long.problems)
        slow = audit(source, encode(tmp_path / "slow.mp4", [hidden] * COUNT, rate=20))
        assert any("other times" in problem for problem in slow.problems)
        small = audit(source, encode(tmp_path / "small.mp4", [hidden[:256]] * COUNT))
        assert any("512x256" in problem for problem in small.problems)

    def test_streams_and_tags(self, source: Path, portrait: Image, tmp_path: Path) -> None:
        hidden = obscure(portrait, [HEAD], Pixelate(5))
        path = tmp_path / "more.mp4"
        with av.open(str(path), "w") as container:
            container.metadata["title"] = "Jane at the wheel"
            videos = [container.add_stream("libx264", rate=25) for _ in range(2)]
            sound = container.add_stream("aac", rate=44100)
            for video in videos:
                video.height, video.width = hidden.shape[:2]
                video.pix_fmt = "yuv420p"
                video.options = {"preset": "ultrafast"}
            for _ in range(COUNT):
                for video in videos:
                    container.mux(video.encode(av.VideoFrame.from_ndarray(hidden, format="rgb24")))
            silence = av.AudioFrame.from_ndarray(np.zeros((2, 1024), dtype=np.float32), format="fltp", layout="stereo")
            silence.sample_rate = 44100
            container.mux(sound.encode(silence))
            for stream in (*videos, sound):
                container.mux(stream.encode(None))
        report = audit(source, path)
        problems = " ".join(report.problems)
        assert "2 video streams" in problems
        assert "nobody asked for: audio" in problems
        assert "Jane at the wheel" in problems
        kept = " ".join(audit(source, path, keep_audio=True).problems)
        assert "nobody asked for" not in kept

    def test_pictures(self, portrait: Image, tmp_path: Path) -> None:
        Picture.fromarray(portrait).save(tmp_path / "in.png")
        Picture.fromarray(obscure(portrait, [HEAD], Pixelate(5))).save(tmp_path / "out.png")
        assert audit(tmp_path / "in.png", tmp_path / "out.png", [[HEAD]]).passed
        exif = Picture.Exif()
        exif[0x010E] = "Jane"
        Picture.fromarray(obscure(portrait, [HEAD], Pixelate(5))).save(tmp_path / "tagged.png", exif=exif)
        assert not audit(tmp_path / "in.png", tmp_path / "tagged.png", [[HEAD]]).passed
