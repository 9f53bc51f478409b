"""Files and places as people have them, through the commands: heads and models are those of test_faults."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from drsf_cli.app import main
from drsf_cli.batch.dry_run import dry_run_of
from drsf_cli.batch.jobs import Job
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media import atomic
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.models import Models
from tests import clips
from tests.drsf_cli.test_faults import ROOT, face_boxes, leaks, lossless, models_of, nothing_left, scene, settings, sway
from weights.errors import InputError, OutputError, UsageError

FLAGS = ("--attack", "none", "--codec", "ffv1", "--min-face", "0.3", "--quiet")


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Models that see the heads of five frames, anew for each run."""
    monkeypatch.setattr(Models, "load", lambda *_, **__: models_of(face_boxes([sway], 5) * 20))


# -- rows 3 and 4: what would be open, or come back ------------------------------------------------------------------


def test_a_region_covers_beyond_a_clock_that_starts_anew(tmp_path: Path) -> None:
    images = [np.full((48, 64, 3), 128, np.uint8)] * 12
    for image in images:
        image[8:40, 8:56] = np.random.default_rng(1).integers(0, 256, (32, 48, 3))
    parts = [clips.make_clip(tmp_path / f"{k}.ts", images) for k in (0, 1)]
    source = clips.join_transport(parts, tmp_path / "joined.ts")
    given = settings(regions=("8,8,56,40@0.5-0.9",), on_no_face="copy", mask="solid")
    document = deidentify(source, tmp_path / "out.mkv", given, models=models_of([[]] * 24))
    frames = zip(VideoReader(source), VideoReader(tmp_path / "out.mkv"), strict=True)
    hidden = [before.pts for before, after in frames if np.abs(before.image.astype(int) - after.image).max() > 50]
    assert [round(pts, 2) for pts in hidden] == [round(0.04 * k, 2) for k in range(13, 23)]
    assert any("clock starts anew" in note for note in document["input"]["notes"])


def test_a_region_that_meets_no_frame_is_an_error(tmp_path: Path) -> None:
    source = lossless(tmp_path / "in.mkv", scene(face_boxes([sway], 5)))
    for region in ("10,10,50,50@7-9", "10,10,50,50@0.17-"):
        with pytest.raises(UsageError, match=r"meets no frame: those that are read are shown from 0\.000 to 0\.160 s"):
            deidentify(source, tmp_path / "o.mkv", settings(regions=(region,)), models=models_of(face_boxes([sway], 5)))
    assert nothing_left(tmp_path)


@pytest.mark.slow
def test_a_dry_run_counts_what_is_shown(tmp_path: Path) -> None:
    boxes = face_boxes([sway], 20)
    source = clips.hide_start(clips.make_clip(tmp_path / "in.mp4", scene(boxes)), 0.4)
    given = settings(regions=("5,5,20,20@0.3-",))  # beyond the frames that are tried
    job = Job(source, tmp_path / "out.mkv", given)
    assert dry_run_of(job, models_of(boxes)).frames == 10
    late = Job(source, tmp_path / "out.mkv", settings(regions=("5,5,20,20@0.5-",)))
    with pytest.raises(UsageError, match="meets no frame"):
        dry_run_of(late, models_of(boxes))
    assert nothing_left(tmp_path, ["in.mp4"])


# -- row 7: shares ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOTSUP], ids=errno.errorcode.get)
def test_a_share_that_cannot_flush_a_folder(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").is_dir():
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    boxes = face_boxes([sway], 5)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    deidentify(source, tmp_path / "out.mkv", settings(html=True), models=models_of(boxes))
    assert leaks(source, tmp_path / "out.mkv", boxes) == []
    assert (tmp_path / "out.mkv.report.html").is_file()


def test_a_file_that_cannot_be_flushed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    boxes = face_boxes([sway], 5)
    with pytest.raises(OutputError):
        deidentify(
            lossless(tmp_path / "in.mkv", scene(boxes)), tmp_path / "out.mkv", settings(), models=models_of(boxes)
        )
    assert nothing_left(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_was_renamed_is_removed_where_publishing_fails(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the link to the final name of the report, the sheet, the video."""
    real, seen = Path.unlink, []

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if ".part" in path.name and not seen.count("failed"):
            seen.append("tried")
            if len(seen) == number + 1:
                seen.append("failed")
                raise OSError(errno.EIO, os.strerror(errno.EIO))
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    boxes = face_boxes([sway], 5)
    source = lossless(tmp_path / "in.mkv", scene(boxes))
    with pytest.raises(OutputError, match="could not be put in place"):
        deidentify(source, tmp_path / "out.mkv", settings(), models=models_of(boxes))
    assert "failed" in seen
    assert nothing_left(tmp_path)


# -- row 8: names ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("told")
def test_names_that_are_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    """Every command that reads or writes files, alone and in folders."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drsf_cli.measure.identity.find_recogniser", lambda *_: (None, "none is looked for"))
    name = os.fsdecode(b"\xff\xe9t\xe9.mkv")
    os.makedirs(os.path.join(os.fsdecode(b"f\xf6lder"), "in"))
    folder = Path(os.fsdecode(b"f\xf6lder"))
    try:
        source = lossless(tmp_path / "plain.mkv", scene(face_boxes([sway], 5))).rename(folder / "in" / name)
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    lossless(folder / "in" / "other.mkv", scene(face_boxes([sway], 5)))
    output, page = folder / os.fsdecode(b"\xf8ut.mkv"), folder / os.fsdecode(b"p\xe4ge.html")
    loud = FLAGS[:-1]
    read = [folder / os.fsdecode(f"r\udce9ad{k}.json".encode(errors="surrogateescape")) for k in (0, 1)]
    flags = ("-a", "none", "-z", "none")
    commands: list[tuple[object, ...]] = [
        ("deid", source, "-o", output, *loud, "--html"),
        ("deid", source, "-o", folder / "dry.mkv", *loud, "--dry-run"),
        ("deid", folder / "in", "-o", folder / "many", *loud, "--html"),
        ("deid", folder / "in", "-o", folder / "many", *loud, "--html", "--resume"),
        ("infer", source, "-o", read[0], *flags),
        ("infer", output, "-o", read[1], *flags),
        ("eval", *read, "--csv", folder / os.fsdecode(b"\xe9.csv"), "--plot", folder / os.fsdecode(b"\xe9.png")),
        ("viz", output, "-o", folder / os.fsdecode(b"v\xefz.mkv"), "--json", read[1]),
        ("report", f"{output}.report.json", "-o", page),
        ("audit", source, output, "--against", "lbp-cascade", "--json", folder / os.fsdecode(b"\xe4.json")),
    ]
    for command in commands:
        assert main([str(word) for word in command]) == 0, (command, capfd.readouterr().err)
    assert leaks(source, output, face_boxes([sway], 5)) == []
    assert leaks(source, folder / "many" / os.fsdecode(b"\xff\xe9t\xe9_deid.mkv"), face_boxes([sway], 5)) == []
    assert os.fsencode(json.loads(Path(f"{output}.report.json").read_text())["input"]["path"]) == os.fsencode(source)
    assert "\\udcf8ut.mkv" in page.read_text("utf-8")


# -- row 9: pictures -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("told")
@pytest.mark.parametrize(
    ("name", "kind"), [("a.jpg", "MPO"), ("a.heic", "HEIF"), ("a.avif", "AVIF"), ("a.jfif", "JPEG")]
)
def test_pictures_of_phones_and_cameras(name: str, kind: str, tmp_path: Path) -> None:
    if kind == "HEIF":
        import pillow_heif

        pillow_heif.register_heif_opener()
    boxes = face_boxes([sway], 1)
    picture = PIL.Image.fromarray(scene(boxes)[0])
    more = {"save_all": True, "append_images": [picture.resize((64, 48))]} if kind == "MPO" else {}
    picture.save(tmp_path / name, format=kind, quality=95, **more)
    assert main(["deid", str(tmp_path / name), "-o", str(tmp_path / "out.png"), *FLAGS]) == 0
    image = next(iter(VideoReader(tmp_path / name))).image
    assert np.abs(image.astype(int)[:40] - np.asarray(picture)[:40]).mean() < 4
    notes = json.loads((tmp_path / "out.png.report.json").read_text())["input"]["notes"]
    assert [note for note in notes if "of several pictures" in note] == notes
    assert len(notes) == (kind == "MPO")


def test_an_animation_in_a_still_format_is_refused(tmp_path: Path) -> None:
    frames = [PIL.Image.fromarray(image) for image in clips.patterns(2, 32, 24)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="2 pictures; split it"):
        VideoReader(tmp_path / "a.webp")


# -- rows 10 and 12: signals and pipes -------------------------------------------------------------------------------

_HANGS_UP = """
import os, signal, sys
from drsf_cli import app
def deid(*_, **__):
    os.kill(os.getpid(), signal.SIGHUP)
    print("went on")
    return 0
app.app = deid
sys.exit(app.main(["deid"]))
"""


@pytest.mark.parametrize(("ignored", "code"), [(False, 130), (True, 0)])
def test_a_closed_terminal_stops_a_run_unless_it_is_to_be_ignored(ignored: bool, code: int) -> None:
    """`nohup` has SIGHUP ignored."""
    handler = signal.SIG_IGN if ignored else signal.SIG_DFL
    done = subprocess.run(
        [sys.executable, "-c", _HANGS_UP], cwd=ROOT, capture_output=True, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, handler), check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert ("went on" in done.stdout) is ignored


@pytest.mark.timeout(60)
def test_pipes_are_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.mp4")
    for name, says in (("pipe.mp4", "is a pipe"), ("-", "standard input"), ("/dev/null", "is a pipe or a device")):
        with pytest.raises(InputError, match=says):
            VideoReader(name)
    assert main(["deid", "-", "-o", "out.mp4", *FLAGS]) == InputError.exit_code
    assert "standard input" in capsys.readouterr().err
    with pytest.raises(OutputError, match="is a pipe or a device"):
        atomic.AtomicOutput(Path("pipe.mp4"), overwrite=True)
    with pytest.raises(OutputError, match="is a pipe or a device"):
        atomic.AtomicOutput(Path("/dev/null"), overwrite=True)


# -- rows 13 and 16 to 18 --------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("told")
def test_what_becomes_of_the_sound(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    images = scene(face_boxes([sway], 5))
    source = clips.make_clip(tmp_path / "in.avi", images, codec="mpeg4", audio="last", audio_codec="pcm_mulaw")
    settled = {}
    for words in ((), ("--audio", "aac"), ("--audio", "drop")):
        output = tmp_path / f"{len(settled)}.mkv"
        assert main(["deid", str(source), "-o", str(output), *FLAGS, *words]) == 0
        settled[words] = json.loads(Path(f"{output}.report.json").read_text())["audit"]["streams"]
    assert list(settled.values()) == [{"video": 1}, {"video": 1, "audio": 1}, {"video": 1}]
    capsys.readouterr()
    copied = ["deid", str(source), "-o", str(tmp_path / "no.mkv"), *FLAGS, "--audio", "copy"]
    assert main(copied) == OutputError.exit_code
    assert "(pcm_mulaw); choose --audio aac" in capsys.readouterr().err.replace("\n", " ")
    assert main(["deid", str(source), *FLAGS, "--audio", "mp3"]) == UsageError.exit_code
    assert not (tmp_path / "no.mkv").exists()


@pytest.mark.slow
@pytest.mark.usefixtures("told")
def test_a_slash_at_the_end_means_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source = lossless(tmp_path / "in.mkv", scene(face_boxes([sway], 5)))
    assert main(["deid", str(source), "-o", f"{tmp_path}/new/", *FLAGS]) == 0
    assert (tmp_path / "new" / "in_deid.mkv").is_file()
    assert main(["deid", str(source), "-o", f"{tmp_path}/dry/", *FLAGS, "--dry-run"]) == 0
    assert not (tmp_path / "dry").exists()
    assert main(["deid", str(source), "-o", f"{source}/", *FLAGS]) == UsageError.exit_code
    assert "is named as a folder" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_grey_pictures_are_scaled_by_the_bits_in_use(bits: int, tmp_path: Path) -> None:
    """By hand: black, a third, two thirds and white; one picture of the folder alone reaches white."""
    white = 2**bits - 1
    for name, values in (("a", [0, white // 3]), ("b", [2 * white // 3, white])):
        PIL.Image.fromarray(np.array([values] * 2, np.uint16)).save(tmp_path / f"{name}.png")
    reader = VideoReader(tmp_path)
    assert [frame.image[0, :, 1].tolist() for frame in reader] == [[0, 85], [170, 255]]
    assert len(reader.notes) == (bits < 16)
    assert all(f"use {bits} of their 16 bits" in note for note in reader.notes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "note"),
    [
        ({"pixel_format": "yuv420p10le"}, "The samples have 10 bits: 8 bits of each were read and written."),
        ({}, None),
    ],
)
def test_a_report_says_that_8_bits_were_written(given: dict[str, Any], note: str | None, tmp_path: Path) -> None:
    boxes = face_boxes([sway], 5)
    source = clips.make_clip(tmp_path / "in.mp4", scene(boxes), **given)
    document = deidentify(source, tmp_path / "o.mkv", settings(html=True), models=models_of(boxes))
    assert document["input"]["notes"] == ([] if note is None else [note])
    assert (note or "8 bits of each") in (tmp_path / "o.mkv.report.html").read_text() or note is None


def test_high_dynamic_range_is_named(tmp_path: Path) -> None:
    """PQ and HLG by their H.273 numbers, 16 and 18."""
    for transfer, name in ((16, "PQ"), (18, "HLG")):
        path = clips.make_clip(
            tmp_path / f"{name}.mp4", clips.patterns(3, 64, 48), codec="libx265", pixel_format="yuv420p10le",
            options={"x265-params": f"log-level=none:colorprim=9:transfer={transfer}:colormatrix=9"},
        )  # fmt: skip
        assert VideoReader(path).notes == (
            f"The samples have 10 bits of {name} (HDR): 8 bits of each were read and written.",
        )


@pytest.mark.usefixtures("told")
def test_frames_a_second_of_what_has_no_clock(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k, image in enumerate(scene(face_boxes([sway], 5))):
        PIL.Image.fromarray(image).save(tmp_path / "in" / f"{k}.png")
    assert main(["deid", str(tmp_path / "in"), "-o", str(tmp_path / "out.mkv"), *FLAGS, "--fps", "10"]) == 0
    assert [frame.pts for frame in VideoReader(tmp_path / "out.mkv")] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert VideoReader(tmp_path / "in", fps=10).info.time_base == Fraction(1, 10)
