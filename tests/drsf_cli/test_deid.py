"""The main job, as a user would type it, and what must not happen."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import onnxruntime
import pytest

from drsf_cli.app import main
from drsf_cli.deid import clip as surveyed_clip
from drsf_cli.deid.pipeline import deidentify
from drsf_cli.media.demo_clip import demo_frames, make_demo_clip
from drsf_cli.media.reader import VideoReader
from drsf_cli.readers.models import Models
from drsf_cli.settings import DeidSettings, VictimNames
from export.session import cuda_problem
from tests.clips import make_clip
from weights.errors import FidelityError, UsageError

SIZE = (320, 240)
"""Small, so that the attack is quick; the face is still 60 px wide."""


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    """Eight frames of the demo clip."""
    path = tmp_path_factory.mktemp("clip") / "driver.mp4"
    make_demo_clip(path, seconds=0.32, size=SIZE)
    return path


@pytest.fixture(scope="session")
def deid(clip, tmp_path_factory):
    """What `drsf deid` makes of it with its defaults, but for a lossless codec; the folder and the report."""
    folder = tmp_path_factory.mktemp("deid")
    output = folder / "out.mkv"
    assert main(["deid", str(clip), "-o", str(output), "--codec", "ffv1", "--quiet"]) == 0
    return output, json.loads((folder / "out.mkv.report.json").read_text())


def covered(report):
    return report["covering"]


@pytest.mark.slow
def test_box_landmarks_and_gaze_come_back(deid):
    """From the written file, through ONNX Runtime. Obscuring alone gives nothing like this (next test)."""
    _, report = deid
    recovered = report["fidelity"]["recovered"]
    assert recovered["missed"] == 0
    assert recovered["frames"] == 8
    assert recovered["iou"]["mean"] > 0.93
    assert recovered["nme"]["mean"] < 2.0
    assert recovered["gaze_deg"]["mean"] < 4.0


@pytest.mark.slow
def test_obscuring_alone_brings_little_back(clip, tmp_path):
    output = tmp_path / "out.mkv"
    arguments = ["deid", str(clip), "-o", str(output), "--attack", "none", "--codec", "ffv1", "--quiet"]
    assert main(arguments) == 0
    report = json.loads((tmp_path / "out.mkv.report.json").read_text())
    recovered = report["fidelity"]["recovered"]
    assert report["cost"]["victim_passes_per_frame"] == 0
    assert recovered["missed"] > 4 or recovered["iou"]["mean"] < 0.7
    before, after = (np.stack([frame.image for frame in VideoReader(path)]) for path in (clip, output))
    changed = (before != after).any(axis=-1)
    # the portrait's face is in the middle: hidden in every frame, blocks of one colour inside
    assert changed[:, 60:160, 110:200].mean() > 0.9


@pytest.mark.slow
def test_a_video_of_one_frame_comes_back(tmp_path):
    source = make_clip(tmp_path / "one.mp4", list(demo_frames(0.04, size=SIZE)))
    output = tmp_path / "out.mp4"
    assert main(["deid", str(source), "-o", str(output), "--quiet"]) == 0
    report = json.loads((tmp_path / "out.mp4.report.json").read_text())
    assert len(list(VideoReader(output))) == report["input"]["frames"] == report["audit"]["frames"] == 1
    recovered = report["fidelity"]["recovered"]
    assert (recovered["frames"], recovered["missed"]) == (1, 0)
    assert recovered["iou"]["mean"] > 0.8


@pytest.mark.slow
def test_only_the_obscured_region_changes_and_by_no_more_than_eps(clip, deid, tmp_path):
    """Against obscuring alone: the same pixels outside, at most 24 levels inside."""
    output, _ = deid
    plain = tmp_path / "plain.mkv"
    assert main(["deid", str(clip), "-o", str(plain), "--attack", "none", "--codec", "ffv1", "--quiet"]) == 0
    original, hidden, attacked = (
        np.stack([frame.image for frame in VideoReader(path)]).astype(int) for path in (clip, plain, output)
    )
    difference = np.abs(attacked - hidden)
    assert 8 < difference.max() <= 24
    outside = (hidden == original).all(axis=-1)
    # a covered pixel may by chance equal the original; those that differ from it lie in the region
    rows = np.flatnonzero((~outside).any(axis=(0, 2)))
    columns = np.flatnonzero((~outside).any(axis=(0, 1)))
    frame = np.ones(outside.shape, bool)
    frame[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = False
    assert frame.any()
    assert (attacked[frame] == original[frame]).all()


@pytest.mark.slow
def test_the_report_says_what_was_done(deid):
    output, report = deid
    assert report["settings"]["mask"] == "pixelate_5"
    assert report["settings"]["eps"] == "24/255"
    assert set(report["victims"]) == {"detector", "aligner", "gaze"}
    assert all(len(sha) == 64 for victim in report["victims"].values() for sha in victim["weights"].values())
    assert report["versions"]["torch"]
    assert report["output"]["bytes"] == output.stat().st_size
    assert [row["frame_id"] for row in report["frames"]] == list(range(8))
    steps = sum(row["steps"] for row in report["frames"])
    assert report["cost"]["steps_per_frame"] == pytest.approx(steps / 8)
    assert covered(report)["frames_covered"] == 8


@pytest.mark.slow
def test_infer_and_eval(clip, deid, tmp_path, capsys):
    output, report = deid
    gt, pred = tmp_path / "gt.json", tmp_path / "pred.json"
    assert main(["infer", str(clip), "-o", str(gt), "--quiet"]) == 0
    assert main(["infer", str(output), "-o", str(pred), "--quiet"]) == 0
    figures = tmp_path / "eval.json"
    assert main(["eval", str(gt), str(pred), "--json", str(figures)]) == 0
    assert "IoU" in capsys.readouterr().out
    mean = json.loads(figures.read_text())["metrics"]["iou"]["mean"]
    assert mean == pytest.approx(report["fidelity"]["recovered"]["iou"]["mean"], abs=2e-3)


@pytest.mark.slow
def test_the_provider_that_ran_is_named(clip, deid, tmp_path, capsys, monkeypatch):
    """By the report and by infer's line, against what each session says itself."""
    opened = []

    class Kept(onnxruntime.InferenceSession):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            opened.append(self)

    monkeypatch.setattr(onnxruntime, "InferenceSession", Kept)
    assert main(["infer", str(clip), "-o", str(tmp_path / "gt.json"), "--end", "0.1"]) == 0
    assert len(opened) >= 5, "PNet, RNet, ONet, landmarks, gaze"
    ran = {session.get_providers()[0] for session in opened}
    named = ", ".join(sorted(name.removesuffix("ExecutionProvider") for name in ran))
    assert f"(ONNX Runtime on {named})" in " ".join(capsys.readouterr().out.split())
    _, report = deid
    assert set(report["providers"]) == {"mtcnn", "fan-compact", "gaze-compact"}
    assert {name for used in report["providers"].values() for name in used} == ran


def test_another_provider_is_named_as_well(clip, tmp_path, capsys, monkeypatch):
    """Sessions that say they run elsewhere: it is them who are asked, not the machine or the flag."""
    monkeypatch.setattr(
        onnxruntime.InferenceSession, "get_providers", lambda _: ["ElsewhereExecutionProvider", "CPUExecutionProvider"]
    )
    arguments = ["infer", str(clip), "-o", str(tmp_path / "gt.json"), "--end", "0.1", "--device", "cpu"]
    assert main(arguments) == 0
    assert "(ONNX Runtime on Elsewhere)" in " ".join(capsys.readouterr().out.split())


@pytest.mark.skipif(cuda_problem() is None, reason="ONNX Runtime has a usable CUDA device here")
@pytest.mark.parametrize("command", ["infer", "deid"])
def test_a_device_that_is_not_there_is_refused_with_the_runtimes_words(command, clip, tmp_path, capsys):
    assert main([command, str(clip), "-o", str(tmp_path / "out.mp4"), "--device", "cuda"]) == 9
    message = " ".join(capsys.readouterr().err.split())
    assert f"--device cuda cannot be used: ONNX Runtime reports {cuda_problem()!r}" in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_frame_in_which_the_detector_misses_the_face_is_covered(clip, tmp_path, monkeypatch):
    """The fourth frame's detections are taken away; its neighbours' show where the head is."""
    from drsf_cli.readers.watch import Watch
    from victims.face import Detections

    see, nothing = Watch.see, Detections(np.zeros((0, 4)), np.zeros(0))

    def missing(self, frames, last, plain):
        blank = [frame.index == 3 for frame in frames]
        seen = see(self, frames, last, plain)
        return [
            replace(one, reported=nothing, covering=nothing) if b else one for b, one in zip(blank, seen, strict=True)
        ]

    monkeypatch.setattr(Watch, "see", missing)
    output = tmp_path / "out.mkv"
    assert main(["deid", str(clip), "-o", str(output), "--attack", "none", "--codec", "ffv1", "--quiet"]) == 0
    report = json.loads((tmp_path / "out.mkv.report.json").read_text())
    assert {k: v for k, v in covered(report).items() if k != "detectors"} == {
        "frames_with_face": 7,
        "frames_covered": 8,
        "frames_filled_in": 1,
    }
    original, hidden = (list(VideoReader(path))[3].image for path in (clip, output))
    assert (original[80:140, 130:180] != hidden[80:140, 130:180]).any(axis=-1).mean() > 0.9


@pytest.mark.slow
def test_a_picture_gives_a_picture(tmp_path):
    source, output = tmp_path / "face.png", tmp_path / "hidden.png"
    image = next(iter(demo_frames(seconds=0.04, size=SIZE)))
    cv2.imwrite(str(source), image[..., ::-1])
    assert main(["deid", str(source), "-o", str(output), "--attack", "none", "--quiet"]) == 0
    hidden = cv2.imread(str(output))[..., ::-1]
    assert hidden.shape == image.shape
    assert (hidden != image).any(axis=-1).mean() > 0.1


# ------------------------------------------------------------------------------------------------- what is refused


def blank(path, size=(64, 48), frames=3):
    from tests.clips import make_clip

    make_clip(path, [np.full((size[1], size[0], 3), 90 + k, np.uint8) for k in range(frames)])


def _case(name, folder, clip):
    """(input, further arguments, exit code, words of the message)"""
    target = folder / f"{name}.mp4"
    match name:
        case "empty":
            target.write_bytes(b"")
            return target, [], 3, "is empty"
        case "text":
            target.write_text("not a video\n" * 50)
            return target, [], 3, "text.mp4"
        case "truncated":
            target.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
            return target, [], 3, "truncated.mp4"
        case "missing":
            return target, [], 3, "does not exist"
        case "no_face":
            blank(target)
            return target, [], 6, "no face is seen"
        case "one_frame_without_a_face":
            make_clip(target, [np.full((*SIZE[::-1], 3), 128, np.uint8)])
            return target, [], 6, "no face is seen"
        case "one_pixel":
            cv2.imwrite(str(folder / "one.png"), np.zeros((1, 1, 3), np.uint8))
            return folder / "one.png", [], 6, "no face is seen"
        case "mask":
            return clip, ["-m", "pixelate_x"], 2, "pixelate_N"
        case "attack":
            return clip, ["-g", "magic"], 2, "mi-fgsm"
        case "detector":
            return clip, ["-d", "yolo"], 2, "mtcnn"
        case "eps":
            return clip, ["--eps", "two"], 2, "--eps"
        case "codec":
            return clip, ["--codec", "vp9"], 2, "h264"
        case "weights":
            return clip, ["-z", "eth-xgaze"], 5, "drsf weights"
    raise AssertionError(name)


CASES = [
    "empty",
    "text",
    "truncated",
    "missing",
    "no_face",
    "one_frame_without_a_face",
    "one_pixel",
    "mask",
    "attack",
    "detector",
    "eps",
    "codec",
    "weights",
]


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_one_sentence_and_leaves_nothing(name, clip, tmp_path, capsys):
    source, arguments, code, words = _case(name, tmp_path, clip)
    places = tmp_path / "places"
    places.mkdir()
    suffix = ".png" if source.suffix == ".png" else ".mp4"
    assert main(["deid", str(source), "-o", str(places / f"out{suffix}"), *arguments]) == code
    message = capsys.readouterr().err.strip()
    assert words in message.replace("\n", " ")
    assert message.count("error:") == 1
    assert "Traceback" not in message
    assert list(places.iterdir()) == []


@pytest.mark.slow
def test_existing_and_unwritable_outputs(clip, tmp_path, capsys):
    existing = tmp_path / "out.mp4"
    existing.write_bytes(b"precious")
    assert main(["deid", str(clip), "-o", str(existing)]) == 4
    assert existing.read_bytes() == b"precious"
    assert main(["deid", str(clip), "-o", str(tmp_path / "nowhere" / "out.mp4")]) == 4
    assert main(["deid", str(clip), "-o", str(clip), "--overwrite"]) == 4
    assert capsys.readouterr().err.count("error:") == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4"]


@pytest.mark.slow
def test_a_failure_half_way_leaves_nothing(clip, tmp_path, capsys, monkeypatch):
    from attacks.embed import Embedder

    def broken(self, targets, track=0):
        raise RuntimeError("injected")

    monkeypatch.setattr(Embedder, "embed", broken)
    arguments = ["deid", str(clip), "-o", str(tmp_path / "out.mp4"), "--quiet"]
    assert main(arguments) == 1
    assert capsys.readouterr().err == "error: RuntimeError: injected (a fault in drsf; drsf --debug shows where).\n"
    monkeypatch.setenv("DRSF_DEBUG", "1")
    with pytest.raises(RuntimeError, match="injected"):
        main(arguments)
    assert list(tmp_path.iterdir()) == []


def test_the_flags_of_the_original_implementation_resolve(clip, tmp_path, capsys):
    """`-d retinaface -a fan -z ETH-XGaze -g rmsprop -m pixelate_30 -bs 16`: understood, warned about, and stopped by
    the weights that are not here."""
    flags = ["-d", "retinaface", "-a", "fan", "-z", "ETH-XGaze", "-g", "rmsprop", "-m", "pixelate_30", "-bs", "16"]
    assert main(["deid", str(clip), "-o", str(tmp_path / "out.mp4"), *flags]) == 5
    message = capsys.readouterr().err
    assert "pixelate_30 is weak" in message
    assert "drsf weights pull" in message


ORIGINAL = ["-g", "rmsprop", "-m", "pixelate_30", "-bs", "16"]
SHORT = ["--repel", "none", "--codec", "ffv1", "--quiet"]


@pytest.mark.slow
def test_the_flags_of_the_original_implementation_run(stored, clip, tmp_path):
    """With the official RetinaFace and MPIIGaze, on three frames, a few steps each."""
    stored("retinaface_mobilenet0.25.pth", "mpiigaze_resnet_preact.pth")
    output = tmp_path / "out.mkv"
    flags = ["-d", "retinaface", "-a", "fan-compact", "-z", "mpiigaze", *ORIGINAL]
    assert main(["deid", str(clip), "-o", str(output), "--end", "0.1", *flags, *SHORT]) == 0
    report = json.loads((tmp_path / "out.mkv.report.json").read_text())
    assert {role: victim["name"] for role, victim in report["victims"].items()} == {
        "detector": "retinaface",
        "aligner": "fan-compact",
        "gaze": "mpiigaze",
    }
    assert (report["settings"]["attack"], report["settings"]["mask"]) == ("rmsprop", "pixelate_30")
    recovered = report["fidelity"]["recovered"]
    assert (recovered["frames"], recovered["missed"]) == (3, 0)
    assert recovered["iou"]["mean"] > 0.9
    assert [row["steps"] > 0 for row in report["frames"]] == [True] * 3


@pytest.mark.slow
def test_its_very_line_runs(stored, clip, tmp_path, monkeypatch):
    """`-a fan -z ETH-XGaze` with random weights, as an organisation's own, of one hourglass where 2DFAN4 has four: the
    way is the same, and a step costs a quarter. Nothing sensible is read, so one frame with no more than a step."""
    import face_alignment.models
    import torch

    from victims.gaze import GAZE_MODELS

    stack = face_alignment.models.FAN
    monkeypatch.setattr(face_alignment.models, "FAN", lambda _: stack(1))
    torch.manual_seed(0)
    torch.save(stack(1).state_dict(), tmp_path / "fan.pth")
    torch.save(GAZE_MODELS["eth-xgaze"].network().state_dict(), tmp_path / "eth.pth")
    stored("retinaface_mobilenet0.25.pth")
    flags = ["-d", "retinaface", "-a", f"fan@{tmp_path / 'fan.pth'}", "-z", f"ETH-XGaze@{tmp_path / 'eth.pth'}"]
    flags += ["--allow-unknown-weights", "--end", "0.03", *ORIGINAL, *SHORT]
    assert main(["deid", str(clip), "-o", str(tmp_path / "out.mkv"), *flags]) == 0
    report = json.loads((tmp_path / "out.mkv.report.json").read_text())
    names = [report["victims"][role]["name"] for role in ("detector", "aligner", "gaze")]
    assert names == ["retinaface", "fan", "eth-xgaze"]
    assert set(report["victims"]["gaze"]["weights"]) == {"eth.pth"}
    assert set(report["providers"]) == {"retinaface", "fan", "eth-xgaze"}
    assert [row["frame_id"] for row in report["frames"]] == [0]


@pytest.mark.slow
def test_several_inputs_go_to_a_folder_and_one_bad_file_stops_nothing_else(clip, tmp_path, capsys):
    bad, folder = tmp_path / "bad.mp4", tmp_path / "out"
    bad.write_bytes(b"")
    folder.mkdir()
    assert main(["deid", str(bad), str(clip), "-o", str(folder), "--attack", "none", "--quiet"]) == 10
    assert sorted(p.name for p in folder.iterdir()) == [
        "driver_deid.mp4",
        "driver_deid.mp4.audit.png",
        "driver_deid.mp4.report.json",
        "drsf-summary.json",
    ]
    assert "1 of 2 inputs failed" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("command", ["deid", "infer", "eval", "demo", "export", "viz", "report", "weights"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    assert "Usage: drsf" in capsys.readouterr().out


def test_version(capsys):
    from importlib import metadata

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == metadata.version("drsf")


@pytest.mark.slow
def test_the_middle_panel_is_covered_as_the_report_says(clip, tmp_path):
    """One grey, not blocks, and only the time that was run; the page is refused where something is in its way."""
    output, panels = tmp_path / "out.mp4", tmp_path / "panels.mkv"
    assert (
        main(["deid", str(clip), "-o", str(output), "--attack", "none", "--mask", "solid", "--end", "0.1", "-q"]) == 0
    )
    assert main(["viz", str(output), "-o", str(panels), "--compare", str(clip), "-q"]) == 0
    frames = list(VideoReader(panels))
    assert len(frames) == 3
    width, height = SIZE
    middle = frames[1].image[-height:, width + 10 : 2 * width]
    face = middle[100:130, 140:170].astype(int)
    assert face.std(axis=(0, 1)).max() < 3
    assert (
        main(["viz", str(output), "-o", str(tmp_path / "b.mkv"), "--compare", str(clip), "-m", "pixelate_5", "-q"]) == 0
    )
    blocks = next(iter(VideoReader(tmp_path / "b.mkv"))).image[-height:, width + 10 : 2 * width]
    assert blocks[60:160, 110:200].astype(int).std(axis=(0, 1)).max() > 15


@pytest.mark.slow
def test_a_file_that_shows_a_head_fails_its_audit(clip, tmp_path, capsys, monkeypatch):
    """Planted: what should obscure does nothing. The audit obscures by itself, and notices."""
    monkeypatch.setattr(surveyed_clip, "obscure", lambda image, regions, obscuring: image.copy())
    output = tmp_path / "out.mp4"
    arguments = ["deid", str(clip), "-o", str(output), "--attack", "none", "--end", "0.1", "-q"]
    assert main(arguments) == 7
    assert "failed its audit and was removed: Frame 0 shows too much of the source" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    report = deidentify(clip, output, DeidSettings(attack="none", end=0.1, keep_failed=True))
    assert not report["audit"]["passed"]
    assert len(list(VideoReader(output))) == 3


@pytest.mark.slow
def test_errors_over_the_limit_remove_the_output(clip, tmp_path):
    settings = DeidSettings(attack="none", end=0.1, max_error=20)
    with pytest.raises(FidelityError, match="3 of 3 frames are over max_error 20"):
        deidentify(clip, tmp_path / "out.mp4", settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_panels_are_read_by_the_run_s_own_victims_unless_others_are_typed(clip, tmp_path, monkeypatch):
    output = tmp_path / "out.mp4"
    assert main(["deid", str(clip), "-o", str(output), "--attack", "none", "-z", "none", "--end", "0.1", "-q"]) == 0
    loaded = []

    def load(names, *rest):
        loaded.append(names)
        raise UsageError("enough")

    monkeypatch.setattr(Models, "load", load)
    command = ["viz", str(output), "-o", str(tmp_path / "panels.mkv"), "--compare", str(clip), "-q"]
    assert main(command) == main([*command, "-d", "retinaface", "-a", "none", "-z", "mpiigaze"]) == 2
    assert main([*command[:4], "-q"]) == 2
    assert loaded == [
        VictimNames("mtcnn", "fan-compact", None),
        VictimNames("retinaface", None, "mpiigaze"),
        VictimNames("mtcnn", "fan-compact", "gaze-compact"),
    ]


@pytest.mark.slow
def test_the_audit_names_the_frames_nearest_to_failing(deid):
    _, report = deid
    nearest = report["audit"]["worst_frames"]
    assert sorted({row["frame"] for row in nearest} & set(range(8))) == sorted(row["frame"] for row in nearest)
    assert [row["nearness"] for row in nearest] == sorted((row["nearness"] for row in nearest), reverse=True)


@pytest.mark.slow
def test_the_report_says_what_obscuring_alone_lets_through(deid):
    """Of the sample frames; the portrait's face is found in none of its mosaics, or in few."""
    _, report = deid
    weak = report["fidelity"]["obscured_only"]
    assert weak["frames"] + weak["missed"] == len(report["samples"]) == 8
    assert weak["missed"] > 4
    assert all("obscured_only" in sample for sample in report["samples"])
