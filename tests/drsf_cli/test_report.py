"""The page shows the report's own numbers, nothing of the driver, and asks nobody for anything."""

from __future__ import annotations

import base64
import copy
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from attacks.obscure import Pixelate, Region, obscure
from drsf_cli.measure.leakage_form import COLUMNS
from drsf_cli.measure.metrics import REPORTED
from drsf_cli.media.demo_clip import make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.media.writer import VideoWriter
from drsf_cli.report.charts import Chart, make_chart
from drsf_cli.report.page import write_html
from drsf_cli.report.schema import SAMPLES, read_report, sample, sample_ids
from tests.drsf_cli.many import Steps
from victims.face import Face, FrameObservation
from weights.errors import InputError, OutputError

FRAMES = 12
MISSED = 5
SIZE = (320, 240)
REGION = Region((90, 10, 220, 190), 26, (90, 10))
FACE = Face(np.array([118.0, 59, 188, 147]), 0.99, gaze=np.array([0.6, 0, -0.8]))
IOU = [0.97, 0.98, 0.99, 0.975, 0.96, None, 0.91, 0.985, 0.99, 0.97, 0.98, 0.975]
NME = [0.5, 0.4, 0.6, 0.55, 0.5, None, 2.125, 0.4, 0.45, 0.5, 0.6, 0.7]
GAZE = [0.8, 0.9, 1.1, 0.7, 4.25, None, 1.2, 0.8, 0.9, 1.0, 0.6, 0.5]


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def write(path: Path, report: dict[str, Any]) -> None:
    path.write_text(json.dumps(report), "utf-8")


def summary(scale: float) -> dict[str, Any]:
    metrics = {m.key: {"mean": scale, "median": scale, "p95": scale, "worst": scale} for m in REPORTED}
    return {"frames": FRAMES, "missed": 1, **metrics}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip, the same obscured (by hand: nothing is attacked), and a report with made-up numbers."""
    folder = tmp_path_factory.mktemp("run")
    original = make_demo_clip(folder / "driver.mp4", seconds=FRAMES / 25, size=SIZE)
    reader = VideoReader(original)
    with VideoWriter(folder / "driver_deid.mp4", reader.info) as writer:
        for frame in reader:
            writer.write(obscure(frame.image, [REGION], Pixelate(5)), frame.pts_ticks)
        output = writer.publish()
    seen = [FrameObservation(i, i / 25, () if i == MISSED else (FACE,)) for i in range(FRAMES)]
    report = {
        "drsf": "0.1.0",
        "input": {
            "path": str(original),
            "sha256": sha256(original),
            "frames": FRAMES,
            "width": 320,
            "height": 240,
            "fps": 25,
        },
        "output": {"path": str(output), "sha256": sha256(output), "bytes": output.stat().st_size},
        "settings": {"mask": "pixelate_5", "eps": 16 / 255, "attack": "mi-fgsm", "note": "<script>alert(1)</script>"},
        "victims": {
            "detector": {"name": "mtcnn", "weights": {"pnet.safetensors": "ab" * 32}},
            "aligner": {"name": "fan-compact", "weights": {"fan_compact.safetensors": "cd" * 32}},
            "gaze": None,
        },
        "versions": {"torch": "2.15"},
        "providers": {"detector": ["CPUExecutionProvider"]},
        "fidelity": {"recovered": summary(0.5), "noise_floor": summary(0.25), "obscured_only": None},
        "frames": [
            {
                "frame_id": i,
                "pts": i / 25,
                "missed": i == MISSED,
                "iou": IOU[i],
                "nme": NME[i],
                "gaze_deg": GAZE[i],
                "landmarks_px": None if i == MISSED else 1.0,
                "head_pose_deg": None if i == MISSED else 1.0,
                "passes": 14,
                "steps": 10,
                "floor": None if i in (2, 3) else {"iou": 0.99, "nme": 0.2 + 0.01 * i, "gaze_deg": 0.3},
            }
            for i in range(FRAMES)
        ],
        "cost": {"victim_passes_per_frame": 14.2, "seconds_per_frame": 1.5},
        "audit": {"passed": False, "worst_frames": [{"frame_id": 7, "ssim": 0.61}, {"frame_id": 3, "ssim": 0.55}]},
        "covering": {"filled_frames": 1, "detectors": [{"name": "mtcnn", "weights": {"pnet.safetensors": "ab" * 32}}]},
        "samples": [sample(i, [REGION], seen[i], seen[i]) for i in (0, 4, MISSED, 6)],
    }
    write(folder / "driver_deid.json", report)
    return folder


def figures(detected: float, nme: float | None) -> dict[str, Any]:
    return {"frames": 11, "detected": detected, "iou": detected / 2, "nme": nme, "gaze_deg": nme, "diff_score": 40.6}


LEAKAGE = {
    "frames": FRAMES,
    "every": 2,
    "frames_looked_at": 6,
    "models": [
        {
            "name": "authorised chain",
            "role": "detector",
            "weights": {},
            "authorised": True,
            "repelled": False,
            "columns": {"original": figures(1, 0.0), "obscured": figures(0, None), "written": figures(0.913, 0.66)},
            "leakage": {"detected": 0.913, "iou": 0.4565, "nme": None, "gaze_deg": None, "diff_score": 0.0},
        },
        {
            "name": "gaze-compact@<b>own</b>/a-rather-long-name-of-a-folder/gaze.safetensors",
            "role": "gaze",
            "weights": {"gaze.safetensors": "ef" * 32},
            "authorised": False,
            "repelled": True,
            "columns": {
                column: {"frames": 11, "gaze_deg": v} for column, v in zip(COLUMNS, (2.25, 31.0, 33.52), strict=True)
            },
            "leakage": {"gaze_deg": -2.52},
            "blind": {"gaze_deg": 21.04},
        },
    ],
    "identity": {
        "recogniser": "arcface.onnx",
        "weights": {"arcface.onnx": "12" * 32},
        "people": 9,
        "far": 0.01,
        "threshold": None,
        "columns": {
            column: {"frames": 6.0, "cosine": v, "rank1": v / 2, "tar": None}
            for column, v in zip(COLUMNS, (0.9312, 0.1, 0.1786), strict=True)
        },
        "leakage": {"cosine": 0.0786, "rank1": 0.0393, "tar": None},
    },
    "note": "Nothing follows for other models.",
}
"""What `deid --audit full` writes, with made-up numbers."""


def with_leakage(folder: Path) -> dict[str, Any]:
    """The report of `folder`, of a run that repelled a model and looked at what others read."""
    own = LEAKAGE["models"][1]
    repelled = {own["name"]: {"name": "gaze-compact", "weights": own["weights"]}}
    return {**read_report(folder / "driver_deid.json"), "repelled": repelled, "leakage": LEAKAGE}


class Page(HTMLParser):
    """What a test wants to know of a page, by the standard library's parser."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {key: value or "" for key, value in attrs}))
        self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.words.append(data)
        if {"th", "td"} & set(self._open):
            self.rows[-1][-1] += data

    def points(self, measure: str, series: str) -> list[tuple[float, float]]:
        """(x, y) of a curve in the drawing of `measure`, as the browser gets them."""
        found: list[tuple[float, float]] = []
        here = False
        for tag, attributes in self.tags:
            if tag == "svg":
                here = attributes.get("data-measure") == measure
            if here and attributes.get("data-series") == series:
                if tag == "polyline":
                    found += [tuple(map(float, pair.split(","))) for pair in attributes["points"].split()]  # type: ignore[misc]
                elif tag == "circle":
                    found.append((float(attributes["cx"]), float(attributes["cy"])))
        return sorted(found)

    def images(self) -> list[np.ndarray]:
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        return [np.array(Image.open(io.BytesIO(base64.b64decode(s.split(",")[1]))).convert("RGB")) for s in sources]


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return Page(write_html([folder / "driver_deid.json"], folder / "page.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def full_page(folder: Path) -> Page:
    write(folder / "full.json", with_leakage(folder))
    return Page(write_html([folder / "full.json"], folder / "full.html").read_text("utf-8"))


def test_the_page_holds_all_it_needs(page: Page) -> None:
    for tag, attributes in page.tags:
        for name in ("src", "href", "srcset", "data", "poster", "action"):
            assert re.match(r"$|data:|#", attributes.get(name, "")), f"<{tag}> asks for {attributes[name]}"
    assert not re.search(r"https?://|//\w+\.\w+/|@import|url\(", page.text)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; img-src data:;")
    # The only script that may run is the one that is there.
    script = re.search(r"<script>(.*?)</script>", page.text, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert len(page.text) < 1_000_000


@pytest.mark.parametrize(("measure", "values"), [("iou", IOU), ("nme", NME), ("gaze_deg", GAZE)])
def test_curves_have_the_reports_points(page: Page, measure: str, values: list[float | None]) -> None:
    points = page.points(measure, "recovered")
    known = [(i, value) for i, value in enumerate(values) if value is not None]
    assert len(points) == len(known) == FRAMES - 1
    # y is linear in the value, x in the frame: fitted to two points, all others must agree.
    slope, offset = np.polyfit([v for _, v in known], [y for _, y in points], 1)
    assert slope < 0, "larger values are higher up"
    np.testing.assert_allclose([y for _, y in points], [slope * v + offset for _, v in known], atol=0.02)
    step, start = np.polyfit([i for i, _ in known], [x for x, _ in points], 1)
    np.testing.assert_allclose([x for x, _ in points], [step * i + start for i, _ in known], atol=0.02)
    floor = page.points(measure, "floor")
    assert len(floor) == FRAMES - 2
    ys = [y for _, y in floor]
    expected = {
        "iou": [0.99] * 10,
        "gaze_deg": [0.3] * 10,
        "nme": [0.2 + 0.01 * i for i in range(12) if i not in (2, 3)],
    }
    np.testing.assert_allclose(ys, [slope * v + offset for v in expected[measure]], atol=0.02)
    for x, y in points + floor:
        assert Chart.LEFT <= x <= Chart.RIGHT
        assert Chart.TOP - 1 <= y <= Chart.BOTTOM


def test_the_noise_floors_line_is_its_mean(page: Page) -> None:
    lines = [a for tag, a in page.tags if tag == "line" and a.get("data-series") == "floor-mean"]
    assert len(lines) == 3
    floor = [y for _, y in page.points("nme", "floor")]
    assert float(lines[1]["y1"]) == pytest.approx(np.mean(floor), abs=0.02)


def test_tables_say_what_the_report_says(page: Page) -> None:
    words = " ".join(" ".join(page.words).split())
    for text in ("ab" * 32, "cd" * 32, "mtcnn", "fan-compact", "pixelate_5", "mi-fgsm", "0.062745", "2.15"):
        assert text in words
    assert "0.91 " in words.replace("0.910", "0.91 "), "the worst IoU"
    assert "2.12 %" in words or "2.13 %" in words
    assert "4.25°" in words
    assert "failed" in words, "the audit's verdict"
    assert "0.61" in words, "of its worst frames"
    assert "<script>alert(1)</script>" in words, "shown as text"
    assert len([1 for tag, a in page.tags if tag == "line" and a.get("class") == "missed"]) == 3, "one a chart"
    assert "alert(1)" not in "".join(re.findall(r"<script[^>]*>(.*?)</script>", page.text, re.DOTALL))


def test_what_others_can_read_is_what_the_report_says(full_page: Page) -> None:
    """Row by row: the cells of the three columns and the gap, as numbers of the report."""
    start = full_page.rows.index(["Model", "original", "obscured only", "obscured + attacked", "leakage", "blind"])
    rows = full_page.rows[start + 1 :]
    assert rows[:6] == [
        ["authorised chain reads on purpose"],
        ["Seen", "100 %", "0 %", "91 %", "+91 %", "–"],
        ["Box IoU", "0.50", "0.00", "0.46", "+0.46", "–"],
        ["Landmark error (NME)", "0.0 %", "nothing", "0.7 %", "from nothing", "–"],
        ["Gaze angle", "0.0°", "nothing", "0.7°", "from nothing", "–"],
        ["DiffScore", "41", "41", "41", "+0", "–"],
    ]
    assert rows[6:8] == [
        [f"{LEAKAGE['models'][1]['name']} repelled"],
        ["Gaze angle", "2.2°", "31.0°", "33.5°", "-2.5°", "21.0°"],
    ]
    assert rows[8:11] == [
        ["Measure", "original", "obscured only", "obscured + attacked", "leakage"],
        ["cosine", "0.931", "0.100", "0.179", "+0.079"],
        ["rank-1 of 10", "0.466", "0.050", "0.089", "+0.039"],
    ]
    words = " ".join(" ".join(full_page.words).split())
    assert f"Repelled: {LEAKAGE['models'][1]['name']}." in words
    assert "Identity, by arcface.onnx" in words
    assert "6 of 12 frames looked at. Nothing follows for other models." in words
    assert [LEAKAGE["models"][1]["name"], "gaze-compact", "gaze.safetensors" + "ef" * 32] in full_page.rows


def test_a_report_without_leakage_says_nothing_of_others(folder: Path, page: Page, tmp_path: Path) -> None:
    write(tmp_path / "r.json", {**read_report(folder / "driver_deid.json"), "repelled": {}, "leakage": None})
    for one in (page, Page(write_html([tmp_path / "r.json"], tmp_path / "p.html").read_text("utf-8"))):
        words = " ".join(one.words)
        assert "others can read" not in words
        assert "epelled" not in words
    alone = {**with_leakage(folder), "repelled": {}, "leakage": {**LEAKAGE, "identity": None}}
    write(tmp_path / "alone.json", alone)
    words = " ".join(Page(write_html([tmp_path / "alone.json"], tmp_path / "a.html").read_text("utf-8")).words)
    assert "No model was repelled." in words
    assert "Identity" not in words


def test_the_driver_is_not_in_the_page_unless_asked_for(folder: Path, page: Page, tmp_path: Path) -> None:
    """Head pixels of every picture against those of the original: alike only with include_original."""
    shown = Page(
        write_html([folder / "driver_deid.json"], tmp_path / "p.html", include_original=True).read_text("utf-8")
    )
    # Frame 5 has no face, so its pictures show the whole frame, at the clip's own size, with nothing drawn.
    original = list(VideoReader(folder / "driver.mp4"))[MISSED].image[60:140, 120:190].astype(float)

    def nearest(images: list[np.ndarray]) -> float:
        whole = [image for image in images if image.shape == (240, 320, 3)]
        assert whole
        return min(float(np.abs(image[60:140, 120:190] - original).mean()) for image in whole)

    assert nearest(page.images()) > 12
    assert nearest(shown.images()) < 4
    assert "This page shows the original" in " ".join(shown.words)
    assert "This page shows the original" not in " ".join(page.words)
    assert len(page.images()) == 8
    assert len(shown.images()) == 12


def test_what_a_report_forgets_to_cover_is_taken_from_the_output(folder: Path, tmp_path: Path) -> None:
    report = read_report(folder / "driver_deid.json")
    for entry in report["samples"]:
        entry["regions"][0]["rect"] = [90, 10, 92, 12]
        entry.pop("original", None)
        entry["obscured_only"] = {"frame_id": entry["frame_id"], "bboxes": []}
    write(tmp_path / "r.json", report)
    images = Page(write_html([tmp_path / "r.json"], tmp_path / "p.html").read_text("utf-8")).images()
    original = list(VideoReader(folder / "driver.mp4"))[MISSED].image[60:140, 120:190].astype(float)
    whole = [image for image in images if image.shape == (240, 320, 3)]
    assert whole
    assert min(float(np.abs(image[60:140, 120:190] - original).mean()) for image in whole) > 12


def test_it_tells_how_far_it_is(folder: Path, tmp_path: Path) -> None:
    """Four samples of each of two clips, one of which is gone; each is read from two files."""
    gone = read_report(folder / "driver_deid.json")
    gone["output"]["path"] = "gone.mp4"
    write(tmp_path / "gone.json", gone)
    for reports in ([folder / "driver_deid.json"], [folder / "driver_deid.json", tmp_path / "gone.json"]):
        steps = Steps()
        write_html(reports, tmp_path / f"{len(reports)}.html", progress=steps)
        ((_, total, done),) = steps.told
        assert total == done == 2 * SAMPLES * len(reports)


def test_changed_and_missing_clips_are_told(folder: Path, tmp_path: Path) -> None:
    report = read_report(folder / "driver_deid.json")
    changed = copy.deepcopy(report)
    changed["output"]["sha256"] = "0" * 64
    gone = copy.deepcopy(report)
    gone["output"]["path"] = "/nowhere/gone.mp4"
    for name, content in (("changed", changed), ("gone", gone)):
        write(tmp_path / f"{name}.json", content)
    written = write_html([tmp_path / "changed.json", tmp_path / "gone.json"], tmp_path / "p.html")
    page = Page(written.read_text("utf-8"))
    words = " ".join(page.words)
    assert "driver_deid.mp4 has changed" in words
    assert "gone.mp4 is not where the report says" in words
    assert page.images() == []
    assert len([1 for tag, _ in page.tags if tag == "svg"]) == 6
    assert [a["href"] for tag, a in page.tags if tag == "a"] == ["#clip-1", "#clip-2"]


def test_long_clips_keep_their_worst_frames() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 0.5, 20_000)
    values[12_345] = 9.0
    frames = [{"frame_id": i, "nme": float(v)} for i, v in enumerate(values)]
    chart = make_chart(frames, REPORTED[1])
    assert chart is not None
    points = [point for segment in chart.curves[0].segments for point in segment]
    assert len(points) <= 1500
    x, _ = min(points, key=lambda point: point[1])
    share = (x - Chart.LEFT) / (Chart.RIGHT - Chart.LEFT)
    assert share == pytest.approx(12_345 / 20_000, abs=0.002)
    assert "worst of 14 frames" in chart.summary


def test_one_frame_and_none_make_a_page(folder: Path, tmp_path: Path) -> None:
    report = read_report(folder / "driver_deid.json")
    for name, frames in (("one", report["frames"][:1]), ("none", [])):
        write(tmp_path / f"{name}.json", {**report, "frames": frames, "samples": []})
        page = Page(write_html([tmp_path / f"{name}.json"], tmp_path / f"{name}.html").read_text("utf-8"))
        assert len(page.points("nme", "recovered")) == len(frames)


def test_samples_hold_the_worst_and_are_spread() -> None:
    frames = [{"frame_id": i, "iou": 0.9, "nme": 1.0, "gaze_deg": 1.0} for i in range(500)]
    frames[77]["iou"], frames[301]["nme"], frames[402]["gaze_deg"] = 0.1, 9.0, 9.0
    chosen = sample_ids(frames, 10)
    assert len(chosen) == 10
    assert {77, 301, 402} <= set(chosen)
    assert chosen == sorted(chosen)
    assert max(np.diff(chosen)) < 300
    assert sample_ids(frames[:4], 10) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"frames": {}}, "frames is not a list"),
        ({"input": {"path": "x"}}, "input.sha256"),
        ({"fidelity": {}}, "fidelity.recovered"),
        ({"frames": [{"frame_id": 0, "iou": "high"}]}, r"frames\[0\].iou"),
        ({"frames": [{"frame_id": -1}]}, r"frames\[0\].frame_id"),
        (
            {"samples": [{"frame_id": 0, "regions": [{"rect": [1, 2, 3], "cell": 4, "origin": [0, 0]}]}]},
            r"regions\[0\]",
        ),
        ({"samples": [{"frame_id": 0, "original": {"frame_id": 0}}]}, "bboxes"),
        ({"repelled": {"fan": {"weights": {"fan.pth": 3}}}}, "repelled.fan.weights"),
        ({"leakage": {}}, "leakage.models is not there"),
        ({"leakage": {**LEAKAGE, "models": [{"name": "fan"}]}}, r"leakage.models\[0\].repelled is not there"),
        ({"leakage": {**LEAKAGE, "identity": {"columns": {}}}}, "leakage.identity.recogniser"),
        ({"leakage": {"models": []}}, "leakage.identity is not there"),
    ],
)
def test_what_is_no_report_is_named(folder: Path, tmp_path: Path, change: dict[str, Any], place: str) -> None:
    report = {**read_report(folder / "driver_deid.json"), **change}
    (tmp_path / "bad.json").write_text(json.dumps(report))
    with pytest.raises(InputError, match=f"bad.json.*{place}"):
        read_report(tmp_path / "bad.json")
    with pytest.raises(InputError):
        write_html([tmp_path / "bad.json"], tmp_path / "p.html")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.json"]


@pytest.mark.usefixtures("page")  # which is what must not be replaced
def test_files_that_cannot_be_read_or_replaced_are_named(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("hello")
    for path in (tmp_path / "text.json", tmp_path / "missing.json"):
        with pytest.raises(InputError, match=path.name):
            read_report(path)
    with pytest.raises(OutputError, match="exists already"):
        write_html([folder / "driver_deid.json"], folder / "page.html")


# ------------------------------------------------------------------------------------------- in a browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Browser:
    """Headless Chromium, spoken to over its own pipe (DevTools protocol, one NUL-ended JSON object a message)."""

    def __init__(self, profile: Path) -> None:
        # Out of the way of 3 and 4, where the browser's ends must be.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for pair in (os.pipe(), os.pipe()) for end in pair]
        inner_read, self._write, self._read, inner_write = ends

        def arrange() -> None:
            os.dup2(inner_read, 3)
            os.dup2(inner_write, 4)

        assert CHROMIUM is not None
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "--disable-background-networking"]
        self._process = subprocess.Popen(
            [CHROMIUM, *flags],
            pass_fds=(3, 4),
            preexec_fn=arrange,  # noqa: PLW1509  no thread of the tests holds a lock here
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(inner_read)
        os.close(inner_write)
        self._buffer = b""
        self._count = 0
        self.events: list[dict[str, Any]] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._read, 1 << 20)
            assert piece, "the browser is gone"
            self._buffer += piece
        text, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(text)

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._message()
            if answer.get("id") == self._count:
                assert "result" in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, width: int, scheme: str) -> None:
        self.events.clear()
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.ask("Emulation.setEmulatedMedia", features=features)
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", **metrics)
        self.ask("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())

    def value(self, expression: str) -> Any:
        result = self.ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def close(self) -> None:
        os.close(self._write)
        os.close(self._read)
        self._process.terminate()
        self._process.wait(20)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it(browser: Browser, folder: Path, full_page: Page, width: int, scheme: str) -> None:
    browser.open(folder / "full.html", width, scheme)
    complaints = [
        event
        for event in browser.events
        if event["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")
        or (event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] in ("error", "warning"))
    ]
    assert complaints == []
    urls = [
        event["params"]["request"]["url"] for event in browser.events if event["method"] == "Network.requestWillBeSent"
    ]
    assert urls[0] == (folder / "full.html").as_uri()
    assert all(url.startswith("data:") for url in urls[1:])
    assert browser.value("document.documentElement.dataset.charts") == "3"
    sticks_out = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert browser.value(sticks_out) is False
    cut = "[...document.querySelectorAll('.others')].filter(t => t.scrollWidth > t.parentElement.clientWidth).length"
    assert browser.value(cut) == 0, "what others can read needs no sideways scrolling"
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    shade = np.mean([int(number) for number in re.findall(r"\d+", background)[:3]])
    assert (shade < 60) == (scheme == "dark")
    letters = browser.value(
        "Math.min(...[...document.querySelectorAll('.chart text')].map(t => t.getBoundingClientRect().height))"
    )
    assert letters > 9, "legible"
    folder_of_shots = os.environ.get("DRSF_SCREENSHOTS")
    if folder_of_shots:
        shot = browser.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        Path(folder_of_shots, f"report-{width}-{scheme}.png").write_bytes(base64.b64decode(shot))


@pytest.mark.slow
def test_the_scrubber_and_the_pointer_work(browser: Browser, folder: Path, page: Page) -> None:
    browser.open(folder / "page.html", 1280, "light")
    visible = "[...document.querySelectorAll('.samples > li')].map(item => item.offsetHeight > 0)"
    assert browser.value(visible) == [True, False, False, False]
    browser.value("document.querySelector(\"[data-step='1']\").click()")
    assert browser.value(visible) == [False, True, False, False]
    browser.value(
        "const s = document.querySelector('input[type=range]'); s.value = 3; s.dispatchEvent(new Event('input'))"
    )
    assert browser.value(visible) == [False, False, False, True]
    loaded = "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    assert browser.value(loaded)
    # The pointer over frame 4 of the gaze chart.
    place = browser.value(
        "(() => { const svg = document.querySelector('svg[data-measure=gaze_deg]'); svg.scrollIntoView();"
        "const box = svg.getBoundingClientRect(); return [box.left, box.top, box.width, box.height]; })()"
    )
    x = place[0] + place[2] * (Chart.LEFT + 4 / 11 * (Chart.RIGHT - Chart.LEFT)) / 400
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=place[1] + place[3] / 2)
    text = "document.querySelector('svg[data-measure=gaze_deg]').parentElement.querySelector('output').textContent"
    assert browser.value(text) == "frame 4: 4.25° (codec 0.30°)"
    browser.value("document.querySelector('svg[data-measure=gaze_deg]').focus()")
    browser.ask("Input.dispatchKeyEvent", type="keyDown", key="ArrowRight", code="ArrowRight")
    assert browser.value(text).startswith("frame 5: missed")


@pytest.mark.slow
def test_it_prints(browser: Browser, folder: Path, page: Page) -> None:
    browser.open(folder / "page.html", 1280, "dark")
    pdf = base64.b64decode(browser.ask("Page.printToPDF")["data"])
    assert pdf.startswith(b"%PDF")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 6
